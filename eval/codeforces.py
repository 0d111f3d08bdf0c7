"""A Codeforces rating from what was solved, or from places in contests, with its interval and its percentile.

Axis letters: P problems (or opponents).

The rating scale is Elo's as Codeforces uses it (M. Mirzayanov, "Codeforces rating system", 2010): a contestant of
rating r solves a problem of rating q with probability 1 / (1 + 10^((q - r) / 400)), and beats an opponent of rating q
with the same one. The rating told is the maximum-likelihood one: where the expected number of solved problems is the
number that was solved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.statistics import ALL_OR_NOTHING, t_quantile

_SCALE = math.log(10) / 400
_REACH = 4000.0  # beyond all problems' ratings; there the chance of any other outcome is 1e-10
_NEVER = -2 * math.log(0.025)

#: Rating and percentile pairs of DeepSeek-R1 (arXiv 2501.12948): version 2, table 3 (its stages and R1); version 1,
#: table 4 (DeepSeek-V3, o1-1217). Percentiles as fractions of human contestants.
PUBLISHED = (
    (1134, 0.587),
    (1444, 0.804),
    (1534, 0.845),
    (1687, 0.905),
    (1746, 0.921),
    (2029, 0.963),
    (2061, 0.966),
)
PERCENTILE_SOURCE = (
    "linear between the pairs that DeepSeek-R1's paper prints (arXiv 2501.12948; ratings 1134 to 2061)"
)


class Rating(NamedTuple):
    """``value`` is None where all or nothing was solved, an end of the 95% interval where it is open; see ``note``."""

    value: float | None
    low: float | None
    high: float | None
    note: str


class Standing(NamedTuple):
    """One contest: the place taken (1 is first; half a place for a tie) and the ratings of all other contestants."""

    rank: float
    opponents: Sequence[float]


def chance(rating: float | NDArray[np.float64], problem: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability that a contestant solves a problem (or beats an opponent), both by their ratings."""
    return np.asarray(1 / (1 + np.power(10.0, (np.asarray(problem) - np.asarray(rating)) / 400)))


def rate(ratings_P: Sequence[float], correct_P: Sequence[int], samples_P: Sequence[int]) -> Rating:
    """The rating at which so many of each problem's samples would be right, and its interval.

    The interval holds the ratings whose log-likelihood is near the best one's (profile likelihood; Wilks 1938, with
    the square of Student's t for P - 1 degrees of freedom in place of chi-square's quantile). Samples of one problem
    succeed and fail together more than the model says, so log-likelihoods are divided by the overdispersion
    (quasi-likelihood, McCullagh & Nelder 1989, section 9.2): the residuals' mean square over the model's, between 1
    and the number of samples, and as if two more problems were solved always or never.

    Args:
        ratings_P: of the problems, on Codeforces' scale.
        correct_P: right samples of each.
        samples_P: all samples of each, at least one.
    """
    ratings, correct, samples = (
        np.array(values, dtype=np.float64) for values in (ratings_P, correct_P, samples_P)
    )
    assert len(ratings) == len(correct) == len(samples) > 0 and (samples >= 1).all()
    assert ((correct >= 0) & (correct <= samples)).all()
    low_end, high_end = float(ratings.min()) - _REACH, float(ratings.max()) + _REACH

    def surplus(rating: float) -> float:
        return float((correct - samples * chance(rating, ratings)).sum())

    def log_likelihood(rating: float) -> float:
        exponents = _SCALE * (ratings - rating)
        return -float(
            (correct * np.logaddexp(0, exponents) + (samples - correct) * np.logaddexp(0, -exponents)).sum()
        )

    most = float(samples.max())
    if correct.sum() in (0, samples.sum()):
        # The best rating is infinite. What is as good as ruled out: under it this had a chance of 2.5%.
        edge = _crossing(lambda rating: -2 * log_likelihood(rating) / most - _NEVER, low_end, high_end)
        if correct.sum():
            return Rating(
                None, edge, None, "every sample was right: no problem is hard enough to bound the rating"
            )
        return Rating(None, None, edge, "no sample was right: no problem is easy enough to bound the rating")
    best = _crossing(surplus, low_end, high_end)
    expected = chance(best, ratings)
    spread = samples * expected * (1 - expected)
    residuals = (correct - samples * expected) ** 2
    prior = ALL_OR_NOTHING / len(ratings)
    dispersion = (residuals.sum() + prior * (samples * spread).sum()) / ((1 + prior) * spread.sum())
    dispersion = min(max(float(dispersion), 1.0), most)
    bound = t_quantile(len(ratings) - 1) ** 2 if len(ratings) > 1 else _NEVER
    top = log_likelihood(best)

    def beyond(rating: float) -> float:
        return 2 * (top - log_likelihood(rating)) / dispersion - bound

    low = _crossing(beyond, low_end, best) if beyond(low_end) > 0 else None
    high = _crossing(beyond, best, high_end) if beyond(high_end) > 0 else None
    return Rating(best, low, high, "" if None not in (low, high) else "too few problems to bound the rating")


def rate_standings(standings: Sequence[Standing]) -> Rating:
    """The rating whose expected places, over all contests, add up to those taken; by contests, at least one.

    A contest is one performance against all of its contestants at once, so it is one observation: the interval is a
    sandwich one over contests (Liang & Zeger 1986) with Student's t, and open on both sides for a single contest.
    """
    assert standings and all(len(one.opponents) for one in standings)
    fields = [np.array(one.opponents, dtype=np.float64) for one in standings]
    beaten = np.array([len(field) + 1 - one.rank for field, one in zip(fields, standings, strict=True)])
    assert all(0 <= won <= len(field) for won, field in zip(beaten, fields, strict=True)), (
        "a rank beyond the field"
    )
    everyone = np.concatenate(fields)
    if beaten.sum() in (0, len(everyone)):
        return Rating(
            None, None, None, f"always {'first' if beaten.sum() else 'last'}: nobody bounds the rating"
        )

    def surplus_of(rating: float) -> NDArray[np.float64]:
        return np.array(
            [won - chance(rating, field).sum() for won, field in zip(beaten, fields, strict=True)]
        )

    reach = (float(everyone.min()) - _REACH, float(everyone.max()) + _REACH)
    best = _crossing(lambda rating: float(surplus_of(rating).sum()), *reach)
    if len(standings) == 1:
        return Rating(best, None, None, "one contest says nothing of how far contests differ")
    expected = chance(best, everyone)
    slope = _SCALE * float((expected * (1 - expected)).sum())
    count = len(standings)
    error = math.sqrt(float((surplus_of(best) ** 2).sum()) * count / (count - 1)) / slope
    half = t_quantile(count - 1) * error
    return Rating(best, best - half, best + half, "")


def percentile(rating: float) -> float | None:
    """Share of human contestants below a rating, read off `PUBLISHED`; None outside its pairs."""
    ratings, shares = zip(*PUBLISHED, strict=True)
    if not ratings[0] <= rating <= ratings[-1]:
        return None
    return float(np.interp(rating, ratings, shares))


def as_entry(rating: Rating) -> dict[str, Any]:
    """What a summary holds of a rating."""
    place = None if rating.value is None else percentile(rating.value)
    source = PERCENTILE_SOURCE if place is not None else f"outside what is known: {PERCENTILE_SOURCE}"
    return {
        "value": rating.value,
        "ci95": [rating.low, rating.high],
        "percentile": place,
        "percentile_source": source,
        "note": rating.note,
    }


def rating_in_words(entry: Mapping[str, Any]) -> str:
    """A summary's rating on a line, for the terminal."""
    low, high = ("open" if end is None else f"{end:.0f}" for end in entry["ci95"])
    value = "unbounded" if entry["value"] is None else f"{entry['value']:.0f}"
    place = "" if entry["percentile"] is None else f", above {entry['percentile']:.3f} of contestants"
    why = f" ({entry['note']})" if entry["note"] else ""
    return f"Codeforces rating {value} [{low}, {high}]{place}{why}"


def _crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that is monotone between two points, with different signs there, changes its sign."""
    at_low = function(low) > 0
    assert at_low != (function(high) > 0), (function(low), function(high))
    while high - low > 1e-6:
        middle = (low + high) / 2
        if (function(middle) > 0) == at_low:
            low = middle
        else:
            high = middle
    return (low + high) / 2
