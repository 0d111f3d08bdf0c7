"""Intervals cover the truth about as often as they say, have a width at the edges, and pairing sharpens them."""

from __future__ import annotations

import naive_eval as naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from eval.statistics import (
    bootstrap_interval,
    gap_closed,
    paired_difference,
    score_interval,
    standard_error,
    t_quantile,
)

#: Counts of right samples of 4, of 2 to 30 problems.
COUNTS = some.lists(some.integers(0, 4), min_size=2, max_size=30)


@settings(deadline=None, max_examples=60)
@given(COUNTS)
def test_score_intervals_agree_with_their_naive_twin(counts: list[int]) -> None:
    values = np.array(counts) / 4
    centre, error = naive.score(values.tolist())
    half = t_quantile(len(values) - 1) * error
    assert score_interval(values) == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(some.lists(some.tuples(some.integers(0, 4), some.integers(0, 4)), min_size=2, max_size=30))
def test_paired_tests_agree_with_their_naive_twin(counts: list[tuple[int, int]]) -> None:
    a, b = (np.array(column) / 4 for column in zip(*counts, strict=True))
    centre, error, p = naive.paired(a.tolist(), b.tolist())
    found = paired_difference(a, b, 4)
    assert found.p == pytest.approx(p, abs=1e-6)
    assert found.value == pytest.approx(sum(a - b) / len(a), abs=1e-12)
    half = t_quantile(len(a) - 1) * error
    assert found.interval == pytest.approx((max(-1, centre - half), min(1, centre + half)), abs=1e-9)
    assert found.distinguishable == (found.p < 0.05)


def test_a_test_turned_round_says_the_same() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.binomial(4, 0.8, size=40) / 4, rng.binomial(4, 0.5, size=40) / 4
    one, other = paired_difference(a, b, 4), paired_difference(b, a, 4)
    assert one.p == pytest.approx(other.p) and one.detectable == pytest.approx(other.detectable)


@pytest.mark.parametrize(("problems", "samples", "low", "high"), [(30, 1, 0.6, 0.9), (100, 4, 0.7, 0.9)])
def test_what_is_called_detectable_is_seen_four_times_in_five(
    problems: int, samples: int, low: float, high: float
) -> None:
    rng = np.random.default_rng(6)

    def draw(difference: float) -> list[tuple[np.ndarray, np.ndarray]]:
        easy = rng.beta(2, 1, size=(400, problems)) * (1 - difference) + difference
        return [
            (rng.binomial(samples, row) / samples, rng.binomial(samples, row - difference) / samples)
            for row in easy
        ]

    told = [paired_difference(a, b, samples).detectable for a, b in draw(0.05)]
    typical = float(np.median([value for value in told if value is not None]))
    seen = np.mean([paired_difference(a, b, samples).distinguishable for a, b in draw(typical)])
    assert low <= seen <= high, (typical, seen)


def test_more_problems_and_more_samples_detect_less() -> None:
    same = [np.ones(count) for count in (30, 120)]
    few, many = (paired_difference(values, values).detectable for values in same)
    often = paired_difference(same[0], same[0], 16).detectable
    assert few is not None and many is not None and often is not None
    assert many < few / 2 and often < few
    assert paired_difference(np.ones(1), np.zeros(1)).detectable is None
    assert paired_difference(np.ones(2), np.zeros(2)).detectable is None


@pytest.mark.parametrize("spread", ["one sample", "alike", "easy and hard"])
def test_the_bootstrap_agrees_with_the_closed_form(spread: str) -> None:
    rng = np.random.default_rng(7)
    chances = rng.beta(1.6, 0.4, size=200) if spread == "easy and hard" else np.full(200, 0.8)
    samples = 1 if spread == "one sample" else 8
    values = rng.binomial(samples, chances) / samples
    closed, drawn = score_interval(values), bootstrap_interval(values)
    assert drawn == pytest.approx(closed, abs=0.2 * (closed.high - closed.low))
    assert drawn == bootstrap_interval(values)  # its seed is fixed
    assert bootstrap_interval(np.ones(30)).low < 0.95 and bootstrap_interval(np.ones(1)) == (0, 1)


def test_t_quantiles_match_the_printed_table() -> None:
    table = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980}
    for freedom, expected in table.items():
        assert t_quantile(freedom) == pytest.approx(expected, abs=6e-4)


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
