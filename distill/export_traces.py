"""`distill traces export`: a trace set as a folder that others can load, and on the hub.

Everything is written beside the target first, published from there when that is asked, and moved into place last:
after a mistake, a kill or a refusal of the hub the target is what it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.export import check_repository, publish, room


def add_export_traces(parent: Any, command: Any) -> None:
    """Add the command; ``command`` is the door's way of making one."""
    export = command(
        parent, "export", _export, "a trace set as a folder for others, or on the hub", recipe=None
    )
    export.add_argument("folder", metavar="DIR", help="a finished trace set")
    export.add_argument("--to", required=True, metavar="PATH", help="the folder to write")
    export.add_argument("--format", choices=["parquet", "jsonl"], default="parquet")
    export.add_argument("--all", action="store_true", help="rejected traces too, with their reasons")
    export.add_argument(
        "--file-mb", type=float, default=500.0, metavar="N", help="megabytes of text in a file (default: 500)"
    )
    export.add_argument(
        "--samples", type=int, default=120, metavar="N", help="traces on the page to look at (default: 120)"
    )
    export.add_argument(
        "--licence", metavar="ID", help="the hub's word for it, as mit (default: what is known)"
    )
    export.add_argument("--force", action="store_true", help="replace an earlier export")
    export.add_argument(
        "--push", metavar="USER/NAME", help="also upload it to this data set of the hub, private"
    )
    export.add_argument("--public", action="store_true", help="a data set that --push makes is public")


def _export(options: argparse.Namespace) -> None:
    from teacher.exporting import Settings

    settings = Settings(options.format, options.all, options.file_mb, options.samples, options.licence)
    told = export_set(
        Path(options.folder),
        Path(options.to),
        settings,
        force=options.force,
        push=options.push,
        public=options.public,
    )
    files = f"{told['traces']:,} traces, {told['files']} files, {told['bytes'] / 1e6:,.1f} MB"
    lines = [line for line in (told["folder"], told["hub"], f"{files}, licence: {told['licence']}") if line]
    print(json.dumps(told, indent=2, ensure_ascii=False) if options.json else "\n".join(lines))


def export_set(
    folder: Path,
    to: Path,
    settings: Any,
    *,
    force: bool = False,
    push: str | None = None,
    public: bool = False,
) -> dict[str, Any]:
    """Write a set to ``to``, and to the hub's data set ``push``.

    Returns:
        ``folder``, ``hub`` (the address of what was published), and what `teacher.exporting.write_export` tells.

    Raises:
        UserError: there is no such set, nothing is kept, the target holds something, or the hub refuses. The target is
            as it was then.
    """
    from teacher import exporting, set_card
    from teacher.trace_set import CARD

    for flag, value in (("--file-mb", settings.file_mb), ("--samples", settings.samples)):
        if not 0 < value < float("inf"):
            raise UserError(flag, value, "cannot be", "give a number above 0")
    if push is None and public:
        raise UserError("--public", None, "nothing is published", "give --push USER/NAME with it")
    if push is not None:
        check_repository(push)
    to, here = to.absolute(), folder.absolute().resolve()
    if to.resolve() == here or here in to.resolve().parents or to.resolve() in here.parents:
        raise UserError(
            "--to", str(to), f"stands in the set itself, or around it ({here})", "give another folder"
        )
    exporting.check_set(folder, settings)
    waiting = to.with_name(f".{to.name}.tmp")
    address = None
    with _place(to, force, exporting.is_export):
        shutil.rmtree(waiting, ignore_errors=True)
        try:
            waiting.mkdir()
            told = exporting.write_export(
                folder, waiting, push.partition("/")[2] if push else to.name, settings
            )
            if push:
                card = waiting / CARD
                card.write_text(set_card.published(card.read_text(encoding="utf-8"), push), encoding="utf-8")
                address = publish(waiting, push, not public, "dataset")
            _take(waiting, to)
        finally:
            shutil.rmtree(waiting, ignore_errors=True)
    return {"folder": str(to), "hub": address, **told}


@contextmanager
def _place(to: Path, force: bool, is_export: Any) -> Iterator[None]:
    """Room for ``to``: new, empty, or (``force``) an earlier export, which `_take` replaces."""
    old = _old(to)
    if old.is_dir() and not to.exists():
        old.replace(to)  # a kill came between the two moves of `_take`
    if not (to.is_dir() and any(to.iterdir())):
        with room(to):
            yield
        return
    if not is_export(to):
        raise UserError("--to", str(to), "holds other things", "give a new or empty folder with --to")
    if not force:
        raise UserError(
            "--to", str(to), "holds an export already", "give another folder, or --force to replace it"
        )
    yield


def _take(waiting: Path, to: Path) -> None:
    if not (to.is_dir() and any(to.iterdir())):
        waiting.replace(to)  # an empty folder gives way
        return
    shutil.rmtree(_old(to), ignore_errors=True)
    to.replace(_old(to))
    waiting.replace(to)
    shutil.rmtree(_old(to), ignore_errors=True)


def _old(to: Path) -> Path:
    return to.with_name(f".{to.name}.old")
