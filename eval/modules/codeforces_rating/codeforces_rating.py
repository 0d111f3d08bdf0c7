"""A Codeforces rating from what was solved and the ratings of the problems, by maximum likelihood."""

import datasets
import evaluate

from eval.codeforces import as_entry, rate

_INPUTS = """
Args:
    predictions: a list for each problem, one value for each sample: whether it was solved.
    references: the rating of each problem on Codeforces' scale.
Returns:
    rating: the rating; None where all or nothing was solved.
    ci95: its interval, None for an end that is open.
    percentile, percentile_source: the share of human contestants below it, where it is known.
    note: why something is None.
Raises:
    ValueError: a problem without a sample.
"""


class CodeforcesRating(evaluate.Metric):
    """`evaluate` module: Elo's model, P(solved) = 1 / (1 + 10^((problem - rating) / 400))."""

    def _info(self):
        features = datasets.Features(
            {
                "predictions": datasets.Sequence(datasets.Value("bool")),
                "references": datasets.Value("float64"),
            }
        )
        return evaluate.MetricInfo(
            description=__doc__, citation="", inputs_description=_INPUTS, features=features
        )

    def _compute(self, predictions, references):
        if not all(predictions):
            raise ValueError("a problem has no sample")
        found = rate(
            references, [sum(samples) for samples in predictions], [len(samples) for samples in predictions]
        )
        entry = as_entry(found)
        return {"rating": entry.pop("value"), **entry}
