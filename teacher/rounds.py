"""The rounds of an adaptive harvest: draw, decide on all that was drawn, ask `adaptive` what to draw next.

What a round sees is what the earlier rounds drew, neither more nor less: rows that an interrupted attempt made of a
later round wait until their round comes. So each decision is the same however often, and wherever, the work was cut.
The filters are those that decide over the finished set (`filters.decide_facts`), asked after each round.

A budget of hours, or of money by the hour, depends on the clock; what was left of it is written down after each round
(``clock.jsonl``) and read again after a restart. The seconds of a round that was cut are not counted.

Legend: B traces drawn so far, P problems.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distill.generate.stream import Shard
from distill.recipe import SampleStage
from distill.recipe_parts import AdaptiveCollect
from distill.records import Problem, Verdict
from distill.shards import append_rows, read_rows, repair
from teacher.adaptive import STATES, Counts, Round, Standing, next_round
from teacher.agreement import Agreement
from teacher.contamination import Suites
from teacher.facts import VERDICTS, Facts
from teacher.filters import KEPT, Decisions, decide_facts, pass_rates

CLOCK = "clock.jsonl"
PROBE = 64  # problems of the first round where a budget may not reach for all: enough to tell how long answers are

#: Draws what the shard lacks of these samples of these problems; told how to call the round.
Draw = Callable[[Sequence[tuple[Problem, range]], str], None]
_BESIDE = ("duplicates", "near_duplicates", "keep_per_problem")  # what compares a trace with others


class Collected(NamedTuple):
    """What adaptive sampling came to: facts for the card, counts for the funnel, and a row for each problem."""

    facts: dict[str, object]
    summary: dict[str, Any]
    problems: list[dict[str, Any]]


def collect_in_rounds(
    stage: SampleStage,
    problems: Sequence[Problem],
    shard: Shard,
    draw: Draw,
    suites: Suites | None,
    clock: Path,
    hourly: float | None,
    agreed: Agreement,
) -> Collected:
    """Draw until nothing is worth drawing, or a budget is spent.

    Args:
        shard: gets the rows; may hold those of an interrupted attempt.
        suites: the passages that the stage's filters keep out.
        clock: the file that remembers what was left of a budget of hours.
        hourly: money for an hour of all machines.
        agreed: judges the traces of problems without a reference.

    Raises:
        RunFailed: the engine is lost, or the shard is broken.
        OSError: the disk is full, ...
    """
    collect = stage.collect
    assert isinstance(collect, AdaptiveCollect), collect
    budget = _Budget(collect, clock, hourly)
    rank_P = _ranks(problems)
    known = Facts(stage.filters, suites)
    hopeless_P = _overlap_a_suite(problems, suites)
    asked_P = np.zeros(len(problems), np.int64)
    more_P = np.full(len(problems), collect.first)
    if budget.limited:
        more_P[rank_P >= budget.probe(collect.first * stage.sampling.max_tokens)] = 0
    number = 0
    while more_P.any():
        number += 1
        drawn = [(problems[p], range(asked_P[p], asked_P[p] + more_P[p])) for p in np.flatnonzero(more_P)]
        draw(drawn, f"round {number}")
        rows = shard.some((problem.id, numbers) for problem, numbers in drawn)
        for _ in known.gathering(agreed.judged(rows)):
            pass
        asked_P = asked_P + more_P
        decisions = decide_facts(known, stage.filters, collect.keep_per_problem)
        standing = _standing(problems, known, decisions, stage, hopeless_P)
        left = budget.tokens_left(number, float(standing.tokens_P.sum()))
        following = next_round(standing._replace(asked_P=asked_P), collect, rank_P, left)
        more_P = following.more_P
        _tell(stage.name, number, standing, following)
    assert shard.held == asked_P.sum(), f"{shard.held} rows, and {asked_P.sum()} were asked for"
    rate_P = _by_problem(pass_rates(known, collect.first), _places(problems, known), len(problems))
    return _collected(
        collect, problems, standing._replace(asked_P=asked_P), following.state_P, rate_P, number
    )


# ---------------------------------------------------------------------------------------- where problems stand


def _ranks(problems: Sequence[Problem]) -> Counts:
    """Each problem's place by the hash of its id: which come first when not all can, in no order that has a meaning."""
    hashes = [hashlib.sha256(b"rank" + one.id.encode("utf-8", "surrogatepass")).digest() for one in problems]
    rank_P = np.empty(len(problems), np.int64)
    rank_P[sorted(range(len(problems)), key=hashes.__getitem__)] = np.arange(len(problems))
    return rank_P


def _overlap_a_suite(problems: Sequence[Problem], suites: Suites | None) -> npt.NDArray[np.bool_]:
    """Problems whose very question must be kept out: more samples of one are never kept."""
    if suites is None:
        return np.zeros(len(problems), bool)
    return np.array([bool(suites.matches(problem.problem, question=True)) for problem in problems])


def _places(problems: Sequence[Problem], known: Facts) -> Counts:
    """The place among ``problems`` of each that ``known`` numbers."""
    place = {problem.id: number for number, problem in enumerate(problems)}
    return np.array([place[name] for name in known.problems], np.int64)


def _by_problem(values: npt.NDArray[Any], places: Counts, count: int) -> npt.NDArray[np.float64]:
    spread = np.full(count, np.nan)
    spread[places] = values
    return spread


def _standing(
    problems: Sequence[Problem],
    known: Facts,
    decisions: Decisions,
    stage: SampleStage,
    hopeless_P: npt.NDArray[np.bool_],
) -> Standing:
    """Counts of each problem from what the filters decided."""
    places = _places(problems, known)
    problem_B, verdict_B, reason_B = places[known["problem"]], known["verdict"], decisions.reason_B
    tokens_B = known["tokens"].astype(float)
    beside = [KEPT, *(code for code, name in enumerate(decisions.steps) if name in _BESIDE)]
    passed_B = np.isin(reason_B, beside)
    near_B = decisions.near_B > 0

    def count(chosen: npt.NDArray[np.bool_], weight: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        return np.bincount(
            problem_B[chosen], None if weight is None else weight[chosen], minlength=len(problems)
        )

    everything = np.ones(len(problem_B), bool)
    closed_P = hopeless_P & (count(everything) > 0)
    if stage.filters.verified:  # a reference that cannot be read will not be read next time either
        closed_P |= count(verdict_B == VERDICTS.index(Verdict.BAD_REFERENCE)) > 0
    if window := stage.filters.difficulty:
        rate_P = _by_problem(decisions.pass_rate_P, places, len(problems))
        closed_P |= (rate_P < window.min) | (rate_P > window.max)
    keys = np.stack([problem_B[passed_B].astype(np.uint64), known["text"][passed_B]], 1)
    texts, times = np.unique(keys, axis=0, return_counts=True)
    single_P = np.bincount(texts[times == 1, 0].astype(np.int64), minlength=len(problems))
    asked_P = count(everything)
    return Standing(
        asked_P=asked_P,
        drawn_P=asked_P - count(verdict_B == VERDICTS.index(Verdict.ERROR)),
        passed_P=count(passed_B),
        single_P=np.maximum(single_P - count(near_B & passed_B), 0),
        kept_P=count(reason_B == KEPT),
        tokens_P=count(everything, tokens_B),
        squares_P=count(everything, tokens_B**2),
        closed_P=closed_P,
    )


# ---------------------------------------------------------------------------------------- budgets


class _Budget:
    """Tokens that may still be generated, whatever the budget counts."""

    def __init__(self, collect: AdaptiveCollect, clock: Path, hourly: float | None) -> None:
        self._collect, self._clock = collect, clock
        hours = [collect.budget_hours] if collect.budget_hours else []
        self._tokens = [collect.budget_tokens] if collect.budget_tokens else []
        if collect.budget_cost is not None:
            if collect.price:
                self._tokens.append(collect.budget_cost / collect.price * 1e6)
            else:
                assert hourly, "a budget of money, and nobody says what anything costs"
                hours.append(collect.budget_cost / hourly)
        self._seconds = min(hours) * 3600 if hours else None
        self.limited = bool(self._tokens or hours)
        self._told: list[dict[str, Any]] = []
        if self._seconds is not None:
            repair(clock)
            self._told = list(read_rows(clock)) if clock.exists() else []
        self._since = monotonic()

    def probe(self, dearest: int) -> int:
        """Problems of the first round, each of which takes so many tokens at most: as many as surely fit, or one."""
        return max(1, min([PROBE, *(int(tokens // dearest) for tokens in self._tokens)]))

    def tokens_left(self, number: int, tokens: float) -> float | None:
        """After round ``number`` and so many tokens; None: there is no budget."""
        left = [budget - tokens for budget in self._tokens]
        if self._seconds is not None:
            left.append(max(self._seconds - self._spent(number), 0) * tokens / self._spent(number))
        return max(min(left), 0.0) if left else None

    def _spent(self, number: int) -> float:
        """Seconds of all rounds up to this one."""
        if number > len(self._told):
            now = monotonic()
            before = self._told[-1]["seconds"] if self._told else 0.0
            row = {"round": number, "seconds": round(before + max(now - self._since, 1e-3), 3)}
            append_rows(self._clock, [row])
            self._told.append(row)
            self._since = now
        return float(self._told[number - 1]["seconds"])


# ---------------------------------------------------------------------------------------- telling


def _tell(name: str, number: int, standing: Standing, following: Round) -> None:
    """A line after each round on stderr."""
    told = ", ".join(f"{times:,} {state}" for state, times in _states(following.state_P))
    tokens, kept = standing.tokens_P.sum(), standing.kept_P.sum()
    more = int(following.more_P.sum())
    ahead = f"next: {more:,} samples of {int((following.more_P > 0).sum()):,} problems" if more else "done"
    left = f", about {following.tokens_left:,.0f} tokens to come" if more else ""
    print(
        f"{name}: round {number}: problems: {told}; {kept:,} traces kept of {tokens:,.0f} tokens{left}; {ahead}",
        file=sys.stderr,
        flush=True,
    )


def _states(state_P: Counts) -> Iterator[tuple[str, int]]:
    for code, times in enumerate(np.bincount(state_P, minlength=len(STATES)).tolist()):
        if times:
            yield STATES[code], times


def _collected(
    collect: AdaptiveCollect,
    problems: Sequence[Problem],
    standing: Standing,
    state_P: Counts,
    rate_P: npt.NDArray[np.float64],
    rounds: int,
) -> Collected:
    begun_P = standing.asked_P > 0
    numbers, times = np.unique(standing.asked_P, return_counts=True)
    tokens = float(standing.tokens_P.sum())
    # What the samples not drawn would have taken, by each problem's own mean: drawn ones have shown how long they are.
    mean_P = standing.tokens_P[begun_P] / standing.asked_P[begun_P]
    against = float((mean_P * collect.most).sum()) * len(problems) / max(int(begun_P.sum()), 1)
    summary = {
        "strategy": "adaptive",
        "settings": collect.model_dump(mode="json", exclude_none=True),
        "rounds": rounds,
        "problems": dict(_states(state_P)),
        "samples_per_problem": dict(zip(map(str, numbers.tolist()), times.tolist(), strict=True)),
        "tokens": round(tokens),
        "tokens_of_most": round(against),
        "tokens_saved": round(against - tokens),
    }
    rows = [
        {
            "place": place,
            "id": problem.id,
            "samples": int(standing.asked_P[place]),
            "kept": int(standing.kept_P[place]),
            "tokens": int(standing.tokens_P[place]),
            "first_pass_rate": None if np.isnan(rate_P[place]) else round(float(rate_P[place]), 4),
            "ended": STATES[state_P[place]],
        }
        for place, problem in enumerate(problems)
    ]
    return Collected(facts_of(summary), summary, rows)


def facts_of(summary: dict[str, Any]) -> dict[str, object]:
    """A harvest's summary in words, for the card."""
    settings, states = summary["settings"], summary["problems"]
    samples = {int(number): times for number, times in summary["samples_per_problem"].items()}
    mean = sum(number * times for number, times in samples.items()) / sum(samples.values())
    spared = summary["tokens_saved"] / max(summary["tokens_of_most"], 1)
    words = f"{settings['first']} to {settings['most']}, {mean:.1f} on average, in {summary['rounds']} rounds"
    return {
        "samples per problem": f"adaptive: {words}",
        "problems ended": ", ".join(f"{state} {number:,}" for state, number in states.items()),
        "tokens saved": f"{spared:.3f} of what {settings['most']} samples of each would have taken (estimated)",
        "collect": json.dumps(settings),
    }


def summed(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary of several parts of the problems; ``rounds`` are those of the part that took most."""
    total = {**summaries[0], "rounds": max(one["rounds"] for one in summaries), "shards": len(summaries)}
    for name in ("problems", "samples_per_problem"):
        counts = sum((Counter(one[name]) for one in summaries), Counter())
        order = STATES if name == "problems" else sorted(counts, key=int)
        total[name] = {key: counts[key] for key in order if counts[key]}
    for name in ("tokens", "tokens_of_most", "tokens_saved"):
        total[name] = sum(one[name] for one in summaries)
    return total
