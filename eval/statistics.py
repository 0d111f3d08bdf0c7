"""How sure a score is: intervals over problems for pass@1, paired differences and the gap closed, and paired tests.

Axis letters: P problems, R resamples.

The suite's problems are taken as a sample of the problems one might have asked, so a problem is one
observation and its value is the mean over its samples (the clustered view of Miller 2024, "Adding Error Bars
to Evals", arXiv 2411.00640). More samples of each problem make the values less noisy, but never the problems
more; an interval over problems holds the noise of the samples too, as that is part of how values differ.

Plain t-intervals have no width at 0 and 1 and cover too seldom near them. So each interval here is
computed from the observations plus a few made-up ones, as published for single proportions and for pairs;
the reported point estimates stay those of the observations alone. Every interval is a 95% one, every test
two-sided, and none corrects for how many comparisons are looked at. ``tests/benchmarks/coverage.py`` measures
how often the intervals hold the truth and how often the test errs.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import mpmath
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES, RESAMPLES_AT_ONCE = 10_000, 1_000
#: Above this share of resamples without a lead of the teacher, a ratio to that lead has no useful interval.
UNSURE_SHARE = 0.01
#: Problems, each solved always or never, that the estimate of how far problems differ starts from.
ALL_OR_NOTHING = 2.0
#: Problems solved, and as many failed, that a score's interval adds (Agresti & Coull 1998).
ADDED = 2.0
LEVEL, POWER = 0.05, 0.8


class Interval(NamedTuple):
    """The ends of a 95% interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """Mean of a - b over the same problems; ``distinguishable`` when the interval excludes 0 (``p`` < 0.05).

    ``detectable`` is the difference that so many problems, differing as these do, would show as distinguishable
    four times in five; None for fewer than two problems, and where no difference would.
    """

    value: float
    interval: Interval
    p: float
    detectable: float | None

    @property
    def distinguishable(self) -> bool:
        return self.interval.low > 0 or self.interval.high < 0


class GapClosed(NamedTuple):
    """Share of the teacher's lead over the base that the student has; what is None is so for ``reason``."""

    value: float | None
    interval: Interval | None
    reason: str


def standard_error(values_P: Values) -> float | None:
    """Standard error of the mean over problems (P - 1 in the variance); None for fewer than two problems."""
    if len(values_P) < 2:
        return None
    return float(values_P.std(ddof=1) / math.sqrt(len(values_P)))


def score_interval(values_P: Values) -> Interval:
    """Interval of the mean of values in [0, 1].

    Agresti & Coull 1998 ("Approximate is better than exact", Am. Stat. 52), plus-four form, with Student's t of P - 1
    degrees of freedom. With one sample a problem this is their interval. With several, the number of observations is
    the effective one of survey statistics (Kish 1965; Korn & Graubard 1998, "Confidence intervals for proportions with
    small expected number of positive counts estimated from survey data", Surv. Methodol. 24): P divided by the share
    of p (1 - p) that the values vary by, which is 1 where each problem is solved always or never and 1/k where all
    problems are alike. That share is estimated as if two more problems had been all or nothing (ours), so at 0 and 1
    the interval keeps a width of about 4 / P however many samples there are.
    """
    count = len(values_P)
    if count < 2:
        return Interval(0.0, 1.0)
    mean = float(values_P.mean())
    effective = count / _share_between(values_P)
    centre = (effective * mean + ADDED) / (effective + 2 * ADDED)
    half = t_quantile(count - 1) * math.sqrt(centre * (1 - centre) / (effective + 2 * ADDED))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def bootstrap_interval(values_P: Values, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The interval of `score_interval` by resampling in place of a formula; values in [0, 1].

    Percentile cluster bootstrap (Efron & Tibshirani 1993, ch. 13; Davison & Hinkley 1997, section 3.8): problems are
    drawn, each with all of its samples. Samples are not drawn anew within a drawn problem: its value holds their noise
    already, which would count twice. As many problems solved and failed are added as `score_interval` adds.
    """
    count = len(values_P)
    if count < 2:
        return Interval(0.0, 1.0)
    added = ADDED * _share_between(values_P)
    distinct, numbers = np.unique(np.concatenate([values_P, [0.0, 1.0]]), return_counts=True)
    weights = numbers.astype(np.float64)
    weights[[0, -1]] += added - 1  # each was just put in once
    draws = round(count + 2 * added)
    rng = np.random.default_rng(seed)
    means_R = rng.multinomial(draws, weights / weights.sum(), size=resamples) @ distinct / draws
    low, high = np.quantile(means_R, [LEVEL / 2, 1 - LEVEL / 2])
    return Interval(float(low), float(high))


def _share_between(values_P: Values) -> float:
    """How much of p (1 - p) the values vary by, at most 1, with the all-or-nothing problems it starts from."""
    mean, count = values_P.mean(), len(values_P)
    variation = float(((values_P - mean) ** 2).sum()) * count / (count - 1)
    return min(1.0, (variation + ALL_OR_NOTHING) / (count * float(mean * (1 - mean)) + ALL_OR_NOTHING))


def paired_difference(a_P: Values, b_P: Values, k: int = 1) -> Difference:
    """Mean of a - b over problems that both were asked, at least one, with its interval and test; values in [0, 1].

    Agresti & Min 2005 ("Simple improved confidence intervals for comparing matched proportions", Stat. Med.
    24): half a problem is added for each of the outcomes (1, 0), (0, 1), (1, 1) and (0, 0); Student's t of P - 1
    degrees of freedom. The test asks whether this interval holds 0, so the two always agree.

    Args:
        k: samples of each problem: a mean of so many cannot differ by less than 1/k, which `detectable` rests on.
    """
    assert len(a_P) == len(b_P) > 0, (len(a_P), len(b_P))
    differences_P = a_P - b_P
    count, value = len(differences_P), float(differences_P.mean())
    if count < 2:
        return Difference(value, Interval(-1.0, 1.0), 1.0, None)
    centre, error = map(float, paired_estimate(value, float(differences_P @ differences_P) / count, count))
    half = t_quantile(count - 1) * error
    interval = Interval(max(-1.0, centre - half), min(1.0, centre + half))
    return Difference(
        value, interval, _two_sided(centre / error, count - 1), _detectable(differences_P, count, k)
    )


def paired_estimate(
    mean: Values | float, mean_square: Values | float, count: int
) -> tuple[Values | float, Values | float]:
    """Mean and standard error of so many differences and the added ones: half a 1, half a -1 and one 0.

    Takes arrays of many pairs of models too.
    """
    total = count + 2
    centre = mean * count / total
    variance = (mean_square * count + 1) / total - centre**2
    return centre, np.sqrt(variance / total)


def _detectable(differences_P: Values, count: int, k: int) -> float | None:
    """The smallest true difference whose test, over so many problems, rejects four times in five.

    The differences are taken to vary around it as they vary around their mean, and no less than they must: with
    values in steps of 1/k, a mean of d has a mean square of d / k at the least.
    """
    needed = t_quantile(count - 1) + _t_quantile(count - 1, 2 * (1 - POWER))
    spread = float(differences_P.var())

    def seen(difference: float) -> bool:
        mean_square = max(spread + difference**2, difference / k)
        centre, error = paired_estimate(difference, mean_square, count)
        return bool(centre >= needed * error)

    low, high = 0.0, 1.0
    if not seen(high):
        return None
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def gap_closed(student_P: Values, base_P: Values, teacher_P: Values, seed: int = 0) -> GapClosed:
    """(student - base) / (teacher - base) of means over the same problems, at least one; values in [0, 1].

    Percentile bootstrap (Efron & Tibshirani 1993, ch. 13) over problems, resampled jointly for all three
    models. As in `paired_difference`, two problems are added, a quarter for each of the eight outcomes of three
    models, so that unanimous results get no interval of width 0.
    """
    assert len(student_P) == len(base_P) == len(teacher_P) > 0
    lead = float(teacher_P.mean() - base_P.mean())
    if lead <= 0:
        return GapClosed(None, None, "the teacher does not beat the base")
    value = float(student_P.mean() - base_P.mean()) / lead
    outcomes = np.array([[s, b, t] for s in (0.0, 1.0) for b in (0.0, 1.0) for t in (0.0, 1.0)])
    observed = np.concatenate([np.stack([student_P, base_P, teacher_P], axis=1), outcomes])
    weights = np.concatenate([np.ones(len(student_P)), np.full(len(outcomes), 2 / len(outcomes))])
    rng = np.random.default_rng(seed)
    draws = len(student_P) + 2
    sums_R3 = np.concatenate(
        [
            rng.multinomial(draws, weights / weights.sum(), size=RESAMPLES_AT_ONCE) @ observed
            for _ in range(RESAMPLES // RESAMPLES_AT_ONCE)
        ]
    )
    gains_R, leads_R = sums_R3[:, 0] - sums_R3[:, 1], sums_R3[:, 2] - sums_R3[:, 1]
    if float((leads_R <= 0).mean()) > UNSURE_SHARE:
        return GapClosed(value, None, "the teacher's lead over the base is not sure enough to divide by")
    # A lead that vanishes sends the ratio to the far end on the side of the gain.
    ratios_R = np.divide(gains_R, leads_R, out=np.copysign(np.inf, gains_R), where=leads_R > 0)
    low, high = np.quantile(ratios_R, [0.025, 0.975], method="nearest")
    return GapClosed(value, Interval(float(low), float(high)), "")


def t_quantile(freedom: int) -> float:
    """97.5% quantile of Student's t with so many degrees of freedom."""
    return _t_quantile(freedom, LEVEL)


@lru_cache(maxsize=1024)
def _t_quantile(freedom: int, both_tails: float) -> float:
    """The value that Student's t leaves, in either direction, with this probability."""
    low, high = 0.0, 1.0
    while _two_sided(high, freedom) > both_tails:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(middle, freedom) > both_tails else (low, middle)
    return high


def _two_sided(t: float, freedom: int) -> float:
    """Probability of a Student's t at least so far from 0 (Abramowitz & Stegun 26.7.1)."""
    return float(mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True))
