"""`distill grade`: the verifier as a tool of its own. A verdict for each row of a JSONL file, in order, whatever
the rows hold.

Rows are read, judged and written as a stream: memory does not grow with the file. A line is written whole or not at
all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from distill.chat import KNOWN_TAGS, ThoughtTags
from distill.errors import UserError
from distill.records import FinishReason, Kind, Problem, Verdict
from distill.verify import Judgement, Response, check_stream

KEPT = ("id", "problem_id", "sample_index")  # fields of a row that its verdict repeats
FIELDS = (*KEPT, "kind", "reference", "tests", "response", "prefill", "finish_reason")


def grade(
    lines: Iterable[bytes], out: int, fields: dict[str, str], extra_tags: tuple[ThoughtTags, ...]
) -> Counter[Verdict]:
    """Write a row for each line to the file descriptor ``out``; how many there are of each verdict.

    Args:
        lines: of a JSONL file; blank ones are no rows.
        fields: our name of a field to the file's, where they differ.
        extra_tags: of thoughts, besides the known families'.

    Raises:
        UserError: a program is to be run and this machine cannot isolate it.
    """
    about: deque[dict[str, Any]] = deque()  # what is repeated of the rows that are being judged

    def responses() -> Iterator[Response | Judgement]:
        for line in lines:
            if line.strip():
                row, response = _read(line, fields)
                theirs = {name: fields.get(name, name) for name in KEPT}
                about.append(
                    {ours: row.get(name) for ours, name in theirs.items() if ours == "id" or name in row}
                )
                yield response

    counts: Counter[Verdict] = Counter()
    for judgement in check_stream(responses(), tags=(*extra_tags, *KNOWN_TAGS)):
        counts[judgement.verdict] += 1
        told = about.popleft() | {
            "verdict": judgement.verdict, "extracted": judgement.extracted, "reason": judgement.reason,
            "seconds": round(judgement.seconds, 6),
        }  # fmt: skip
        _write_whole(out, json.dumps(told).encode() + b"\n")
    return counts


def _read(line: bytes, fields: dict[str, str]) -> tuple[dict[str, Any], Response | Judgement]:
    """A row and what is to be judged of it, or the judgement that it cannot be: ERROR with the reason."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, _malformed(f"no JSON: {error}")
    if not isinstance(row, dict):
        return {}, _malformed("no JSON object")

    def value(name: str) -> Any:
        return row.get(fields.get(name, name))

    if value("kind") not in get_args(Kind):
        return row, _malformed(f"kind {value('kind')!r} is none of {', '.join(get_args(Kind))}")
    for name in ("response", "prefill"):
        if not isinstance(value(name), str) and not (name == "prefill" and value(name) is None):
            return row, _malformed(f"{name} is no text")
    try:
        finish = None if value("finish_reason") is None else FinishReason(value("finish_reason"))
    except ValueError:
        return row, _malformed(
            f"finish_reason {value('finish_reason')!r} is none of {', '.join(FinishReason)}"
        )
    reference = value("reference")
    if isinstance(reference, int | float) and not isinstance(reference, bool):
        reference = str(reference)
    elif isinstance(reference, list):
        reference = {"any": reference}
    try:
        problem = Problem(id="", kind=value("kind"), problem="", reference=reference, tests=value("tests"))
    except ValueError:
        return row, _malformed("reference is no text, number or list of texts, or tests are no object")
    return row, Response(problem, (value("prefill") or "") + value("response"), finish)


def _malformed(reason: str) -> Judgement:
    return Judgement(Verdict.ERROR, None, f"malformed row: {reason}"[:300], 0.0)


def _write_whole(out: int, data: bytes) -> None:
    """Write all of it, or at a full disk take back the part; Ctrl-C waits for the end of the line."""
    begun = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    written = 0
    try:
        while written < len(data):
            written += os.write(out, data[written:])
    except OSError:
        if written and os.path.isfile(f"/dev/fd/{out}"):
            os.ftruncate(out, os.fstat(out).st_size - written)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, begun)


def summary(counts: Counter[Verdict]) -> str:
    """How many rows there are of each verdict, in a line."""
    told = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in Verdict if counts[verdict])
    return f"{counts.total():,} rows: {told or 'none'}"


def main(path: str, out_path: str | None, fields: dict[str, str], think_close: str | None) -> None:
    """Grade a file to a file or to standard output, and say on standard error what was found.

    Raises:
        UserError: the file cannot be read, or the verdicts cannot be put there; nothing has been written.
    """
    for ours in fields:
        if ours not in FIELDS:
            raise UserError("--map", ours, "is no field of a graded row", f"known: {', '.join(FIELDS)}")
    if not Path(path).is_file():
        raise UserError("FILE", path, "there is no such file", "give a JSONL file with one response a line")
    if out_path and (Path(out_path).is_dir() or not Path(out_path).resolve().parent.is_dir()):
        raise UserError("--out", out_path, "is no place for a file", "name a file in a folder that exists")
    if out_path and Path(out_path).resolve() == Path(path).resolve():
        raise UserError("--out", out_path, "is the file that is read", "name another")
    tags = (ThoughtTags(close=think_close),) if think_close else ()
    with open(path, "rb") as lines:
        out = (
            os.open(out_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            if out_path
            else sys.stdout.fileno()
        )
        try:
            counts = grade(lines, out, fields, tags)
        finally:
            if out_path:
                os.close(out)
    print(summary(counts), file=sys.stderr)
