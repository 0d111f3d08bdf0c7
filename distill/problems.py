"""Where problems come from: the built-in world, a JSONL or Parquet file, a hub data set or a datasets folder.

A source's fields are mapped to ours (id, problem, reference, tests, choices; any other name becomes a tag) by
the recipe's ``fields``; what is not mapped is looked for under our own name. A row that cannot be used is an
error that names it, never a row less. Rows that repeat an earlier one are dropped, and counted on stderr.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from distill.conversations import said_by
from distill.errors import UserError
from distill.recipe_parts import Fields, ProblemSource, Taken
from distill.records import Kind, Problem, row_id
from distill.shards import open_parquet
from distill.verify.instructions import BadInstructions, read_instructions
from distill.verify.marks import last_boxed
from distill.world import make_problems

Row = dict[str, Any]


class LeftOut(Exception):
    """A row that ``adapt`` takes for no problem of its suite; the message is the reason, for counting."""


JSONL = (".jsonl", ".json", ".ndjson")
OURS = ("id", "problem", "reference", "tests", "choices")
TESTS_REMEDY = 'write {"type": "python", "code": "..."} or {"type": "stdio", "cases": [{"input", "output"}]}'
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def load_problems(
    name: str,
    source: ProblemSource,
    seed: int,
    *,
    section: Literal["problems", "suites"] = "problems",
    adapt: Callable[[Row], Row] | None = None,
    files: Sequence[str] = (),
) -> list[Problem]:
    """All problems of a source, in its order; ``limit`` keeps the first ones.

    Args:
        name: the source's name in the recipe; rows without an id are called ``name:HASH``.
        source: where and how to read.
        seed: decides which problems of the built-in world are drawn; nothing else here is random.
        section: the part of the recipe in which the source stands, for error messages.
        adapt: turns a row of a known data set into one with our field names, before ``fields`` are read; rows that it
            raises LeftOut for are counted on stderr.
        files: of a hub data set that are read instead of its split.

    Raises:
        UserError: the source cannot be read, is empty, or has a row without its problem, reference or tests,
            without a mapped field, or with the id of another problem. Names the row, counted from 1.
    """
    key = f"{section}.{name}"
    check_names(f"{key}.fields", source.fields, OURS)
    if source.instruction is not None and "{problem}" not in source.instruction:
        reason, remedy = "has no {problem} in it", "say where the problem goes"
        raise UserError(f"{key}.instruction", source.instruction, reason, remedy)
    if source.world is not None:
        return make_problems(source.world, seed)[: source.limit]
    given = source.rows if isinstance(source, ProblemSource) else None
    rows = given or read_rows(source.path or "", source.split, f"{key}.path", files)
    kept: dict[str, Problem] = {}
    left_out: Counter[str] = Counter()
    repeated = contradicting = 0
    lacking = isinstance(source, ProblemSource) and source.agreement is not None
    for number, row in enumerate(rows, start=1):
        try:
            reader = RowReader(key, number, adapt(row) if adapt else row, source.fields)
        except LeftOut as reason:
            left_out[str(reason)] += 1
            continue
        problem = reader.problem(name, source.kind, lacking=lacking)
        first = kept.setdefault(problem.id, problem)
        if first is problem:
            if len(kept) == source.limit:
                break
            continue
        if first.problem != problem.problem:
            reader.refuse(
                "id", problem.id, "an earlier row with another text has this id", "give each its own"
            )
        repeated += 1
        contradicting += (first.reference, first.tests) != (problem.reference, problem.tests)
    for reason, number in left_out.items():
        print(f"{key}: left out {number} rows: {reason}", file=sys.stderr)
    if not kept:
        holds = f"holds none of its problems ({', '.join(left_out)})" if left_out else "holds no rows"
        raise UserError(f"{key}.path", source.path, holds, "give a file with one problem a line")
    if repeated:
        also = f", {contradicting} of them with another reference" if contradicting else ""
        print(f"{key}: dropped {repeated} rows that repeat an earlier one{also}", file=sys.stderr)
    return list(kept.values())


def check_names(key: str, fields: Fields, known: Sequence[str]) -> None:
    """Refuse a name in ``fields`` that is almost one of ours: as a tag it would hide that the real one is not mapped.

    Raises:
        UserError: the first such name, which is likelier the mistake than what a row then lacks.
    """
    for name, theirs in fields.items():
        near = difflib.get_close_matches(
            name, [ours for ours in known if ours not in fields], n=1, cutoff=0.8
        )
        if near and name not in known:
            shown = f"{name}={theirs if isinstance(theirs, str) else theirs.from_}"
            reason, remedy = (
                f"there is no field `{name}`",
                f"did you mean `{near[0]}`? a tag needs another name",
            )
            raise UserError(key, shown, reason, remedy)


# ------------------------------------------------------------------------------------ rows of a source


def read_rows(path: str, split: str, key: str = "path", files: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a JSONL, JSON or Parquet file, of a folder for `datasets`, or of a hub data set, one by one.

    Args:
        path: ``NAME:CONFIG`` is one configuration of a hub data set (``openai/gsm8k:main``); ``@REVISION`` behind it
            takes the set as it was at a commit, tag or branch.
        split: of a folder or hub data set; a file has none.
        key: where the user wrote the path, for error messages.
        files: names of JSON files in a hub data set, read instead of its split: data sets that came with a loading
            script, which `datasets` no longer runs.

    Raises:
        UserError: the source is missing or unreadable, or a line of it is no JSON object.
    """
    file = Path(path).expanduser()
    if file.is_file():
        if file.suffix == ".json" and _is_array(file):
            return _read_array(file)
        if file.suffix in JSONL:
            return _read_jsonl(file)
        if file.suffix == ".parquet":
            return _read_parquet(file)
        endings = ", ".join((*JSONL, ".parquet"))
        raise UserError(key, path, "is neither JSONL nor Parquet", f"its name must end in one of {endings}")
    if not file.exists() and (file.suffix in (*JSONL, ".parquet") or path.startswith(("/", ".", "~"))):
        remedy = "check it; it is relative to the current folder"
        raise UserError(key, path, "there is no such file or folder", remedy)
    return _read_dataset(path, file, split, key, files)


def _is_array(file: Path) -> bool:
    with file.open("rb") as text:
        return text.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _read_array(file: Path) -> Iterator[Row]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(str(file), None, f"is no JSON: {error}", "write it again") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(str(file), None, f"element {number} is no object", "write a list of {...}")
        yield row


def _read_jsonl(file: Path) -> Iterator[Row]:
    # Split at line feeds only: text such as U+2028 inside a string is no line's end.
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:
                reason = f"line {number} is no JSON: {error}"
                raise UserError(f"{file}:{number}", None, reason, "mend or remove it") from None
            if not isinstance(row, dict):
                reason = f"line {number} is JSON, but no object"
                raise UserError(f"{file}:{number}", None, reason, "write one {...} a line")
            yield row


def _read_parquet(file: Path) -> Iterator[Row]:
    import pyarrow

    try:
        with open_parquet(file) as table:
            for batch in table.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # the system's, not pyarrow's of a page that is spoilt
            raise
        raise UserError(str(file), None, f"is no readable Parquet: {error}", "write it again") from error


def _read_dataset(path: str, folder: Path, split: str, key: str, files: Sequence[str]) -> Iterator[Row]:
    import datasets

    name, _, revision = path.partition("@")
    hub_name, _, config = name.partition(":")
    try:
        if (folder / "dataset_info.json").exists():
            rows = datasets.load_from_disk(str(folder))
        elif (folder / "dataset_dict.json").exists():
            rows = datasets.load_from_disk(str(folder))[split]
        elif folder.is_dir():
            # Streamed, as the library's cache takes two folders of one name and form for the same.
            rows = datasets.load_dataset(str(folder), split=split, streaming=True)
        elif files:
            at = f"hf://datasets/{hub_name}" + (f"@{revision}" if revision else "")
            rows = datasets.load_dataset(
                "json", data_files=[f"{at}/{one}" for one in files], split="train", streaming=True
            )
        else:
            rows = datasets.load_dataset(hub_name, config or None, split=split, revision=revision or None)
        yield from rows
    except Exception as error:  # datasets raises a dozen kinds: for names, splits, the network
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        what = ", ".join(files) if files else f"its split `{split}`"
        reason = f"datasets cannot load {what}: {first_line}"
        raise UserError(
            key, path, reason, "check name and split, or give a local JSONL or Parquet file"
        ) from error


# ------------------------------------------------------------------------------------ one row


class RowReader:
    """One row, read through the recipe's ``fields``; every complaint names the row and what it has."""

    def __init__(self, key: str, number: int, row: Row, fields: Fields) -> None:
        self.key, self.number, self.row, self.fields = key, number, row, fields

    def refuse(self, field: str, value: object, reason: str, remedy: str) -> NoReturn:
        raise UserError(f"{self.key}.fields.{field}", value, f"row {self.number}: {reason}", remedy)

    def value(self, ours: str) -> Any:
        """What the row holds for one of our fields; None where it holds nothing and none was promised."""
        theirs = self.fields.get(ours)
        if theirs is None:
            return self.row.get(ours)
        column = theirs.from_ if isinstance(theirs, Taken) else theirs
        if column not in self.row:
            near = difflib.get_close_matches(column, self.row, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`? " if near else ""
            self.refuse(ours, column, "has no such field", f"{hint}it has: {', '.join(self.row)}")
        value = self.row[column]
        if not isinstance(theirs, Taken) or value is None:
            return value
        if theirs.extract == "user" or theirs.extract == "assistant":
            return said_by(value, theirs.extract)
        taken = last_boxed(str(value)) if theirs.extract == "boxed" else after_hashes(str(value))
        if taken is None:
            mark = "\\boxed{}" if theirs.extract == "boxed" else "####"
            self.refuse(ours, column, f"its `{column}` holds no {mark}", "mend the row, or map another field")
        return taken

    def text(self, ours: str, value: object) -> str:
        """A field that has to hold a text."""
        if not isinstance(value, str) or not value.strip():
            self.missing(ours, value)
        return self._whole(ours, value)

    def problem(self, source: str, kind: Kind, lacking: bool = False) -> Problem:
        """``lacking``: it may have no reference."""
        text = self.text("problem", self.value("problem"))
        reference, tests = None, None
        if kind == "code" or kind == "instruction":
            tests = self._tests(kind)
        else:
            reference = self._reference(required=kind != "open" and not lacking)
        if kind == "choice":
            text, reference = self._choice(text, reference)
        given_id = self.value("id")
        several = reference if isinstance(reference, dict) else {"any": [str(reference)]}
        for one in (one for many in several.values() for one in many):
            self._whole("reference", one)
        self._whole("id", str(given_id))
        return Problem(
            id=row_id(source, text) if given_id is None else str(given_id),
            kind=kind,
            problem=text,
            reference=reference,
            tests=tests,
            source=source,
            tags=self._tags(),
        )

    def _whole(self, field: str, text: str) -> str:
        """Refuse now what no tokenizer, and after hours no Parquet file, could take."""
        if half := re.search("[\ud800-\udfff]", text):
            bad = f"its character {half.start()} is half a surrogate pair"
            self.refuse(field, None, bad, "replace it (by U+FFFD): UTF-8, and so Parquet, cannot hold it")
        return text

    def missing(self, field: str, value: object) -> NoReturn:
        remedy = f"map it (fields: {{{field}: ...}}); the row has: {', '.join(self.row)}"
        self.refuse(field, value, f"has no {field}", remedy)

    def _reference(self, required: bool) -> str | dict[str, list[str]] | None:
        value = self.value("reference")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, float) and (value.is_integer() or value != value):
            value = int(value) if value == value else None  # so tables write the whole number 27, and nothing
        if isinstance(value, int | float):
            value = str(value)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, dict):
            several = {k: [*map(str, many)] for k, many in value.items() if many and type(many) is list}
            if len(several) == 1 and several.keys() <= {"any", "all"}:
                return several
        if not required and value is None:
            return None
        if isinstance(value, list | dict) and value:
            self.refuse("reference", value, "are several references", 'say {"any": [...]} or {"all": [...]}')
        self.missing("reference", value)

    def _tests(self, kind: Kind) -> dict[str, Any]:
        value = self.value("tests")
        if isinstance(value, str):
            try:
                value = json.loads(value)  # tables keep it as JSON text, to have one schema for all rows
            except ValueError:
                self.refuse("tests", value[:80], "its tests are text, and no JSON", TESTS_REMEDY)
        if not value:
            self.missing("tests", value)
        if isinstance(value, dict):
            tests = {
                word: one for word, one in value.items() if one is not None
            }  # Parquet fills gaps with null
            if kind == "instruction":
                return self._instructions(tests)
            code, cases = tests.get("code"), tests.get("cases")
            if tests.get("type") == "python" and isinstance(code, str) and code.strip():
                return tests
            if (
                tests.get("type") == "stdio"
                and isinstance(cases, list)
                and cases
                and all(map(_is_case, cases))
            ):
                return tests
        self.refuse("tests", None, "its tests are of no known form", TESTS_REMEDY)

    def _instructions(self, tests: dict[str, Any]) -> dict[str, Any]:
        try:
            read_instructions(tests)
        except BadInstructions as error:
            remedy = 'write {"type": "instructions", "instructions": [{"id": ..., ARGUMENT: ...}]}'
            self.refuse("tests", None, str(error), remedy)
        return tests

    def _choice(self, text: str, reference: Any) -> tuple[str, str]:
        """The question with its lettered choices below it, and the right one's letter."""
        choices = self.value("choices")
        if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
            self.missing("choices", choices)
        for choice in choices:
            self._whole("choices", str(choice))
        letters = LETTERS[: len(choices)]
        answer = self.value("reference")
        if isinstance(answer, int) and 0 <= answer < len(choices):
            reference = letters[answer]  # the hub's tables count choices from 0
        if not isinstance(reference, str) or len(reference) != 1 or reference not in letters:
            remedy = "give the letter, or the choice's number from 0"
            self.refuse("reference", answer, f"the answer is none of the letters {letters}", remedy)
        listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
        return f"{text}\n\n{listed}", reference

    def _tags(self) -> dict[str, str]:
        values = {name: self.value(name) for name in self.fields if name not in OURS}
        return {name: str(value) for name, value in values.items() if value is not None}


def _is_case(case: object) -> bool:
    return isinstance(case, dict) and all(isinstance(case.get(part), str) for part in ("input", "output"))


# ------------------------------------------------------------------------------------ references in solutions


def after_hashes(text: str) -> str | None:
    """What follows the last ``####`` on its line (GSM8K), without thousands commas; None without one."""
    _, hashes, after = text.rpartition("####")
    answer, _, _ = after.partition("\n")
    return answer.strip().replace(",", "") or None if hashes else None
