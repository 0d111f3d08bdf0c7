"""The run folder: where everything of a run lies, which stages are finished, and how far a long one is.

    recipe.yaml  manifest.json  stages/NN-STAGE/  models/MODEL/  traces/NAME/  results/MODEL/SUITE/  report/

One process at a time owns a run folder. Whatever is read back after a kill was written whole, or is repaired.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic import BaseModel

from distill.errors import RunFailed, UserError
from distill.manifest import surroundings
from distill.places import check_belongs, make_folder
from distill.recipe import Recipe
from distill.shards import Row, append_rows, read_rows, repair, replacing

if TYPE_CHECKING:
    from tqdm import tqdm

# -------------------------------------------------------------------------------- files and hashes


def write_text_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader, or a restart after a kill, finds it old or new but never half."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path, value: object) -> None:
    """Write indented JSON, whole or not at all.

    Raises:
        ValueError: a number in it is not finite.
    """
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def fingerprint(*parts: object) -> str:
    """SHA-256 (hex) of the canonical JSON of plain data and recipe sections that a stage depends on."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"cannot fingerprint a {type(value).__name__}")


#: A model's card (and, after a kill, half of one). It is written anew whenever the model has been measured, so it is
#: no part of what the model is: no stage may become due because of it.
CARD_FILES = ("README.md", ".README.md.tmp")
#: Where in a model's folder its low-rank adapters lie, unmerged, with a card of their own.
ADAPTER = "adapter"


def hash_path(path: Path, without: Collection[str] = ()) -> str:
    """SHA-256 (hex) of a file's bytes, or of a folder's relative names and bytes in sorted order.

    Args:
        without: names of files, in whatever folder, that do not count.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(inner for inner in path.rglob("*") if inner.is_file() and inner.name not in without)
    return fingerprint([(inner.relative_to(path).as_posix(), hash_path(inner)) for inner in files])


# -------------------------------------------------------------------------------- run folder


class RunFolder:
    """A run's folder, owned by this process until `close` or its end. Open one with `RunFolder.open`."""

    def __init__(self, path: Path, recipe: Recipe, lock: int) -> None:
        self.path, self.recipe = path, recipe
        self._lock = lock
        self._clocks: dict[str, _Clock] = {}

    @classmethod
    def open(cls, path: Path, recipe: Recipe) -> RunFolder:
        """Make the folder, or find it again. The same recipe with changed sections may continue in it.

        Raises:
            UserError: the folder is another recipe's run, no run at all, or in use by another process.
        """
        check_belongs(path, recipe)
        make_folder(path)
        try:
            lock = _take_lock(path)
        except PermissionError as error:
            reason = f"cannot be written: {error}"
            raise UserError("--out", str(path), reason, "give another folder") from error
        run = cls(path, recipe, lock)
        run._renumber_stages()
        write_text_atomic(path / "recipe.yaml", recipe.to_yaml())
        return run

    def close(self) -> None:
        """Let another process have the folder. The kernel does it too when this one ends, however it ends."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Where things lie. None of these touches the disk; what writes there makes the folder.

    def stage_folder(self, stage: str) -> Path:
        """``stages/NN-STAGE``, NN being its place in the recipe from 01."""
        names = [stage.name for stage in self.recipe.stages]
        return self.path / "stages" / f"{names.index(stage) + 1:02}-{stage}"

    def model_folder(self, model: str) -> Path:
        """``models/MODEL``."""
        return self.path / "models" / model

    def traces_folder(self, name: str) -> Path:
        """``traces/NAME``."""
        return self.path / "traces" / name

    def results_folder(self, model: str, suite: str) -> Path:
        """``results/MODEL/SUITE``."""
        return self.path / "results" / model / suite

    @property
    def report_folder(self) -> Path:
        """``report``."""
        return self.path / "report"

    # Stages: begin, tick at each checkpoint, finish.

    def begin(self, stage: str, fingerprint: str, makes: Sequence[Path] = ()) -> bool:
        """Start or continue a stage; True when an earlier attempt's work is there to be continued.

        Work of another fingerprint is deleted: the stage's folder, and ``makes``, what it writes elsewhere.
        """
        folder = self.stage_folder(stage)
        started = folder / "started.json"
        found = read_json(started, "fingerprint", "seconds")
        resumes = found is not None and found["fingerprint"] == fingerprint
        (folder / "finished.json").unlink(missing_ok=True)
        if not resumes:
            # first, so that a kill in the middle leaves nothing that looks resumable
            started.unlink(missing_ok=True)
            for old in (*makes, folder):
                if old.is_dir():
                    shutil.rmtree(old)
                else:
                    old.unlink(missing_ok=True)
        earlier = found["seconds"] if found and resumes else 0.0
        self._clocks[stage] = _Clock(fingerprint, earlier, time.monotonic())
        self.tick(stage)
        return resumes

    def tick(self, stage: str) -> None:
        """Write the stage's clock down; called whenever work is safe on the disk.

        What a kill destroys is done again and counted once: the seconds are those of the work that lasted.
        """
        clock = self._clocks[stage]
        row = {"fingerprint": clock.fingerprint, "seconds": round(clock.seconds(), 3)}
        write_json_atomic(self.stage_folder(stage) / "started.json", row)

    def finish(
        self,
        stage: str,
        counts: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
    ) -> None:
        """Mark a begun stage finished.

        Args:
            stage: its name.
            counts: what it did (``tokens``, ``steps``, ...), for the manifest and the report.
            inputs: a hash for each thing that it read, by name.
            outputs: a hash for each thing that it made, by name.
        """
        clock = self._clocks[stage]
        row = {
            "fingerprint": clock.fingerprint,
            "seconds": round(clock.seconds(), 3),
            "counts": dict(counts),
            "inputs": dict(inputs or {}),
            "outputs": dict(outputs or {}),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json_atomic(self.stage_folder(stage) / "finished.json", row)

    def finished(self, stage: str) -> dict[str, Any] | None:
        """What `finish` wrote of a stage, or None; the caller compares its fingerprint with today's."""
        return read_json(self.stage_folder(stage) / "finished.json", *_MARKER)

    def write_manifest(self, device: str, precision: str) -> None:
        """Write ``manifest.json``: what the run ran with, and the marker of every finished stage."""
        stages = {
            stage.name: {"kind": stage.kind, **(self.finished(stage.name) or {})}
            for stage in self.recipe.stages
        }
        manifest = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "device": device,
            "precision": precision,
            **surroundings(),
            "stages": stages,
        }
        write_json_atomic(self.path / "manifest.json", manifest)

    def in_manifest(self, stage: str) -> bool:
        """Whether the manifest tells of the stage as last finished: a kill can come between the two files."""
        told = (read_json(self.path / "manifest.json") or {}).get("stages", {}).get(stage, {})
        return bool(told == {"kind": self.recipe.stage(stage).kind, **(self.finished(stage) or {})})

    def _renumber_stages(self) -> None:
        """A stage put in before others moves them on: their folders, and the work in them, move along."""
        for found in sorted((self.path / "stages").glob("[0-9][0-9]*-*")):
            name = found.name.partition("-")[2]
            known = any(stage.name == name for stage in self.recipe.stages)
            if known and not self.stage_folder(name).exists():
                found.rename(self.stage_folder(name))


#: What a stage's ``finished.json`` holds at least.
_MARKER = ("fingerprint", "seconds", "counts", "outputs", "finished_at")


class _Clock(NamedTuple):
    fingerprint: str
    earlier_seconds: float
    started: float

    def seconds(self) -> float:
        return self.earlier_seconds + time.monotonic() - self.started


def finished_stages(path: Path) -> dict[str, dict[str, Any]]:
    """The markers in a run folder by stage name, whatever number the stage's folder has; reads only."""
    files = (path / "stages").glob("[0-9][0-9]*-*/finished.json")
    return {file.parent.name.partition("-")[2]: read_json(file, *_MARKER) or {} for file in files}


def _take_lock(path: Path) -> int:
    """A lock that ends with this process: a POSIX one, as a forked worker that outlives us would keep a flock."""
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX leaves open which of the two says "taken"
        owner = os.read(handle, 32).decode(errors="replace") or "unknown"
        os.close(handle)
        reason = f"another process works in this run folder (pid {owner})"
        remedy = "wait for it, end it, or give another folder with --out"
        raise UserError("--out", str(path), reason, remedy) from None
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


def read_json(path: Path, *needed: str) -> dict[str, Any] | None:
    """The JSON object in a file, which must have the ``needed`` keys; None when there is no file.

    Raises:
        RunFailed: something else is in it. We write such files whole, so it was not us.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() >= set(needed):
        raise RunFailed(
            f"{path}: is not what was written there", "Remove it: what it told is then found out anew."
        )
    return found


# -------------------------------------------------------------------------------- metrics and progress


class MetricsLog:
    """``metrics.jsonl``: a row for each step of a stage. All have ``step``; a non-finite number becomes null."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is on the disk when this returns."""
        assert "step" in row, row
        append_rows(self.path, [{key: None if _not_finite(value) else value for key, value in row.items()}])

    def rewind(self, step: int) -> None:
        """Drop the rows after ``step``, and a torn last one: a resumed stage writes them again."""
        if not self.path.exists():
            return
        repair(self.path)
        kept = [json.dumps(row, ensure_ascii=False) for row in read_rows(self.path) if row["step"] <= step]
        write_text_atomic(self.path, "".join(line + "\n" for line in kept))

    @staticmethod
    def read(path: Path) -> list[Row]:
        """All rows; none when there is no file."""
        return list(read_rows(path)) if path.exists() else []


def _not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


class Progress:
    """How far a long stage is: a bar with ETA on a terminal, else a plain line at most every 10 s. On stderr.

    ``with Progress("zero: GRPO", total=150, unit="step") as progress: progress.advance(1, reward=0.71)``.
    The environment variable ``DISTILL_QUIET`` silences it.
    """

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, title: str, total: int, unit: str = "step") -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._skipped = 0
        self._values: dict[str, float] = {}
        self._started = self._told = time.monotonic()
        self._quiet = bool(os.environ.get("DISTILL_QUIET"))
        self._bar: tqdm[Any] | None = None
        if not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm  # 0.1 s that `distill --help` need not pay

            self._bar = tqdm(total=total, desc=title, unit=unit, file=sys.stderr, dynamic_ncols=True)

    def skip(self, amount: int) -> None:
        """Count work that an earlier attempt did: it says nothing of today's speed."""
        self.done += amount
        self._skipped += amount
        if self._bar is not None:
            self._bar.initial = self._bar.n = self.done
            self._bar.refresh()

    def advance(self, amount: int = 1, **values: float) -> None:
        """Count work done now; ``values`` are shown beside it until they are given anew."""
        self.done += amount
        self._values.update(values)
        if self._bar is not None:
            self._bar.set_postfix({key: f"{value:.3g}" for key, value in self._values.items()}, refresh=False)
            self._bar.update(amount)
        elif time.monotonic() - self._told >= self.SECONDS_BETWEEN_LINES and self.done < self.total:
            self._tell(f"{_duration(self._seconds_each() * (self.total - self.done))} left")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif exception is None and self.done > self._skipped:
            self._tell(f"took {_duration(time.monotonic() - self._started)}")

    def _seconds_each(self) -> float:
        return (time.monotonic() - self._started) / max(self.done - self._skipped, 1)

    def _tell(self, time_words: str) -> None:
        if self._quiet:
            return
        self._told = time.monotonic()
        count = f"{self.title} {self.done}/{self.total} {self.unit}s"
        values = [f"{key} {value:.3g}" for key, value in self._values.items()]
        print(
            ", ".join([count, f"{self._seconds_each():.2g} s each", time_words, *values]),
            file=sys.stderr,
            flush=True,
        )


def _duration(seconds: float) -> str:
    """``1:39``, or ``2:01:39`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
