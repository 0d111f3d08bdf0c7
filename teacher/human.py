"""Scores that people gave to completions, read from a file, as a reward.

A row has ``problem_id``, ``score`` (a number) and the text that was scored: ``response``, prefill included, or its
``sha256`` in hexadecimal. Blanks around the text do not count. A completion without a row is ungraded.
"""

from __future__ import annotations

import hashlib
import math

from distill.errors import UserError
from distill.problems import RowReader, check_names, read_rows
from distill.recipe_rewards import HumanScores
from teacher.rewards import Answered

FIELDS = ("problem_id", "response", "sha256", "score")

#: A person's score by problem and digest of the text.
Scored = dict[tuple[str, str], float]


def human_scores(at: str, source: HumanScores) -> Scored:
    """All scores of a file; several of one text become their mean.

    Raises:
        UserError: the file cannot be read, holds no rows, or has a row without its fields.
    """
    check_names(f"{at}.fields", source.fields, FIELDS)
    given: dict[tuple[str, str], list[float]] = {}
    for number, row in enumerate(read_rows(source.path, "train", f"{at}.path"), start=1):
        reader = RowReader(at, number, row, source.fields)
        score = reader.value("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            reader.refuse("score", score, "is no finite number", "write one, such as 0.5")
        response = reader.value("response")
        sha = reader.value("sha256") if response is None else digest(reader.text("response", response))
        key = reader.text("problem_id", reader.value("problem_id")), reader.text("sha256", sha).lower()
        given.setdefault(key, []).append(float(score))
    if not given:
        raise UserError(f"{at}.path", source.path, "holds no rows", f"give rows of {', '.join(FIELDS)}")
    return {key: sum(scores) / len(scores) for key, scores in given.items()}


def digest(text: str) -> str:
    """What names a text: the SHA-256 of it without blanks at its ends."""
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()


def score_of(scored: Scored, answer: Answered) -> float:
    """A completion's score; NaN where nobody gave it one."""
    return scored.get((answer.problem.id, digest(answer.text)), math.nan)
