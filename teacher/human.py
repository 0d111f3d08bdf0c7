"""Scores that people gave to completions, read from a file, as a reward.

A row has ``problem_id``, ``score`` (a number) and the text that was scored: ``response``, prefill included, or its
``sha256`` in hexadecimal. Blanks around the text do not count. A completion without a row is ungraded.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
from collections.abc import Sequence

from distill.errors import UserError
from distill.problems import RowReader, check_names, read_rows
from distill.recipe_rewards import HumanScores
from distill.records import Problem
from teacher.rewards import Answered

_SHA256 = re.compile("[0-9a-f]{64}")
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
        given.setdefault((_problem_id(reader), _digest(reader)), []).append(_score(reader))
    if not given:
        raise UserError(f"{at}.path", source.path, "holds no rows", f"give rows of {', '.join(FIELDS)}")
    return {key: sum(scores) / len(scores) for key, scores in given.items()}


def check_scored(at: str, path: str, scored: Scored, problems: Sequence[Problem]) -> None:
    """Tell scores that no problem of a stage can earn, by their ids.

    Raises:
        UserError: none can be earned.
    """
    known = {problem.id for problem in problems}
    strange = [name for name, _ in scored if name not in known]
    if len(strange) == len(scored):
        reason = f"none of its scores is of a problem of the stage (the first is of `{strange[0]}`)"
        raise UserError(f"{at}.path", path, reason, "write the problems' ids as problem_id")
    if strange:
        told = f"{len(strange)} of {len(scored)} scored texts are of no problem of the stage"
        print(f"{at}: {told}, `{strange[0]}` first", file=sys.stderr)


def _score(reader: RowReader) -> float:
    value = reader.value("score")
    if not isinstance(value, bool) and isinstance(value, int | float):
        try:
            score = float(value)
        except OverflowError:  # a whole number of any length may stand in JSON
            score = math.inf
        if math.isfinite(score):
            return score
    reader.refuse("score", str(value)[:80], "is no finite number", "write one, such as 0.5")


def _problem_id(reader: RowReader) -> str:
    """A number is taken for its text, as problems take it."""
    value = reader.value("problem_id")
    return str(value) if type(value) is int else reader.text("problem_id", value)


def _digest(reader: RowReader) -> str:
    response = reader.value("response")
    if response is not None:
        return digest(reader.text("response", response))
    sha = reader.text("sha256", reader.value("sha256")).strip().lower()
    if not _SHA256.fullmatch(sha):
        reader.refuse("sha256", sha, "is no SHA-256 of 64 hexadecimal digits", "give the text as `response`")
    return sha


def digest(text: str) -> str:
    """What names a text: the SHA-256 of it without blanks at its ends."""
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()


def score_of(scored: Scored, answer: Answered) -> float:
    """A completion's score; NaN where nobody gave it one."""
    return scored.get((answer.problem.id, digest(answer.text)), math.nan)
