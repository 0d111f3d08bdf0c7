"""`distill traces sheet` and `distill traces reviewed`: a person's look at a trace set, out and in again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_review(parent: Any, command: Any) -> None:
    """Add the commands; ``command`` is the door's way of making one."""
    sheet = command(parent, "sheet", _sheet, "the kept traces of a set as a sheet for a person", recipe=None)
    sheet.add_argument("folder", metavar="DIR", help="a finished trace set")
    sheet.add_argument("--to", required=True, metavar="FILE", help="the sheet to write: .csv or .jsonl")
    sheet.add_argument("--limit", type=int, metavar="N", help="the first N kept traces only")
    back = command(parent, "reviewed", _reviewed, "the set that a filled sheet makes of another", recipe=None)
    back.add_argument("folder", metavar="DIR", help="the set that the sheet is of")
    back.add_argument("file", metavar="FILE", help="the sheet, with keep, edit or drop under `decision`")
    back.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    back.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="suites.NAME.path=FILE",
        help="a local copy of a suite that the set was kept apart from; repeatable",
    )


def _sheet(options: argparse.Namespace) -> None:
    from distill.cli_traces import show
    from teacher.refilter import settings_of
    from teacher.review import write_sheet

    folder = Path(options.folder)
    settings_of(folder)  # that it is a set
    told = write_sheet(folder, Path(options.to), options.limit)
    show(
        options,
        told,
        [told["sheet"], f"{told['traces']:,} traces; write keep, edit or drop under `decision`"],
    )


def _reviewed(options: argparse.Namespace) -> None:
    from distill.cli_traces import set_settings, show
    from teacher.funnel import as_lines
    from teacher.refilter import settings_of
    from teacher.review import reviewed

    folder = Path(options.folder)
    filters, keep_per_problem = settings_of(folder)
    settings = {"filters": filters.model_dump(exclude_none=True), "keep_per_problem": keep_per_problem}
    filters, keep_per_problem, suites = set_settings(settings, options.set)
    funnel = reviewed(folder, Path(options.file), Path(options.out), filters, keep_per_problem, suites)
    show(options, funnel, as_lines(funnel))
