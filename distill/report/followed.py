"""The problems that a GRPO stage followed: at few steps what the policy said, chosen evenly over the stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.reflection import count_reflective
from distill.report.excerpts import PROBLEM_CHARACTERS, cut_middle, fair_shares

LOOKS_SHOWN = 8  # of each problem
CHARACTERS_SHOWN = 400_000  # of each stage; beyond it the longest texts lose their middle


@dataclass(frozen=True, slots=True)
class Look:
    """One answer after ``step`` updates; ``text`` may be shortened, ``reflective`` words are counted in all of it."""

    step: int
    right: bool | None
    reward: float | None
    tokens: int
    cut: bool
    reflective: int
    text: str


@dataclass(frozen=True, slots=True)
class Followed:
    """A problem with some of the looks that were taken; ``taken`` counts all."""

    id: str
    problem: str
    looks: list[Look]
    taken: int


def choose_followed(rows: Sequence[dict[str, Any]]) -> list[Followed]:
    """The followed problems of a stage, in the order of their first rows.

    Args:
        rows: of the stage's ``followed.jsonl``.
    """
    by_problem: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault(row["problem_id"], []).append(row)
    chosen = {name: evenly(looks, LOOKS_SHOWN) for name, looks in by_problem.items()}
    lengths = fair_shares([len(row["text"]) for looks in chosen.values() for row in looks], CHARACTERS_SHOWN)
    share = iter(lengths)
    return [
        Followed(
            name,
            _printable(cut_middle(looks[0]["problem"], PROBLEM_CHARACTERS)),
            [_look(row, next(share)) for row in looks],
            len(by_problem[name]),
        )
        for name, looks in chosen.items()
    ]


def evenly(rows: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many (2 or more) of the rows at equal distances, the first and the last among them."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(place * (len(rows) - 1) / (most - 1))] for place in range(most)]


def _look(row: dict[str, Any], length: int) -> Look:
    return Look(
        step=row["step"],
        right=row["right"],
        reward=row["reward"],
        tokens=row["tokens"],
        cut=row["finish_reason"] == "length",
        reflective=count_reflective(row["text"]),
        text=_printable(cut_middle(row["text"], length)),
    )


def _printable(text: str) -> str:
    """A page is UTF-8, which has no place for half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def followed_lead(problems: Sequence[Followed]) -> str:
    """What the followed problems of a stage are."""
    taken = max(one.taken for one in problems)
    shown = max(len(one.looks) for one in problems)
    chosen = f" {shown} of {taken} looks." if shown < taken else ""
    return (
        "Problems of this training, each answered by the model as it was after so many updates, with the same random "
        "numbers every time: what changes is the model. These answers were not learnt from. Marked are reflective "
        f"words (DeepSeek-R1's list).{chosen}"
    )


def followed_facts(look: Look) -> str:
    """One look in words: when, how good, how long."""
    verdict = {True: "right", False: "wrong", None: "not judged by rules"}[look.right]
    parts = [f"after {look.step:,} update{'' if look.step == 1 else 's'}", verdict]
    parts += [] if look.reward is None else [f"reward {look.reward:.3g}"]
    parts.append(f"{look.tokens:,} tokens{', cut at the limit' if look.cut else ''}")
    parts += (
        [f"{look.reflective:,} reflective word{'' if look.reflective == 1 else 's'}"]
        if look.reflective
        else []
    )
    return " \u00b7 ".join(parts)
