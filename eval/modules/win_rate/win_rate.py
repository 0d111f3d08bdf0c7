"""How often a judge prefers a model's answers to another's; a tie is half a win."""

import datasets
import evaluate
import numpy

from eval.statistics import score_interval

_INPUTS = """
Args:
    predictions: the judge's score for the model's answer to each prompt.
    references: its score for the other model's answer to the same prompt. Where a judge was asked in both orders, give
        the mean of each answer's two scores, so that a preference for a place cancels.
Returns:
    win_rate: wins and half the ties over all prompts, a fraction; not corrected for length.
    ci95: its interval over prompts.
    ties: the share of prompts without a winner.
Raises:
    ValueError: a score that is not a number.
"""


class WinRate(evaluate.Metric):
    """`evaluate` module: pairwise preference."""

    def _info(self):
        score = datasets.Value("float64")
        features = datasets.Features({"predictions": score, "references": score})
        return evaluate.MetricInfo(
            description=__doc__, citation="", inputs_description=_INPUTS, features=features
        )

    def _compute(self, predictions, references):
        ours = numpy.array(predictions, dtype=numpy.float64)
        theirs = numpy.array(references, dtype=numpy.float64)
        if numpy.isnan(ours).any() or numpy.isnan(theirs).any():
            raise ValueError(
                "a score is not a number: leave out what the judge did not judge, and say how many"
            )
        values = (ours > theirs) + (ours == theirs) / 2
        return {
            "win_rate": float(values.mean()),
            "ci95": list(score_interval(values)),
            "ties": float((ours == theirs).mean()),
        }
