"""The files of `distill grade`: rows from a file or a stream, verdicts to one, and an interrupted run that goes on.

While a file of verdicts is unfinished, a marker beside it (``FILE.unfinished``) says what is being graded. The same
command then keeps the rows that are there and goes on behind them; any other is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.errors import UserError

_NO_TEXT = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "compressed",
    b"PK\x03\x04": "a zip file",
    b"\x28\xb5\x2f\xfd": "compressed",
}
_LIST_BYTES = 64 << 20  # a larger file that begins as a JSON list is not looked through


class Rows:
    """The lines of a JSONL file or stream, blank ones left out. ``count`` and ``digest`` are None for a stream.

    Raises:
        UserError: there is no such file, or what it holds is surely no JSONL.
    """

    def __init__(self, path: str) -> None:
        self.count: int | None = None
        self.digest: str | None = None
        if path == "-":
            self._file = sys.stdin.buffer
            return
        if not Path(path).exists() or Path(path).is_dir():
            reason = "is a folder" if Path(path).is_dir() else "there is no such file"
            raise UserError(
                "FILE", path, reason, "give a JSONL file with one response a line, or - for standard input"
            )
        self._file = open(path, "rb")  # noqa: SIM115
        if Path(path).is_file():
            self._look_through(path)

    def _look_through(self, path: str) -> None:
        head = self._file.peek(64)[:64].lstrip(b"\xef\xbb\xbf \r\n\t")
        for magic, what in _NO_TEXT.items():
            if head.startswith(magic):
                raise UserError(
                    "FILE", path, f"is {what}, no JSONL", "give one JSON object a line, uncompressed"
                )
        if (
            head.startswith(b"[")
            and os.path.getsize(path) < _LIST_BYTES
            and _is_list_of_rows(Path(path).read_bytes())
        ):
            raise UserError(
                "FILE", path, "is one JSON list, no JSONL", f"write its items one a line: jq -c '.[]' {path}"
            )
        digest, self.count = hashlib.sha256(), 0
        for line in self._file:
            digest.update(line)
            self.count += bool(line.strip())
        self.digest = digest.hexdigest()
        self._file.seek(0)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Lines with their numbers, from 1."""
        for number, line in enumerate(self._file, 1):
            if line.strip():
                yield number, line


def _is_list_of_rows(data: bytes) -> bool:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, list) and bool(found) and all(isinstance(item, dict) for item in found)


class Verdicts:
    """Where verdicts go. ``done`` rows of them are there already; ``goes_on``: whether the same command would go on.

    Args:
        path: a file, a device or pipe; None is standard output.
        identity: of what is graded and how; None where that cannot be known again (a stream).

    Raises:
        UserError: there is something else at that place; nothing has been written.
    """

    def __init__(self, path: str | None, identity: str | None) -> None:
        self.done, self.goes_on = 0, False
        self._marker: Path | None = None
        if path is None:
            self._fd = sys.stdout.fileno()
            return
        place = Path(path)
        if place.is_dir() or not place.resolve().parent.is_dir():
            raise UserError("--out", path, "is no place for a file", "name a file in a folder that exists")
        if place.exists() and not place.is_file():
            self._fd = os.open(place, os.O_WRONLY)
            return
        self._marker = place.with_name(place.name + ".unfinished")
        unfinished = self._marker.read_text() if self._marker.exists() else None
        self.goes_on = identity is not None
        if unfinished is not None and place.exists():
            if unfinished != identity:
                raise UserError(
                    "--out",
                    path,
                    "holds part of the verdicts of another command",
                    f"remove it and {self._marker}, or name another",
                )
            self._fd = os.open(place, os.O_RDWR)
            self._keep_whole_lines()
            return
        if place.exists() and place.stat().st_size and not _holds_verdicts(place):
            raise UserError("--out", path, "exists and holds no verdicts", "remove it, or name another")
        self._marker.write_text(identity or "a stream")
        self._fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def _keep_whole_lines(self) -> None:
        end = 0
        with open(os.dup(self._fd), "rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    self.done, end = self.done + 1, end + len(line)
        os.ftruncate(self._fd, end)
        os.lseek(self._fd, end, os.SEEK_SET)

    def write(self, row: dict[str, Any]) -> None:
        """Write all of a row, or at a full disk take back the part; Ctrl-C waits for the end of the line."""
        data = _as_json(row).encode() + b"\n"
        begun = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            if written and stat.S_ISREG(os.fstat(self._fd).st_mode):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, begun)

    def finish(self) -> None:
        """Every row is there."""
        if self._marker is not None:
            self._marker.unlink(missing_ok=True)


def _as_json(row: dict[str, Any]) -> str:
    """A row as JSON; a number that JSON cannot hold (an id of 1e999) goes as its text."""
    try:
        return json.dumps(row, allow_nan=False)
    except ValueError:
        return json.dumps({name: value if _is_json(value) else str(value) for name, value in row.items()})


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _holds_verdicts(place: Path) -> bool:
    with place.open("rb") as file:
        try:
            first = json.loads(file.readline(1 << 20))
        except (ValueError, RecursionError):
            return False
    return isinstance(first, dict) and {"id", "verdict"} <= first.keys()
