"""Judged answers for a reward model: read, tokenized, and cut into those that train and those that measure."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from distill.errors import UserError
from distill.models.classifiers import LostText, Reader, Row
from distill.problems import RowReader, check_names, read_rows
from distill.recipe_rewards import RewardStage

PAIRWISE = ("prompt", "chosen", "rejected")
POINTWISE = ("prompt", "response", "label")


class Judged(NamedTuple):
    """One row: the better answer and the worse one; or (pointwise) one answer and whether it is ``good``."""

    prompt: str
    answers: tuple[str, ...]
    good: bool = True


class Item(NamedTuple):
    """A row as the model reads it. ``longer``: the better of two answers has more characters than the other."""

    rows: tuple[Row, ...]
    good: bool
    longer: bool | None

    @property
    def longest(self) -> int:
        """Tokens of its longest answer, the prompt included."""
        return max(len(row["input_ids"]) for row in self.rows)


class Preferences(NamedTuple):
    """What trains and what measures, and how many rows were left out, by reason."""

    train: list[Item]
    held_out: list[Item]
    left_out: dict[str, int]


def read_judged(stage: RewardStage) -> list[Judged]:
    """All rows of the stage's source, in its order; ``limit`` keeps the first ones.

    Raises:
        UserError: the source cannot be read or is empty, or a row lacks one of its fields.
    """
    at, source = f"stages.{stage.name}.pairs", stage.pairs
    names = PAIRWISE if stage.objective == "pairwise" else POINTWISE
    check_names(f"{at}.fields", source.fields, names)
    found = []
    for number, row in enumerate(read_rows(source.path, source.split, f"{at}.path"), start=1):
        reader = RowReader(at, number, row, source.fields)
        prompt = reader.text("prompt", reader.value("prompt"))
        if stage.objective == "pairwise":
            both = tuple(reader.text(name, reader.value(name)) for name in ("chosen", "rejected"))
            found.append(Judged(prompt, both))
        else:
            answer = reader.text("response", reader.value("response"))
            found.append(Judged(prompt, (answer,), _label(reader)))
        if len(found) == source.limit:
            break
    if not found:
        raise UserError(f"{at}.path", source.path, "holds no rows", f"give rows of {', '.join(names)}")
    if stage.objective == "pointwise" and len({one.good for one in found}) == 1:
        told = "good" if found[0].good else "bad"
        reason = f"all of its answers are labelled {told}: there is nothing to tell apart"
        raise UserError(f"{at}.path", source.path, reason, "give answers of both kinds")
    return found


def _label(reader: RowReader) -> bool:
    value = reader.value("label")
    if value not in (0, 1):  # True and False are among these
        reader.refuse("label", value, "is neither true (1) nor false (0)", "map another field, or rewrite it")
    return bool(value)


def prepare(judged: Sequence[Judged], reader: Reader, stage: RewardStage) -> Preferences:
    """The rows as the model reads them, without those that teach nothing, which are counted and told.

    Left out are pairs of one and the same answer, and rows with an answer beyond ``max_length`` tokens. Held out are
    all rows of the ``held_out`` share of the prompts, by the prompts' hashes, so that no prompt is on both sides.

    Raises:
        UserError: a chat template loses text, or nothing is left to train or to measure with.
    """
    left_out: Counter[str] = Counter()
    items: list[tuple[str, Item]] = []
    for number, one in enumerate(judged, start=1):
        if len(one.answers) == 2 and one.answers[0] == one.answers[1]:
            left_out["of two equal answers"] += 1
            continue
        item = _item(number, one, reader, stage)
        if item.longest > stage.max_length:
            left_out[f"longer than max_length={stage.max_length}"] += 1
            continue
        items.append((one.prompt, item))
    for reason, count in left_out.items():
        print(f"{stage.name}: left out: {count} rows {reason}", file=sys.stderr)
    measuring = _measuring([prompt for prompt, _ in items], stage.held_out)
    train = [item for prompt, item in items if prompt not in measuring]
    if not train:
        reason = f"leaves no row to train on ({dict(left_out) or 'all are held out'})"
        raise UserError(
            f"stages.{stage.name}.pairs", stage.pairs.path, reason, "give more, or raise max_length"
        )
    return Preferences(train, [item for prompt, item in items if prompt in measuring], dict(left_out))


def _item(number: int, one: Judged, reader: Reader, stage: RewardStage) -> Item:
    try:
        rows = tuple(reader.read(one.prompt, answer) for answer in one.answers)
    except LostText as error:
        remedy = f"give models.{stage.model}.chat_template, one that writes answers whole"
        raise UserError(f"stages.{stage.name}.pairs", None, f"row {number}: {error}", remedy) from None
    pair = len(one.answers) == 2
    return Item(rows, one.good, len(one.answers[0]) > len(one.answers[1]) if pair else None)


def _measuring(prompts: Sequence[str], share: float) -> set[str]:
    """The share of the distinct prompts whose hashes come first; at least one, if any is asked for."""
    if not share:
        return set()
    distinct = sorted(
        set(prompts), key=lambda text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    )
    return set(distinct[: max(1, round(share * len(distinct)))])
