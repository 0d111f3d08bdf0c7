"""Win rates: what pairs add up to, when position decided, and the length control against slow twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.win_rate import FEWEST_FOR_LENGTH, RIDGE, Pair, fit_logistic, length_controlled, summarise_pairs

POINTS = st.sampled_from([0.0, 0.5, 1.0, None])
PAIRS = st.lists(
    st.builds(
        Pair,
        st.sampled_from(["p0", "p1", "p2"]),
        POINTS,
        POINTS,
        st.integers(0, 500),
        st.integers(0, 500),
        st.booleans(),
    ),
    max_size=30,
)


def pair(first: float | None, second: float | None, problem: str = "p", **lengths: int) -> Pair:
    return Pair(problem, first, second, lengths.get("length", 10), lengths.get("baseline", 10))


@settings(deadline=None)
@given(PAIRS)
def test_the_win_rate_is_the_mean_over_problems_of_the_mean_over_pairs(pairs: list[Pair]) -> None:
    """Against a slow twin that goes through the problems one by one."""
    found = summarise_pairs(pairs, "judge")
    means = []
    for problem in ("p0", "p1", "p2"):
        points = []
        for one in pairs:
            if one.problem_id == problem and not one.answered:
                points.append(0.0)
            elif one.problem_id == problem and one.first is not None and one.second is not None:
                points.append((one.first + one.second) / 2)
        if points:
            means.append(sum(points) / len(points))
    assert found["n"] == len(means)
    if found["value"] is None:
        assert not means or found["by_position"] > 0.5
    else:
        assert found["value"] == pytest.approx(sum(means) / len(means))
        low, high = found["ci95"]
        assert 0 <= low <= high <= 1
    told = found["pairs"] + found["no_answer"] + found["unread"]
    assert told == len(pairs), "every pair is in one of the three counts"


def test_an_answer_that_is_not_there_is_lost_and_a_judgement_that_is_not_leaves_the_pair_out() -> None:
    silent = Pair("q", None, None, 0, 10, answered=False)
    found = summarise_pairs([pair(1, 1), silent, pair(None, 1, "r")], "judge")
    assert (found["value"], found["n"], found["pairs"], found["no_answer"], found["unread"]) == (
        0.5,
        2,
        1,
        1,
        1,
    )
    assert found["note"] == "1 pairs are left out: a judgement of them could not be read."


def test_a_judge_that_answers_by_position_is_told_and_gets_no_win_rate() -> None:
    always_first = [pair(1, 0, f"p{at}") for at in range(10)]
    found = summarise_pairs(always_first, "lazy")
    assert found["value"] is None and found["ci95"] is None and found["by_position"] == 1.0
    assert (
        found["note"] == "lazy chose by position, mostly the first, in 10 of 10 pairs: no win rate is given."
    )
    sound = [pair(1, 1, f"q{at}") for at in range(20)]
    found = summarise_pairs([*[pair(0, 1, f"p{at}") for at in range(10)], *sound], "half")
    assert found["value"] == pytest.approx((10 * 0.5 + 20) / 30)
    assert "mostly the second, in 10 of 30 pairs: its win rate is drawn towards a half" in found["note"]
    assert summarise_pairs([*always_first[:2], *sound], "sound")["note"] == ""


# ------------------------------------------------------------------------------------ length control


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-1, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=5, max_size=40))
def test_the_regression_is_at_the_lowest_point_of_its_loss(rows: list[tuple[float, float]]) -> None:
    """Against a slow twin: the loss as a loop, whose value rises whichever way one steps from the fit."""

    def loss(a: float, b: float) -> float:
        total = 0.0
        for x, y in rows:
            p = 1 / (1 + math.exp(-(a + b * x)))
            total -= y * math.log(max(p, 1e-300)) + (1 - y) * math.log(max(1 - p, 1e-300))
        return total / len(rows) + RIDGE / 2 * (a * a / 100 + b * b)

    x, y = (np.array(column) for column in zip(*rows, strict=True))
    a, b = fit_logistic(x, y)
    for step in (0.3, 0.03):
        for da, db in ((step, 0), (-step, 0), (0, step), (0, -step), (step, step), (step, -step)):
            assert loss(a + da, b + db) >= loss(a, b) - 1e-9


def drawn(count: int, quality: float, taste: float, longer: float, seed: int = 0) -> list[Pair]:
    """Judgements of one whose liking for length is known: P(win) = sigmoid(quality + taste * tanh(d / sd))."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(longer, 100, count)
    chances = 1 / (1 + np.exp(-(quality + taste * np.tanh(differences / differences.std()))))
    won = (rng.random(count) < chances).astype(float)
    return [Pair(f"p{at}", won[at], won[at], 1000 + int(differences[at]), 1000) for at in range(count)]


@pytest.mark.parametrize(
    ("quality", "taste", "longer"), [(0.0, 2.0, 100.0), (-0.8, 1.5, 80.0), (0.5, 0.0, 50.0)]
)
def test_a_known_liking_for_length_is_taken_out(quality: float, taste: float, longer: float) -> None:
    found = summarise_pairs(drawn(4000, quality, taste, longer), "judge")
    truth = 1 / (1 + math.exp(-quality))
    assert found["length_controlled"] == pytest.approx(truth, abs=0.035)
    if taste:
        assert found["value"] > truth + 0.05, "the plain win rate rewards length"
    assert "ours" in found["length_control"]


def test_no_length_control_where_there_is_nothing_to_learn_it_from() -> None:
    few = drawn(FEWEST_FOR_LENGTH - 1, 0.0, 1.0, 10.0)
    assert length_controlled(few) is None
    equal = [pair(1, 1)] * 15 + [pair(0, 0)] * 5
    assert length_controlled(equal) == pytest.approx(0.75)


def test_one_who_always_wins_has_a_finite_controlled_rate_near_1() -> None:
    pairs = [pair(1, 1, f"p{at}", length=10 + at) for at in range(40)]
    assert 0.98 < (length_controlled(pairs) or 0) <= 1


def test_answers_that_are_not_there_count_as_lost_under_length_control_too() -> None:
    pairs = [pair(1, 1, f"p{at}") for at in range(30)]
    silent = [Pair(f"s{at}", None, None, 0, 10, answered=False) for at in range(30)]
    assert summarise_pairs([*pairs, *silent], "judge")["length_controlled"] == pytest.approx(0.5)
