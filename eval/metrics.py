"""What one suite's verdicts add up to: pass@1, pass@k and cons@k.

Axis letters: P problems, G samples of one problem (ragged: what the grader could not judge is left out).

A sample counts as right when its verdict is CORRECT. WRONG, NO_ANSWER, TRUNCATED and TIMEOUT are the model's
own failures and count against it. ERROR, BAD_REFERENCE and UNVERIFIED say nothing about the model: such
samples leave the denominators, and the summary says how many they were.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from distill.records import Verdict

#: Samples of a problem up to which the choices of k of them are counted; from more on so many are drawn.
MOST_EXACT, DRAWS = 512, 10_000
UNGRADED = frozenset({Verdict.ERROR, Verdict.BAD_REFERENCE, Verdict.UNVERIFIED})


def pass_at_1(correct_PG: Sequence[Sequence[bool]]) -> float | None:
    """Mean over problems of the mean correctness of their samples (DeepSeek-R1, arXiv 2501.12948, section 3).

    Problems without a sample are left out; None when no problem has one.
    """
    means_P = [sum(correct_G) / len(correct_G) for correct_G in correct_PG if correct_G]
    return sum(means_P) / len(means_P) if means_P else None


def pass_at_k(correct_PG: Sequence[Sequence[bool]], k: int) -> float | None:
    """Mean over problems of the chance that k of their samples, drawn without replacement, hold a right one.

    1 - C(n - c, k) / C(n, k) for c right ones of n samples: the unbiased estimate of Chen et al. 2021
    (arXiv 2107.03374), equation 1. None when there is no problem.

    Raises:
        ValueError: a problem has fewer than k samples; dividing by k all the same would understate the model.
    """
    if not correct_PG:
        return None
    if (fewest := min(len(correct_G) for correct_G in correct_PG)) < k:
        raise ValueError(f"pass@{k} needs {k} samples of every problem; one has {fewest}")
    misses_P = [
        math.comb(len(correct_G) - sum(correct_G), k) / math.comb(len(correct_G), k)
        for correct_G in correct_PG
    ]
    return 1 - sum(misses_P) / len(misses_P)


def powers_up_to(k: int) -> list[int]:
    """1, 2, 4, ... up to k, and k itself: where the curves over k are drawn."""
    assert k >= 1, k
    return sorted({*(2**power for power in range(k.bit_length())), k})


def cons_at_k(
    answers_PG: Sequence[Sequence[Hashable | None]],
    correct_PG: Sequence[Sequence[bool]],
    k: int | None = None,
) -> float | None:
    """Mean over problems of whether the answer of most samples is right (majority vote, Wang et al. 2022).

    Equal values are one answer, so give classes (`eval.votes`) where several texts are. A sample without an answer
    (None, or blank) has no vote. Among answers with equally many votes one is drawn: the score is the mean over them.
    A problem with samples but no vote scores 0; one without samples is left out. None when no problem has one.

    Args:
        k: the mean over all choices of k of a problem's samples (over `DRAWS` of them where it has more than
            `MOST_EXACT`); None: all of them vote.

    Raises:
        ValueError: a problem has samples, but fewer than k.
    """
    scores_P = []
    for answers_G, correct_G in zip(answers_PG, correct_PG, strict=True):
        if not correct_G:
            continue
        if k is not None and len(correct_G) < k:
            raise ValueError(f"cons@{k} needs {k} samples of every problem; one has {len(correct_G)}")
        sizes, shares = _ballot(answers_G, correct_G)
        vote = _vote if len(correct_G) <= MOST_EXACT else _vote_by_lot
        scores_P.append(vote(sizes, shares, len(correct_G), k or len(correct_G)))
    return sum(scores_P) / len(scores_P) if scores_P else None


def _ballot(answers_G: Sequence[Hashable | None], correct_G: Sequence[bool]) -> tuple[list[int], list[float]]:
    """How many votes each answer has, and what share of them is right.

    The share: one answer is judged alike each time, save where the grader ran out of time or an extraction differs.
    """
    votes: dict[Hashable, list[bool]] = defaultdict(list)
    for answer, correct in zip(answers_G, correct_G, strict=True):
        if answer is not None and not (isinstance(answer, str) and not answer.strip()):
            votes[answer].append(correct)
    groups = list(votes.values())
    return [len(group) for group in groups], [sum(group) / len(group) for group in groups]


def _vote(sizes: Sequence[int], shares: Sequence[float], samples: int, k: int) -> float:
    """The expected score of a vote among k of so many samples, drawn without replacement.

    An answer that has t of the k wins alone or shares the win with those that have t too. The choices in which it does
    are counted by the product of one polynomial an answer: the coefficient of x^v is the number of ways to choose v of
    its samples. Answers with fewer than t samples, and samples without an answer, only fill up.
    """
    if k == samples:
        winners = [share for size, share in zip(sizes, shares, strict=True) if size == max(sizes)]
        return sum(winners) / len(winners) if winners else 0.0
    total = 0.0
    for at, share in enumerate(shares):
        if not share:
            continue
        for votes in range(1, min(sizes[at], k) + 1):
            rivals = [size for other, size in enumerate(sizes) if other != at and size >= votes]
            rest = samples - sizes[at] - sum(rivals)
            ways = _ways_of_rivals(rivals, rest, votes, k - votes)
            total += share * math.comb(sizes[at], votes) * ways
    return total / math.comb(samples, k)


def _vote_by_lot(sizes: Sequence[int], shares: Sequence[float], samples: int, k: int) -> float:
    """`_vote` by drawing: to count the ways would take hours, and numbers that no float holds."""
    if k == samples or not sizes:
        return _vote(sizes, shares, samples, samples)
    numbers = [*sizes, samples - sum(sizes)]
    votes_RA = np.random.default_rng(0).multivariate_hypergeometric(numbers, k, size=DRAWS)[:, :-1]
    wins_RA = (votes_RA == votes_RA.max(axis=1, keepdims=True)) & (votes_RA > 0)
    winners_R = wins_RA.sum(axis=1)
    scores_R = (wins_RA @ np.array(shares)) / np.maximum(winners_R, 1)
    return float(scores_R.mean())


def _ways_of_rivals(rivals: Sequence[int], rest: int, votes: int, chosen: int) -> float:
    """Ways to choose so many samples of rivals and the rest, none of the rivals having more than ``votes``.

    A way in which r rivals have just as many counts 1 / (r + 1).
    """
    # ways_RV[r, v]: r rivals have as many, v samples are chosen
    ways_RV = np.array([[math.comb(rest, v) for v in range(chosen + 1)]], dtype=np.float64)
    for size in rivals:
        below = np.array([math.comb(size, v) for v in range(min(votes - 1, chosen) + 1)], dtype=np.float64)
        grown_RV = np.zeros((len(ways_RV) + 1, chosen + 1))
        for r, ways_V in enumerate(ways_RV):
            grown_RV[r] += np.convolve(ways_V, below)[: chosen + 1]
            if votes <= chosen:
                grown_RV[r + 1, votes:] += ways_V[: chosen + 1 - votes] * math.comb(size, votes)
        ways_RV = grown_RV
    return float(ways_RV[:, chosen] @ (1 / np.arange(1, len(ways_RV) + 1)))


def outcomes(verdicts: dict[str, int]) -> dict[str, int]:
    """How samples ended, by what a reader tells apart; ``ungraded`` are what the grader could not judge."""
    told = ("correct", "wrong", "no_answer", "truncated", "timeout")
    counts = {name: verdicts.get(name, 0) for name in told}
    return counts | {"ungraded": sum(verdicts.get(verdict, 0) for verdict in UNGRADED)}


def solve_rates(shares_P: Sequence[float]) -> list[int]:
    """Problems in ten equal bins of the share of their samples that is right; 1 is in the last."""
    bins = [0] * 10
    for share in shares_P:
        bins[min(int(share * 10 + 1e-9), 9)] += 1  # 0.3 * 10 is a little under 3 in floats
    return bins
