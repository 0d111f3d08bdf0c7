"""What adaptive sampling decides, beside slow twins of its formulas, and what it must never depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distill.recipe_parts import AdaptiveCollect
from teacher.adaptive import (
    BUDGET,
    CLOSED,
    DEAR,
    ENOUGH,
    GIVEN_UP,
    GOES_ON,
    MOST,
    Outlook,
    Round,
    Standing,
    expected_tokens,
    fit_prior,
    look_ahead,
    look_out,
    next_round,
    within,
    worth_of_first,
)
from tests import naive_adaptive as naive

ADAPTIVE = AdaptiveCollect(strategy="adaptive", first=4, most=16, keep_per_problem=2)


def standing(passed: Any, drawn: Any = None, cap: int = 2, tokens: Any = 100.0, **changes: Any) -> Standing:
    """Problems with so many passing samples, each text once, all of ``tokens`` each."""
    passed_P = np.asarray(passed, np.int64)
    drawn_P = np.full_like(passed_P, 4) if drawn is None else np.asarray(drawn, np.int64)
    each_P = np.broadcast_to(np.asarray(tokens, float), passed_P.shape)
    made = Standing(
        asked_P=drawn_P, drawn_P=drawn_P, passed_P=passed_P, single_P=passed_P, kept_P=np.minimum(passed_P, cap),
        tokens_P=each_P * drawn_P, squares_P=each_P**2 * drawn_P, closed_P=np.zeros(len(passed_P), bool),
    )  # fmt: skip
    return made._replace(**{name: np.asarray(value) for name, value in changes.items()})


def decide(there: Standing, left: float | None = None, **settings: Any) -> Round:
    return next_round(there, ADAPTIVE.model_copy(update=settings), np.arange(len(there.kept_P)), left)


# ---------------------------------------------------------------------------------------- what is expected


def test_the_prior_is_the_likeliest_one() -> None:
    draw = np.random.default_rng(0)
    drawn_P = draw.integers(2, 17, 60)
    passed_P = draw.binomial(drawn_P, draw.beta(0.7, 1.5, 60))
    a, b = fit_prior(passed_P, drawn_P)
    counts = list(zip(passed_P.tolist(), drawn_P.tolist(), strict=True))
    best = naive.likelihood(counts, a, b)
    for factor in (0.9, 0.98, 1.02, 1.1):
        assert naive.likelihood(counts, a * factor, b) < best
        assert naive.likelihood(counts, a, b * factor) < best
        assert naive.likelihood(counts, a * factor, b * factor) < best


def test_the_prior_is_found_again_though_easy_problems_were_stopped_early() -> None:
    draw = np.random.default_rng(1)
    right_PG = draw.random((20_000, 16)) < draw.beta(0.5, 1.5, 20_000)[:, None]
    stops_P = np.where(right_PG[:, :4].sum(1) >= 2, 4, 16)  # as a cap of 2 does
    passed_P = (right_PG & (np.arange(16) < stops_P[:, None])).sum(1)
    assert fit_prior(passed_P, stops_P) == pytest.approx((0.5, 1.5), rel=0.06)
    naive_rate = passed_P.sum() / stops_P.sum()
    assert abs(naive_rate - 0.25) > 0.05  # which is what a mean over samples would believe


@pytest.mark.parametrize("passed", [[], [0], [4], [0] * 50, [4] * 50])
def test_few_or_uniform_problems_fit_no_certainty(passed: list[int]) -> None:
    a, b = fit_prior(np.array(passed, np.int64), np.full(len(passed), 4))
    assert 0.0005 < a / (a + b) < 0.9995


def test_tokens_are_drawn_to_the_mean_of_all() -> None:
    draw = np.random.default_rng(2)
    tokens_PG = [
        (1000 * draw.lognormal(0, 0.4) * draw.lognormal(0, 0.5, n)).tolist() for n in draw.integers(1, 9, 30)
    ]
    there = standing(
        [0] * 30,
        [len(own) for own in tokens_PG],
        tokens_P=[sum(own) for own in tokens_PG],
        squares_P=[sum(one**2 for one in own) for own in tokens_PG],
    )
    assert expected_tokens(there) == pytest.approx(naive.credibility(tokens_PG))


def test_problems_alike_in_length_all_get_the_mean() -> None:
    assert expected_tokens(standing([0, 1], tokens=50)) == pytest.approx([50, 50])
    assert expected_tokens(standing([0], [0])) == pytest.approx([1])


def test_repeated_texts_lower_the_chance_of_a_new_one_and_the_first_is_always_new() -> None:
    there = standing([4, 4, 0, 4], single_P=[4, 0, 0, 2], kept_P=[2, 1, 0, 2])
    outlook = look_out(there)
    chance_P = outlook.alpha_P / (outlook.alpha_P + outlook.beta_P)
    share = 6 / 12  # of texts that passed, seen once
    a, b = fit_prior(there.passed_P, there.drawn_P)
    passes = (a + 4) / (a + b + 4)
    assert chance_P[[0, 1, 3]] == pytest.approx([passes * (n + share) / 5 for n in (4, 0, 2)])
    assert chance_P[2] == pytest.approx(a / (a + b + 4)) and outlook.later_P.tolist() == [1, 1, share, 1]


# ---------------------------------------------------------------------------------------- what it is worth


@pytest.mark.parametrize("worths", [(5000.0, 250.0), (900.0, 900.0), (0.0, 0.0), (1e9, 1e9)])
def test_looking_ahead_is_drawing_one_at_a_time(worths: tuple[float, float]) -> None:
    draw = np.random.default_rng(3)
    alpha_P, beta_P = draw.uniform(0.05, 6, 40), draw.uniform(0.05, 6, 40)
    tokens_P, later_P = draw.uniform(50, 300, 40), draw.choice([1.0, 0.4], 40)
    kept_P, rest_P = draw.integers(0, 4, 40), draw.integers(0, 9, 40)
    outlook = Outlook(alpha_P, beta_P, later_P, tokens_P)
    for needed in (0.3, 0.8, 1.0):
        more_P, expected_P = look_ahead(outlook, kept_P, rest_P, 3, worths, needed)
        for p in range(40):
            chances = naive.reaches(
                alpha_P[p], beta_P[p], tokens_P[p], int(kept_P[p]), int(rest_P[p]), 3, worths, later_P[p]
            )
            assert more_P[p] == sum(chance >= needed - 1e-12 for chance in chances)
            assert expected_P[p] == pytest.approx(sum(chances) * tokens_P[p], abs=1e-3)


def test_a_first_trace_is_worth_as_little_as_loses_no_more_than_is_forgone() -> None:
    draw = np.random.default_rng(4)
    there = standing([0] * 30 + [1] * 20)
    outlook = Outlook(
        draw.uniform(0.05, 1, 50), draw.uniform(2, 9, 50), np.ones(50), draw.uniform(50, 300, 50)
    )
    rest_P = draw.integers(0, 13, 50)

    def lost(worth: float) -> tuple[float, float]:
        parts = [(column.tolist() for column in (outlook.alpha_P, outlook.beta_P, outlook.tokens_P, rest_P))][
            0
        ]
        bare = list(zip(*parts, strict=True))[:30]
        gone = sum(naive.forgone(a, b, t, n, worth) for a, b, t, n in bare)
        whole = 20 + sum(naive.forgone(a, b, t, n, 0) for a, b, t, n in bare)
        return gone, whole

    for forgo in (0.0, 0.01, 0.1):
        worth = worth_of_first(outlook, there, rest_P, forgo)
        gone, whole = lost(worth * 1.0000001)
        assert gone <= forgo * whole + 1e-12
        if forgo:
            assert lost(worth * 0.9999)[0] > forgo * whole


# ---------------------------------------------------------------------------------------- decisions


def test_every_state() -> None:
    there = standing(
        #  enough, most, given up, dear, closed, goes on
        [2, 0, 0, 1, 0, 1] + [2] * 40 + [0] * 40,
        [4, 16, 15, 16 - 1, 4, 4] + [4] * 40 + [4] * 40,
        tokens=[100, 100, 5000, 2000, 100, 100] + [100] * 40 + [100] * 40,
        closed_P=[False] * 4 + [True] + [False] * 81,
    )
    following = decide(there, forgo=0.05)
    assert following.state_P[:6].tolist() == [ENOUGH, MOST, GIVEN_UP, DEAR, CLOSED, GOES_ON]
    assert (following.more_P[:5] == 0).all() and following.more_P[5] > 0
    assert following.next_tokens <= following.tokens_left


def test_nothing_kept_anywhere_is_drawn_on_and_not_dear() -> None:
    following = decide(standing([0] * 20))
    assert (following.state_P == GOES_ON).all()


def test_no_round_asks_beyond_most_or_for_what_is_hardly_needed() -> None:
    following = decide(standing([1] * 30 + [2] * 30, [15] * 30 + [4] * 30))
    assert following.more_P[:30].max() <= 1
    sure = decide(standing([0] * 30 + [4] * 30, cap=8), keep_per_problem=8, needed=1.0)
    assert (
        sure.more_P[30:].tolist() == [4] * 30
    )  # eight are wanted, four are there: four can be asked at once
    assert sure.more_P[:30].max() <= 1


def test_a_lower_need_asks_for_more_at_once() -> None:
    there = standing([0] * 30 + [2] * 30)
    asked = [int(decide(there, needed=needed).more_P.sum()) for needed in (0.95, 0.7, 0.4)]
    assert asked[0] < asked[1] < asked[2]


def test_the_order_of_problems_does_not_matter() -> None:
    draw = np.random.default_rng(5)
    drawn_P = draw.integers(4, 17, 80)
    passed_P = draw.binomial(drawn_P, draw.beta(0.5, 0.5, 80))
    there, shuffle = standing(passed_P, drawn_P, tokens=draw.integers(50, 500, 80)), draw.permutation(80)
    shuffled = Standing(*(column[shuffle] for column in there))
    for left in (None, 5000.0):
        straight = next_round(there, ADAPTIVE, np.arange(80), left)
        other = next_round(shuffled, ADAPTIVE, np.arange(80)[shuffle], left)
        assert (other.more_P == straight.more_P[shuffle]).all()
        assert (other.state_P == straight.state_P[shuffle]).all()


# ---------------------------------------------------------------------------------------- budgets


def test_a_budget_goes_to_what_brings_most_for_its_tokens() -> None:
    there = standing([1] * 20 + [0] * 20, tokens=[100] * 10 + [130] * 10 + [100] * 20, cap=2)
    free = decide(there, worth=50)
    assert (free.more_P > 0).all()
    few = decide(there, left=float((free.more_P * 100)[:10].sum()), worth=50)
    assert few.next_tokens <= (free.more_P * 100)[:10].sum()
    assert (few.state_P[few.more_P == 0] == BUDGET).all() and (few.state_P == BUDGET).any()
    none = decide(there, left=0.0, worth=50)
    assert not none.more_P.any()


def test_a_problem_that_has_not_begun_gets_its_first_samples_or_none() -> None:
    there = standing([2] * 10 + [0] * 10, [4] * 10 + [0] * 10)
    following = decide(there, left=1000.0)
    assert sorted(following.more_P[10:].tolist()) == [0] * 8 + [4] * 2
    assert following.more_P[10:12].tolist() == [4, 4]  # those of the smallest rank


def test_the_last_problem_within_a_budget_gets_a_part() -> None:
    more_P, tokens_P = np.array([3, 3, 3]), np.array([10.0, 10.0, 10.0])
    begun_P, order = np.ones(3, bool), np.array([2, 0, 1])
    assert within(more_P, tokens_P, order, begun_P, 50.0).tolist() == [2, 0, 3]
    assert within(more_P, tokens_P, order, begun_P, 90.0).tolist() == [3, 3, 3]
    assert within(more_P, tokens_P, order, np.array([False, True, True]), 50.0).tolist() == [0, 0, 3]
