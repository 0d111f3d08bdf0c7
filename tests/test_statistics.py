"""Intervals cover the truth about as often as they say, have a width at the edges, and pairing sharpens them."""

from __future__ import annotations

import numpy as np
import pytest

from eval.statistics import gap_closed, paired_difference, score_interval, standard_error, t_quantile


def test_t_quantiles_match_the_printed_table() -> None:
    table = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980}
    for freedom, expected in table.items():
        assert t_quantile(freedom) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("problems", [30, 100])
@pytest.mark.parametrize("truth", [0.5, 0.9])
@pytest.mark.parametrize("spread", ["one sample", "alike", "easy and hard"])
def test_score_intervals_cover_the_truth(problems: int, truth: float, spread: str) -> None:
    rng = np.random.default_rng(0)
    runs, samples = 1000, 1 if spread == "one sample" else 4
    chances = np.full((runs, problems), truth)
    if spread == "easy and hard":
        chances = rng.beta(2 * truth, 2 * (1 - truth), size=(runs, problems))
    scores = rng.binomial(samples, chances) / samples
    intervals = [score_interval(values) for values in scores]
    coverage = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert coverage >= 0.93
    assert np.mean([interval.high - interval.low for interval in intervals]) < 5 / np.sqrt(problems)


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_difference_intervals_cover_the_truth(shift: float) -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(1000):
        chances = rng.uniform(0, 0.9, size=50)
        a, b = rng.binomial(4, chances + shift) / 4, rng.binomial(4, chances) / 4
        interval = paired_difference(a, b).interval
        covered.append(interval.low <= shift <= interval.high)
    assert np.mean(covered) >= 0.93


def test_gap_intervals_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.statistics.RESAMPLES", 1000)
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(150):
        base_chance = rng.uniform(0.1, 0.5, size=100)
        chances = (base_chance + 0.3, base_chance, base_chance + 0.4)
        gap = gap_closed(*(rng.binomial(4, chance) / 4 for chance in chances))
        assert gap.interval is not None
        covered.append(gap.interval.low <= 0.75 <= gap.interval.high)
    assert np.mean(covered) >= 0.9  # 7.5 misses of 150 are expected, 15 allowed


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("problems", [1, 2, 30, 1000])
def test_unanimous_problems_leave_doubt_and_the_score_stays_inside(value: float, problems: int) -> None:
    low, high = score_interval(np.full(problems, value))
    assert 0 <= low <= value <= high <= 1
    assert high - low > 1 / problems / 2
    if problems == 1000:
        assert high - low < 0.02


def test_one_failure_more_never_narrows_the_interval_near_the_edge() -> None:
    solved, failed_once = np.ones(250), np.ones(250)
    failed_once[0] = 0.75
    all_solved, nearly = score_interval(solved), score_interval(failed_once)
    assert nearly.low < all_solved.low
    assert nearly.high - nearly.low == pytest.approx(all_solved.high - all_solved.low, rel=0.1)


def test_standard_error_takes_problems_for_the_observations() -> None:
    assert standard_error(np.array([0.0, 1.0])) == pytest.approx(0.5)
    assert standard_error(np.array([1.0])) is None


def test_pairing_sees_what_two_intervals_cannot() -> None:
    rng = np.random.default_rng(3)
    chances = rng.choice([0.05, 0.95], size=200)
    b = rng.binomial(4, chances) / 4
    a = np.minimum(b + rng.binomial(1, 0.2, size=200) / 4, 1.0)  # a little better, problem by problem
    difference = paired_difference(a, b)
    assert difference.value == pytest.approx(float((a - b).mean()))
    assert difference.distinguishable
    assert score_interval(a).low < score_interval(b).high
    turned = paired_difference(b, a)
    assert turned.distinguishable
    assert turned.interval == pytest.approx((-difference.interval.high, -difference.interval.low))


def test_equal_models_are_not_distinguishable_and_not_surely_equal() -> None:
    difference = paired_difference(np.ones(30), np.ones(30))
    assert difference.value == 0 and not difference.distinguishable
    assert difference.interval.high - difference.interval.low > 0.05


def test_gap_closed_of_plain_numbers() -> None:
    base, student, teacher = np.zeros(40), np.tile([0.0, 1.0], 20), np.ones(40)
    gap = gap_closed(student, base, teacher)
    assert gap.value == pytest.approx(0.5)
    assert gap.interval is not None and 0.3 < gap.interval.low < 0.5 < gap.interval.high < 0.7
    assert gap == gap_closed(student, base, teacher)  # its seed is fixed
    unanimous = gap_closed(teacher, base, teacher)
    assert unanimous.value == 1.0
    assert unanimous.interval is not None and unanimous.interval.low < 1 < unanimous.interval.high


def test_gap_closed_needs_a_teacher_that_leads() -> None:
    base, better = np.full(20, 0.5), np.full(20, 0.6)
    assert gap_closed(better, base, base)[:2] == (None, None)
    assert "does not beat" in gap_closed(better, base, base).reason
    barely = base.copy()
    barely[0] = 0.75
    unsure = gap_closed(better, base, barely)
    assert unsure.value is not None and unsure.interval is None and "not sure" in unsure.reason
