"""`distill grade`: the verifier as a tool of its own. A verdict for each row of a JSONL file, in order, whatever
the rows hold.

Rows are read, judged and written as a stream: memory does not grow with the file. A line is written whole or not at
all.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, get_args

from distill.chat import KNOWN_TAGS, ThoughtTags
from distill.errors import RunFailed, UserError
from distill.grade_files import Rows, Verdicts
from distill.records import FinishReason, Kind, Problem, Verdict
from distill.runs import Progress
from distill.verify import Judgement, Response, check_stream

_NO_GOING_ON = "From a file to --out FILE, a stopped command goes on."
KEPT = ("id", "problem_id", "sample_index")  # fields of a row that its verdict repeats
FIELDS = (*KEPT, "kind", "reference", "tests", "response", "prefill", "finish_reason")


def grade(
    lines: Iterable[tuple[int, bytes]],
    verdicts: Verdicts,
    fields: dict[str, str],
    kind: str | None,
    extra_tags: tuple[ThoughtTags, ...],
    progress: Progress | None = None,
) -> tuple[Counter[Verdict], set[str]]:
    """Write a row for each line; how many there are of each verdict, and which mapped fields no row has.

    Args:
        lines: of a JSONL file, with their numbers.
        fields: our name of a field to the file's, where they differ.
        kind: of rows that name none.
        extra_tags: of thoughts, besides the known families'.

    Raises:
        UserError: a program is to be run and this machine cannot isolate it.
    """
    about: deque[dict[str, Any]] = deque()  # what is repeated of the rows that are being judged
    missing = set(fields.values())

    def responses() -> Iterator[Response | Judgement]:
        for number, line in lines:
            row, response = _read(number, line, fields, kind)
            missing.difference_update(row)
            theirs = {name: fields.get(name, name) for name in KEPT}
            about.append(
                {ours: row.get(name) for ours, name in theirs.items() if ours == "id" or name in row}
            )
            yield response

    counts: Counter[Verdict] = Counter()
    for judgement in check_stream(responses(), tags=(*extra_tags, *KNOWN_TAGS)):
        counts[judgement.verdict] += 1
        told = {
            "verdict": judgement.verdict, "extracted": judgement.extracted, "reason": judgement.reason,
            "seconds": round(judgement.seconds, 6),
        }  # fmt: skip
        verdicts.write(about.popleft() | told)
        if progress is not None:
            progress.advance(1)
    return counts, missing


def _read(
    number: int, line: bytes, fields: dict[str, str], kind: str | None
) -> tuple[dict[str, Any], Response | Judgement]:
    """A row and what is to be judged of it, or the judgement that it cannot be: ERROR with the reason."""

    def malformed(reason: str) -> Judgement:
        return Judgement(Verdict.ERROR, None, f"malformed row (line {number}): {reason}"[:300], 0.0)

    try:
        row = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return {}, malformed(f"no JSON: {error}")
    if not isinstance(row, dict):
        return {}, malformed("no JSON object")

    def value(name: str) -> Any:
        return row.get(fields.get(name, name))

    kind = kind if value("kind") is None else value("kind")
    if kind not in get_args(Kind):
        return row, malformed(f"kind {kind!r} is none of {', '.join(get_args(Kind))}")
    for name in ("response", "prefill"):
        if not isinstance(value(name), str) and not (name == "prefill" and value(name) is None):
            return row, malformed(f"{name} is no text")
    try:
        finish = None if value("finish_reason") is None else FinishReason(value("finish_reason"))
    except ValueError:
        return row, malformed(
            f"finish_reason {value('finish_reason')!r} is none of {', '.join(FinishReason)}"
        )
    reference = value("reference")
    if isinstance(reference, list):
        reference = {"any": reference}
    if isinstance(reference, dict):
        reference = {
            word: [_as_text(one) for one in many] if isinstance(many, list) else many
            for word, many in reference.items()
        }
    reference = _as_text(reference)
    try:
        problem = Problem(id="", kind=kind, problem="", reference=reference, tests=value("tests"))
    except ValueError:
        return row, malformed(
            "tests are no object"
            if kind in ("code", "instruction")
            else "reference is no text, number, list, {any: [...]} or {all: [...]} of such"
        )
    return row, Response(problem, (value("prefill") or "") + value("response"), finish)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _as_text(reference: Any) -> Any:
    """A number as its text; whatever else it is stays as it is."""
    number = (
        isinstance(reference, int | float) and not isinstance(reference, bool) and math.isfinite(reference)
    )
    return str(reference) if number else reference


def summary(counts: Counter[Verdict]) -> str:
    """How many rows there are of each verdict, in a line."""
    told = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in Verdict if counts[verdict])
    return f"{counts.total():,} rows: {told or 'none'}"


def main(
    path: str, out: str | None, fields: dict[str, str], kind: str | None, think_close: str | None
) -> Counter[Verdict]:
    """Grade a file (or - for standard input) to a file or to standard output; how many there are of each verdict.

    Raises:
        UserError: the file cannot be read, or the verdicts cannot be put there; nothing has been written.
        RunFailed: they could no longer be written.
    """
    for ours in fields:
        if ours not in FIELDS:
            raise UserError("--map", ours, "is no field of a graded row", f"known: {', '.join(FIELDS)}")
    if out and Path(out).exists() and Path(path).exists() and Path(out).samefile(path):
        raise UserError("--out", out, "is the file that is read", "name another")
    rows = Rows(path)
    tags = (ThoughtTags(close=think_close),) if think_close else ()
    how = json.dumps([rows.digest, sorted(fields.items()), kind, think_close])
    verdicts = Verdicts(out, hashlib.sha256(how.encode()).hexdigest() if rows.digest else None)
    counts = _counted(Path(out), verdicts.done) if out and verdicts.done else Counter()
    lines = itertools.islice(rows, verdicts.done, None)
    shown = nullcontext() if rows.count is None else Progress("grading", rows.count, "row")
    try:
        with shown as progress:
            if progress is not None:
                progress.skip(verdicts.done)
            found, missing = grade(lines, verdicts, fields, kind, tags, progress)
    except BrokenPipeError:
        # Else Python, at its end, tries to write what it still holds and complains once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise RunFailed("nobody reads the verdicts any more", "Nothing is kept of them.") from None
    except OSError as error:
        raise error if verdicts.goes_on else RunFailed(str(error), _NO_GOING_ON) from None
    except KeyboardInterrupt:
        if verdicts.goes_on:
            raise
        print(f"\nstopped. {_NO_GOING_ON}", file=sys.stderr)
        raise SystemExit(130) from None
    verdicts.finish()
    for theirs in sorted(missing) if found else ():
        print(f"note: no row has the field {theirs!r} that --map names", file=sys.stderr)
    return counts + found


def _counted(out: Path, rows: int) -> Counter[Verdict]:
    """The verdicts that an interrupted command has written."""
    with out.open("rb") as lines:
        return Counter(Verdict(json.loads(line)["verdict"]) for line in itertools.islice(lines, rows))
