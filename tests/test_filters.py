"""The filters' order, their reasons, and what a decision may depend on."""

from __future__ import annotations

import random
from typing import Any

import naive_filters
import pytest

from distill.chat import ThoughtTags, tags_in
from distill.recipe_filters import Filters
from distill.records import FinishReason, Trace, Verdict
from teacher.contamination import Passage, Suites
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
    ("repetition", {"measures": GOOD | {"repetition": 0.41}}),
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


# ------------------------------------------------------------------------------------ over whole sets


@pytest.mark.parametrize("seed", range(25))
def test_decisions_are_those_of_the_slow_twin_in_any_order(seed: int) -> None:
    lots = random.Random(seed)
    rows = [
        trace(
            sample,
            f"p{problem}",
            verdict=lots.choice([Verdict.CORRECT, Verdict.CORRECT, Verdict.WRONG, Verdict.ERROR]),
            finish_reason=lots.choice([None, FinishReason.STOP, FinishReason.LENGTH]),
            completion=lots.choice("abcd"),
            tokens=lots.randint(1, 12),
            measures=GOOD
            | {
                "unclosed_thought": float(lots.random() < 0.2),
                "repetition": lots.choice([0.0, 0.4, 0.41]),
                "loop": lots.choice([0.0, 0.0, 0.06]),
                "longest_paragraph": lots.choice([10.0, 2000.0, 2001.0]),
                "code_blocks": float(lots.random() < 0.2),
                "language.en": lots.choice([1.0, 0.95, 0.9]),
            },
        )
        for problem in range(8)
        for sample in range(6)
    ]
    filters = Filters.model_validate(
        {
            "tokens": {"min": 2, "max": 10}, "language": lots.random() < 0.5, "repetition": lots.random() < 0.5,
            "readable": lots.random() < 0.5, "difficulty": {"min": 0.2, "max": 0.9, "first": lots.randint(1, 6)},
            "finished": lots.random() < 0.5, "verified": lots.random() < 0.5,
        }
    )  # fmt: skip
    lots.shuffle(rows)
    cap = lots.choice([None, 1, 2])
    assert reasons(rows, filters, cap) == naive_filters.decide(rows, filters, cap)


def test_difficulty_is_told_by_the_first_samples_alone() -> None:
    rows = [trace(sample, verdict=Verdict.WRONG if sample < 2 else Verdict.CORRECT) for sample in range(6)]
    window = Filters.model_validate({"difficulty": {"min": 0.4, "first": 4}})
    decided = list(decide(rows, window, None))
    assert [row.measures["pass_rate"] for row in decided] == [0.5] * 6
    assert [row.reason for row in decided] == ["verified", "verified", "", "", "", ""]
    hard = window.model_copy(update={"difficulty": window.difficulty.model_copy(update={"first": 2})})
    assert [row.reason for row in decide(rows, hard, None)] == ["verified"] * 2 + ["difficulty"] * 4


def words(*numbers: int) -> str:
    return " ".join("abcdefghij"[number % 10] * (1 + number // 10) for number in numbers)


LONG = [words(*range(start, start + 60)) for start in (0, 100, 200)]


def test_near_duplicates_within_and_across_problems() -> None:
    near = Filters.model_validate({"near_duplicates": True})
    rows = [
        trace(0, "b", completion=LONG[0] + " end"),
        trace(1, "b", completion=LONG[0] + " stop"),
        trace(0, "a", completion="start " + LONG[0]),
        trace(1, "a", completion=LONG[1]),
        trace(2, "a", completion=LONG[2], verdict=Verdict.WRONG),
        trace(2, "b", completion=LONG[2]),
    ]
    decided = list(decide(rows, near, None))
    expected = ["near_duplicates", "near_duplicates", "", "", "verified", ""]
    assert [row.reason for row in decided] == expected
    assert all(
        (row.measures.get("near_duplicate", 0) >= 0.8) == (row.reason == "near_duplicates") for row in decided
    )
    turned = {row.id: row.reason for row in decide(rows[::-1], near, None)}
    assert turned == {row.id: row.reason for row in decided}


def test_who_is_like_a_dropped_trace_alone_stays() -> None:
    lots = random.Random(2)
    first = ["".join(lots.choices("abcdefghij", k=4)) for _ in range(300)]
    second = ["x" if place in range(10, 310, 50) else word for place, word in enumerate(first)]
    third = ["y" if place in range(30, 330, 50) else word for place, word in enumerate(second)]
    rows = [trace(sample, completion=" ".join(text)) for sample, text in enumerate((first, second, third))]
    near = Filters.model_validate({"near_duplicates": {"similarity": 0.75}})
    assert reasons(rows, near) == ["", "near_duplicates", ""]
    assert reasons(rows[1:], near) == ["", "near_duplicates"]


def test_a_cap_prefers_what_is_unlike_the_chosen() -> None:
    texts = [LONG[0], LONG[0] + " and more", LONG[1], LONG[1] + " too", LONG[2]]
    rows = [trace(sample, completion=text) for sample, text in enumerate(texts)]
    diverse = Filters(diverse=True)
    beyond = "keep_per_problem"
    assert reasons(rows, diverse, 3) == ["", beyond, "", beyond, ""]
    assert reasons(rows, Filters(), 3) == ["", "", "", beyond, beyond]
    assert reasons(rows[::-1], diverse, 2) == [beyond, beyond, "", beyond, ""]
    assert reasons(rows, diverse, 9) == [""] * 5
    wrong = [row.model_copy(update={"verdict": Verdict.WRONG}) for row in rows]
    assert reasons(wrong, diverse, 3) == ["verified"] * 5 and reasons([], diverse, 3) == []


def test_a_contaminated_problem_loses_all_its_traces_and_is_told() -> None:
    question = (
        "A farmer has 17 hens and buys half as many ducks at the market, how many birds has he got now?"
    )
    suites = Suites([Passage("exam", "e1", "question", question)])
    kept_out = Filters.model_validate({"decontaminate": ["exam"]})
    rows = [
        trace(0, "a", completion="x").model_copy(update={"problem": question}),
        trace(1, "a", completion="y").model_copy(update={"problem": question}),
        trace(0, "b", completion=f"I know this one: {question}"),
        trace(1, "b", completion="z"),
    ]
    decided = list(decide(rows, kept_out, None, suites))
    assert [row.reason for row in decided] == ["decontaminate"] * 3 + [""]
    assert [row.measures["overlap.exam"] for row in decided] == [1.0, 1.0, 1.0, 0.0]


def test_rows_of_an_earlier_version_are_measured() -> None:
    old = trace(
        completion="<think>我们需要计算这两个数的和。</think>2",
        measures={"well_formed": 1, "unclosed_thought": 0},
    )
    (row,) = decide([old], ALL, None)
    assert row.reason == "language" and row.measures["language.zh"] == 1.0


def test_code_is_wanted_where_programs_are() -> None:
    rows = [trace(0, kind=kind, measures=GOOD | {"code_blocks": 1.0}) for kind in ("math", "code")]
    assert [reasons([row])[0] for row in rows] == ["readable", ""]
    assert reasons(rows[:1], Filters.model_validate({"readable": {"code": True}})) == [""]
