"""Checkpoints: written whole or not at all, one at a time, named by what they belong to.

A checkpoint appears by a rename; the older one is removed after. Of one process it is a file, ``step-N.pt``; of several
a folder, ``step-N``, in which each keeps what it holds (``rank-R-of-SIZE.pt``), so nothing is gathered, and as many
processes have to go on. It carries the fingerprint of its stage. A torn or foreign one is named and never loaded.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from distill.training.world import ALONE, World


def save_checkpoint(
    folder: Path, step: int, fingerprint: str, state: dict[str, Any], world: World = ALONE
) -> None:
    """Write ``state`` as the checkpoint after ``step`` and drop the older ones; every process comes with its own."""
    waiting = folder / "writing.tmp"
    if world.rank == 0:
        _remove(waiting)
        (folder if world.size == 1 else waiting).mkdir(parents=True, exist_ok=True)
    world.wait()
    with (waiting if world.size == 1 else waiting / _name(world)).open("wb") as file:
        torch.save({"step": step, "fingerprint": fingerprint, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    world.wait()
    if world.rank == 0:
        final = folder / (f"step-{step}.pt" if world.size == 1 else f"step-{step}")
        _remove(final)
        waiting.replace(final)
        for old in _ours(folder):
            if old != final:
                _remove(old)
    world.wait()


def load_checkpoint(
    folder: Path, fingerprint: str, world: World = ALONE
) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint's step and this process's state; None when none of this stage is there for all."""
    ours = _ours(folder)
    if world.rank == 0 and folder.is_dir():
        for other in sorted({*folder.iterdir()} - {*ours, folder / "writing.tmp"}):
            print(f"{other}: is no checkpoint of ours, so it is left alone", file=sys.stderr)
    for path in ours:
        whole, why = _read(path, fingerprint, world)
        if world.sum(float(whole is not None)) == world.size:
            assert whole is not None
            return whole["step"], whole["state"]
        if world.rank == 0:
            print(f"{path}: {why or 'another process cannot load it'}, so it is not loaded", file=sys.stderr)
    return None


def _read(path: Path, fingerprint: str, world: World) -> tuple[dict[str, Any] | None, str]:
    """What lies there, or why it is not to be loaded."""
    file = path if world.size == 1 else path / _name(world)
    if not file.is_file():
        return None, f"was not written by {world.size} process{'es' if world.size > 1 else ''}"
    try:
        whole = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle of ours may raise anything
        why = str(error).splitlines() or [type(error).__name__]
        return None, f"cannot be read ({why[0][:100]})"
    if not isinstance(whole, dict) or not whole.keys() >= {"step", "fingerprint", "state"}:
        return None, "was written by another program"
    if whole["fingerprint"] != fingerprint:
        return None, "belongs to other work"
    return whole, ""


def _ours(folder: Path) -> list[Path]:
    """What is named like a checkpoint, the newest first."""
    named = (path for path in folder.glob("step-*") if re.fullmatch(r"step-[0-9]+(\.pt)?", path.name))
    return sorted(named, key=lambda path: int(path.stem.removeprefix("step-")), reverse=True)


def _name(world: World) -> str:
    return f"rank-{world.rank}-of-{world.size}.pt"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
