"""Rows on disk: JSONL files that only grow while a stage runs, and the files that it leaves behind.

A growing file survives a kill at any byte. An append is one write, flushed to the disk; a torn last line is cut
off by `repair` when the stage starts again; a broken line anywhere else is never skipped: it ends the
run, with its place.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from distill.errors import RunFailed
from distill.records import Trace

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Row = dict[str, Any]

#: Rows held in memory while a Parquet file is written or read: 1000 traces of 32k tokens are about 100 MB.
ROWS_PER_GROUP = 1000


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well, and vanishes if not.

    A reader, or a restart after a kill, finds the old file or the whole new one. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # one name only, so that kills cannot pile up litter
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -------------------------------------------------------------------------------- JSONL shards


def append_rows(path: Path, rows: Iterable[BaseModel | Row]) -> None:
    """Add rows to a shard in one write that is on the disk when this returns. Missing folders are made.

    Raises:
        ValueError: a number is not finite; JSON has no word for it.
        OSError: the disk is full, ...; what was written of these rows is for `repair` to find.
    """
    lines = b"".join(_line(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def write_rows(path: Path, rows: Iterable[BaseModel | Row]) -> None:
    """Write a finished file of rows, whole or not at all; they are read one at a time."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(map(_line, rows))


def _line(row: BaseModel | Row) -> bytes:
    plain = row.model_dump(mode="json") if isinstance(row, BaseModel) else row
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate is text that UTF-8 cannot carry, but an escape can
        return json.dumps(plain, allow_nan=False).encode() + b"\n"


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a shard, one after the other.

    Raises:
        RunFailed: a line is no JSON object, with its file and number.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if (row := _parse(line)) is None:
                raise RunFailed(f"{path}, line {number}: no JSON object: {line[:80]!r}")
            yield row


def repair(path: Path) -> int:
    """Cut off the line that a killed writer left unfinished, and say how many bytes that were.

    Unfinished is a last line without newline, or one that is no JSON object. A missing file is left missing.
    """
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        return 0
    with path.open("rb+") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            last = data.rfind(b"\n", 0, size - 1) + 1
            keep = last if _parse(data[last:]) is None else size
        _cut(file.fileno(), size, keep)
    return size - keep


def _cut(handle: int, size: int, keep: int) -> None:
    if keep < size:
        os.ftruncate(handle, keep)
        os.fsync(handle)


def _parse(line: bytes) -> Row | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:  # JSONDecodeError and UnicodeDecodeError are both of this kind
        return None
    return row if isinstance(row, dict) else None


# -------------------------------------------------------------------------------- Parquet

_NUMBERS = {
    "tokens": "int64",
    "policy_version": "int64",
    "seed": "int64",
    "sample_index": "int64",
    "kept": "bool",
}
_JSON_TEXT = (
    "tests",
    "sampling",
    "measures",
)  # maps whose keys differ between rows: as text the schema is the same


def write_parquet(path: Path, traces: Iterable[Trace]) -> int:
    """Write traces as one Parquet file, whole or not at all, and return how many.

    Maps become JSON text; a ``reference`` does so only when it is ``{"any": [...]}`` or ``{"all": [...]}``.
    Memory holds `ROWS_PER_GROUP` rows at a time.
    """
    import pyarrow.parquet as pq  # 0.1 s that `distill --help` need not pay

    waiting, written = iter(traces), 0
    schema = _schema()
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while group := list(islice(waiting, ROWS_PER_GROUP)):
            columns = [_to_columns(trace) for trace in group]
            writer.write_table(_table(columns, schema))
            written += len(group)
    return written


def open_parquet(path: Path) -> pq.ParquetFile:
    """A Parquet file to be read a batch at a time.

    Without pyarrow's buffering ahead, which keeps all that was read until the file is closed: 2.7 KB a trace.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, pre_buffer=False)


def read_parquet(path: Path) -> Iterator[Trace]:
    """The traces of a file that `write_parquet` wrote, in their order.

    Raises:
        RunFailed: the file is no Parquet file, or holds other columns.
    """
    import pyarrow as pa

    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
                yield from (_from_columns(row) for row in batch.to_pylist())
    except (pa.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's, not pyarrow's of a page that is spoilt
            raise
        raise RunFailed(f"{path}: no Parquet file of traces: {error}") from error


def _schema() -> pa.Schema:
    import pyarrow as pa

    types = [(name, pa.type_for_alias(_NUMBERS.get(name, "string"))) for name in Trace.model_fields]
    return pa.schema(types)


def _table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=schema)


def _to_columns(trace: Trace) -> Row:
    row = trace.model_dump(mode="json")
    for name, value in row.items():
        if isinstance(value, dict):
            row[name] = _line(value)[:-1].decode()
    return row


def _from_columns(row: Row) -> Trace:
    for name in _JSON_TEXT:
        if row.get(name) is not None:
            row[name] = json.loads(row[name])
    row["reference"] = _read_reference(row.get("reference"))
    return Trace.model_validate(row)


def _read_reference(text: str | None) -> str | dict[str, list[str]] | None:
    if text is None or not text.startswith(('{"any": [', '{"all": [')):
        return text
    try:
        return dict(json.loads(text))
    except ValueError:
        return text
