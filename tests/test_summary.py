"""What a summary counts, and that it agrees with counting the rows by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.chat import ThoughtTags
from distill.records import Problem
from distill.verify import Response, check_many
from eval.summary import summarise


def row(name: str, verdict: str, **changes: Any) -> dict[str, Any]:
    plain = {
        "id": name, "kind": "math", "problem": "What is it?", "tags": {}, "prefill": "", "completion": "It is that.",
        "tokens": 10, "well_formed": True, "finish_reason": "stop", "verdict": verdict, "extracted": None,
    }  # fmt: skip
    return plain | changes


def answers(problem: str, *extracted: str, right: str = "1/2", **changes: Any) -> list[dict[str, Any]]:
    return [
        row(problem, "correct" if answer == right else "wrong", extracted=answer, **changes)
        for answer in extracted
    ]


def test_programs_have_no_majority() -> None:
    rows = [row("p", "correct", kind="code", extracted="def f(): ...")] * 2
    summary = summarise(rows, samples=2)
    assert summary["cons@k"] is None and summary["cons@k_curve"] == {} and summary["pass@1"] == 1.0
    assert summary["pass@k_curve"] == {"1": 1.0, "2": 1.0}


def test_a_suite_that_nothing_can_be_said_of_has_no_score() -> None:
    summary = summarise([row("p", "unverified", kind="open")], samples=1)
    assert (summary["n"], summary["pass@1"], summary["ci95"], summary["ci95_bootstrap"]) == (
        0,
        None,
        None,
        None,
    )
    assert summary["verdicts"] == {"unverified": 1} and summary["outcomes"]["ungraded"] == 1
    assert summary["solve_rates"] == [0] * 10 and summary["pass@k_curve"] == {}


def test_spellings_of_one_answer_vote_together() -> None:
    rows = [
        row("p", "correct", extracted="1/2"), row("p", "correct", extracted="0.5"),
        row("p", "wrong", extracted="7"), row("p", "wrong", extracted="7"), row("p", "correct", extracted="\\frac12"),
    ]  # fmt: skip
    summary = summarise(rows, samples=5)
    assert summary["cons@k"] == 1.0  # by text 7 would win
    assert summary["votes"]["compared"] >= 2 and summary["votes"]["unsettled"] == 0
    assert summary["cons@k_curve"]["1"] == pytest.approx(3 / 5) and set(summary["cons@k_curve"]) == {
        "1",
        "2",
        "4",
        "5",
    }


def test_curves_stop_where_a_problem_has_too_few_graded_samples() -> None:
    rows = answers("p", "1/2", "3", "3", "3") + answers("q", "1/2", "1/2", "3") + [row("q", "error")]
    summary = summarise(rows, samples=4)
    assert set(summary["pass@k_curve"]) == set(summary["cons@k_curve"]) == {"1", "2"}
    assert summary["pass@k"] is None and summary["pass@k_curve"]["2"] == pytest.approx((1 / 2 + 1) / 2)
    assert summary["outcomes"] == {
        "correct": 3, "wrong": 4, "no_answer": 0, "truncated": 0, "timeout": 0, "ungraded": 1,
    }  # fmt: skip
    assert summary["outcomes"]["correct"] + summary["outcomes"]["wrong"] + 1 == len(rows)


def test_a_breakdown_needs_two_values_and_counts_problems() -> None:
    rows = answers("a", "1/2", "1/2", tags={"level": "10", "subject": "Algebra"})
    rows += answers("b", "1/2", "3", tags={"level": "2", "subject": "Algebra"}) + answers("c", "3", "3")
    summary = summarise(rows, samples=2)
    assert set(summary["by"]) == {"level"} and list(summary["by"]["level"]) == ["2", "10"]
    assert summary["by"]["level"]["2"]["n"] == 1 and summary["by"]["level"]["2"]["pass@1"] == 0.5
    assert summary["solve_rates"] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert [one["tokens"] for one in summary["problems"]] == [10, 10, 10]


def test_only_prose_has_a_language_and_it_is_the_questions() -> None:
    question = "What is the capital of the country, and why is it there?"
    english, german = (
        "It is the city that has been there for long.",
        "Das ist die Stadt, und sie ist schon lange da.",
    )
    prose = {"kind": "instruction", "problem": question}
    rows = [row("p", "correct", completion=text, **prose) for text in (english, german)]
    assert summarise(rows, samples=2)["language"] == pytest.approx(0.5)
    assert summarise([row("p", "correct", completion=english)], samples=1)["language"] is None


@pytest.mark.parametrize(
    ("problem", "completion", "share"),
    [
        ("17; a: +5", "<think>at 17 add 5 = 22;</think>\\boxed{22}", 1.0),
        ("17; a: +5; b: -3", "<think>at 17 add 5 = 22; 再 22 减 3 等于 19;</think>\\boxed{19}", 0.5),
        ("17; a: +5", "<think>再 17 加 5 等于 22;", 0.0),  # never closed, yet written
        (
            "我们需要计算这两个数的和",
            "<think>再 17 加 5 等于 22;</think>\\boxed{22}",
            1.0,
        ),  # its own language
        ("17; a: +5", "再 17 加 5 等于 22; \\boxed{22}", None),  # no thought
        ("17; a: +5", "<think>17+5=22</think>\\boxed{22}", None),  # no words
        ("17; a: +5", "<think>at 17 add 5 = 22;</think>再是", 1.0),  # the answer is not the thought
    ],
)
def test_the_language_of_thoughts_is_that_of_the_question_or_english(
    problem: str, completion: str, share: float | None
) -> None:
    found = summarise([row("p", "correct", problem=problem, completion=completion)], samples=1)
    assert found["thought_language"] == (share if share is None else pytest.approx(share))
    assert found["thoughts"] == (share is not None)


def test_thoughts_between_tags_of_a_model_s_own_are_found() -> None:
    rows = [row("p", "correct", problem="1", completion="<<再 17 加 5 等于 22>>\\boxed{22}")]
    assert summarise(rows, 1)["thought_language"] is None
    assert summarise(rows, 1, (ThoughtTags("<<", ">>"),))["thought_language"] == 0.0


def test_problems_with_ratings_rate_the_model() -> None:
    rows = [
        row(str(rating), "correct" if sample < right else "wrong", kind="code", tags={"rating": str(rating)})
        for rating, right in ((1200, 4), (1600, 2), (2000, 0))
        for sample in range(4)
    ]
    rating = summarise([*rows, row("unrated", "wrong", kind="code")], samples=4)["rating"]
    assert rating["value"] == pytest.approx(1600, abs=1) and rating["n"] == 3
    assert rating["ci95"][0] < 1600 < rating["ci95"][1] and 0.84 < rating["percentile"] < 0.91
    assert summarise(answers("p", "3", tags={"rating": "unknown"}), samples=1)["rating"] is None


def test_recorded_votes_cost_few_comparisons(shared_data: Path) -> None:
    lines = (shared_data / "outputs" / "math_cot_100x8_qwen25math.jsonl").read_text().splitlines()
    recorded = [json.loads(line) for line in lines][:400]
    problems = [
        Problem(id=str(one["idx"]), kind="math", problem="", reference=one["gold"]) for one in recorded
    ]
    responses = [
        Response(problem, one["response"], None) for problem, one in zip(problems, recorded, strict=True)
    ]
    rows = [
        row(problem.id, judged.verdict, extracted=judged.extracted)
        for problem, judged in zip(problems, check_many(responses), strict=True)
    ]
    summary = summarise(rows, samples=8)
    assert summary["n"] == 50 and summary["votes"]["compared"] < 400
    assert summary["cons@k_curve"]["1"] == pytest.approx(summary["pass@1"])
    assert summary["cons@k"] > summary["pass@1"]
