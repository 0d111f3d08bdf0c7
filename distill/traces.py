"""Where a student's traces come from: the built-in world, a set that this toolkit wrote, or anybody's table of answers.

Another's table has a column for the problem and one for the response, or one for the conversation; the recipe's
``fields`` maps ours to them: problem, response, reference, tests, choices, kind (default math), finish_reason, tokens,
teacher. How a row becomes several, or none, stands in `trace_rows`. Rows with the same problem text are samples of one
problem. A set that was exported comes back as it was.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from distill.errors import RunFailed, UserError
from distill.messages import is_message_row, trace_of
from distill.problems import JSONL, Row, RowReader, check_names, read_rows
from distill.problems import OURS as PROBLEM_FIELDS
from distill.recipe_parts import TraceSource
from distill.records import FinishReason, Kind, Trace, row_id
from distill.shards import read_parquet
from distill.trace_rows import one_response_each, rewritten, with_known_map
from distill.world import make_traces

#: A row with both of these columns was written by this toolkit.
OURS = frozenset({"completion", "kept"})
#: What another's table may be asked for, besides tags.
FIELDS = (*PROBLEM_FIELDS, "response", "kind", "finish_reason", "tokens", "teacher")


def load_traces(name: str, source: TraceSource, seed: int) -> list[Trace]:
    """The traces of a source to learn from, in its order. Rejected ones are left out, and counted on stderr.

    Nothing is verified here: see `teacher.importing` for that.

    Args:
        name: the source's name in the recipe.
        seed: decides the traces of the built-in world; nothing else here is random.

    Raises:
        UserError: the source cannot be read, a row of it is without problem or response, or nothing is left.
    """
    key = f"traces.{name}"
    check_names(f"{key}.fields", source.fields, FIELDS)
    if source.world is not None:
        return make_traces(source.world, seed)
    source = with_known_map(source)
    assert source.path is not None, f"{key} has neither path nor world: the recipe's check lets none through"
    own = Path(source.path).expanduser() / "traces.parquet"
    if own.exists() and not source.fields:
        return _kept(f"{key}.path", source.path, _read_ours(own))
    first = next(read_rows(source.path, source.split, f"{key}.path"), {})
    if first.keys() >= OURS and "messages" not in first and not source.fields:
        return _kept(f"{key}.path", source.path, _read_own_rows(f"{key}.path", source))
    left_out: Counter[str] = Counter()
    found = _kept(f"{key}.path", source.path, read_foreign(key, name, source, left_out=left_out))
    for reason, count in left_out.items():
        print(f"{source.path}: left out {count:,} responses: {reason}", file=sys.stderr)
    return found


def read_made_traces(folder: Path) -> list[Trace]:
    """The kept traces of a set that a stage (or an import) made, in their order.

    Raises:
        UserError: there is no such set, it cannot be read, or it holds no kept trace.
    """
    file = folder / "traces.parquet"
    if not file.exists():
        raise UserError(str(folder), None, "holds no traces.parquet", "make the traces first")
    return _kept("traces", str(folder), _read_ours(file))


def read_foreign(
    key: str,
    source_name: str,
    source: TraceSource,
    *,
    kind: Kind = "math",
    to_verify: bool = False,
    left_out: Counter[str] | None = None,
) -> Iterator[Trace]:
    """Another's rows as traces, unverified and unmeasured, one by one; rows that we exported are what they were.

    Args:
        key: where the source is described, for error messages.
        source_name: rows' problems are called ``source_name:HASH``.
        kind: of rows that name none.
        to_verify: each row must bring what decides its answer.
        left_out: counts the responses that the source's map leaves out, by reason.

    Raises:
        UserError: a row is without problem, response or (``to_verify``) reference or tests, or one of them cannot be
            used. Names the row, counted from 1.
    """
    assert source.path is not None
    samples: Counter[str] = Counter()
    rows = read_rows(source.path, source.split, f"{key}.path")
    counted = Counter() if left_out is None else left_out
    for number, row, fields in one_response_each(key, rows, source, counted):
        reader = RowReader(key, number, row, fields)
        if is_message_row(row):
            yield _exported(reader)
            continue
        row_kind = reader.value("kind") or kind
        if row_kind not in get_args(Kind):
            reader.refuse("kind", row_kind, "is no kind of problem", f"known: {', '.join(get_args(Kind))}")
        # Read as `open`, a problem may lack its reference; only a choice's text cannot do without its other columns.
        problem = reader.problem(source_name, row_kind if to_verify or row_kind == "choice" else "open")
        # A row's own id would be the sample's, not the problem's.
        told = {"id": row_id(source_name, problem.problem), "kind": row_kind}
        problem = problem.model_copy(update=told)
        samples[problem.id] += 1
        yield Trace.of(
            problem,
            samples[problem.id] - 1,
            completion=_response(reader, source.rewrite),
            tokens=_tokens(reader),
            finish_reason=_finish_reason(reader),
            teacher=str(reader.value("teacher") or source_name),
        )


def _exported(reader: RowReader) -> Trace:
    try:
        return trace_of(reader.row)
    except (ValueError, TypeError) as error:  # of pydantic and json too
        words = str(error).splitlines()
        reason = f"is no trace that was exported: {'; '.join(words[1:3] or words)}"
        reader.refuse("messages", None, reason, "export it again, or map its columns")


def _response(reader: RowReader, rewrite: dict[str, str]) -> str:
    text = reader.text("response", reader.value("response"))
    return reader.text("response", rewritten(text, rewrite)) if rewrite else text


def _tokens(reader: RowReader) -> int:
    """The row's token count; 0 where the source has none."""
    value = reader.value("tokens")
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        reader.refuse(
            "tokens", value, "is no count of tokens", "map the column of completion tokens, or none"
        )
    return int(value)


def _finish_reason(reader: RowReader) -> FinishReason | None:
    value = reader.value("finish_reason")
    if value is None:
        return None
    if value not in set(FinishReason):
        known = ", ".join(FinishReason)
        reader.refuse("finish_reason", value, "is unknown", f"write one of {known}, or leave it out")
    return FinishReason(value)


# ------------------------------------------------------------------------------------ our own sets


def _read_ours(file: Path) -> Iterator[Trace]:
    try:
        yield from read_parquet(file)
    except RunFailed as error:
        raise UserError(str(file), None, str(error), "make the traces again") from error


def _read_own_rows(key: str, source: TraceSource) -> Iterator[Trace]:
    """Rows of ours from a file that is not called as we call it."""
    assert source.path is not None
    file = Path(source.path).expanduser()
    if file.suffix == ".parquet":
        return _read_ours(file)
    if file.suffix in JSONL:
        return _validated(file, read_rows(source.path, source.split, key))
    remedy = "give its traces.parquet itself"
    raise UserError(key, source.path, "is a set of this toolkit inside another form", remedy)


def _validated(file: Path, rows: Iterator[Row]) -> Iterator[Trace]:
    for number, row in enumerate(rows, start=1):
        try:
            yield Trace.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            reason = f"row {number} is no trace of ours: {place}: {first['msg']}"
            raise UserError(str(file), None, reason, "mend it, or map the columns with `fields`") from None


def _kept(key: str, path: str, traces: Iterator[Trace]) -> list[Trace]:
    kept, rejected = [], 0
    for trace in traces:
        if trace.kept:
            kept.append(trace)
        else:
            rejected += 1
    if not kept:
        found = f"all {rejected} traces in it are rejected" if rejected else "holds no rows"
        raise UserError(key, path, found, "loosen the filters, or give another set")
    if rejected:
        print(f"{path}: left out {rejected} rejected traces of {rejected + len(kept)}", file=sys.stderr)
    return kept
