"""The funnel sums to its input, whatever passes."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from distill.recipe_filters import Filters
from distill.records import Trace, Verdict
from teacher.facts import Facts
from teacher.filters import decide_facts
from teacher.funnel import Examples, as_lines, check, make_funnel

FILTERS = Filters(duplicates=False)
GOOD = {
    "well_formed": 1.0, "unclosed_thought": 0.0, "repetition": 0.0, "loop": 0.0, "longest_paragraph": 9.0,
    "code_blocks": 0.0,
}  # fmt: skip


def trace(number: int, problem: str, tokens: int, verdict: str, finish: str = "stop", **more: Any) -> Trace:
    fields = {
        "id": f"{problem}#{number}", "problem_id": problem, "kind": "math", "problem": "1+1", "completion": "2",
        "tokens": tokens, "finish_reason": finish, "teacher": "t", "sample_index": number, "verdict": Verdict(verdict),
        "measures": GOOD,
    }  # fmt: skip
    return Trace(**fields | more)


def funnel_of(
    traces: list[Trace], filters: Filters = FILTERS, cap: int | None = None, price: float | None = None
) -> dict[str, Any]:
    facts = Facts(filters)
    assert list(facts.gathering(traces)) == traces
    return make_funnel(facts, decide_facts(facts, filters, cap), price)


SMALL = [
    trace(0, "p", 10, "correct"),
    trace(1, "p", 1, "wrong"),
    trace(0, "q", 100, "truncated", "length"),
    trace(0, "r", 1000, "unverified", kind="open"),
    trace(1, "r", 2000, "correct", source="other"),
]


def test_a_funnel_counted_by_hand() -> None:
    funnel = funnel_of(SMALL)
    sources = funnel.pop("sources")
    assert funnel == {
        "input": {"traces": 5, "tokens": 3111, "problems": 3},
        "steps": [
            {"filter": "finished", "removed": 1, "removed_tokens": 100, "left": 4, "left_tokens": 3011},
            {"filter": "verified", "removed": 1, "removed_tokens": 1, "left": 3, "left_tokens": 3010},
            {"filter": "format", "removed": 0, "removed_tokens": 0, "left": 3, "left_tokens": 3010},
        ],
        "kept": {"traces": 3, "tokens": 3010, "problems": 2, "unverified": 1},
        "verdicts": {"correct": 2, "truncated": 1, "unverified": 1, "wrong": 1},
        "cost": {"tokens_per_kept": 1037.0},
    }
    assert sources.keys() == {"", "other"} and sources["other"]["kept"]["traces"] == 1
    assert sources[""]["steps"][0] == {
        "filter": "finished", "removed": 1, "removed_tokens": 100, "left": 3, "left_tokens": 1011,
    }  # fmt: skip


def test_any_funnel_sums() -> None:
    lots = random.Random(1)
    for _ in range(50):
        rows = [
            trace(
                number,
                f"p{lots.randint(0, 9)}",
                lots.randint(0, 99),
                lots.choice(list(Verdict)),
                lots.choice(["stop", "length"]),
                source=lots.choice("ab"),
            )
            for number in range(lots.randint(0, 30))
        ]
        check(funnel_of(rows, cap=lots.choice([None, 1, 2])))


@pytest.mark.parametrize(
    "path",
    [("input", "traces"), ("input", "tokens"), ("steps", 1, "removed"), ("steps", 2, "left_tokens"),
     ("kept", "traces"), ("kept", "tokens"), ("verdicts", "wrong"), ("sources", "other", "input", "traces"),
     ("sources", "other", "kept", "tokens")],
)  # fmt: skip
def test_a_funnel_that_leaks_is_caught(path: tuple[str | int, ...]) -> None:
    funnel = copy.deepcopy(funnel_of(SMALL))
    place: Any = funnel
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] += 1
    with pytest.raises(AssertionError):
        check(funnel)


def test_sources_that_lose_a_trace_are_caught() -> None:
    funnel = copy.deepcopy(funnel_of(SMALL))
    del funnel["sources"]["other"]
    with pytest.raises(AssertionError, match="sources do not sum"):
        check(funnel)


def test_money() -> None:
    funnel = funnel_of(SMALL, price=2e6)
    assert funnel["cost"] == {
        "tokens_per_kept": 1037.0, "price_per_million": 2e6, "total": 6222.0, "per_kept": 2074.0,
    }  # fmt: skip
    assert [step["removed_cost"] for step in funnel["steps"]] == [200.0, 2.0, 0.0]
    lines = as_lines(funnel)
    assert lines[2].split() == ["finished", "1", "4", "3,011", "200.00"]
    assert "a kept trace took 1,037 generated tokens, 2074 of money" in lines


def test_nothing_kept_costs_nothing_a_trace() -> None:
    assert funnel_of(SMALL[1:2], price=1.0)["cost"]["per_kept"] is None
    assert as_lines(funnel_of([]))[2].startswith("finished")


def test_the_table_for_the_terminal() -> None:
    lines = as_lines(funnel_of(SMALL))
    assert [line.split() for line in lines[:5]] == [
        ["filter", "removed", "left", "tokens", "left"],
        ["sampled", "5", "3,111"],
        ["finished", "1", "4", "3,011"],
        ["verified", "1", "3", "3,010"],
        ["format", "0", "3", "3,010"],
    ]
    assert lines[5:9] == [
        "kept 3 of 5 traces (0.600), for 2 of 3 problems",
        "of these, 1 could not be verified",
        "a kept trace took 1,037 generated tokens",
        "verdicts: correct 2, truncated 1, unverified 1, wrong 1",
    ]
    assert lines[10] == "of no named source:" and "of other:" in lines


def test_uncounted_tokens_are_not_shown_as_none() -> None:
    assert as_lines(funnel_of([trace(0, "p", 0, "correct")]))[1].split() == ["sampled", "1"]


def test_a_few_examples_of_each_reason() -> None:
    examples = Examples()
    for number in range(9):
        row = trace(number, "p", 1, "wrong").model_dump(mode="json")
        examples.see(row | {"reason": "verified" if number % 2 else ""}, {"loop": 0.5})
    assert [one["id"] for one in examples.found["verified"]] == ["p#1", "p#3", "p#5"]
    assert examples.found["verified"][0]["ends"] == "2" and examples.found.keys() == {"verified"}
