"""What is said of two models is what the figures say."""

from __future__ import annotations

from typing import Any

import pytest

from eval.compare import comparisons_as_lines, results_as_lines
from eval.pairs import compared_pair, statement
from eval.statistics import Difference, Interval


def exam(model: str, correct: list[int], k: int = 1) -> dict[str, Any]:
    rows = [{"id": str(at), "correct": count, "samples": k} for at, count in enumerate(correct)]
    return {"model": model, "k": k, "problems": rows}


def test_too_few_problems_say_so_and_what_they_could_tell() -> None:
    row = compared_pair("aime", exam("student", [1] * 15 + [0] * 15), exam("base", [1] * 13 + [0] * 17))
    assert row is not None and not row["distinguishable"] and row["p"] > 0.05
    assert row["statement"].startswith(
        "30 problems at k = 1 cannot tell these two apart: a difference under 0.2"
    )
    assert f"under {row['detectable']:.2f} would be seen less than four times in five" in row["statement"]


@pytest.mark.parametrize("turned", [False, True])
def test_a_difference_that_is_told_names_who_is_ahead(turned: bool) -> None:
    pair = [exam("good", [1] * 25 + [0] * 5), exam("bad", [1] * 5 + [0] * 25)]
    row = compared_pair("aime", *(reversed(pair) if turned else pair))
    assert row is not None and row["distinguishable"] and row["p"] < 0.001
    low, high = sorted(map(abs, row["ci95"]))
    assert row["statement"] == (
        f"30 problems at k = 1 tell these two apart (p < 0.001): good is ahead by {low:.3f} to {high:.3f}"
    )
    assert row["difference"] == pytest.approx(-2 / 3 if turned else 2 / 3)


def test_one_problem_tells_nothing() -> None:
    said = statement("a", "b", Difference(1.0, Interval(-1, 1), 1.0, None), 1, 1)
    assert (
        said
        == "1 problem at k = 1 cannot tell these two apart: no difference would be seen four times in five"
    )


def test_the_terminal_shows_findings_differences_and_ratings() -> None:
    same = compared_pair("aime", exam("a", [1, 0] * 10), exam("b", [0, 1] * 10))
    apart = compared_pair("aime", exam("good", [1] * 30), exam("bad", [0] * 30))
    assert same is not None and apart is not None
    rows = [row | {"not_stated": []} for row in (same, apart)]
    lines = comparisons_as_lines({"comparisons": rows, "published": [], "findings": ["Said."]})
    assert lines[:2] == ["Said.", ""]
    assert lines[2].startswith("aime: a - b = +0.000 [")
    assert lines[2].endswith("p = 1.000, 20 problems x 1  (cannot be told apart)")
    assert "p < 0.001, 30 problems x 1" in lines[3]
    long, none = "a-model-of-a-rather-long-name", {"pass@1": None, "ci95": None, "n": 0, "mean_tokens": None}
    shown = {
        "model": "m", "suite": "cf", "pass@1": 0.5, "ci95": [0.4, 0.6], "n": 10, "k": 1, "format": 1.0,
        "mean_tokens": 3,
        "rating": {"value": 1543.2, "ci95": [1400.0, None], "percentile": 0.85, "percentile_source": "", "note": ""},
    }  # fmt: skip
    table = results_as_lines(
        [shown, {**shown, **none, "model": long, "suite": "a-long-suite", "rating": None}]
    )
    assert table[2].strip() == "Codeforces rating 1543 [1400, open], above 0.850 of contestants"
    assert table[0].index("suite") == table[1].index("cf") == table[3].index("a-long-suite") == len(long) + 1
    assert {len(line) for line in (table[0], table[1], table[3])} == {len(table[0])}
    assert table[3].split()[2:4] == ["-", "-"]


def test_scores_beside_a_difference_are_over_the_problems_that_both_could_be_graded_on() -> None:
    one, other = exam("a", [1, 0] * 10), exam("b", [0, 0] * 10)
    for at in range(10):
        other["problems"][2 * at]["samples"] = 0  # what a alone was graded on is what it solved
    row = compared_pair("aime", one, other)
    assert row is not None and (row["n"], row["scores"], row["difference"]) == (10, [0.0, 0.0], 0.0)
    assert row["left_out"] == 10


def test_a_result_without_a_score_has_no_numbers_in_the_table() -> None:
    shown = {
        "model": "m", "suite": "open", "pass@1": None, "ci95": None, "n": 0, "k": 1, "format": 1.0,
        "mean_tokens": None,
    }  # fmt: skip
    assert "nan" not in results_as_lines([shown])[1]
