"""Where a command may write: a place that cannot be had is the user's mistake, told before any work."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from distill.errors import UserError
from distill.recipe import Recipe

REMEDY = "give a new or empty folder with --out"
#: What can befall a good place too: the command fails, and goes on when there is room again.
_NO_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def check_place(path: Path) -> None:
    """Refuse a folder that is a file or would stand under one; writes nothing.

    Raises:
        UserError: it is.
    """
    if os.path.isdir(path):
        return
    if os.path.lexists(path):
        raise UserError("--out", str(path), "is a file", REMEDY)
    # os.path, as a name too long for the system makes Path.exists raise
    nearest = next(place for place in path.absolute().parents if os.path.lexists(place))
    if not nearest.is_dir():
        raise UserError("--out", str(path), f"stands under {nearest}, which is no folder", REMEDY)


def make_folder(path: Path) -> list[Path]:
    """Make a folder with all that it stands in; what was made, the innermost first.

    Raises:
        UserError: it cannot be made here, or nothing can be written in it; nothing was.
        OSError: the disk is full, ...
    """
    check_place(path)
    made = [place for place in (path, *path.parents) if not os.path.lexists(place)]
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        _remove_empty(made)
        if error.errno in _NO_FAULT:
            raise
        reason = f"cannot be written: {error.strerror}"
        raise UserError("--out", str(path), reason, "give another folder") from error
    return made


@contextmanager
def new_folder(path: Path) -> Iterator[None]:
    """A folder for what the block writes; if the block breaks before it wrote, what was made for it goes again."""
    made = make_folder(path)
    try:
        yield
    except BaseException:
        _remove_empty(made)
        raise


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # not made, or no longer empty
            folder.rmdir()


def check_belongs(path: Path, recipe: Recipe) -> None:
    """Refuse a folder that is not this recipe's, before anything is written.

    Raises:
        UserError: it holds another recipe's run, or something that is no run, or can be no folder.
    """
    check_place(path)
    if not os.path.isdir(path):
        return
    file = path / "recipe.yaml"
    if not file.is_file():
        if strangers := sorted(
            entry.name for entry in path.iterdir() if entry.name not in (".lock", ".recipe.yaml.tmp")
        ):
            raise UserError(
                "--out", str(path), f"holds other files ({strangers[0]}) and is no run folder", REMEDY
            )
        return
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(str(file), None, "is no YAML, so the run cannot be told", REMEDY) from error
    name = found.get("name") if isinstance(found, dict) else None
    if name != recipe.name:
        raise UserError(
            "--out", str(path), f"holds the run of another recipe, {name!r}, not of {recipe.name!r}", REMEDY
        )
    _check_shards(path, recipe, {stage["name"]: stage.get("shard") for stage in found.get("stages", [])})


def _check_shards(path: Path, recipe: Recipe, found: dict[str, str | None]) -> None:
    """A shard that is done must not make room for another one: both are wanted."""
    for stage in recipe.stages:
        if stage.kind != "sample" or not (path / "traces" / stage.makes).is_dir():
            continue
        held = found.get(stage.name)
        if held != stage.shard:
            reason = f"holds {f'shard {held}' if held else 'the whole'} of `{stage.makes}`"
            remedy = "give each shard a folder of its own, and merge them with distill traces merge"
            raise UserError("--out", str(path), reason, remedy)
