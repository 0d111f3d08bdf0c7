"""What is watched of a rollout's texts.

Legend: P problems, G samples per problem.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.reflection import WORDS, reflective_parts, reflective_rate
from teacher.watching import loop_share, solve_rates, target_share


def test_reflective_words_are_counted_whole() -> None:
    assert reflective_rate(["Wait, that is WRONG. But", "let us go on"]) == pytest.approx(1000 * 3 / 9)
    assert reflective_rate(["buttons waiting errors checked"]) == 0
    assert reflective_rate([" ".join(WORDS)]) == 1000
    assert reflective_rate(["", " \n"]) is None


def test_loops_are_those_of_the_engines() -> None:
    assert loop_share([[1, 2, 3] * 200, list(range(600)), [5] * 300]) == pytest.approx(2 / 3)


def test_language_is_of_thoughts_with_words() -> None:
    english, german = "we see that this is what it was", "wir sehen, dass das so ist und war"
    assert target_share([english, german, "1 + 2 = 3", ""], "en") == pytest.approx(0.5, abs=0.1)
    assert target_share(["1 + 2", ""], "en") is None


@given(st.lists(st.lists(st.integers(0, 1), min_size=8, max_size=8), min_size=1, max_size=30))
def test_every_problem_is_in_one_count(rights: list[list[int]]) -> None:
    counts = solve_rates(torch.tensor(rights, dtype=torch.float64))
    assert sum(counts) == len(rights) and len(counts) == 6
    assert counts[0] == sum(sum(one) == 0 for one in rights) and counts[-1] == sum(
        sum(one) == 8 for one in rights
    )
    assert counts[2] == sum(2 <= sum(one) < 4 for one in rights)


def test_reflective_words_are_found_where_they_stand_and_nothing_is_lost() -> None:
    text = "Wait, 3 + 4 = 8?\nBut checked is no word; CHECK is."
    parts = list(reflective_parts(text))
    assert "".join(part for part, _ in parts) == text
    assert [part for part, marked in parts if marked] == ["Wait", "But", "CHECK"]
    assert list(reflective_parts("")) == [] and list(reflective_parts("wait")) == [("wait", True)]
