"""A finished trace set as a folder for others: files in messages form, a data-set card, samples to look at.

    data/train-00000-of-00003-DIGEST.parquet ...   the traces (see `distill.messages`)
    README.md                               the card, with the header that `datasets` and the hub read
    samples.html                            what was kept and what each filter rejected, to look at
    funnel.json, contamination.jsonl        as in the set

The set is read once, a batch at a time: memory does not grow with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from distill.errors import RunFailed, UserError
from distill.messages import message_row, schema
from distill.runs import Progress, write_text_atomic
from distill.shards import open_parquet
from teacher.samples import KEPT, Samples, samples_page
from teacher.set_card import Exported, origin_of, set_card
from teacher.trace_set import CARD, FUNNEL, LEDGER, TRACES, read_funnel

Form = Literal["parquet", "jsonl"]
Row = dict[str, Any]

SAMPLES = "samples.html"
DATA = "data"
_ROWS = 500  # held at a time: 500 traces of 32k tokens are 50 MB
_SPLIT = "train"


class Settings(NamedTuple):
    """What of a set is written, and how.

    Attributes:
        all: rejected traces too.
        file_mb: a file ends once it holds so many megabytes of text.
        samples: how many traces the page shows.
        licence: the hub's word for the licence of the whole; None: what is known of what it was made from.
    """

    form: Form = "parquet"
    all: bool = False
    file_mb: float = 500.0
    samples: int = 120
    licence: str | None = None


def is_export(folder: Path) -> bool:
    """Whether a folder holds what `write_export` wrote."""
    return all((folder / name).exists() for name in (CARD, SAMPLES, DATA, FUNNEL))


def check_set(folder: Path, settings: Settings) -> int:
    """How many traces of a set would be written.

    Raises:
        UserError: the folder holds no finished set, or nothing of it is to be written.
    """
    missing = [name for name in (TRACES, FUNNEL) if not (folder / name).is_file()]
    if missing:
        reason = f"holds no {missing[0]}"
        raise UserError(
            "DIR", str(folder), reason, "give a trace set that a run, an import or a merge finished"
        )
    kept = read_funnel(folder)["kept"]["traces"]
    with open_parquet(folder / TRACES) as file:
        traces = int(file.metadata.num_rows) if settings.all else kept
    if not traces:
        raise UserError("DIR", str(folder), "no trace in it is kept", "give --all, or filter it anew")
    return traces


def write_export(folder: Path, to: Path, name: str, settings: Settings) -> dict[str, Any]:
    """Write a set to ``to``, an empty folder, as ``name``.

    Returns:
        ``traces``, ``files``, ``licence`` and the ``bytes`` of the files.

    Raises:
        RunFailed: the set's file is not what its funnel says.
    """
    traces, funnel = check_set(folder, settings), read_funnel(folder)
    origin = origin_of(folder, funnel, settings.licence)
    samples = Samples(settings.samples)
    out = _Files(to / DATA, settings)
    with Progress(f"export {folder.name}", total=traces, unit="trace") as progress:
        for rows in _batches(folder / TRACES):
            for row in rows:
                samples.see(row["id"], KEPT if row["kept"] else row["reason"], row)
            wanted = [
                message_row(
                    row | {"teacher": origin.teachers.get(row["teacher"], row["teacher"])}, origin.licence
                )
                for row in rows
                if row["kept"] or settings.all
            ]
            out.write(wanted)
            progress.advance(len(wanted))
    written = out.close()
    if out.traces != traces:
        raise RunFailed(f"{folder / TRACES} holds {out.traces} such traces, its funnel says {traces}")
    for extra in (FUNNEL, LEDGER):
        if (folder / extra).exists():
            shutil.copy(folder / extra, to / extra)
    write_text_atomic(to / SAMPLES, samples_page(name, samples))
    exported = Exported(traces, f"{DATA}/{_SPLIT}-*-{out.digest}.{settings.form}", settings.all)
    write_text_atomic(to / CARD, set_card(name, folder, funnel, origin, exported))
    size = sum(file.stat().st_size for file in written)
    return {"traces": traces, "files": len(written), "bytes": size, "licence": origin.licence}


def _batches(path: Path) -> Iterator[list[Row]]:
    import pyarrow as pa

    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS):
                yield batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise RunFailed(f"{path}: cannot be read: {error}") from error


class _Files:
    """The files of the split; one ends when it holds enough text, and the last one tells the others their number."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        folder.mkdir()
        self.traces, self.digest = 0, ""
        self._folder, self._settings, self._bytes = folder, settings, 0
        self._paths: list[Path] = []
        self._writer: Any = None

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows to the file that is open."""
        if not rows:
            return
        if self._writer is None:
            self._paths.append(self._folder / f"{_SPLIT}-{len(self._paths):05}.{self._settings.form}")
            self._writer, self._bytes = _open(self._paths[-1], self._settings.form), 0
        self._writer.write_rows(rows)
        self.traces += len(rows)
        self._bytes += sum(len(turn["content"]) for row in rows for turn in row["messages"])
        if self._bytes >= self._settings.file_mb * 1e6:
            self._end()

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> list[Path]:
        """End the last file and give all of them their final names.

        They hold a digest of all files: the cache of `datasets` goes by what the card says, not by what the files
        hold, so that a set under an earlier one's name would be read as that one.
        """
        self._end()
        whole = hashlib.sha256()
        for path in self._paths:
            with path.open("rb") as file:
                os.fsync(file.fileno())
                whole.update(hashlib.file_digest(file, "sha256").digest())
        self.digest = whole.hexdigest()[:8]
        of, final = len(self._paths), []
        for number, path in enumerate(self._paths):
            name = f"{_SPLIT}-{number:05}-of-{of:05}-{self.digest}.{self._settings.form}"
            final.append(path.rename(self._folder / name))
        return final


class _Parquet:
    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._schema = schema()
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write_rows(self, rows: Sequence[Row]) -> None:
        import pyarrow as pa

        self._file.write_table(pa.Table.from_pylist(list(rows), schema=self._schema))

    def close(self) -> None:
        self._file.close()


class _Jsonl:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write_rows(self, rows: Sequence[Row]) -> None:
        self._file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)

    def close(self) -> None:
        self._file.close()


def _open(path: Path, form: Form) -> _Parquet | _Jsonl:
    return _Parquet(path) if form == "parquet" else _Jsonl(path)
