"""What one suite's verdicts add up to: pass@1, pass@k and cons@k.

Axis letters: P problems, G samples of one problem (ragged: what the grader could not judge is left out).

A sample counts as right when its verdict is CORRECT. WRONG, NO_ANSWER, TRUNCATED and TIMEOUT are the model's
own failures and count against it. ERROR, BAD_REFERENCE and UNVERIFIED say nothing about the model: such
samples leave the denominators, and the summary says how many they were.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from distill.records import Verdict

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


def cons_at_k(
    answers_PG: Sequence[Sequence[str | None]], correct_PG: Sequence[Sequence[bool]]
) -> float | None:
    """Mean over problems of whether the answer of most samples is right (majority vote, Wang et al. 2022).

    Answers are the same when they are so without blanks: 0.5 and 1/2 are two, which can only split a vote,
    for right and wrong answers alike. A sample without an answer (None) has no vote. Among answers with
    equally many votes one is drawn: the score is the mean over them. A problem with samples but no vote
    scores 0; one without samples is left out. None when no problem has one.
    """
    scores_P = [
        _majority(answers_G, correct_G)
        for answers_G, correct_G in zip(answers_PG, correct_PG, strict=True)
        if correct_G
    ]
    return sum(scores_P) / len(scores_P) if scores_P else None


def _majority(answers_G: Sequence[str | None], correct_G: Sequence[bool]) -> float:
    votes: dict[str, list[bool]] = defaultdict(list)
    for answer, correct in zip(answers_G, correct_G, strict=True):
        if answer is not None and answer.strip():
            votes["".join(answer.split())].append(correct)
    if not votes:
        return 0.0
    most = max(map(len, votes.values()))
    # The mean within a group: one answer is judged alike each time, save where the grader ran out of time.
    winners = [sum(group) / most for group in votes.values() if len(group) == most]
    return sum(winners) / len(winners)
