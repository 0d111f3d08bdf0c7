"""What judgements of pairs add up to: the win rate, its interval, what position decided, and our length control.

Axis letters: P problems, N pairs (an answer of the model beside the baseline's).

Each pair is judged twice, the answers swapped. A win counts 1, a tie 0.5, a loss 0; a pair's value is the mean of both.
A judge that names the first answer both times has said nothing of them: such a pair is worth 0.5, and is counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.statistics import score_interval

Values = NDArray[np.float64]

#: Fewer pairs than this cannot tell the effect of length from that of the answers.
FEWEST_FOR_LENGTH = 20
#: From this share of pairs that position decided on, it is told; from half on there is no win rate.
POSITION_TOLD, POSITION_MOST = 0.25, 0.5
#: Weight of the squared slope in the regression, for each pair: finite where length parts wins from losses.
RIDGE = 1e-3
LENGTH_CONTROL = "ours: logistic regression on the difference of lengths, not AlpacaEval's"


@dataclass(frozen=True, slots=True)
class Pair:
    """One answer of the model beside the baseline's; lengths in characters of the final answers.

    ``first`` and ``second`` are the model's points when its answer stood first and second (1 won, 0.5 tied, 0 lost);
    None: the judge's reply could not be read, or none came. Without an ``answered`` the judge was not asked: lost.
    """

    problem_id: str
    first: float | None
    second: float | None
    length: int
    baseline_length: int
    answered: bool = True

    @property
    def value(self) -> float | None:
        """The points of the pair; None where one of the two judgements is missing."""
        if not self.answered:
            return 0.0
        if self.first is None or self.second is None:
            return None  # one order alone would count the judge's liking for a position
        return (self.first + self.second) / 2

    @property
    def by_position(self) -> bool:
        """Whether the judge named the same position both times, and so both answers once."""
        return self.first is not None and self.second is not None and {self.first, self.second} == {0.0, 1.0}


def summarise_pairs(pairs: Sequence[Pair], judge: str) -> dict[str, Any]:
    """The figures of one model against one baseline.

    Returns:
        ``value`` (mean over ``n`` problems of the mean over their pairs), ``ci95`` (over problems, of
        `eval.statistics.score_interval`), ``length_controlled`` (of `length_controlled`), ``pairs`` judged both ways,
        ``no_answer`` pairs lost because the model gave none, ``unread`` pairs left out because a judgement is missing,
        ``by_position`` (share of the judged pairs) and ``mean_length`` of both sides; ``note`` says in words what
        stands in the way of believing it. ``value`` is None where position decided more than half of the pairs, or
        none is left.
    """
    values_of: dict[str, list[float]] = {}
    for pair in pairs:
        if (value := pair.value) is not None:
            values_of.setdefault(pair.problem_id, []).append(value)
    judged = [pair for pair in pairs if pair.answered and pair.value is not None]
    no_answer = sum(not pair.answered for pair in pairs)
    unread = sum(pair.value is None for pair in pairs)
    by_position = sum(pair.by_position for pair in judged)
    values_P = np.array([sum(values) / len(values) for values in values_of.values()])
    worthless = not len(values_P) or by_position > POSITION_MOST * max(len(judged), 1)
    controlled = length_controlled(judged)
    answered = len(judged) / max(
        len(judged) + no_answer, 1
    )  # an answer that is not there loses at any length
    notes = []
    if judged and by_position > POSITION_TOLD * len(judged):
        followed = sum(pair.first == 1.0 for pair in judged if pair.by_position)
        place = "first" if 2 * followed >= by_position else "second"
        verdict = "no win rate is given" if worthless else "its win rate is drawn towards a half"
        notes.append(
            f"{judge} chose by position, mostly the {place}, in {by_position} of {len(judged)} pairs: {verdict}."
        )
    if unread:
        notes.append(f"{unread} pairs are left out: a judgement of them could not be read.")
    return {
        "value": None if worthless else float(values_P.mean()),
        "ci95": None if worthless else list(score_interval(values_P)),
        "n": len(values_P),
        "length_controlled": None if controlled is None or worthless else controlled * answered,
        "length_control": LENGTH_CONTROL,
        "judge": judge,
        "pairs": len(judged),
        "no_answer": no_answer,
        "unread": unread,
        "by_position": by_position / len(judged) if judged else None,
        "mean_length": _mean_lengths(judged),
        "note": " ".join(notes),
    }


def _mean_lengths(pairs: Sequence[Pair]) -> list[float] | None:
    if not pairs:
        return None
    lengths = np.array([[pair.length, pair.baseline_length] for pair in pairs], dtype=np.float64)
    return [float(mean) for mean in lengths.mean(axis=0)]


def length_controlled(pairs: Sequence[Pair]) -> float | None:
    """The win rate that a logistic regression gives at equal lengths; None for fewer than `FEWEST_FOR_LENGTH` pairs.

    In the spirit of Dubois et al. 2024 ("Length-Controlled AlpacaEval", arXiv 2404.04475): they regress the
    preference on the model, tanh of the standardised difference of lengths, and the instruction's difficulty, and read
    the prediction with the length term at 0. We leave the difficulty out, which they fit over many models, so that

        P(win) = sigmoid(a + b * tanh(d / sd(d))),    d = length - baseline_length,    result sigmoid(a),

    and count lengths in characters. Hence it is ours, and not comparable with published length-controlled win rates.
    """
    pairs = [pair for pair in pairs if pair.value is not None]
    if len(pairs) < FEWEST_FOR_LENGTH:
        return None
    values_N = np.array([pair.value for pair in pairs], dtype=np.float64)
    differences_N = np.array([pair.length - pair.baseline_length for pair in pairs], dtype=np.float64)
    spread = float(differences_N.std())
    if spread == 0:
        return float(values_N.mean())
    intercept, _ = fit_logistic(np.tanh(differences_N / spread), values_N)
    return 1 / (1 + math.exp(-intercept))


def fit_logistic(x_N: Values, y_N: Values) -> tuple[float, float]:
    """Intercept and slope that maximise the mean of y log p + (1 - y) log(1 - p) - RIDGE / 2 * (a^2 / 100 + b^2).

    p = sigmoid(a + b x), y in [0, 1]. Newton's method, each step halved until it does not make things worse.
    """
    design_N2 = np.stack([np.ones_like(x_N), x_N], axis=1)
    ridge_2 = RIDGE * np.array([0.01, 1.0])

    def loss(w_2: Values) -> float:
        z_N = design_N2 @ w_2
        return float((np.logaddexp(0, z_N) - y_N * z_N).mean() + 0.5 * ridge_2 @ w_2**2)

    weights_2 = np.zeros(2)
    for _ in range(100):
        p_N = 1 / (1 + np.exp(-(design_N2 @ weights_2)))
        gradient_2 = design_N2.T @ (p_N - y_N) / len(y_N) + ridge_2 * weights_2
        curvature_22 = (design_N2.T * (p_N * (1 - p_N))) @ design_N2 / len(y_N) + np.diag(ridge_2)
        step_2 = np.linalg.solve(curvature_22, gradient_2)
        here, size = loss(weights_2), 1.0
        while loss(weights_2 - size * step_2) > here and size > 1e-6:
            size /= 2
        weights_2 = weights_2 - size * step_2
        if float(np.abs(size * step_2).max()) < 1e-10:
            break
    return float(weights_2[0]), float(weights_2[1])
