"""Generation that can be killed: every finished completion becomes a row of a shard, and only what it lacks is made.

A shard is a file of JSON lines that only grows. Each line ends with ``left``, the rows of its write that follow it, and
``crc32``, the checksum of the line before that. A write that was torn (a kill, a full disk) is cut off on restart, back
to the last row that no other belongs to; a line that is wrong anywhere else ends the run with its place.

Where a completion's rounding depends on who shares the batch (``Engine.together``), whole groups are written and done
again, cut from the missing requests in their order: so the rows do not depend on when, or how often, the work was
interrupted. Elsewhere each row stands alone and is written within a second of its end.

In memory are 8 bytes a row: where it starts. The rows themselves stay on the disk.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from distill.errors import RunFailed
from distill.generate.engine import Engine, Request, Runaway, in_order
from distill.recipe_parts import Sampling
from distill.records import Completion, FinishReason
from distill.runs import Progress

Row = dict[str, Any]
MakeRows = Callable[[list[Completion]], list[Row]]

#: Completions that stand alone are written after so many, or as many seconds after the first of them ended.
ROWS_AT_ONCE, SECONDS_BETWEEN_WRITES = 64, 1.0
_NOTHING = -1


class Shard:
    """The rows made so far, each known by its problem and its sample's number."""

    def __init__(
        self,
        path: Path,
        problem_ids: Iterable[str],
        note: Callable[[Row], None] | None = None,
        problem_key: str = "problem_id",
    ) -> None:
        """Read and, if its last write was torn, repair a shard; a missing one is begun.

        Args:
            path: of the file.
            problem_ids: of all problems that rows may be of, in the order in which `rows` gives them.
            note: told every row, those found and those added later.
            problem_key: the field of a row that names its problem; its sample's number is ``sample_index``.

        Raises:
            RunFailed: a line is broken that no torn write explains, or a row is of other work.
        """
        self.path, self._note, self._key = path, note, problem_key
        self._starts: dict[str, array[int]] = {problem_id: array("q") for problem_id in problem_ids}
        self.held = self._size = 0
        if path.exists():
            self._read()

    def holds(self, problem_id: str, sample_index: int) -> bool:
        """Whether a sample's row is there."""
        starts = self._starts[problem_id]
        return sample_index < len(starts) and starts[sample_index] != _NOTHING

    def rows(self) -> Iterator[Row]:
        """All rows, problem by problem in the order given, each problem's by sample number.

        Raises:
            RunFailed: a line has changed on the disk.
        """
        return self.some((problem_id, range(len(starts))) for problem_id, starts in self._starts.items())

    def some(self, wanted: Iterable[tuple[str, Iterable[int]]]) -> Iterator[Row]:
        """The rows of these samples of these problems, in this order; what is not there is passed over.

        Raises:
            RunFailed: a line has changed on the disk.
        """
        if not self.held:
            return
        with self.path.open("rb") as file:
            for problem_id, numbers in wanted:
                for number in numbers:
                    if not self.holds(problem_id, number):
                        continue
                    file.seek(start := self._starts[problem_id][number])
                    found = _parse(file.readline())
                    if found is None:
                        raise RunFailed(f"{self.path}, byte {start}: the row there has changed")
                    yield found[0]

    def append(self, rows: Sequence[Row], *, together: bool = False) -> None:
        """Add rows in one write that is on the disk when this returns; ``together``: all of them count, or none.

        Raises:
            ValueError: a number is not finite; JSON has no word for it.
            OSError: the disk is full, ...; what was written of these rows is cut off when the shard is next read.
        """
        keys = {(row[self._key], row["sample_index"]) for row in rows}
        assert len(keys) == len(rows) and not any(self.holds(*key) for key in keys), "a sample came twice"
        lines = [_line(row, together * (len(rows) - number)) for number, row in enumerate(rows, start=1)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        for row, line in zip(rows, lines, strict=True):
            self._keep(row, self._size)
            self._size += len(line)

    def remove(self) -> None:
        """Delete the file, once its rows have found another home."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        """Find every whole write, and cut off what a torn one left behind them."""
        waiting: list[tuple[Row, int]] = []
        at = broken = expected = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if broken:
                    raise RunFailed(
                        f"{self.path}, line {broken}: its checksum is wrong, though more follows it"
                    )
                found = _parse(line)
                if found is None:
                    broken = number
                    continue
                if waiting and found[1] != expected:
                    raise RunFailed(f"{self.path}, line {number}: rows are missing before it")
                waiting.append((found[0], at))
                at, expected = at + len(line), found[1] - 1
                if found[1] == 0:
                    for row, start in waiting:
                        self._keep(row, start)
                    waiting, self._size = [], at
        torn = self.path.stat().st_size - self._size
        if torn:
            print(f"{self.path}: the last {torn} bytes are of an unfinished write, cut off", file=sys.stderr)
            os.truncate(self.path, self._size)

    def _keep(self, row: Row, start: int) -> None:
        problem_id, index = row[self._key], row["sample_index"]
        starts = self._starts.get(problem_id)
        if starts is None or self.holds(problem_id, index):
            reason = "is there twice" if starts is not None else "is of no problem of this work"
            raise RunFailed(
                f"{self.path}: the row of {problem_id}, sample {index}, {reason}; remove the file"
            )
        starts.extend([_NOTHING] * (index + 1 - len(starts)))
        starts[index] = start
        self.held += 1
        if self._note is not None:
            self._note(row)


def _line(row: Row, left: int) -> bytes:
    assert not {"left", "crc32"} & row.keys(), f"fields of the shard's own: {sorted(row)}"
    plain = {**row, "left": left}
    try:
        body = json.dumps(plain, ensure_ascii=False, allow_nan=False)[:-1].encode()
    except UnicodeEncodeError:  # a lone surrogate is text that UTF-8 cannot carry, but an escape can
        body = json.dumps(plain, allow_nan=False)[:-1].encode()
    return b'%b, "crc32": %d}\n' % (body, zlib.crc32(body))


def _parse(line: bytes) -> tuple[Row, int] | None:
    """A line's row, and how many of its write follow; None: it is not as it was written."""
    body, mark, checksum = line.rpartition(b', "crc32": ')
    if not mark or checksum != b"%d}\n" % zlib.crc32(body):
        return None
    row: Row = json.loads(body + b"}")
    return row, row.pop("left")


# ---------------------------------------------------------------------------------------- filling a shard


def fill(
    shard: Shard,
    requests: Sequence[Request],
    engine: Engine,
    sampling: Sampling,
    make_rows: MakeRows,
    progress: Progress,
    runaway: Runaway | None = None,
) -> None:
    """Complete every request that the shard does not hold yet; may be called again with the requests of another round.

    Args:
        shard: takes the rows.
        requests: read one at a time, so they may be made as they are read.
        engine: what completes them.
        sampling: how.
        make_rows: exactly one row for each completion, in their order, with its problem's id and sample number.
        progress: counts requests.
        runaway: the engine's.

    Raises:
        RunFailed: the engine is lost; what it had completed is kept.
        OSError: the disk is full, ...
    """
    missing = array("q")
    for number, request in enumerate(requests):
        if not shard.holds(request.problem_id, request.sample_index):
            missing.append(number)
    progress.skip(len(requests) - len(missing))
    wanted, before = _Chosen(requests, missing), shard.held
    failures: list[str] = []

    def write(completions: list[Completion]) -> list[Row]:
        failures.extend(one.error for one in completions if one.finish_reason is FinishReason.ERROR)
        rows = make_rows(completions)
        assert len(rows) == len(completions), f"{len(rows)} rows of {len(completions)} completions"
        return rows

    def counted(completions: Iterator[Completion]) -> Iterator[Completion]:
        for completion in completions:
            progress.advance()
            yield completion

    if engine.together is None:
        for batch in _batches(_ahead(engine.generate(wanted, sampling, runaway))) if missing else ():
            shard.append(write(batch))
            progress.advance(len(batch))
    else:
        for start in range(0, len(missing), engine.together):
            group = list(wanted[start : start + engine.together])
            completions = counted(engine.generate(group, sampling, runaway))
            shard.append(write(in_order(group, completions)), together=True)
    if failures:
        told = f"{len(failures)} requests could not be completed, and count as errors of the engine"
        print(f"{shard.path}: {told}; the first: {failures[0] or 'no reason given'}", file=sys.stderr)
    made = shard.held - before
    assert made == len(missing), f"{engine.name}: {made} completions of {len(missing)} requests"


class _Chosen(Sequence[Request]):
    """Some of the requests; none is held."""

    def __init__(self, requests: Sequence[Request], numbers: array[int]) -> None:
        self._requests, self._numbers = requests, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> Request: ...
    @overload
    def __getitem__(self, place: slice) -> _Chosen: ...
    def __getitem__(self, place: int | slice) -> Request | _Chosen:
        if isinstance(place, slice):
            return _Chosen(self._requests, self._numbers[place])
        return self._requests[self._numbers[place]]


_END = object()


def _ahead(completions: Iterator[Completion]) -> Iterator[Completion | None]:
    """The completions as a thread pulls them, so that an engine works on while rows are made; None: none for a while.

    What the engine raises is raised here, behind all that it completed before.
    """
    pulled: queue.Queue[Any] = queue.Queue(maxsize=4 * ROWS_AT_ONCE)
    stopped = threading.Event()

    def hand_over(thing: Any) -> None:
        while not stopped.is_set():
            try:
                return pulled.put(thing, timeout=0.1)
            except queue.Full:
                continue

    def pull() -> None:
        try:
            for completion in completions:
                hand_over(completion)
                if stopped.is_set():
                    break
            hand_over(_END)
        except BaseException as error:
            hand_over(error)

    threading.Thread(target=pull, name="engine", daemon=True).start()
    try:
        while True:
            try:
                thing = pulled.get(timeout=SECONDS_BETWEEN_WRITES / 4)
            except queue.Empty:
                yield None
                continue
            if thing is _END:
                return
            if isinstance(thing, BaseException):
                raise thing
            yield thing
    finally:
        stopped.set()


def _batches(completions: Iterator[Completion | None]) -> Iterator[list[Completion]]:
    """Completions gathered until they are many, or have waited long enough, or what made them ends or fails."""
    batch: list[Completion] = []
    since = time.monotonic()
    try:
        for completion in completions:
            if completion is not None:
                if not batch:
                    since = time.monotonic()
                batch.append(completion)
            waited = time.monotonic() - since
            if batch and (len(batch) >= ROWS_AT_ONCE or waited >= SECONDS_BETWEEN_WRITES):
                yield batch
                batch = []
    except Exception:
        if batch:  # whole completions, whatever became of their engine
            yield batch
        raise
    if batch:
        yield batch
