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


def test_the_terminal_shows_differences_and_ratings() -> None:
    row = compared_pair("aime", exam("a", [1, 0] * 10), exam("b", [0, 1] * 10))
    assert row is not None
    found = {"comparisons": [row | {"not_stated": ["top_p"]}], "findings": ["A sentence."], "published": []}
    first, _, line = comparisons_as_lines(found)
    assert first == "A sentence." and line.startswith("aime: a - b = +0.000 [")
    assert "p = 1.000, 20 problems x 1  (cannot be told apart)" in line and "does not state top_p" in line
    shown = {
        "model": "m", "suite": "cf", "pass@1": 0.5, "ci95": [0.4, 0.6], "n": 10, "k": 1, "format": 1.0,
        "mean_tokens": 3,
        "rating": {"value": 1543.2, "ci95": [1400.0, None], "percentile": 0.85, "percentile_source": "", "note": ""},
    }  # fmt: skip
    assert (
        results_as_lines([shown])[-1].strip()
        == "Codeforces rating 1543 [1400, open], above 0.850 of contestants"
    )
