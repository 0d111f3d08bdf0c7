"""The filters' order, their reasons, and what a decision may depend on."""

from __future__ import annotations

import random
from typing import Any

import pytest

from distill.chat import ThoughtTags, tags_in
from distill.recipe_parts import Filters
from distill.records import FinishReason, Trace, Verdict
from teacher.filters import decide, measure, steps

GOOD = {
    "well_formed": 1.0, "unclosed_thought": 0.0, "repetition": 0.1, "loop": 0.0, "longest_paragraph": 99.0,
    "code_blocks": 0.0, "language.en": 1.0,
}  # fmt: skip
ALL = Filters.model_validate({"tokens": {"max": 10}, "language": True, "repetition": True, "readable": True})


def trace(sample: int = 0, problem: str = "p", **changes: Any) -> Trace:
    """A trace that passes everything, but for the changes."""
    fields = {
        "id": f"{problem}#{sample}", "problem_id": problem, "kind": "math", "problem": "1+1", "reference": "2",
        "completion": f"<think>way {sample}</think>2", "tokens": 10, "finish_reason": FinishReason.STOP,
        "teacher": "t", "sample_index": sample, "verdict": Verdict.CORRECT, "measures": GOOD,
    }  # fmt: skip
    return Trace(**fields | changes)


def reasons(traces: list[Trace], filters: Filters = ALL, keep_per_problem: int | None = None) -> list[str]:
    decided = list(decide(traces, filters, keep_per_problem))
    assert [row.id for row in decided] == [row.id for row in traces]
    assert all(row.kept == (row.reason == "") for row in decided)
    return [row.reason for row in decided]


FAILURES: list[tuple[str, dict[str, Any]]] = [
    ("finished", {"finish_reason": FinishReason.LENGTH}),
    ("verified", {"verdict": Verdict.WRONG}),
    ("format", {"measures": GOOD | {"well_formed": 0.0}}),
    ("tokens", {"tokens": 11}),
    ("language", {"measures": GOOD | {"language.en": 0.9, "language.zh": 0.1}}),
    ("repetition", {"measures": GOOD | {"repetition": 0.21}}),
    ("readable", {"measures": GOOD | {"longest_paragraph": 2001.0}}),
    ("duplicates", {"completion": "<think>way 0</think>2"}),
    ("keep_per_problem", {}),
]


@pytest.mark.parametrize("first", range(len(FAILURES)))
def test_the_first_filter_that_fails_is_the_reason(first: int) -> None:
    changes: dict[str, Any] = {}
    measures = GOOD
    for _, failure in FAILURES[first:]:
        bad = failure.get("measures", GOOD)
        measures = measures | {name: value for name, value in bad.items() if GOOD.get(name) != value}
        changes |= failure | {"measures": measures}
    decided = reasons([trace(0), trace(1, **changes)], keep_per_problem=1)
    assert decided == ["", FAILURES[first][0]]


def test_the_funnels_steps_are_the_reasons_in_their_order() -> None:
    assert steps(ALL, 1) == [name for name, _ in FAILURES]
    off = Filters(finished=False, verified=False, format=False, duplicates=False)
    assert steps(off, None) == []
    assert reasons([trace(0, verdict=Verdict.WRONG, finish_reason=FinishReason.ERROR)], off) == [""]


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict is not Verdict.CORRECT])
def test_only_correct_counts_as_verified_where_something_can_be_verified(verdict: Verdict) -> None:
    assert reasons([trace(verdict=verdict)]) == ["verified"]


def test_open_problems_pass_unverified() -> None:
    assert reasons([trace(kind="open", verdict=Verdict.UNVERIFIED)]) == [""]
    assert reasons([trace(kind="open", verdict=Verdict.ERROR)]) == ["verified"]


@pytest.mark.parametrize(
    ("finish", "unclosed", "passes"),
    [("stop", 0, True), ("stop", 1, True), ("length", 0, False), ("abort", 0, False), ("error", 0, False),
     (None, 0, True), (None, 1, False)],
)  # fmt: skip
def test_an_unknown_end_counts_as_finished_unless_the_thought_is_open(
    finish: str | None, unclosed: int, passes: bool
) -> None:
    measures = GOOD | {"unclosed_thought": float(unclosed)}
    assert reasons([trace(finish_reason=finish, measures=measures)]) == ([""] if passes else ["finished"])


def test_a_duplicate_is_of_the_same_problem_and_of_a_text_that_got_that_far() -> None:
    same = {"completion": "<think>a</think>2"}
    rows = [
        trace(0, **same, verdict=Verdict.WRONG),
        trace(1, **same),
        trace(2, **same),
        trace(0, "q", **same),
    ]
    assert reasons(rows) == ["verified", "", "duplicates", ""]


def test_the_cap_keeps_the_smallest_samples_and_counts_only_kept_ones() -> None:
    rows = [trace(0, verdict=Verdict.WRONG), trace(1), trace(2), trace(3), trace(0, "q")]
    assert reasons(rows, keep_per_problem=2) == ["verified", "", "", "keep_per_problem", ""]


def test_the_order_of_problems_does_not_matter() -> None:
    lots = random.Random(0)
    rows = [
        trace(
            sample,
            f"p{problem}",
            verdict=lots.choice([Verdict.CORRECT, Verdict.WRONG]),
            completion=lots.choice("abc"),
        )
        for problem in range(8)
        for sample in range(6)
    ]
    turned = sorted(rows, key=lambda row: (row.sample_index, row.problem_id))
    one = {row.id: row.reason for row in decide(rows, ALL, 2)}
    assert one == {row.id: row.reason for row in decide(turned, ALL, 2)}
    assert set(one.values()) == {"", "verified", "duplicates", "keep_per_problem"}


def test_the_order_of_samples_does_not_matter_either() -> None:
    assert reasons([trace(1), trace(0)], keep_per_problem=1) == ["keep_per_problem", ""]


@pytest.mark.parametrize(
    ("text", "well_formed", "unclosed"),
    [
        ("<think>a</think>2", 1, 0),
        ("2", 0, 0),
        ("<think>a", 0, 1),
        ("a</think>2", 0, 0),
        ("<|begin_of_thought|>a<|end_of_thought|>2", 1, 0),
        ("[THINK]a[/THINK]2 [THINK]b", 0, 1),
    ],
)
def test_measures_of_texts_of_any_family(text: str, well_formed: int, unclosed: int) -> None:
    found = measure(text, tags_in(text))
    assert (found["well_formed"], found["unclosed_thought"]) == (well_formed, unclosed)


def test_a_text_in_other_tags_than_the_teachers_own_is_not_well_formed() -> None:
    assert measure("<thought>a</thought>2", ThoughtTags())["well_formed"] == 0


def test_tags_in_goes_by_the_last_closing_tag() -> None:
    assert tags_in("<think>say <thought>x</thought></think>2") == ThoughtTags()
    assert tags_in("<thought>I see <think>") == ThoughtTags("<thought>", "</thought>")
    assert tags_in("a</think>2") == ThoughtTags()
    assert tags_in("plain") is None
