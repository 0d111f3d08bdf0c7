"""Share of mathematical answers that are right, by the grader of the toolkit."""

import datasets
import evaluate

from eval.metrics import outcomes
from eval.texts import judged

_INPUTS = """
Args:
    predictions: one text for each problem, as the model wrote it; a thought is set apart, the last box decides.
    references: the answer of each problem.
Returns:
    accuracy: right ones among those that could be graded, a fraction; None where none could.
    outcomes: how many were correct, wrong, without an answer, truncated, too slow to compare, ungraded.
"""


class MathAccuracy(evaluate.Metric):
    """`evaluate` module: mathematical equivalence, not equality of texts."""

    def _info(self):
        texts = datasets.Value("string")
        features = datasets.Features({"predictions": texts, "references": texts})
        return evaluate.MetricInfo(
            description=__doc__, citation="", inputs_description=_INPUTS, features=features
        )

    def _compute(self, predictions, references):
        verdicts = {}
        for (judgement,) in judged([[text] for text in predictions], references, "math"):
            verdicts[judgement.verdict] = verdicts.get(judgement.verdict, 0) + 1
        counts = outcomes(verdicts)
        graded = len(predictions) - counts["ungraded"]
        return {"accuracy": counts["correct"] / graded if graded else None, "outcomes": counts}
