"""A person's look at a trace set: a sheet of its kept traces, and the set that the filled sheet makes of it.

A row of a sheet is a kept trace: ``id, problem, thought, answer, decision, note``. A person writes a decision:

    keep    the trace as it stands
    edit    with what now stands in ``thought`` and ``answer``; it is verified and filtered again
    drop    not to be learnt from
    (none)  left undecided, which keeps nothing

Cells of a CSV sheet that a spreadsheet would take for a formula (``=1+2``) have an apostrophe before them, which is
taken off again.
"""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from distill.chat import ThoughtState, ThoughtTags, split_thought, tags_in
from distill.errors import UserError
from distill.places import check_place, new_folder
from distill.problems import read_rows
from distill.recipe_filters import Filters
from distill.records import Trace
from distill.shards import read_parquet, replacing, write_rows
from distill.verify import Response, check_many
from teacher.contamination import Suites
from teacher.facts import REVIEWED
from teacher.importing import problem_of
from teacher.measures import measure
from teacher.trace_set import TRACES, read_funnel, write_trace_set

COLUMNS = ("id", "problem", "thought", "answer", "decision", "note")
_NEEDED = ("id", "thought", "answer", "decision")
DECISIONS = ("keep", "edit", "drop")
REVIEW = "review.jsonl"
#: Characters of a cell, beyond which spreadsheet programs cut it.
LONGEST_CELL = 32_767
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
_AT_ONCE = 256
_SHOWN = 8  # malformed rows that an error names


class Entry(NamedTuple):
    """What a person wrote beside a trace; ``row`` is where it stands in the sheet."""

    row: int
    decision: str
    thought: str
    answer: str
    note: str


# -------------------------------------------------------------------------------- out


def write_sheet(folder: Path, to: Path, limit: int | None = None) -> dict[str, Any]:
    """Write the kept traces of a set as a sheet, CSV or JSONL by its name.

    Args:
        limit: only the first so many.

    Returns:
        ``sheet``, ``traces``, and ``cut``: how many have a cell that a spreadsheet would cut.

    Raises:
        UserError: there is something at ``to``, its name ends otherwise, or the set keeps nothing.
    """
    if to.suffix not in (".csv", ".jsonl"):
        raise UserError(
            "--to", str(to), "is neither CSV nor JSONL", "give a name that ends in .csv or .jsonl"
        )
    if to.exists():
        reason = "is there already, perhaps with somebody's decisions"
        raise UserError("--to", str(to), reason, "give another name, or remove it")
    if limit is not None and limit < 1:
        raise UserError("--limit", limit, "takes no trace", "give at least 1")
    kept = islice((trace for trace in read_parquet(folder / TRACES) if trace.kept), limit)
    counts: Counter[str] = Counter()
    with replacing(to) as temporary:
        if to.suffix == ".csv":
            with temporary.open(
                "w", encoding="utf-8-sig", newline=""
            ) as file:  # spreadsheets look for the mark
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                for row in _rows(kept, counts):
                    writer.writerow({name: _guarded(cell) for name, cell in row.items()})
        else:
            write_rows(temporary, _rows(kept, counts))
        if not counts["traces"]:
            raise UserError("DIR", str(folder), "keeps no trace", "loosen its filters: distill traces filter")
    cut = counts["cut"] if to.suffix == ".csv" else 0
    if cut:
        print(
            f"{to}: {cut:,} traces have a cell of more than {LONGEST_CELL:,} characters, which spreadsheet programs "
            "cut; they can be kept or dropped there, and edited in a .jsonl sheet",
            file=sys.stderr,
        )
    return {"sheet": str(to), "traces": counts["traces"], "cut": cut}


def _rows(traces: Iterable[Trace], counts: Counter[str]) -> Iterator[dict[str, str]]:
    for trace in traces:
        thought, answer = _parts(trace)
        counts["traces"] += 1
        counts["cut"] += max(map(len, (thought, answer))) > LONGEST_CELL
        yield dict(zip(COLUMNS, (trace.id, trace.problem, thought, answer, "", ""), strict=True))


def _parts(trace: Trace) -> tuple[str, str]:
    """Thought and answer; a text whose thought does not end is no such pair, and all answer here."""
    split = split_thought(trace.completion)
    if split.state is not ThoughtState.CLOSED:
        return "", trace.completion
    return split.thought or "", split.answer or ""


def _guarded(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


# -------------------------------------------------------------------------------- in


def reviewed(
    folder: Path,
    sheet: Path,
    out: Path,
    filters: Filters,
    keep_per_problem: int | None,
    suites: Suites | None,
) -> dict[str, Any]:
    """Make a set of what a person kept of another; all its traces are in it, with their reasons.

    The filters decide again, for what was edited, and what nobody kept fails the last one, ``reviewed``. Decisions of
    an earlier review stand where this sheet says nothing. ``review.jsonl`` holds decisions and notes.

    Args:
        filters: of the set.
        suites: the passages of the suites that ``filters.decontaminate`` names.

    Raises:
        UserError: ``out`` holds something, or the sheet is malformed; its rows are named. Nothing has been written.
    """
    check_place(out)
    if out.is_dir() and any(out.iterdir()):
        raise UserError("--out", str(out), "holds other things", "give a new or empty folder")
    entries = read_sheet(sheet)
    _check(folder, sheet, entries)
    counts = Counter({decision: 0 for decision in (*DECISIONS, "undecided")})
    counts.update(entry.decision or "undecided" for entry in entries.values())
    old = read_funnel(folder)
    told = ", ".join(f"{decision} {number:,}" for decision, number in counts.items())
    facts = {**old.get("facts", {}), "reviewed from": folder.name, "a person's decisions": told}
    more = {name: old[name] for name in ("collection", "shard") if name in old} | {"review": dict(counts)}
    with new_folder(out):
        out.mkdir(parents=True, exist_ok=True)
        rows = ({"id": name, "decision": one.decision, "note": one.note} for name, one in entries.items())
        write_rows(out / REVIEW, (row for row in rows if row["decision"] or row["note"]))
        return write_trace_set(
            out, _decided(read_parquet(folder / TRACES), entries), filters.model_copy(update={"reviewed": True}),
            keep_per_problem, facts, suites=suites, more=more,
        )  # fmt: skip


def read_sheet(sheet: Path) -> dict[str, Entry]:
    """The rows of a sheet by their traces' ids.

    Raises:
        UserError: the file cannot be read, lacks a column, or has rows without an id, with one twice, or with a word
            that is no decision. Rows are counted from 1, the heading of a CSV sheet included.
    """
    if not sheet.is_file():
        raise UserError("FILE", str(sheet), "there is no such file", "give a sheet of `distill traces sheet`")
    numbered = _csv_rows(sheet) if sheet.suffix == ".csv" else enumerate(read_rows(str(sheet), "", "FILE"), 1)
    entries: dict[str, Entry] = {}
    wrong: list[str] = []
    for number, row in numbered:
        cells = {name: row.get(name) for name in COLUMNS}
        if lacking := [name for name in _NEEDED if not isinstance(cells[name], str)]:
            wrong.append(f"row {number} has no text under {', '.join(lacking)}")
            continue
        name, decision = str(cells["id"]).strip(), str(cells["decision"]).strip().lower()
        if not name or name in entries:
            wrong.append(f"row {number} has {f'the id of row {entries[name].row}' if name else 'no id'}")
        elif decision not in (*DECISIONS, ""):
            wrong.append(f"row {number} says `{decision}`")
        else:
            note = cells["note"] if isinstance(cells["note"], str) else ""
            entries[name] = Entry(number, decision, str(cells["thought"]), str(cells["answer"]), note)
    _refuse(sheet, wrong, f"a decision is one of {', '.join(DECISIONS)}, or nothing; each trace has one row")
    if not any(entry.decision for entry in entries.values()):
        raise UserError("FILE", str(sheet), "decides on nothing", "write keep, edit or drop under `decision`")
    return entries


def _csv_rows(sheet: Path) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    """Rows with their numbers as spreadsheets show them; commas, semicolons or tabs apart, as those save them."""
    try:
        text = sheet.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("FILE", str(sheet), f"cannot be read: {error}", "save it as CSV in UTF-8") from None
    csv.field_size_limit(1 << 30)  # a long thought is no mistake
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError("FILE", str(sheet), f"is no CSV: {error}", "save it as CSV in UTF-8") from None
    names = [name.strip() for name in rows[0]] if rows else []
    if lacking := [name for name in _NEEDED if name not in names]:
        reason = f"has no column {', '.join(lacking)}"
        raise UserError("FILE", str(sheet), reason, f"keep the heading: {','.join(COLUMNS)}")
    for number, cells in enumerate(rows[1:], start=2):
        if any(cell.strip() for cell in cells):
            yield number, {name: _unguarded(cell) for name, cell in zip(names, cells, strict=False)}


def _check(folder: Path, sheet: Path, entries: Mapping[str, Entry]) -> None:
    """That each row is of a kept trace, and that texts differ from the trace's exactly where the decision is edit."""
    wrong: dict[int, str] = {}
    found: set[str] = set()
    for trace in read_parquet(folder / TRACES):
        entry = entries.get(trace.id)
        if entry is None:
            continue
        found.add(trace.id)
        changed = _edited(trace, entry) != trace.completion
        if not trace.kept:
            wrong[entry.row] = f"row {entry.row} is of a rejected trace ({trace.reason})"
        elif entry.decision == "edit" and not changed:
            wrong[entry.row] = f"row {entry.row} says edit, and its texts are unchanged"
        elif entry.decision == "edit" and not (entry.thought + entry.answer).strip():
            wrong[entry.row] = f"row {entry.row} says edit, and leaves no text"
        elif entry.decision in ("keep", "") and changed:
            said = f"says {entry.decision}" if entry.decision else "no decision"
            wrong[entry.row] = f"row {entry.row} has changed texts, and {said}"
    for name in entries.keys() - found:
        wrong[entries[name].row] = f"row {entries[name].row} is of no trace of the set (`{name}`)"
    told = [wrong[row] for row in sorted(wrong)]
    _refuse(sheet, told, "write edit where a text was changed, and leave ids as they are")


def _refuse(sheet: Path, wrong: list[str], remedy: str) -> None:
    if wrong:
        more = f"; and {len(wrong) - _SHOWN:,} rows more" if len(wrong) > _SHOWN else ""
        raise UserError("FILE", str(sheet), "; ".join(wrong[:_SHOWN]) + more, remedy)


def _decided(traces: Iterator[Trace], entries: Mapping[str, Entry]) -> Iterator[Trace]:
    """The traces with what a person decided in their measures, edited ones verified and measured again."""
    while chunk := list(islice(traces, _AT_ONCE)):
        edited = {
            trace.id: _edited(trace, entry)
            for trace in chunk
            if (entry := entries.get(trace.id)) and entry.decision == "edit"
        }
        again = [trace for trace in chunk if trace.id in edited]
        responses = [Response(problem_of(trace), edited[trace.id], trace.finish_reason) for trace in again]
        judged = dict(zip(edited, check_many(responses), strict=True))
        for trace in chunk:
            entry = entries.get(trace.id)
            if entry is None or not entry.decision:
                yield trace
                continue
            changes: dict[str, Any] = {}
            measures = trace.measures
            if text := edited.get(trace.id):
                told = {name: value for name, value in measures.items() if name in _OF_THE_SAMPLE}
                measures = told | measure(text, tags_in(text))
                verdict = judged[trace.id]
                changes = {"completion": text, "verdict": verdict.verdict, "extracted": verdict.extracted}
            changes["measures"] = measures | {REVIEWED: float(entry.decision != "drop")}
            yield trace.model_copy(update=changes)


#: Measures that are of a sample's problem or making, and not of its text.
_OF_THE_SAMPLE = ("first_pass_rate", "agreement", "rewrite_of")


def _edited(trace: Trace, entry: Entry) -> str:
    """The trace's text with what stands in the sheet; the very same where nothing was changed.

    Blanks around a part, and how lines end, are the spreadsheet's and do not count.
    """
    thought, answer = _parts(trace)
    new_thought, new_answer = _within(thought, entry.thought), _within(answer, entry.answer)
    if (new_thought, new_answer) == (thought, answer):
        return trace.completion
    if not new_thought.strip():
        return new_answer
    tags = tags_in(trace.completion) or ThoughtTags()
    return f"{tags.open}{new_thought}{tags.close}{new_answer}"


def _within(old: str, cell: str) -> str:
    """What stands in a cell, between the blanks of the text that stood there; that text where it says the same."""
    text, own = (one.replace("\r\n", "\n").replace("\r", "\n").strip() for one in (cell, old))
    if text == own or (len(cell) >= LONGEST_CELL and old.startswith(cell[:LONGEST_CELL])):
        return old
    if not old.strip():
        return cell
    head, tail = old[: len(old) - len(old.lstrip())], old[len(old.rstrip()) :]
    return f"{head}{text}{tail}"
