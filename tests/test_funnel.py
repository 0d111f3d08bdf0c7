"""The funnel sums to its input, whatever passes."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from distill.records import Trace, Verdict
from teacher.funnel import Tally, as_lines, check

STEPS = ["finished", "verified", "format"]


def trace(problem: str, tokens: int, verdict: str, reason: str) -> Trace:
    return Trace(
        id="x", problem_id=problem, kind="math", problem="1+1", completion="2", tokens=tokens,
        finish_reason=None, teacher="t", verdict=Verdict(verdict), kept=not reason, reason=reason,
    )  # fmt: skip


def tallied(traces: list[Trace]) -> dict[str, Any]:
    tally = Tally(STEPS)
    assert list(tally.passing(traces)) == traces
    return tally.funnel()


SMALL = [
    trace("p", 10, "correct", ""),
    trace("p", 1, "wrong", "verified"),
    trace("q", 100, "truncated", "finished"),
    trace("r", 1000, "unverified", ""),
    trace("r", 2000, "correct", ""),
]


def test_a_funnel_counted_by_hand() -> None:
    assert tallied(SMALL) == {
        "input": {"traces": 5, "tokens": 3111, "problems": 3},
        "steps": [
            {"filter": "finished", "removed": 1, "removed_tokens": 100, "left": 4, "left_tokens": 3011},
            {"filter": "verified", "removed": 1, "removed_tokens": 1, "left": 3, "left_tokens": 3010},
            {"filter": "format", "removed": 0, "removed_tokens": 0, "left": 3, "left_tokens": 3010},
        ],
        "kept": {"traces": 3, "tokens": 3010, "problems": 2, "unverified": 1},
        "verdicts": {"correct": 2, "truncated": 1, "unverified": 1, "wrong": 1},
    }


def test_any_funnel_sums() -> None:
    lots = random.Random(1)
    for _ in range(50):
        rows = [
            trace(
                f"p{lots.randint(0, 9)}",
                lots.randint(0, 99),
                lots.choice(list(Verdict)),
                lots.choice(["", *STEPS]),
            )
            for _ in range(lots.randint(0, 30))
        ]
        check(tallied(rows))


@pytest.mark.parametrize(
    "path",
    [("input", "traces"), ("input", "tokens"), ("steps", 1, "removed"), ("steps", 2, "left_tokens"),
     ("kept", "traces"), ("kept", "tokens"), ("verdicts", "wrong")],
)  # fmt: skip
def test_a_funnel_that_leaks_is_caught(path: tuple[str | int, ...]) -> None:
    funnel = copy.deepcopy(tallied(SMALL))
    place: Any = funnel
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] += 1
    with pytest.raises(AssertionError):
        check(funnel)


def test_a_reason_that_is_no_step_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="undecided"):
        tallied([trace("p", 1, "correct", "undecided")])


def test_the_table_for_the_terminal() -> None:
    lines = as_lines(tallied(SMALL))
    assert [line.split() for line in lines[:5]] == [
        ["filter", "removed", "left", "tokens", "left"],
        ["sampled", "5", "3,111"],
        ["finished", "1", "4", "3,011"],
        ["verified", "1", "3", "3,010"],
        ["format", "0", "3", "3,010"],
    ]
    assert lines[5:] == [
        "kept 3 of 5 traces (0.600), for 2 of 3 problems",
        "of these, 1 could not be verified",
        "verdicts: correct 2, truncated 1, unverified 1, wrong 1",
    ]


def test_uncounted_tokens_are_not_shown_as_none() -> None:
    assert as_lines(tallied([trace("p", 0, "correct", "")]))[1].split() == ["sampled", "1"]
