"""How often the intervals hold the truth, how often the paired test errs, and what it sees: a simulation.

    python tests/benchmarks/coverage.py [--quick] [--json]

Each problem of a suite has a chance of being solved, drawn from one of `SHAPES` around the model's true accuracy;
each of k samples solves it with that chance. An interval of pass@1 is right when it holds the true accuracy. For the
test two models of equal true accuracy are drawn, in three ways (`NULLS`): with the same chances, with chances drawn
apart from one shape, and with chances of unlike shapes. A test is of the right size when it tells them apart in at most
5% of the suites. Power is how often it tells a true difference of DIFFERENCE, the weaker model's chances being in
proportion.

Beside ours stand what one would otherwise take: the t-interval and its test, exact McNemar (for k = 1) and the
sign-flip test (mid-p; for k = 1 that is mid-p McNemar, for k > 1 it is slow, and only done for the fewest problems).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from eval.statistics import Values, bootstrap_interval, paired_estimate, score_interval, t_quantile

ACCURACIES, PROBLEMS, SAMPLES = (0.1, 0.5, 0.9, 0.95), (30, 100, 500), (1, 4, 16)
#: Concentration a + b of the Beta distribution of chances: all alike, a hill, nearly flat, and U-shaped.
SHAPES = {"alike": math.inf, "hill": 10.0, "flat": 2.0, "U": 0.3}
NULLS = {
    "same": [(shape, shape) for shape in SHAPES],
    "apart": [(shape, shape) for shape in SHAPES],
    "unlike": [("alike", "U"), ("hill", "U"), ("alike", "flat")],
}
DIFFERENCE = 0.1
LEAST_COVERAGE, MOST_SIZE = 0.93, 0.06


class Cell(NamedTuple):
    """One design: accuracy, problems and samples of each."""

    accuracy: float
    problems: int
    samples: int


def chances(rng: np.random.Generator, accuracy: float, shape: str, suites: int, problems: int) -> Values:
    """The chance of each problem of each suite to be solved; over all suites their mean is the accuracy."""
    concentration = SHAPES[shape]
    if math.isinf(concentration):
        return np.full((suites, problems), accuracy)
    return rng.beta(accuracy * concentration, (1 - accuracy) * concentration, size=(suites, problems))


def coverage(rng: np.random.Generator, cell: Cell, shape: str, suites: int) -> dict[str, float]:
    """The share of suites whose interval holds the truth."""
    drawn = chances(rng, cell.accuracy, shape, suites, cell.problems)
    values = rng.binomial(cell.samples, drawn) / cell.samples
    few = values[: max(suites // 10, 20)]  # a bootstrap takes 50 times as long
    found = {
        "t": [_t_interval(row) for row in values],
        "ours": [tuple(score_interval(row)) for row in values],
        "bootstrap": [tuple(bootstrap_interval(row, resamples=1000)) for row in few],
    }
    truth = cell.accuracy
    return {
        name: float(np.mean([low - 1e-12 <= truth <= high + 1e-12 for low, high in intervals]))
        for name, intervals in found.items()
    }


def told_apart(values_a: Values, values_b: Values, samples: int) -> dict[str, float]:
    """The share of suites (rows) in which each test tells two models apart at the 5% level."""
    differences = values_a - values_b
    count = differences.shape[1]
    quantile = t_quantile(count - 1)
    means, spreads = differences.mean(axis=1), differences.std(axis=1, ddof=1)
    centres, errors = paired_estimate(means, (differences**2).mean(axis=1), count)
    found = {
        "t": (np.abs(means) > quantile * spreads / math.sqrt(count)).mean(),
        "ours": (np.abs(centres) > quantile * errors).mean(),
    }
    if samples == 1:
        only = zip((differences > 0).sum(axis=1), (differences < 0).sum(axis=1), strict=True)
        chances_of = np.array([mcnemar_p(int(a), int(b)) for a, b in only])
        found |= {"McNemar": (chances_of[:, 0] < 0.05).mean(), "sign flip": (chances_of[:, 1] < 0.05).mean()}
    elif count == PROBLEMS[0]:
        steps = np.rint(differences[:1000] * samples).astype(int)
        found["sign flip"] = np.mean([sign_flip_p(row) < 0.05 for row in steps])
    return {name: float(share) for name, share in found.items()}


def size(
    rng: np.random.Generator, cell: Cell, null: str, shapes: tuple[str, str], suites: int
) -> dict[str, float]:
    """How often each test tells two models apart that are equally good."""
    chances_a = chances(rng, cell.accuracy, shapes[0], suites, cell.problems)
    chances_b = chances_a if null == "same" else chances(rng, cell.accuracy, shapes[1], suites, cell.problems)
    values_a, values_b = (
        rng.binomial(cell.samples, drawn) / cell.samples for drawn in (chances_a, chances_b)
    )
    return told_apart(values_a, values_b, cell.samples)


def power(
    rng: np.random.Generator, cell: Cell, shape: str, suites: int, difference: float = DIFFERENCE
) -> dict[str, float]:
    """How often each test tells a difference; at an accuracy that leaves no room below, the other model is better."""
    better = cell.accuracy if cell.accuracy > difference else cell.accuracy + difference
    chances_a = chances(rng, better, shape, suites, cell.problems)
    chances_b = chances_a * (1 - difference / better)
    values_a, values_b = (
        rng.binomial(cell.samples, drawn) / cell.samples for drawn in (chances_a, chances_b)
    )
    return told_apart(values_a, values_b, cell.samples)


# ------------------------------------------------------------------------------------ the others


def _t_interval(values_P: Values) -> tuple[float, float]:
    mean, count = float(values_P.mean()), len(values_P)
    half = t_quantile(count - 1) * float(values_P.std(ddof=1)) / math.sqrt(count)
    return mean - half, mean + half


@cache
def mcnemar_p(only_a: int, only_b: int) -> tuple[float, float]:
    """Exact and mid-p McNemar: two-sided binomial of the problems that one model alone solves."""
    total, most = only_a + only_b, max(only_a, only_b)
    if only_a == only_b:
        return 1.0, 1.0
    tail = sum(math.comb(total, at) for at in range(most, total + 1)) / 2**total
    return min(1.0, 2 * tail), 2 * tail - math.comb(total, most) / 2**total


def sign_flip_p(steps_P: np.ndarray[Any, np.dtype[np.int_]]) -> float:
    """Two-sided mid-p of the sum of these integers, each with either sign: exact, by convolution."""
    sizes = np.abs(steps_P[steps_P != 0])
    reach = int(sizes.sum())
    ways = np.zeros(2 * reach + 1)
    ways[reach] = 1.0
    for one in sizes:
        ways = (np.roll(ways, one) + np.roll(ways, -one)) / 2  # never wraps: reach is the largest sum
    sums, seen = np.abs(np.arange(-reach, reach + 1)), abs(int(steps_P.sum()))
    return float(ways[sums > seen].sum() + ways[sums == seen].sum() / 2) if reach else 1.0


# ------------------------------------------------------------------------------------ the tables


def _cells(quick: bool) -> Iterator[Cell]:
    for problems in PROBLEMS[: 2 if quick else 3]:
        for samples in SAMPLES:
            yield from (Cell(accuracy, problems, samples) for accuracy in ACCURACIES)


def _row(rng: np.random.Generator, cell: Cell, suites: int) -> dict[str, Any]:
    tested = min(5 * suites, 1000 * suites // cell.problems)
    covered = [coverage(rng, cell, shape, suites) for shape in SHAPES]
    sizes = {
        null: [size(rng, cell, null, shapes, tested) for shapes in pairs] for null, pairs in NULLS.items()
    }
    seen = power(rng, cell, "flat", tested)
    return {
        "cell": cell,
        "coverage": {name: min(one[name] for one in covered) for name in covered[0]},
        "size": {
            null: {name: max(one[name] for one in found) for name in found[0]}
            for null, found in sizes.items()
        },
        "power": seen,
    }


def _line(row: dict[str, Any]) -> str:
    def told(figures: dict[str, float], *names: str) -> str:
        return " | ".join(f"{figures[name]:.3f}" if name in figures else "" for name in names)

    cell, tests = row["cell"], ("t", "McNemar", "sign flip", "ours")
    fair = {name: max(row["size"]["same"][name], row["size"]["apart"][name]) for name in row["size"]["same"]}
    return (
        f"| {cell.problems} | {cell.samples} | {cell.accuracy} | {told(row['coverage'], 't', 'bootstrap', 'ours')} | "
        f"{told(fair, *tests)} | {told(row['size']['unlike'], *tests)} | {told(row['power'], *tests)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="coverage.py")
    parser.add_argument(
        "--quick", action="store_true", help="fewer suites, and none of 500 problems: within a minute"
    )
    parser.add_argument("--json", action="store_true", help="the result as one object on the last line")
    options = parser.parse_args()
    suites = 100 if options.quick else 4000
    rng = np.random.default_rng(0)
    print(
        f"suites a cell and shape: {suites} for intervals ({max(suites // 10, 20)} for the bootstrap), "
        f"{5 * suites} for tests ({2 * suites} of 500 problems)"
    )
    print(
        "least coverage over shapes; largest size over like and unlike shapes; power at a difference of 0.1"
    )
    print("| n | k | accuracy | cover: t | bootstrap | ours | size: t | McNemar | flip | ours "
          "| unlike: t | McNemar | flip | ours | power: t | McNemar | flip | ours |")  # fmt: skip
    print("|" + "---|" * 18)
    rows = []
    for cell in _cells(options.quick):
        rows.append(_row(rng, cell, suites))
        print(_line(rows[-1]), flush=True)
    covered = min(row["coverage"]["ours"] for row in rows)
    largest = max(found["ours"] for row in rows for found in row["size"].values())
    print(f"ours: least coverage {covered:.3f}, largest size {largest:.3f}")
    if options.json:
        print(json.dumps({"bench": "coverage", "coverage": covered, "size": largest, "suites": suites}))
    if not options.quick and (covered < LEAST_COVERAGE or largest > MOST_SIZE):
        sys.exit(f"promised: coverage of {LEAST_COVERAGE} at the least, size of {MOST_SIZE} at the most")


if __name__ == "__main__":
    main()
