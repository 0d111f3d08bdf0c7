"""cons@k: whether the answer of most samples is right (majority vote, Wang et al. 2022, arXiv 2203.11171)."""

import datasets
import evaluate

from distill.records import Verdict
from eval.metrics import UNGRADED, cons_at_k
from eval.texts import judged
from eval.votes import VOTELESS, classes_of

_INPUTS = """
Args:
    predictions: a list of texts for each problem, its samples.
    references: the answer of each problem, or its letter.
    k: how many samples vote, the mean over all choices of them; None: all of them.
    kind: math or choice.
Returns:
    cons@k: the mean over problems. Equal answers vote together however they are written (0.5 and 1/2); of answers with
        equally many votes the mean counts; a sample without an answer has no vote.
    ungraded: samples that the grader could not judge, which are left out.
    unsettled: comparisons of two answers without a result, which then vote apart.
Raises:
    ValueError: a problem has fewer than k graded samples, or a kind of which no two answers are the same.
"""


class ConsAtK(evaluate.Metric):
    """`evaluate` module: majority vote over equivalence classes of answers."""

    def _info(self):
        texts = datasets.Value("string")
        features = datasets.Features({"predictions": datasets.Sequence(texts), "references": texts})
        return evaluate.MetricInfo(
            description=__doc__, citation="", inputs_description=_INPUTS, features=features
        )

    def _compute(self, predictions, references, k=None, kind="math"):
        if kind in VOTELESS:
            raise ValueError(f"kind = {kind!r}: nothing is voted on, no two such answers are the same")
        if k is not None and k < 1:
            raise ValueError(f"k = {k!r}: it is a number from 1 on, or None")
        found = judged(predictions, references, kind)
        graded = [[one for one in samples if one.verdict not in UNGRADED] for samples in found]
        correct = [[one.verdict == Verdict.CORRECT for one in samples] for samples in graded]
        classes = [classes_of([one.extracted for one in samples], kind) for samples in graded]
        return {
            "cons@k": cons_at_k([one.labels_G for one in classes], correct, k),
            "ungraded": sum(map(len, found)) - sum(map(len, graded)),
            "unsettled": sum(one.unsettled for one in classes),
        }
