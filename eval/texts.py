"""Texts that are no run's responses, judged: what the `evaluate` modules of `eval/modules` stand on.

Axis letters: P problems, G samples of one problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from distill.records import Kind, Problem
from distill.verify import Judgement, Response, check_many


def judged(
    texts_PG: Sequence[Sequence[str]], references_P: Sequence[str], kind: str
) -> list[list[Judgement]]:
    """The grader's judgement on each text, thought and answer together, by its problem's reference.

    Args:
        kind: of the problems; a reference is the answer (``math``), the letter (``choice``) or the Python tests that
            see the program's names (``code``).

    Raises:
        ValueError: no such kind, or as many references as problems are not there.
    """
    if kind not in get_args(Kind) or kind in ("open", "instruction"):
        raise ValueError(f"kind = {kind!r}: it is one of math, choice, code")
    if len(texts_PG) != len(references_P):
        raise ValueError(f"{len(texts_PG)} predictions and {len(references_P)} references")
    problems = [
        Problem(id=str(at), kind="code", problem="", tests={"type": "python", "code": reference})
        if kind == "code"
        else Problem.model_validate({"id": str(at), "kind": kind, "problem": "", "reference": reference})
        for at, reference in enumerate(references_P)
    ]
    responses = [
        Response(problem, text, None)
        for problem, texts in zip(problems, texts_PG, strict=True)
        for text in texts
    ]
    found = iter(check_many(responses))
    return [[next(found) for _ in texts] for texts in texts_PG]
