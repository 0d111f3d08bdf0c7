"""`distill suites`: which evaluation suites there are; and how ``--suite`` of `distill eval` is read."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

from distill.cli_traces import show
from distill.errors import UserError

_RECORDS = (".yaml", ".yml")
_COLUMNS = ("name", "kind", "n", "k", "k by", "from", "revision")


def suites_of(
    given: list[str], set_apart: Collection[str] = ()
) -> tuple[list[str], dict[str, dict[str, str]]]:
    """What ``--suite`` names, and the entries of a recipe's ``suites:`` for what is the user's own.

    ``NAME`` is a suite that ships (or one ``set_apart``, which ``--set suites.NAME...`` makes), ``NAME=FILE`` a local
    copy of its data, ``FILE.yaml`` an own suite's record.

    Raises:
        UserError: there is no such suite or file, or two have one name.
    """
    from distill.suites import find_suite

    names: list[str] = []
    own: dict[str, dict[str, str]] = {}
    for one in given:
        name, is_copy, place = one.partition("=")
        if not is_copy and one.endswith(_RECORDS):
            name, place = Path(one).stem, one
            own[name] = {"record": place}
        elif is_copy and place.endswith(_RECORDS):
            own[name] = {"record": place}
        else:
            if name not in set_apart:
                find_suite(name, {})
            if is_copy:
                own[name] = {"path": place}
        if is_copy and not Path(place).expanduser().exists():
            raise UserError(
                "--suite", one, "there is no such file", "NAME=FILE: JSONL, JSON, Parquet, or a YAML record"
            )
        if name in names:
            raise UserError("--suite", one, f"`{name}` is named twice", "name each suite once")
        names.append(name)
    return names, own


def _suites(options: argparse.Namespace) -> None:
    from distill.suites import KNOWN, find_suite
    from distill.suites.record import SHIPPED

    if options.name:
        suite = find_suite(options.name, {})
        assert suite.record is not None, suite
        text = (SHIPPED / f"{suite.name}.yaml").read_text(encoding="utf-8")
        show(options, suite.record.model_dump(mode="json", by_alias=True), [text.rstrip("\n")])
        return
    told: dict[str, dict[str, Any]] = {}
    for name, suite in KNOWN.items():
        record = suite.record
        assert record is not None, name
        data = record.data
        told[name] = {
            "about": record.about, "kind": suite.kind, "n": data.n, "k": suite.samples,
            "k by": record.protocol.k_source, "from": data.path or "the built-in world", "revision": data.revision,
            "columns": data.columns, "licence": record.licence,
        }  # fmt: skip
    rows = [
        _COLUMNS,
        *((name, *(_cell(column, row[column]) for column in _COLUMNS[1:])) for name, row in told.items()),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    show(options, told, lines)


def _cell(column: str, value: object) -> str:
    if column == "revision":
        return str(value)[:10] if value else "not pinned"
    return "?" if value is None else str(value)


def add_suites(commands: Any, command: Any) -> None:
    """The command, by `distill.cli`'s `command`."""
    suites = command(
        commands, "suites", _suites, "list the evaluation suites, or print one's record", recipe=None
    )
    suites.add_argument(
        "name", nargs="?", metavar="NAME", help="print this suite's record, to start an own one from"
    )
