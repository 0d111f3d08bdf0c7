"""Bring traces in that somebody else's teacher wrote: read, verify, filter, and write a set like a harvested one."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from distill.card import hub_name
from distill.chat import tags_in
from distill.errors import UserError
from distill.places import check_place, new_folder
from distill.problems import check_names
from distill.recipe_parts import Filters, Taken, TraceSource
from distill.records import Kind, Problem, Trace
from distill.runs import Progress
from distill.trace_rows import KNOWN_KINDS, with_known_map
from distill.traces import FIELDS, read_foreign
from distill.verify import Response, check_many
from teacher.contamination import Suites
from teacher.measures import measure
from teacher.trace_set import TRACES, write_trace_set

_VERIFIED_AT_ONCE = 256  # enough programs to keep every core busy


def import_traces(
    source: TraceSource,
    out: Path,
    *,
    kind: Kind | None = None,
    filters: Filters,
    limit: int | None = None,
    suites: Suites | None = None,
) -> dict[str, Any]:
    """Read a JSONL or Parquet file, a folder or a hub data set, verify and filter each row, and write the trace set.

    All rows are read twice, so that a bad one is told before hours of verifying, and none is ever held with the rest.
    The format filter takes the thought tags of any known family; a text without tags fails it. Texts stay as they are,
    but for what the source rewrites. Rows that `traces export` wrote keep their ids.

    Args:
        source: with a path; see `problems.read_rows`, `trace_rows` and `distill.traces`.
        out: the folder to write.
        kind: of rows that name none (None: math, or what a known data set is).
        limit: only the first so many responses.
        suites: the passages of the suites that ``filters.decontaminate`` names.

    Returns:
        The funnel, which may have kept nothing.

    Raises:
        UserError: ``out`` holds traces already, the source cannot be read or is empty, a row lacks what verifying it
            needs, or tokens are to be limited that the source does not count. Nothing has been written then.
    """
    path = source.path
    assert path is not None
    if os.path.exists(out / TRACES):
        raise UserError("--out", str(out), "holds traces already", "give another folder, or remove it")
    check_place(out)
    if out.is_dir() and any(out.iterdir()):  # its README.md would be overwritten
        raise UserError("--out", str(out), "holds other things", "give a new or empty folder")
    if limit is not None and limit < 1:
        raise UserError("--limit", limit, "reads no row", "give at least 1")
    check_names("--map", source.fields, FIELDS)
    source, name = with_known_map(source), Path(path).stem
    own_kind = kind or KNOWN_KINDS.get(Path(path).name, "math")
    left_out: Counter[str] = Counter()

    def read() -> Iterator[Trace]:
        left_out.clear()
        found = read_foreign(path, name, source, kind=own_kind, to_verify=True, left_out=left_out)
        return islice(found, limit)

    rows = tokens = 0
    for trace in read():
        rows, tokens = rows + 1, tokens + trace.tokens
    if not rows:
        raise UserError(path, None, "holds no rows", "give a file with one response a line")
    if filters.tokens is not None and not tokens:
        reason, remedy = "the rows do not count their tokens", "map the column: --map tokens=COLUMN"
        raise UserError("filters.tokens", str(filters.tokens), reason, remedy)
    for reason, count in left_out.items():
        print(f"{path}: left out {count:,} responses: {reason}", file=sys.stderr)
    facts = {"imported from": hub_name(path) or Path(path).name, **_mapping(source), "rows": f"{rows:,}"}
    if left_out:
        told = "; ".join(f"{reason}: {count:,}" for reason, count in left_out.items())
        facts["left out before"] = told
    with new_folder(out), Progress(f"import {name}", total=rows, unit="trace") as progress:
        return write_trace_set(out, _verified(read(), progress), filters, None, facts, suites=suites)


def _mapping(source: TraceSource) -> dict[str, str]:
    """How rows were read, for the card."""
    mapped = ", ".join(f"{ours}={_spelled(theirs)}" for ours, theirs in source.fields.items())
    told = {"fields": mapped or "as they are"}
    if source.each:
        told["a response for each of"] = ", ".join(source.each)
    if source.where:
        told["where"] = ", ".join(f"{column} = {value}" for column, value in source.where.items())
    if source.rewrite:
        told["rewritten"] = ", ".join(f"{theirs!r} to {ours!r}" for theirs, ours in source.rewrite.items())
    return told


def _spelled(theirs: str | Taken) -> str:
    return f"{theirs.extract} of {theirs.from_}" if isinstance(theirs, Taken) else theirs


def _verified(traces: Iterator[Trace], progress: Progress) -> Iterator[Trace]:
    while chunk := list(islice(traces, _VERIFIED_AT_ONCE)):
        judgements = check_many(
            [Response(problem_of(trace), trace.completion, trace.finish_reason) for trace in chunk]
        )
        for trace, judgement in zip(chunk, judgements, strict=True):
            found = {"verdict": judgement.verdict, "extracted": judgement.extracted}
            measures = measure(trace.completion, tags_in(trace.completion))
            yield trace.model_copy(update=found | {"measures": measures})
        progress.advance(len(chunk))


def problem_of(trace: Trace) -> Problem:
    """The problem that a trace's columns tell of."""
    return Problem(
        id=trace.problem_id,
        kind=trace.kind,
        problem=trace.problem,
        reference=trace.reference,
        tests=trace.tests,
        source=trace.source,
    )
