"""How sure a score is: intervals over problems for pass@1, for paired differences and for the gap closed.

Axis letters: P problems, R resamples.

The suite's problems are taken as a sample of the problems one might have asked, so a problem is one
observation and its value is the mean over its samples (the clustered view of Miller 2024, "Adding Error Bars
to Evals", arXiv 2411.00640). More samples of each problem make the values less noisy, but never the problems
more.

Plain Wald intervals have no width at 0 and 1 and cover too seldom near them. So each interval here is
computed from the observations plus a few made-up ones, as published for single proportions and for pairs;
the reported point estimates stay those of the observations alone. Every interval is a 95% one, and none
corrects for how many comparisons are looked at.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

RESAMPLES, RESAMPLES_AT_ONCE = 10_000, 1_000
#: Above this share of resamples without a lead of the teacher, a ratio to that lead has no useful interval.
UNSURE_SHARE = 0.01


class Interval(NamedTuple):
    """The ends of a 95% interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """Mean of a - b over the same problems; ``distinguishable`` when the interval excludes 0."""

    value: float
    interval: Interval

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

    Agresti & Coull 1998 ("Approximate is better than exact", Am. Stat. 52), plus-four form: two problems
    solved and two failed are added, then mean and variance are taken over problems; Student's t with P - 1
    degrees of freedom. With k = 1 and many problems this is their interval; at 0 and 1 it keeps a width of
    about 4 / P.
    """
    return _interval(values_P, np.array([0.0, 1.0]), np.array([2.0, 2.0]), low=0.0)


def paired_difference(a_P: Values, b_P: Values) -> Difference:
    """Mean of a - b over problems that both were asked, at least one, with its interval; values in [0, 1].

    Agresti & Min 2005 ("Simple improved confidence intervals for comparing matched proportions", Stat. Med.
    24): half a problem is added for each of the outcomes (1, 0), (0, 1), (1, 1) and (0, 0); Student's t as
    above.
    """
    assert len(a_P) == len(b_P) > 0, (len(a_P), len(b_P))
    differences_P = a_P - b_P
    interval = _interval(differences_P, np.array([1.0, -1.0, 0.0]), np.array([0.5, 0.5, 1.0]), low=-1.0)
    return Difference(float(differences_P.mean()), interval)


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


def _interval(values_P: Values, added: Values, weights: Values, low: float) -> Interval:
    """Mean -+ t * standard error of the observations and the weighted added ones, cut to [low, 1]."""
    count = len(values_P)
    if count < 2:
        return Interval(low, 1.0)
    total = count + weights.sum()
    mean = (values_P.sum() + added @ weights) / total
    variance = (((values_P - mean) ** 2).sum() + ((added - mean) ** 2) @ weights) / total
    half = t_quantile(count - 1) * math.sqrt(variance / total)
    return Interval(float(max(low, mean - half)), float(min(1.0, mean + half)))


def t_quantile(freedom: int) -> float:
    """97.5% quantile of Student's t with so many degrees of freedom.

    Closed forms for 1 and 2; beyond them the expansion of Abramowitz & Stegun 26.7.5, within 0.2%.
    """
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))
    z, v = 1.959963984540054, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )
