"""Adaptive sampling beside a fixed number of samples: teacher tokens for a kept trace, and problems covered.

    python tests/benchmarks/harvest.py                    simulated teachers
    python tests/benchmarks/harvest.py --teacher RUN      the models of a finished `distill teacher train quickstart`

Best of 16, the cheapest fixed n that covers and keeps at least what adaptive does, and adaptive (`teacher.adaptive`,
its defaults) see the same samples. Beside them stand three bounds, for the same coverage less 1%:

    bound     no policy that knows the distribution of pass rates, but not the rate of any problem, can be cheaper: the
              optimal stopping rule, found by dynamic programming, one sample at a time, up to 64 a problem
    rates     whoever knows each problem's pass rate
    outcomes  whoever draws only samples that will be kept

Simulated: the recorded pass rates of 100 problems (8 samples each), ten problems of each, and three distributions.
Tokens of a sample are log-normal, and longer where it is wrong.

Legend: P problems, G samples per problem, R pass rates of a distribution, N samples drawn, K kept traces.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distill.recipe_parts import AdaptiveCollect
from teacher.adaptive import Standing, next_round

sys.path.insert(0, str(Path(__file__).parent))
from beside import data

BEST, CAPS, MOST, WITHIN = 16, (1, 4, 8), 64, 0.99
Numbers = npt.NDArray[np.float64]


class World(NamedTuple):
    """Pass rates and their weights, the spread of lengths (of their logarithms), how much longer wrong ones are."""

    rates_R: Numbers
    weights_R: Numbers
    spread: float
    wrong: float
    tokens: float = 5000.0


class Cost(NamedTuple):
    """Of one policy, means over problems: tokens, kept traces, share covered; and how many rounds (or samples)."""

    tokens: float
    kept: float
    covered: float
    rounds: float = 0.0

    @property
    def each(self) -> float:
        """Tokens for a kept trace."""
        return self.tokens / self.kept


def worlds() -> dict[str, World]:
    """The simulated teachers."""
    found = {
        "easy: Beta(6, 1)": World(*_beta(6, 1), 0.6, 1.6),
        "hard: Beta(1, 4)": World(*_beta(1, 4), 0.6, 1.6),
        "U-shaped: Beta(0.3, 0.3)": World(*_beta(0.3, 0.3), 0.6, 1.6),
    }
    path = data() / "outputs" / "math_cot_100x8_qwen25math.jsonl"
    right: Counter[int] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        right[row["idx"]] += row["label"]
    rates, times = np.unique([right[idx] / 8 for idx in sorted(right)], return_counts=True)
    recorded = World(rates, times / times.sum(), 0.38, 1.3)  # as measured on the recorded responses
    return {"recorded: 100 problems": recorded, **found}


def _beta(a: float, b: float) -> tuple[Numbers, Numbers]:
    draws = np.sort(np.random.default_rng(0).beta(a, b, (200, 2000)).ravel()).reshape(200, -1)
    return draws.mean(1), np.full(200, 1 / 200)


# ---------------------------------------------------------------------------------------- policies


def fixed(right_PG: npt.NDArray[np.bool_], tokens_PG: Numbers, samples: int, cap: int) -> Cost:
    """The same number of samples of each problem."""
    right_P = right_PG[:, :samples].sum(1)
    return Cost(
        float(tokens_PG[:, :samples].sum(1).mean()), float(np.minimum(right_P, cap).mean()),
        float((right_P > 0).mean()), samples,
    )  # fmt: skip


def cheapest_fixed(right_PG: npt.NDArray[np.bool_], tokens_PG: Numbers, cap: int, least: Cost) -> Cost:
    """The smallest number of samples that covers and keeps as much as another policy."""
    for samples in range(1, right_PG.shape[1] + 1):
        cost = fixed(right_PG, tokens_PG, samples, cap)
        if cost.kept >= least.kept and cost.covered >= least.covered:
            return cost
    return cost


def adaptive(right_PG: npt.NDArray[np.bool_], tokens_PG: Numbers, collect: AdaptiveCollect) -> Cost:
    """The rounds of a harvest, without the harvest."""
    count, cap = len(right_PG), collect.keep_per_problem
    asked_P, more_P = np.zeros(count, np.int64), np.full(count, collect.first)
    rounds = 0
    while more_P.any():
        asked_P, rounds = asked_P + more_P, rounds + 1
        drawn_PG = np.arange(right_PG.shape[1]) < asked_P[:, None]
        right_P, tokens_P = (right_PG & drawn_PG).sum(1), (tokens_PG * drawn_PG).sum(1)
        squares_P = (tokens_PG**2 * drawn_PG).sum(1)
        kept_P = np.minimum(right_P, cap)
        standing = Standing(
            asked_P, asked_P, right_P, right_P, kept_P, tokens_P, squares_P, np.zeros(count, bool)
        )
        more_P = next_round(standing, collect, np.arange(count), None).more_P
    return Cost(float(tokens_P.mean()), float(kept_P.mean()), float((kept_P > 0).mean()), rounds)


# ---------------------------------------------------------------------------------------- bounds


def bound(world: World, cap: int, coverage: float) -> Cost:
    """The best that a policy which knows the distribution alone can do, by dynamic programming.

    A kept trace is worth ``each`` tokens (its cost under the best policy itself, found by iteration: Dinkelbach 1967),
    a covered problem ``bonus`` more (as little as reaches the coverage).
    """
    chance_NK = _next_chance(world)
    each, cost = 3 * world.tokens, Cost(0, 1, 0)
    for _ in range(8):
        low, high = 0.0, 500 * world.tokens
        for _ in range(30):
            bonus = (low + high) / 2
            reaches = _follow(world, chance_NK, cap, each, bonus).covered >= coverage
            low, high = (low, bonus) if reaches else (bonus, high)
        more, less = (_follow(world, chance_NK, cap, each, bonus) for bonus in (high, low))
        # Between the two lies what a policy that tosses a coin reaches: exactly the coverage.
        gap = more.covered - less.covered
        part = (coverage - less.covered) / gap if gap > 1e-9 else 1.0
        cost = Cost(*(part * a + (1 - part) * b for a, b in zip(more, less, strict=True)))
        each = cost.each
    return cost


def _next_chance(world: World) -> Numbers:
    """That the next sample is right, after N samples of which K were (0 where K > N)."""
    n, k = np.meshgrid(np.arange(MOST), np.arange(MOST), indexing="ij")
    rates_R = np.clip(world.rates_R, 1e-12, 1 - 1e-12)
    possible = n >= k
    log_NKR = np.where(possible, k, 0)[..., None] * np.log(rates_R)
    log_NKR = log_NKR + np.where(possible, n - k, 0)[..., None] * np.log1p(-rates_R) + np.log(world.weights_R)
    weight_NKR = np.exp(log_NKR - log_NKR.max(-1, keepdims=True))
    return np.where(possible, (weight_NKR * rates_R).sum(-1) / weight_NKR.sum(-1), 0.0)


def _follow(world: World, chance_NK: Numbers, cap: int, each: float, bonus: float) -> Cost:
    """The policy that is best at these worths, and what it comes to."""
    chance_NK = chance_NK[:, :cap]
    cost_NK = world.tokens * (chance_NK + (1 - chance_NK) * world.wrong)
    gain_K = each + bonus * (np.arange(cap) == 0)
    value_NK, goes_NK = np.zeros((MOST + 1, cap + 1)), np.zeros((MOST, cap), bool)
    for n in reversed(range(MOST)):
        ahead = chance_NK[n] * (gain_K + value_NK[n + 1, 1:]) + (1 - chance_NK[n]) * value_NK[n + 1, :-1]
        goes_NK[n] = ahead > cost_NK[n]
        value_NK[n, :-1] = np.maximum(ahead - cost_NK[n], 0)
    tokens = kept = covered = 0.0
    here_K = np.eye(cap + 1)[0]
    for n in range(MOST):
        going_K = here_K[:-1] * goes_NK[n]
        ends_K = here_K.copy()
        ends_K[:-1] -= going_K
        kept, covered = kept + ends_K @ np.arange(cap + 1), covered + ends_K[1:].sum()
        tokens += going_K @ cost_NK[n]
        here_K = np.zeros(cap + 1)
        here_K[1:] += going_K * chance_NK[n]
        here_K[:-1] += going_K * (1 - chance_NK[n])
    return Cost(tokens, float(kept + here_K @ np.arange(cap + 1)), float(covered + here_K[1:].sum()))


def knowing_rates(world: World, cap: int, coverage: float) -> Cost:
    """Whoever knows the rates covers the cheapest problems, and fills those that are cheaper than the average."""
    rates_R = np.maximum(world.rates_R, 1e-9)
    cost_R = world.tokens * (1 + (1 - rates_R) / rates_R * world.wrong)
    order = np.argsort(cost_R, kind="stable")
    before_R = np.cumsum(world.weights_R[order]) - world.weights_R[order]
    share_R = np.zeros_like(rates_R)
    share_R[order] = np.clip((coverage - before_R) / world.weights_R[order], 0, 1)
    each, cost = world.tokens * 3, Cost(0, 1, 0)
    for _ in range(30):
        kept_R = world.weights_R * np.where(cost_R < each, cap, share_R)
        cost = Cost(float(kept_R @ cost_R), float(kept_R.sum()), coverage)
        each = cost.each
    return cost


# ---------------------------------------------------------------------------------------- simulated


def simulate(world: World, cap: int, seeds: int, collect: AdaptiveCollect) -> dict[str, Cost]:
    """Means over seeds of every policy's cost, in tokens of `World.tokens`."""
    found: dict[str, list[Cost]] = {"best of 16": [], "cheapest fixed n": [], "adaptive": []}
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        places = np.arange(1000) % 100
        ladder_R = np.cumsum(world.weights_R) - 1e-9
        rates_P = world.rates_R[np.searchsorted(ladder_R, (places + 0.5) / 100)]
        if len(world.rates_R) > 100:
            rates_P = draw.choice(world.rates_R, 1000)
        right_PG = draw.random((1000, 2 * BEST)) < rates_P[:, None]
        noise_PG = np.exp(world.spread * draw.standard_normal(right_PG.shape) - world.spread**2 / 2)
        tokens_PG = world.tokens * np.where(right_PG, 1.0, world.wrong) * noise_PG
        ours = adaptive(right_PG, tokens_PG, collect)
        found["best of 16"].append(fixed(right_PG, tokens_PG, BEST, cap))
        found["cheapest fixed n"].append(cheapest_fixed(right_PG, tokens_PG, cap, ours))
        found["adaptive"].append(ours)
    costs = {name: Cost(*np.mean(all_, axis=0).tolist()) for name, all_ in found.items()}
    reach = WITHIN * float(world.weights_R @ (1 - (1 - world.rates_R) ** BEST))
    costs["bound"] = bound(world, cap, reach)
    costs["rates"] = knowing_rates(world, cap, reach)
    costs["outcomes"] = Cost(world.tokens, 1.0, 1.0)
    return costs


def show(name: str, cap: int, costs: dict[str, Cost]) -> dict[str, Any]:
    """A line of the table, and the same as an object."""
    best, ours, n = costs["best of 16"], costs["adaptive"], costs["cheapest fixed n"]
    row: dict[str, Any] = {
        "bench": "harvest", "teacher": name, "cap": cap, "ratio": ours.each / best.each,
        "covered": ours.covered / best.covered, "best": best._asdict(), "ours": ours._asdict(),
        "fixed": n._asdict(), "ratio_to_fixed": ours.each / n.each,
    }  # fmt: skip
    row |= {f"{key}_ratio": costs[key].each / best.each for key in _BOUNDS if key in costs}
    bounds = "".join(f"{row[f'{key}_ratio']:9.3f}" if f"{key}_ratio" in row else f"{'':9}" for key in _BOUNDS)
    print(
        f"{name:26}{cap:4}{best.each:10,.0f}{n.each:10,.0f} ({n.rounds:4.1f}){ours.each:10,.0f}"
        f"{row['ratio']:8.3f}{row['ratio_to_fixed']:8.3f}{bounds}"
        f"{best.kept:8.2f}{ours.kept:6.2f}{best.covered:8.3f}{row['covered']:7.3f}{ours.rounds:7.1f}"
    )
    return row


_BOUNDS = ("bound", "rates", "outcomes")
HEAD = (
    f"{'':26}{'cap':>4}{'best of 16':>10}{'fixed':>10} {'(n)':>6}{'adaptive':>10}{'/best':>8}{'/fixed':>8}"
    f"{'bound':>9}{'rates':>9}{'outcomes':>9}{'kept':>8}{'ours':>6}{'covered':>8}{'ours':>7}{'rounds':>7}"
)


# ---------------------------------------------------------------------------------------- a real teacher


def real(run: Path, model: str, count: int, folder: Path, changes: dict[str, float]) -> list[dict[str, Any]]:
    """The harvest itself with a teacher of a run: best of 16 once, adaptive at each cap."""
    from distill import models
    from distill.device import find_device
    from distill.generate.local import LocalEngine
    from distill.problems import load_problems
    from distill.recipe import SampleStage
    from distill.recipe_parts import FixedCollect, ModelSource, ProblemSource, Sampling, WorldProblems
    from teacher.harvest import harvest
    from teacher.trace_set import read_funnel

    path = run / "models" / model
    source = ModelSource(path=str(path), role="teacher")
    loaded = models.load(model, str(path), source, find_device(96))
    engine = LocalEngine(loaded, find_device(96), 512)
    problems = load_problems("harvest", ProblemSource(world=WorldProblems(count=count // 2)), 0)
    stage = SampleStage(
        name="harvest", kind="sample", model=model, problems="harvest", makes="traces",
        sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=96), collect=FixedCollect(samples=BEST),
    )  # fmt: skip

    def collected(collect: Any, name: str) -> dict[str, Any]:
        harvest(
            stage=stage.model_copy(update={"collect": collect}), engine=engine, chat=loaded.chat, problems=problems,
            instruction=None, teacher_name=model, folder=folder / model / name, seed=0,
        )  # fmt: skip
        return read_funnel(folder / model / name)

    collected(stage.collect, "best")
    rows = []
    for cap in CAPS:
        funnel = collected(_collect(cap, changes), str(cap))
        kept, samples = funnel["kept"], funnel["input"]
        ours = Cost(
            samples["tokens"] / len(problems), kept["traces"] / len(problems), kept["problems"] / len(problems),
            funnel["collection"]["rounds"],
        )  # fmt: skip
        costs = {
            "adaptive": ours,
            **_prefixes(folder / model / "best", stage.filters, cap, len(problems), ours),
        }
        rows.append(show(f"{model} ({len(problems)} problems)", cap, costs))
    return rows


def _prefixes(best: Path, filters: Any, cap: int, count: int, ours: Cost) -> dict[str, Cost]:
    """Best of 16, and the cheapest fixed n, from the first n samples of one harvest."""
    from distill.shards import read_parquet
    from teacher.filters import decide

    traces = list(read_parquet(best / "traces.parquet"))
    chosen: Cost | None = None
    cost = Cost(0, 1, 0)
    for samples in range(1, BEST + 1):
        drawn = list(decide((one for one in traces if one.sample_index < samples), filters, cap))
        kept = [one for one in drawn if one.kept]
        cost = Cost(
            sum(one.tokens for one in drawn) / count, len(kept) / count,
            len({one.problem_id for one in kept}) / count, samples,
        )  # fmt: skip
        if chosen is None and cost.kept >= ours.kept and cost.covered >= ours.covered:
            chosen = cost
    outcomes = Cost(statistics.mean(one.tokens for one in kept), 1.0, 1.0)
    return {"best of 16": cost, "cheapest fixed n": chosen or cost, "outcomes": outcomes}


def _collect(cap: int, changes: dict[str, float]) -> AdaptiveCollect:
    return AdaptiveCollect.model_validate({"strategy": "adaptive", "keep_per_problem": cap, **changes})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="harvest.py")
    parser.add_argument("--teacher", metavar="RUN", help="a finished run whose models are sampled")
    parser.add_argument("--problems", type=int, default=400, help="of the built-in world, for --teacher")
    parser.add_argument("--quick", action="store_true", help="few seeds")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=NUMBER", help="of `collect`")
    parser.add_argument("--json", action="store_true", help="each line as an object too")
    options = parser.parse_args()
    changes = {key: float(value) for key, value in (one.split("=") for one in options.set)}
    print(HEAD)
    rows: list[dict[str, Any]] = []
    if options.teacher:
        with tempfile.TemporaryDirectory() as folder:
            for model in ("teacher", "base"):
                rows += real(Path(options.teacher), model, options.problems, Path(folder), changes)
    else:
        for name, world in worlds().items():
            for cap in CAPS:
                seeds = 3 if options.quick else options.seeds
                rows.append(show(name, cap, simulate(world, cap, seeds, _collect(cap, changes))))
    if options.json:
        print("\n".join(json.dumps(row) for row in rows))


if __name__ == "__main__":
    main()
