"""The report's parts by themselves: which rows it shows, what its sentences claim, how its figures are scaled."""

from __future__ import annotations

import importlib.util
import json
import random
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distill.recipe import Recipe
from distill.report import excerpts
from distill.report.excerpts import choose_answers, choose_traces, cut_middle, fair_shares
from distill.report.figures import Curve, line_chart, nice_ticks, smoothed, standalone
from distill.report.gather import RunReport, gather
from distill.report.markdown import render_markdown
from distill.report.page import render_page, script_json
from distill.report.tables import cost_table
from distill.report.words import (
    DASH,
    compared,
    cost_notes,
    cost_sentence,
    given_behind,
    protocol_words,
    published_scores,
)

_spec = importlib.util.spec_from_file_location("report_run", Path(__file__).with_name("report_run.py"))
assert _spec is not None and _spec.loader is not None
lifelike = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lifelike)


# ---------------------------------------------------------------------------------------------- what is claimed


def difference(value: float, low: float, high: float, suite: str = "chains") -> dict[str, Any]:
    apart = low > 0 or high < 0
    return {
        "suite": suite,
        "a": "a",
        "b": "b",
        "difference": value,
        "ci95": [low, high],
        "distinguishable": apart,
    }


def test_a_lead_is_told_with_its_size_and_interval() -> None:
    words = compared("a", "b", [difference(0.18, 0.14, 0.23), difference(0.3, 0.2, 0.4, "functions")])
    assert words == (
        "a solves more problems than b, by a share of 0.18 on chains (95% interval 0.14 to 0.23) "
        "and 0.30 on functions (95% interval 0.20 to 0.40)."
    )


def test_a_difference_that_may_be_nothing_is_never_told_as_a_lead() -> None:
    words = compared("a", "b", [difference(0.02, -0.01, 0.05)])
    assert words.startswith(
        "a and b cannot be told apart on chains (difference +0.020, 95% interval \u22120.010"
    )
    assert "more" not in words


def test_being_behind_is_told_as_plainly_as_being_ahead() -> None:
    words = compared("a", "b", [difference(-0.2, -0.3, -0.1)])
    assert (
        words == "a solves fewer problems than b, by a share of 0.20 on chains (95% interval 0.10 to 0.30)."
    )
    mixed = compared("a", "b", [difference(0.2, 0.1, 0.3), difference(-0.2, -0.3, -0.1, "functions")])
    assert (
        "more problems than b, by a share of 0.20 on chains" in mixed
        and "but fewer, by a share of 0.20 on functions" in mixed
    )


# ---------------------------------------------------------------------------------------------- what is chosen


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(0, 200))
def test_shares_are_fair(sizes: list[int], budget: int) -> None:
    shares = fair_shares(sizes, budget)
    assert (
        all(0 <= share <= size for share, size in zip(shares, sizes, strict=True)) and sum(shares) <= budget
    )
    short = [share for share, size in zip(shares, sizes, strict=True) if share < size]
    assert sum(shares) > min(budget, sum(sizes)) - max(1, len(short))
    assert all(other <= min(short) + 1 for other in shares) if short else shares == sizes


def make_traces(kept: int, wrong: int, badly_formed: int) -> list[dict[str, Any]]:
    reasons = [""] * kept + ["verified"] * wrong + ["format"] * badly_formed
    common = {"problem": "?", "completion": "x", "tokens": 1, "teacher": "teacher", "verdict": "wrong"}
    return [
        {"id": f"t{n}", "kept": not reason, "reason": reason, **common} for n, reason in enumerate(reasons)
    ]


def test_rare_reasons_are_shown_beside_common_ones_in_whatever_order_they_lie() -> None:
    traces = make_traces(3000, 900, 30)
    excerpt = choose_traces(traces, lifelike.make_recipe())
    counts = {
        reason: sum(row["reason"] == reason for row in excerpt.rows) for reason in ("", "verified", "format")
    }
    assert counts == {"": 185, "verified": 185, "format": 30} and excerpt.total == 3930
    random.Random(1).shuffle(traces)
    again = choose_traces(traces, lifelike.make_recipe())
    assert {row["id"] for row in again.rows} == {row["id"] for row in excerpt.rows}


def test_the_same_problems_are_shown_of_every_model_and_the_page_counts_them() -> None:
    def rows(ids: list[int]) -> list[dict[str, Any]]:
        common = {"problem": "?", "completion": "x", "tokens": 1, "verdict": "wrong"}
        return [{"id": f"p{n}", "sample_index": sample, **common} for n in ids for sample in range(6)]

    ids = list(range(100))
    shown = choose_answers({"base": rows(ids), "teacher": rows(ids[::-1])}, lifelike.make_recipe())
    assert (len(shown.problems), shown.total) == (excerpts.PROBLEMS_SHOWN, 100)
    other_order = choose_answers({"base": rows(ids[50:] + ids[:50])}, lifelike.make_recipe())
    assert [row["id"] for row in other_order.problems] == [row["id"] for row in shown.problems]
    for problem in shown.problems:
        assert {model: len(answers) for model, answers in problem["answers"].items()} == {
            "base": 4,
            "teacher": 4,
        }


def test_a_megabyte_of_text_is_shown_whole_while_it_fits_the_page(tmp_path: Path) -> None:
    text = "<think>" + "a < b & c\n" * 100_000 + "</think>done"
    row = {
        "id": "p",
        "sample_index": 0,
        "problem": "?",
        "completion": text,
        "tokens": 9,
        "verdict": "correct",
    }
    shown = choose_answers({"teacher": [row]}, lifelike.make_recipe())
    block = script_json(shown.problems)
    assert "".join(json.loads(block)[0]["answers"]["teacher"][0]["parts"]) == text and shown.shortened == 0


def test_long_texts_lose_their_middle_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpts, "CHARACTERS_SHOWN", 1000)
    traces = make_traces(2, 0, 0)
    traces[0]["completion"] = f"<think>{'t' * 5000}</think>the answer"
    excerpt = choose_traces(traces, lifelike.make_recipe())
    thought, answer = excerpt.rows[0]["parts"]
    assert answer == "the answer" and "characters left out]" in thought and 900 < len(thought) < 1100
    assert (excerpt.shortened, excerpt.rows[1]["parts"]) == (1, ["", "x"])
    assert (
        "".join(excerpts._split("\n<think>a</think> b\n", 100, excerpts.KNOWN_TAGS))
        == "\n<think>a</think> b\n"
    )
    assert cut_middle("abcdef", 6) == "abcdef" and cut_middle("abcdef", 3) == "ab\n[3 characters left out]\nf"


# ---------------------------------------------------------------------------------------------- figures


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low: float, span: float, most: int) -> None:
    assume(span > 1e-6 * abs(low))  # narrower than that, floats themselves are too coarse
    ticks = nice_ticks(low, low + span, most)
    assert 1 <= len(ticks) <= most + 1
    assert all(low - span * 1e-6 <= tick <= low + span * 1.000001 for tick in ticks)


def test_smoothing_keeps_a_level_and_quiets_the_last_point() -> None:
    assert smoothed([2.0] * 90) == pytest.approx([2.0] * 90)
    assert smoothed([0.0] * 89 + [4.0])[-1] == pytest.approx(
        1.0
    )  # the mean of the last point and three neighbours


def test_values_that_are_not_numbers_are_not_drawn() -> None:
    chart = line_chart(
        "t", [Curve("loss", "role-student", [1, 2, 3, 4], [1.0, None, float("nan"), 2.0])], "update"
    )
    assert chart.count("h0") == 2 and "nan" not in chart and ET.fromstring(standalone(chart)) is not None
    assert "nothing measured" in line_chart("t", [Curve("loss", "role-student", [1], [None])], "update")


# ---------------------------------------------------------------------------------------------- what it cost


def costs(recipe: Recipe) -> RunReport:
    """A report of which only the costs matter: every stage trained 880,000 tokens, every model took as many."""
    took = {"generated_tokens": 0, "trained_tokens": 880_000}
    models = {
        name: {"role": recipe.role(name), "cost": took | {"with_teacher": took}}
        for stage in recipe.stages
        for name in getattr(stage, "models", [])
    }
    run = gather(Path("nowhere"), recipe, {"models": models})
    stages = [replace(stage, trained_tokens=880_000) for stage in run.stages]
    return replace(run, stages=stages)


def distilled_from(traces: dict[str, Any], *harvest: dict[str, Any]) -> Recipe:
    """A given base distilled on traces, beside a given teacher."""
    sft = {"name": "distil", "kind": "sft", "model": "small", "traces": {"learnt": 1}, "makes": "student"}
    return Recipe.model_validate(
        {
            "name": "given",
            "models": {"small": {"path": "small"}, "large": {"path": "large", "role": "teacher"}},
            "problems": {"train": {"world": {"count": 10}}},
            "traces": traces,
            "stages": [
                *harvest,
                sft,
                {
                    "name": "exam",
                    "kind": "eval",
                    "models": ["small", "large", "student"],
                    "suites": ["chains"],
                },
            ],
        }
    )


HARVEST = {"name": "harvest", "kind": "sample", "model": "large", "problems": "train", "makes": "learnt"}


def test_the_stand_in_for_pretraining_is_told_beside_the_costs_and_a_base_has_no_zero() -> None:
    run = costs(lifelike.make_recipe())
    assert "base 0.88 M and student-base 0.88 M" in cost_notes(run)[1] and "not counted" in cost_notes(run)[1]
    assert len(cost_notes(run)) == 2, "nothing was given"
    rows = {row[0]: row[1:] for row in cost_table(run).rows}
    assert set(rows["base"]) == set(rows["student-base"]) == {DASH}
    assert rows["student"][:3] == ["0", "0.88 M", "0.88 M"]
    for text in (render_page(run), render_markdown(run)):
        assert "The stand-in for pre-training" in text


def test_what_was_given_was_made_at_a_cost_that_nobody_knows() -> None:
    for recipe, name, what in (
        (distilled_from({}, HARVEST), "large", "its making"),
        (distilled_from({"learnt": {"path": "t.jsonl"}}), "learnt", "their teacher and their sampling"),
    ):
        run = costs(recipe)
        assert cost_notes(run)[1:] == [f"{name}, given: what {what} took is not known and not counted."]
        assert cost_sentence(run).endswith(f"student took 0.88 M tokens (not counting what made {name}).")
        assert set(cost_table(run).rows[1][1:]) == {DASH}, "the given teacher"


def test_a_student_that_was_given_is_not_told_as_free() -> None:
    run = costs(distilled_from({}, HARVEST))
    run.models[-1].cost.update(generated_tokens=0, trained_tokens=0)
    assert run.models[-1].name == "student" and cost_sentence(run) == ""


def test_a_prompt_is_shown_as_words() -> None:
    said = protocol_words({"temperature": 0.6, "instruction": "{problem}\n\nBox it: \\boxed{}."})
    assert said == 'temperature 0.6, prompt: "{problem} Box it: \\boxed{}."'


def test_traces_of_a_teacher_that_was_made_are_counted() -> None:
    assert given_behind(lifelike.make_recipe(), "student") == []
    world = {"learnt": {"world": {"count": 5, "wrong_steps": 0, "missing_tags": 0}}}
    assert given_behind(distilled_from(world), "student") == []


def test_two_published_figures_of_one_version_both_stand_with_their_sources() -> None:
    run = costs(distilled_from({"t": {"path": "t.jsonl"}}))
    cell = {
        "suite": "chains",
        "metric": "pass@1",
        "published_model": "P",
        "version": "readme",
        "unit": "percent",
    }
    rows = [cell | {"source": source, "value": value} for source, value in (("one", 34.2), ("two", 32.9))]
    found = published_scores(replace(run, published=rows), "chains")
    assert found == pytest.approx({("P", "readme, one"): 0.342, ("P", "readme, two"): 0.329})
    assert list(published_scores(replace(run, published=rows[:1] * 2), "chains")) == [("P", "readme")]
