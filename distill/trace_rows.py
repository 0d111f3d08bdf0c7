"""From the rows of somebody's table to rows of one response each, by the map that a trace source gives.

* ``each``: columns of lists that belong together; every place of the lists becomes a row of its own.
* ``where``: only rows (of one response) whose columns hold these values.
* ``rewrite``: texts replaced in each response, in this order: other thought tags, marks around the answer.

Public data sets whose columns are known are read without a map. Rows that are left out are counted.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import ValidationError

from distill.conversations import COLUMNS, exchanges, is_conversation
from distill.errors import UserError
from distill.recipe_errors import explain
from distill.recipe_parts import Fields, Taken, TraceSource
from distill.records import Kind

Row = dict[str, Any]

#: Maps of public data sets, by the last part of their names: a local copy in a folder of that name is read alike.
KNOWN: dict[str, Row] = {
    "OpenR1-Math-220k": {  # R1's answers to problems of NuminaMath, two to four of each in one list
        "each": ["generations", "correctness_math_verify", "is_reasoning_complete"],
        "where": {"correctness_math_verify": True, "is_reasoning_complete": True},
        "fields": {"problem": "problem", "response": "generations", "reference": "answer"},
    },
    "OpenThoughts-114k": {
        "fields": {
            "problem": {"from": "conversations", "extract": "user"},
            "response": {"from": "conversations", "extract": "assistant"},
        },
        "rewrite": {
            "<|begin_of_thought|>": "<think>",
            "<|end_of_thought|>": "</think>",
            "\n\n<|begin_of_solution|>\n\n": "\n\n",
            "\n\n<|end_of_solution|>": "",
            "<|begin_of_solution|>": "",
            "<|end_of_solution|>": "",
        },
    },
}
#: Of those that bring no reference, so that nothing can be verified.
KNOWN_KINDS: dict[str, Kind] = {"OpenThoughts-114k": "open"}


def parse_trace_source(raw: dict[str, Any]) -> TraceSource:
    """What a command line says of somebody's traces.

    Raises:
        UserError: naming key, value, reason and remedy of the first mistake.
    """
    try:
        return TraceSource.model_validate(raw)
    except ValidationError as error:
        raise explain(error, raw, TraceSource) from None


def with_known_map(source: TraceSource) -> TraceSource:
    """The source with the map of the public data set that its path names, where it has no map of its own."""
    known = KNOWN.get(Path(source.path or "").name.partition("@")[0])
    if known is None or source.fields or source.each or source.where or source.rewrite:
        return source
    return TraceSource.model_validate({"path": source.path, "split": source.split, **known})


def one_response_each(
    key: str, rows: Iterable[Row], source: TraceSource, left_out: Counter[str]
) -> Iterator[tuple[int, Row, Fields]]:
    """Each row with the number (from 1) of the one it is from, and with the fields that apply to it.

    Args:
        left_out: counts what is left out, by its reason.

    Raises:
        UserError: a column is missing, holds no list, or lists of different lengths; or nothing is left.
    """
    waiting = iter(rows)
    first = next(waiting, None)
    if first is None:
        return
    fields = _with_conversation(source.fields, first)
    talks = {theirs.from_ for theirs in fields.values() if _is_turn(theirs)}
    left = 0
    for number, whole in enumerate(chain([first], waiting), start=1):
        if not (exploded := list(_exploded(key, number, whole, source.each))):
            left_out["row whose lists are empty"] += 1
        for row in exploded:
            if (reason := _unwanted(key, number, row, source)) is not None:
                left_out[reason] += 1
            elif any(exchanges(row.get(column)) > 1 for column in talks):
                left_out["conversation of more than one exchange"] += 1
            else:
                left += 1
                yield number, row, fields
    if not left:
        told = ", ".join(f"{reason} {count:,}" for reason, count in left_out.items())
        raise UserError(f"{key}.path", source.path, f"no response is left: {told}", "loosen `where`")


def rewritten(text: str, rewrite: dict[str, str]) -> str:
    """A response with each of the texts replaced, in their order."""
    for theirs, ours in rewrite.items():
        text = text.replace(theirs, ours)
    return text


def _is_turn(theirs: str | Taken) -> TypeGuard[Taken]:
    return isinstance(theirs, Taken) and theirs.extract in ("user", "assistant")


def _with_conversation(fields: Fields, first: Row) -> Fields:
    """A table without a response but with a conversation in each row is read from that."""
    column = next((name for name in COLUMNS if is_conversation(first.get(name))), None)
    if column is None or "response" in fields or "response" in first:
        return fields
    taken = {"response": Taken.model_validate({"from": column, "extract": "assistant"})}
    if "problem" not in fields and "problem" not in first:
        taken["problem"] = Taken.model_validate({"from": column, "extract": "user"})
    return {**fields, **taken}


def _exploded(key: str, number: int, row: Row, each: list[str]) -> Iterator[Row]:
    if not each:
        yield row
        return
    lists = {column: _column(f"{key}.each", number, row, column) for column in each}
    for column, values in lists.items():
        if values is not None and not isinstance(values, list):
            remedy = "name columns of lists only"
            raise UserError(f"{key}.each", column, f"row {number}: holds no list", remedy)
    lengths = {column: len(values) for column, values in lists.items() if values is not None}
    if len(set(lengths.values())) > 1:
        reason = f"row {number}: its lists are of different lengths: {lengths}"
        raise UserError(
            f"{key}.each", None, reason, "name only columns that belong together, or mend the row"
        )
    for place in range(max(lengths.values(), default=0)):
        yield row | {column: values and values[place] for column, values in lists.items()}


def _unwanted(key: str, number: int, row: Row, source: TraceSource) -> str | None:
    """Which of the wanted values a row lacks; None where it has all."""
    for column, wanted in source.where.items():
        if _column(f"{key}.where", number, row, column) != wanted:
            return f"{column} is not {str(wanted).lower() if isinstance(wanted, bool) else wanted}"
    return None


def _column(key: str, number: int, row: Row, column: str) -> Any:
    if column not in row:
        near = difflib.get_close_matches(column, row, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`? " if near else ""
        raise UserError(key, column, f"row {number}: has no such field", f"{hint}it has: {', '.join(row)}")
    return row[column]
