"""Checkpoints: written whole or not at all, one at a time, named by what they belong to.

A checkpoint is one file, `step-N.pt`, that appears by a rename; the older one is removed after. It carries the
fingerprint of its stage, so that a foreign one is named and never loaded.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(folder: Path, step: int, fingerprint: str, state: dict[str, Any]) -> None:
    """Write ``state`` as the checkpoint after ``step`` and drop the older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting = folder / "writing.tmp"
    with waiting.open("wb") as file:
        torch.save({"step": step, "fingerprint": fingerprint, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    final = folder / f"step-{step}.pt"
    waiting.replace(final)
    for old in folder.glob("step-*.pt"):
        if old != final:
            old.unlink()


def load_checkpoint(folder: Path, fingerprint: str) -> tuple[int, dict[str, Any]] | None:
    """The newest checkpoint's step and state; None when there is none of this stage."""
    found = sorted(
        folder.glob("step-*.pt"), key=lambda path: int(path.stem.removeprefix("step-")), reverse=True
    )
    for path in found:
        whole = torch.load(path, map_location="cpu", weights_only=True)
        if whole["fingerprint"] == fingerprint:
            return whole["step"], whole["state"]
        print(f"{path}: belongs to other work, so it is not loaded", file=sys.stderr)
    return None
