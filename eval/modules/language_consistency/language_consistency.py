"""Share of each text that is in the language it should be in, by the function that reward and filter ask too."""

import datasets
import evaluate

from distill.language import language_share
from distill.recipe_filters import LANGUAGE_CODES

_INPUTS = """
Args:
    predictions: texts; maths, code and addresses in them are not counted.
    references: the language that each should be in, a code such as en or zh.
Returns:
    language_consistency: the mean share of words in that language, a fraction.
    consistent: the share of texts of which at least 0.95 is.
Raises:
    ValueError: a code that is not known.
"""


class LanguageConsistency(evaluate.Metric):
    """`evaluate` module: words in the target language over all words (DeepSeek-R1, arXiv 2501.12948, 2.3.2)."""

    def _info(self):
        texts = datasets.Value("string")
        features = datasets.Features({"predictions": texts, "references": texts})
        return evaluate.MetricInfo(
            description=__doc__, citation="", inputs_description=_INPUTS, features=features
        )

    def _compute(self, predictions, references):
        if unknown := sorted(set(references) - set(LANGUAGE_CODES)):
            raise ValueError(f"language {unknown[0]!r} is not known; known: {', '.join(LANGUAGE_CODES)}")
        shares = [language_share(text, target) for text, target in zip(predictions, references, strict=True)]
        return {
            "language_consistency": sum(shares) / len(shares),
            "consistent": sum(share >= 0.95 for share in shares) / len(shares),
        }
