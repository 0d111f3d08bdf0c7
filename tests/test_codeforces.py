"""Ratings of contestants that are simulated from known ones come back, with an interval that holds them."""

from __future__ import annotations

import naive_eval as naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from eval.codeforces import (
    PUBLISHED,
    Standing,
    as_entry,
    chance,
    percentile,
    rate,
    rate_standings,
    rating_in_words,
)

PROBLEM = some.tuples(some.integers(800, 3500), some.integers(0, 3))


@settings(deadline=None, max_examples=15)
@given(some.lists(PROBLEM, min_size=2, max_size=8))
def test_the_rating_is_the_likeliest_whole_one(problems: list[tuple[int, int]]) -> None:
    ratings, correct = zip(*problems, strict=True)
    samples = [3] * len(ratings)
    found = rate(ratings, correct, samples)
    if found.value is None:
        assert sum(correct) in (0, sum(samples)) and (found.low is None or found.high is None)
    elif -1000 < found.value < 5000:
        assert found.value == pytest.approx(naive.rating(ratings, correct, samples), abs=1.01)
        assert found.low is None or found.low < found.value
        assert found.high is None or found.high > found.value


@pytest.mark.parametrize("truth", [1000, 1600, 2029, 2800])
@pytest.mark.parametrize("samples", [1, 16])
def test_known_ratings_are_recovered_from_solved_problems(truth: int, samples: int) -> None:
    rng = np.random.default_rng(truth + samples)
    found, covered = [], []
    for _ in range(120):
        ratings = rng.uniform(800, 3500, size=60)
        rating = rate(ratings, rng.binomial(samples, chance(truth, ratings)), [samples] * 60)
        covered.append((rating.low or -1e9) <= truth <= (rating.high or 1e9))
        found += [rating.value] if rating.value is not None else []
    assert len(found) > 110
    assert np.mean(found) == pytest.approx(truth, abs=40)
    assert np.mean(covered) >= 0.93


def test_samples_that_succeed_together_widen_the_interval() -> None:
    ratings = [1200, 1400, 1600, 1800, 2000, 2200] * 5
    together = rate(ratings, [16 * (at % 2) for at in range(30)], [16] * 30)
    apart = rate(ratings, np.rint(16 * chance(1700, np.array(ratings))).astype(int).tolist(), [16] * 30)
    once = rate(ratings, [at % 2 for at in range(30)], [1] * 30)
    assert together.value == pytest.approx(once.value, abs=0.01)
    widths = [found.high - found.low for found in (apart, together, once) if found.high and found.low]
    assert len(widths) == 3 and widths[0] < 0.6 * widths[1]
    assert widths[1] == pytest.approx(widths[2], rel=0.1)  # 16 samples that always agree are one


def test_all_and_nothing_leave_an_end_open() -> None:
    every, none = rate([1500, 2000], [4, 4], [4, 4]), rate([1500, 2000], [0, 0], [4, 4])
    assert every.value is None and every.high is None and every.low is not None and every.low < 2000
    assert none.value is None and none.low is None and none.high is not None and none.high > 1500
    assert "every sample was right" in every.note and "no sample was right" in none.note
    # what the end stands for: there the two problems are solved with a chance of 2.5%
    assert chance(every.low, 1500) * chance(every.low, 2000) == pytest.approx(0.025, abs=1e-6)
    assert "[1" in rating_in_words(as_entry(every)) and "open]" in rating_in_words(as_entry(every))


@pytest.mark.parametrize("truth", [1200, 1900])
def test_known_ratings_are_recovered_from_standings(truth: int) -> None:
    rng = np.random.default_rng(truth)
    found, covered = [], []
    for _ in range(200):
        standings = []
        for _ in range(10):
            opponents = rng.normal(1500, 350, size=200)
            # a performance is a rating and Gumbel noise: then the chance to beat another is Elo's
            ours, theirs = rng.gumbel(truth, 400 / np.log(10)), rng.gumbel(opponents, 400 / np.log(10))
            standings.append(Standing(1 + int((theirs > ours).sum()), opponents.tolist()))
        rating = rate_standings(standings)
        assert rating.value is not None and rating.low is not None and rating.high is not None
        found.append(rating.value)
        covered.append(rating.low <= truth <= rating.high)
    assert np.mean(found) == pytest.approx(truth, abs=40)
    assert np.mean(covered) >= 0.9


def test_a_place_in_the_middle_of_equals_is_their_rating() -> None:
    one = rate_standings([Standing(3, [1500] * 4)])
    assert one.value == pytest.approx(1500, abs=0.01) and one.low is one.high is None
    first = rate_standings([Standing(1, [1500] * 4)])
    assert first.value is None and "always first" in first.note


def test_percentiles_are_the_papers_between_its_own_ratings() -> None:
    for rating, share in PUBLISHED:
        assert percentile(rating) == pytest.approx(share)
    assert percentile(1640.5) == pytest.approx((0.845 + 0.905) / 2 + 0.06 * (1640.5 - 1610.5) / 153)
    assert percentile(1133) is None and percentile(2062) is None
    entry = as_entry(rate([3000], [1], [2]))
    assert entry["percentile"] is None and str(entry["percentile_source"]).startswith("outside")
