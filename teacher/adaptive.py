"""Adaptive rejection sampling: how many more samples each problem gets, decided between rounds from results alone.

What a problem's next sample is expected to bring, and to take:

    passes   p ~ Beta(a + passed, b + drawn - passed)       a sample passes all filters that look at it alone
    new      (seen once + share) / (passed + 1)             the chance of an unseen text is the share of texts seen once
                                                            (Good 1953), drawn to the set's share by a weight of one
    kept     Beta of the same weight a + b + drawn, its mean the product of the two
    tokens   (sum + k * mean) / (drawn + k)                 k = variance within problems over variance between them
                                                            (one-way random effects; Buehlmann's credibility, 1967)

a and b are fitted to all problems, the empirical Bayes of the beta-binomial (Skellam 1948):

    a, b = argmax  prod_P  B(a + passed, b + drawn - passed) / B(a, b)

Samples beyond the first count too: whether a problem was drawn on depends on its own earlier samples alone, so the
likelihood is the same as for numbers fixed before. One problem that always passes and one that never does, of half a
weight each, are added, so that small or uniform sets fit no certainty.

A sample is worth drawing while  chance to be kept * worth of what is kept >= tokens  (a stopping rule that looks one
step ahead). A problem's further traces are worth ``worth`` times what a kept one has taken so far on average; at 1 that
is the rule that makes tokens per kept trace least (Dinkelbach 1967). Its first trace is worth more, namely as little as
loses no more than the share ``forgo`` of the problems that ``most`` samples of each would be expected to cover.

Legend: P problems; S states of one problem, by its number of kept traces; N distinct pairs of counts; X samples ahead.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distill.recipe_parts import AdaptiveCollect

Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: What becomes of a problem. ``closed``: no trace of it could be kept, as its reference cannot be read, say.
STATES = ("goes on", "enough", "most", "given up", "dear", "closed", "budget")
GOES_ON, ENOUGH, MOST, GIVEN_UP, DEAR, CLOSED, BUDGET = range(len(STATES))

_MEANS = np.linspace(-7, 7, 57)  # log-odds of a / (a + b)
_WEIGHTS = np.linspace(np.log(0.05), np.log(100), 39)  # log of a + b


class Standing(NamedTuple):
    """Each problem after a round [P].

    ``drawn``: samples that tell something of the teacher. ``passed``: those that pass every filter but the comparisons
    with other traces and the cap; ``single``: of these, texts seen once. ``tokens`` and ``squares``: sums over all
    samples of their tokens, and of those squared. ``closed``: nothing of it can be kept. ``asked``: samples drawn, the
    ones that tell nothing included.
    """

    asked_P: Counts
    drawn_P: Counts
    passed_P: Counts
    single_P: Counts
    kept_P: Counts
    tokens_P: Numbers
    squares_P: Numbers
    closed_P: Mask


class Round(NamedTuple):
    """What follows: samples that each problem gets next [P], its state [P], and the tokens expected of the next round
    and of all rounds to come (budgets apart)."""

    more_P: Counts
    state_P: Counts
    next_tokens: float
    tokens_left: float


class Outlook(NamedTuple):
    """Of each problem: the Beta of its next sample being kept, and the tokens that one takes [P].

    ``later_P``: what the chance is multiplied by once something more is kept.
    """

    alpha_P: Numbers
    beta_P: Numbers
    later_P: Numbers
    tokens_P: Numbers


def next_round(
    standing: Standing, collect: AdaptiveCollect, rank_P: Counts, tokens_left: float | None
) -> Round:
    """What to draw next.

    Args:
        rank_P: which problems come first where a budget does not reach and all else is equal.
        tokens_left: of the budget; None: there is none.
    """
    outlook = look_out(standing)
    rest_P = np.where(standing.closed_P, 0, np.maximum(collect.most - standing.asked_P, 0))
    cap = collect.keep_per_problem
    begun_P = standing.asked_P > 0
    kept = standing.kept_P.sum()
    further = collect.worth * standing.tokens_P.sum() / kept if kept else np.inf
    first = max(worth_of_first(outlook, standing, rest_P, collect.forgo), further)
    more_P, expected_P = look_ahead(outlook, standing.kept_P, rest_P, cap, (first, further), collect.needed)
    more_P = np.where(begun_P, more_P, collect.first)
    expected_P = np.where(begun_P, expected_P, np.maximum(expected_P, collect.first * outlook.tokens_P))
    state_P = np.select(
        [
            standing.closed_P,
            standing.kept_P >= cap,
            begun_P & (rest_P == 0),
            more_P > 0,
            standing.kept_P == 0,
        ],
        [CLOSED, ENOUGH, MOST, GOES_ON, GIVEN_UP],
        DEAR,
    )
    assert not (more_P[state_P != GOES_ON]).any(), "a problem that is done goes on"
    if tokens_left is not None:
        worth_P = np.where(standing.kept_P > 0, further, first)
        chance_P = outlook.alpha_P / (outlook.alpha_P + outlook.beta_P)
        order = np.lexsort((rank_P, -chance_P * worth_P / outlook.tokens_P))
        more_P = within(more_P, outlook.tokens_P, order, begun_P, tokens_left)
        state_P = np.where((state_P == GOES_ON) & (more_P == 0), BUDGET, state_P)
    return Round(more_P, state_P, float((more_P * outlook.tokens_P).sum()), float(expected_P.sum()))


# ---------------------------------------------------------------------------------------- what is expected


def look_out(standing: Standing) -> Outlook:
    """The posteriors of every problem."""
    open_P = ~standing.closed_P
    a, b = fit_prior(standing.passed_P[open_P], standing.drawn_P[open_P])
    passes_P = (a + standing.passed_P) / (a + b + standing.drawn_P)
    several_P = standing.passed_P >= 2  # one text alone is always seen once
    passed = standing.passed_P[several_P].sum()
    share = standing.single_P[several_P].sum() / passed if passed else 1.0
    new_P = np.where(several_P, (standing.single_P + share) / (standing.passed_P + 1), share)
    none_P = standing.passed_P == 0  # whatever passes first is new
    weight_P = a + b + standing.drawn_P
    alpha_P = weight_P * passes_P * np.where(none_P, 1.0, new_P)
    return Outlook(alpha_P, weight_P - alpha_P, np.where(none_P, share, 1.0), expected_tokens(standing))


def fit_prior(passed_P: Counts, drawn_P: Counts) -> tuple[float, float]:
    """a and b of the beta-binomial of greatest likelihood, from a grid that is refined three times.

    The mean lies within log-odds of 7, and a + b between 0.05 and 100.
    """
    pairs, times_N = np.unique(np.stack([passed_P, drawn_P], 1), axis=0, return_counts=True)
    most = int(drawn_P.max(initial=1))
    pairs = np.concatenate([pairs, [[0, most], [most, most]]])
    times_N = np.r_[times_N.astype(float), 0.5, 0.5]
    means, weights = _MEANS, _WEIGHTS
    for _ in range(4):
        fits = _likelihood(pairs, times_N, means, weights)
        mean, weight = np.unravel_index(int(np.argmax(fits)), fits.shape)
        a_mean, a_weight = means[mean], weights[weight]
        step = (means[1] - means[0], weights[1] - weights[0])
        means = np.clip(a_mean + step[0] * np.linspace(-1, 1, 9), _MEANS[0], _MEANS[-1])
        weights = np.clip(a_weight + step[1] * np.linspace(-1, 1, 9), _WEIGHTS[0], _WEIGHTS[-1])
    share, total = 1 / (1 + np.exp(-a_mean)), np.exp(a_weight)
    return float(share * total), float((1 - share) * total)


def _likelihood(pairs: Counts, times_N: Numbers, means: Numbers, weights: Numbers) -> Numbers:
    """The logarithm at every mean and weight; B(a + s, b + f) / B(a, b) is a product of s + f fractions."""
    share = 1 / (1 + np.exp(-means))[:, None]
    total = np.exp(weights)[None, :]
    fits = np.zeros((len(means), len(weights)))
    steps = np.arange(int(pairs[:, 1].max()))
    right, wrong, all_ = (
        np.concatenate([np.zeros((*base.shape, 1)), np.cumsum(np.log(base[..., None] + steps), -1)], -1)
        for base in (share * total, (1 - share) * total, total + 0 * share)
    )
    for (passed, drawn), times in zip(pairs.tolist(), times_N, strict=True):
        fits += times * (right[..., passed] + wrong[..., drawn - passed] - all_[..., drawn])
    return fits


def expected_tokens(standing: Standing) -> Numbers:
    """Of each problem's next sample [P]: between its own mean and the set's, by how much problems differ."""
    n_P = standing.asked_P.astype(float)
    total = n_P.sum()
    if not total:
        return np.ones(len(n_P))  # nobody knows yet, and all are alike
    mean = max(standing.tokens_P.sum() / total, 1.0)
    seen_P = n_P > 0
    groups = int(seen_P.sum())
    within_sum = standing.squares_P[seen_P].sum() - (standing.tokens_P[seen_P] ** 2 / n_P[seen_P]).sum()
    between_sum = (n_P[seen_P] * (standing.tokens_P[seen_P] / n_P[seen_P] - mean) ** 2).sum()
    if groups < 2 or total <= groups:
        return np.full(len(n_P), mean)
    within = max(within_sum / (total - groups), 0.0)
    size = (total - (n_P**2).sum() / total) / (groups - 1)
    between = (between_sum / (groups - 1) - within) / size
    if between <= 0:
        return np.full(len(n_P), mean)
    weight = within / between
    own_P: Numbers = (standing.tokens_P + weight * mean) / (n_P + weight)
    return np.maximum(own_P, 1.0)


# ---------------------------------------------------------------------------------------- what it is worth


def worth_of_first(outlook: Outlook, standing: Standing, rest_P: Counts, forgo: float) -> float:
    """Tokens that a problem's first trace is worth: the fewest that forgo no more than that share of the coverage."""
    bare_P = (standing.kept_P == 0) & (rest_P > 0)
    if not bare_P.any():
        return 0.0
    alpha_P, beta_P, tokens_P, rest = (
        column[bare_P] for column in (outlook.alpha_P, outlook.beta_P, outlook.tokens_P, rest_P)
    )
    ahead_X = np.arange(int(rest.max()))
    missed_PX = np.cumprod((beta_P[:, None] + ahead_X) / (alpha_P + beta_P + ahead_X[:, None]).T, axis=1)
    missed_PX = np.concatenate([np.ones((len(rest), 1)), missed_PX], 1)
    places = np.arange(len(rest))
    at_rest = missed_PX[places, rest]
    allowed = forgo * ((standing.kept_P > 0).sum() + (1 - at_rest).sum())

    def lost(worth: float) -> float:
        """Chances missed because problems stop where alpha / (alpha + beta + x) * worth < tokens."""
        stop = np.clip(np.floor(alpha_P * worth / tokens_P - alpha_P - beta_P) + 1, 0, rest).astype(np.int64)
        return float((missed_PX[places, stop] - at_rest).sum())

    least, enough = 0.0, float((tokens_P * (alpha_P + beta_P + rest) / alpha_P).max())
    for _ in range(50):
        middle = (least + enough) / 2
        least, enough = (least, middle) if lost(middle) <= allowed else (middle, enough)
    return enough


def look_ahead(
    outlook: Outlook,
    kept_P: Counts,
    rest_P: Counts,
    cap: int,
    worths: tuple[float, float],
    needed: float,
) -> tuple[Counts, Numbers]:
    """Were samples drawn one at a time: how many would be drawn with a chance of ``needed`` or more?

    Args:
        worths: tokens that the first trace of a problem is worth, and each further one.

    Returns:
        That number, and the tokens expected until each problem ends [P].
    """
    at_PS = (np.minimum(kept_P, cap)[:, None] == np.arange(cap + 1)).astype(float)
    gained_PS = np.maximum(np.arange(cap + 1) - kept_P[:, None], 0)
    worth_S = np.where(np.arange(cap + 1) == 0, worths[0], worths[1])
    worth_S[cap] = 0.0
    total_P = outlook.alpha_P + outlook.beta_P
    more_P, expected_P = np.zeros(len(kept_P), np.int64), np.zeros(len(kept_P))
    for ahead in range(int(rest_P.max(initial=0))):
        chance_PS = np.minimum((outlook.alpha_P[:, None] + gained_PS) / (total_P + ahead)[:, None], 1.0)
        chance_PS *= np.where(gained_PS > 0, outlook.later_P[:, None], 1.0)
        goes_PS = (chance_PS * worth_S >= outlook.tokens_P[:, None]) & (rest_P > ahead)[:, None]
        at_PS = at_PS * goes_PS
        going_P = at_PS.sum(1)
        more_P += going_P >= needed - 1e-9  # a chance of one may have lost its last digit
        expected_P += going_P * outlook.tokens_P
        if going_P.max() < 1e-6:
            break
        hit_PS = at_PS * chance_PS
        at_PS = at_PS - hit_PS
        at_PS[:, 1:] += hit_PS[:, :-1]
    return more_P, expected_P


def within(more_P: Counts, tokens_P: Numbers, order: Counts, begun_P: Mask, tokens_left: float) -> Counts:
    """As much of a round, in that order, as is expected to take no more than the tokens left.

    The last problem gets a part; one that has not begun gets all its first samples or none.
    """
    cost = (more_P * tokens_P)[order]
    spent = np.cumsum(cost)
    fits = np.where(spent <= tokens_left, more_P[order], 0)
    cut = int(np.searchsorted(spent, tokens_left, side="right"))
    if cut < len(order) and begun_P[order[cut]]:
        left = tokens_left - (spent[cut] - cost[cut])
        fits[cut] = max(int(left // tokens_P[order[cut]]), 0)
    trimmed = np.zeros_like(more_P)
    trimmed[order] = fits
    return trimmed
