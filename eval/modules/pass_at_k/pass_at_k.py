"""pass@k: the chance that k samples of a problem hold a right one, unbiased (Chen et al. 2021, arXiv 2107.03374)."""

import datasets
import evaluate

from distill.records import Verdict
from eval.metrics import UNGRADED, pass_at_k
from eval.texts import judged

_INPUTS = """
Args:
    predictions: a list of texts for each problem, its samples.
    references: the answer of each problem, its letter, or its Python tests.
    k: how many samples are drawn; a list for several.
    kind: math, choice or code.
Returns:
    pass@K for each k: the mean over problems of 1 - C(n - c, k) / C(n, k) for c right ones of n samples.
    ungraded: samples that the grader could not judge, which are left out.
Raises:
    ValueError: a problem has fewer than k graded samples.
"""


class PassAtK(evaluate.Metric):
    """`evaluate` module: pass@k of texts, graded."""

    def _info(self):
        texts = datasets.Value("string")
        features = datasets.Features({"predictions": datasets.Sequence(texts), "references": texts})
        return evaluate.MetricInfo(
            description=__doc__, citation="", inputs_description=_INPUTS, features=features
        )

    def _compute(self, predictions, references, k=1, kind="math"):
        found = judged(predictions, references, kind)
        graded = [[one for one in samples if one.verdict not in UNGRADED] for samples in found]
        correct = [[one.verdict == Verdict.CORRECT for one in samples] for samples in graded]
        wanted = [k] if isinstance(k, int) else list(k)
        if not wanted or min(wanted) < 1:
            raise ValueError(f"k = {k!r}: it is a number from 1 on, or a list of such")
        scores = {f"pass@{one}": pass_at_k(correct, one) for one in wanted}
        return scores | {"ungraded": sum(map(len, found)) - sum(map(len, graded))}
