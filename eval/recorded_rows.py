"""Rows of responses that were recorded elsewhere: what each says of its problem, its model and its sampling.

A first pass over the file (`survey`) finds every mistake before anything is written, counts what there is of each
model and suite, and learns what the rows say of the protocol. Nothing of the responses is kept: in memory are the
problems' fingerprints, and a short hash of each row.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, get_args

from distill.errors import UserError
from distill.problems import Row, RowReader
from distill.recipe_parts import Fields
from distill.records import FinishReason, Kind, Problem, row_id
from distill.runs import fingerprint
from eval.bank import Bank

#: What `--map` may name; any other name becomes a tag, to break results down by.
OURS = (
    *("id", "problem_id", "sample_index", "problem", "reference", "tests", "choices", "kind"),
    *("response", "prefill", "finish_reason", "tokens", "cut", "model", "suite"),
    *("temperature", "top_p", "max_tokens", "instruction"),
)
#: Of the protocol: what a recording may say, and else is not known.
SAID = ("temperature", "top_p", "max_tokens", "instruction")
#: Fields of a sample: where a row has a list of responses, its lists of these are read side by side.
_OF_A_SAMPLE = ("response", "prefill", "finish_reason", "tokens", "cut", "sample_index")
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # of a surrogate pair: text that no UTF-8 file can hold
_TAGS = ("subject", "level", "rating")
_FINISHES = {
    **{word: FinishReason.STOP for word in ("stop", "eos", "eos_token", "end_turn", "stop_sequence")},
    **{word: FinishReason.LENGTH for word in ("length", "max_tokens", "model_length", "max_length")},
    **{word: FinishReason.ABORT for word in ("abort", "content_filter", "tool_calls", "function_call")},
    "error": FinishReason.ERROR,
}
_LABELS = {
    **{word: True for word in ("true", "1", "1.0", "c", "correct")},
    **{word: False for word in ("false", "0", "0.0", "i", "incorrect", "wrong")},
}

Key = tuple[str, str]  # model and suite


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded response. ``response`` is None where the row holds none, for the reason in ``fault``; ``cut`` says
    that whoever made the file shortened it, ``mended`` that it held half a surrogate pair, now U+FFFD."""

    number: int
    key: Key
    problem: Problem
    sample_index: int | None
    response: str | None
    prefill: str
    finish_reason: FinishReason | None
    tokens: int | None
    label: bool | None
    fault: str
    cut: bool
    mended: bool
    said: tuple[Any, ...]
    model_of_row: str | None


@dataclass(slots=True)
class Group:
    """What one model's rows on one suite are, as `survey` found them; ``said`` is parallel to `SAID`."""

    said: tuple[Any, ...]
    first_row: int
    problems: dict[str, str] = field(default_factory=dict)  # id -> fingerprint of the problem
    counts: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    repeated: int = 0
    with_tokens: int = 0
    with_finish: int = 0
    two_ids: int = 0
    cut: int = 0
    mended: int = 0

    @property
    def samples(self) -> tuple[int, int]:
        """The least and the most responses that a problem has."""
        return min(self.counts.values()), max(self.counts.values())


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read: ``model`` and ``suite`` are the names where the command gives them, else defaults.

    ``label`` is the column of a stored verdict; ``bank`` the suite that rows answer, else they bring their problems.
    ``from_log``: another tool wrote the rows, so that ids are its numbers and verdicts stand in ``labels``.
    """

    fields: Fields
    kind: Kind | None
    model: str | None
    suite: str | None
    default_model: str
    default_suite: str
    label: str | None
    bank: Bank | None
    from_log: bool

    def samples(self, rows: Iterable[tuple[int, Row]]) -> Iterator[Recorded]:
        """Each response of these rows; a row whose ``response`` is a list holds as many.

        Raises:
            UserError: a mapped field is not there, or what stands there is of the wrong kind; names the row.
        """
        columns = [self.fields.get(ours, ours) for ours in _OF_A_SAMPLE]
        response = columns[0]
        for number, row in rows:
            if not isinstance(response, str) or not isinstance(row.get(response), list):
                yield _Reader(number, row, self).recorded()
                continue
            names = [name for name in (*columns, self.label) if isinstance(name, str)]
            lists = {name: row[name] for name in names if isinstance(row.get(name), list)}
            if len({len(values) for values in lists.values()}) > 1:
                told = ", ".join(f"{name} {len(values)}" for name, values in lists.items())
                remedy = "map only columns that belong together, or mend the row"
                reason = f"row {number}: its lists are of different lengths: {told}"
                raise UserError("--map response", response, reason, remedy)
            for values in zip(*lists.values(), strict=True) if row[response] else [[None] * len(lists)]:
                one = dict(zip(lists, values, strict=True))
                yield _Reader(number, row | one, self).recorded()


class _Reader(RowReader):
    """A row read by the command's map, its complaints worded for the command line."""

    def __init__(self, number: int, row: Row, how: Reading) -> None:
        super().__init__("--map", number, row, how.fields)
        self.how = how

    def refuse(self, field: str, value: object, reason: str, remedy: str) -> NoReturn:
        shown = f"{value[:80]}..." if isinstance(value, str) and len(value) > 80 else value
        raise UserError(f"--map {field}", shown, f"row {self.number}: {reason}", remedy)

    def missing(self, field: str, value: object) -> NoReturn:
        remedy = f"map it: --map {field}=THEIRS; the row has: {', '.join(self.row)}"
        self.refuse(field, value, f"has no {field}", remedy)

    def recorded(self) -> Recorded:
        how = self.how
        model = how.model or self._name("model") or how.default_model
        suite = how.suite or self._name("suite") or how.default_suite
        response, fault = self._response()
        cut = bool(self.value("cut"))
        return Recorded(
            number=self.number,
            key=(model, suite),
            problem=self._problem(suite),
            sample_index=self._count("sample_index"),
            response=response,
            prefill=_HALF_PAIR.sub("\ufffd", self._optional_text("prefill")),
            finish_reason=FinishReason.ABORT if cut else self._finish(),
            tokens=self._count("tokens"),
            label=self._label(),
            fault=fault,
            cut=cut,
            mended=response is not None and response != self.value("response"),
            said=tuple(map(self._said, SAID)),
            model_of_row=self._name("model"),
        )

    def _name(self, ours: str) -> str | None:
        value = self.value(ours)
        name = "" if value is None else self._whole(ours, str(value).strip())
        if not name.isprintable():  # it is shown in terminals, which obey some characters
            self.refuse(ours, ascii(name), "holds characters that cannot be printed", "map another field")
        return name or None

    def _said(self, ours: str) -> Any:
        """What was sampled how, as a number or text: as JSON text, nan or a list it could not be compared."""
        value = self.value(ours)
        if ours == "instruction":
            return self._whole(ours, self._optional_text(ours)) or None
        try:
            number = float("nan" if value is None or value == "" else value)
        except (TypeError, ValueError):
            number = math.inf
        if math.isinf(number) or isinstance(value, bool):
            self.refuse(ours, value, "is no number", "map another field, or none")
        if math.isnan(number):
            return None
        if isinstance(value, int):
            return value
        return int(number) if ours == "max_tokens" and number.is_integer() else number

    def _response(self) -> tuple[str | None, str]:
        """The text and why there is none; a column that no row has is the map's fault, and `survey` says so."""
        response = self.value("response")
        if isinstance(response, str):
            return _HALF_PAIR.sub("\ufffd", response), ""
        told = self.row.get("fault") if self.how.from_log else None
        return None, str(told or "the row holds no response")

    def _optional_text(self, ours: str) -> str:
        value = self.value(ours)
        if value is not None and not isinstance(value, str):
            self.refuse(ours, value, "is no text", "map another field")
        return value or ""

    def _count(self, ours: str) -> int | None:
        value = self.value(ours)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            self.refuse(ours, value, "is no whole number", "map another field, or none")
        return value

    def _finish(self) -> FinishReason | None:
        """Their word for why it ended in ours; one that we do not know says nothing."""
        return _FINISHES.get(str(self.value("finish_reason")).lower())

    def _label(self) -> bool | None:
        if self.how.label is None:
            return None
        labels = self.row.get("labels") if self.how.from_log else self.row
        if not isinstance(labels, dict) or self.how.label not in labels:
            known = ", ".join(labels) if isinstance(labels, dict) and labels else "none"
            reason = "has no such label (a log labels a problem once, not each of several samples)"
            raise UserError(
                "--label",
                self.how.label,
                f"row {self.number}: {reason if self.how.from_log else 'has no such field'}",
                f"it has: {known}",
            )
        value = labels[self.how.label]
        if value is None:
            return None
        known_label = _LABELS.get(str(value).lower())
        if known_label is None:
            reason = f"row {self.number}: {value!r} is neither true nor false"
            raise UserError("--label", self.how.label, reason, "name a field of true/false, 1/0 or C/I")
        return known_label

    def _problem(self, suite: str) -> Problem:
        given = next((v for name in ("problem_id", "id") if (v := self.value(name)) is not None), None)
        text = self.value("problem")
        problem_id = None if given is None else self._whole("id", str(given))
        if self.how.bank is not None:
            return self._of_bank(self.how.bank, problem_id, text)
        kind = self.value("kind") or self.how.kind or "math"
        if kind not in get_args(Kind):
            self.refuse("kind", kind, f"is none of {', '.join(get_args(Kind))}", "map another field to kind")
        text = "" if text is None and problem_id is not None else self.text("problem", text)
        reference, tests = None, None
        if kind in ("code", "instruction"):
            tests = self._tests(kind)
        else:
            reference = self._reference(required=False)
            self._whole("reference", str(reference))
        if kind == "choice" and self.value("choices") is not None:
            text, reference = self._choice(text, reference)
        return Problem(
            id=problem_id or row_id(suite, text),
            kind=kind,
            problem=text,
            reference=reference,
            tests=tests,
            tags=self._tags(),
        )

    def _of_bank(self, bank: Bank, problem_id: str | None, text: Any) -> Problem:
        found = bank.find(problem_id, text if isinstance(text, str) else None, self.how.from_log)
        if found is None:
            reason = (
                f"is no problem of {bank.name}, neither by its text (with a choice's letters) nor by its id"
            )
            self.refuse("problem", text, reason, "map problem or problem_id, or leave --suite out")
        return found

    def _tags(self) -> dict[str, str]:
        names = dict.fromkeys((*_TAGS, *(name for name in self.fields if name not in OURS)))
        values = {name: self.value(name) for name in names}
        told = {n: str(value) for n, value in values.items() if isinstance(value, str | int | float)}
        return {n: self._whole(n, text) for n, text in told.items() if text not in ("", "nan")}


# ------------------------------------------------------------------------------------ the first pass


def survey(rows: Iterable[tuple[int, Row]], reading: Reading, path: str) -> dict[Key, Group]:
    """Every model's rows on every suite, in the order in which they first come.

    Raises:
        UserError: no row at all; no row with a response, or with a reference; one group with rows of several
            protocols; one problem with two texts or references; one sample twice.
    """
    groups: dict[Key, Group] = {}
    seen: dict[Key, _Seen] = {}
    models: set[str | None] = set()
    answered = decided = 0
    for one in reading.samples(rows):
        group = groups.setdefault(one.key, Group(one.said, one.number))
        seen.setdefault(one.key, _Seen()).add(one, group)
        models.add(one.model_of_row)
        answered += one.response is not None
        decided += one.problem.kind == "open" or bool(one.problem.reference or one.problem.tests)
    if not groups:
        raise UserError("--responses", path, "holds no rows", "give a file with one response a row")
    if reading.model is not None and len(models) > 1:
        told = ", ".join(sorted(str(model) for model in models))
        reason = f"the rows are of {len(models)} models: {told}"
        raise UserError("--model", reading.model, reason, "leave --model out: each gets a result of its own")
    if not answered:
        reason = "no row holds a response"
        remedy = "log a task that generates text" if reading.from_log else "map it: --map response=THEIRS"
        raise UserError("--responses", path, reason, remedy)
    if not decided:
        reason = "no row holds a reference, so nothing can be judged"
        raise UserError("--responses", path, reason, "map it: --map reference=THEIRS, or name the --suite")
    return groups


class _Seen:
    """What of a group must be known to find what contradicts itself or comes twice."""

    def __init__(self) -> None:
        self._texts: dict[bytes, str] = {}
        self._responses: set[bytes] = set()
        self._places: dict[tuple[str, int], int] = {}
        self._numbered: bool | None = None

    def add(self, one: Recorded, group: Group) -> None:
        problem, where = one.problem, f"row {one.number}"
        if one.said != group.said:
            name, first, other = next(
                each for each in zip(SAID, group.said, one.said, strict=True) if each[1] != each[2]
            )
            reason = f"{where} was made with {name} = {other!r}, row {group.first_row} with {first!r}"
            remedy = "one result has one protocol: give each its own file, or map suite or model to keep them apart"
            raise UserError("--responses", " on ".join(one.key), reason, remedy)
        told = fingerprint(problem.model_dump(mode="json", exclude={"tags"}))
        if group.problems.setdefault(problem.id, told) != told:
            reason = f"{where}: an earlier row of this problem has another text, reference or tests"
            raise UserError("--map problem_id", problem.id, reason, "map what names the problem, not the row")
        if self._texts.setdefault(_hash(problem.problem), problem.id) != problem.id and problem.problem:
            group.two_ids += 1
        numbered = one.sample_index is not None
        if self._numbered is None:
            self._numbered = numbered
        elif self._numbered is not numbered:
            reason = f"{where}: some rows have one, some have none"
            raise UserError("--map sample_index", one.sample_index, reason, "number all samples or none")
        if one.sample_index is not None:
            earlier = self._places.setdefault((problem.id, one.sample_index), one.number)
            if earlier != one.number:
                reason = f"{where}: row {earlier} is the same sample of {problem.id}"
                raise UserError("--map sample_index", one.sample_index, reason, "remove one of the two")
        if one.response is not None:
            told_response = _hash(f"{problem.id}\x1f{one.response}")
            group.repeated += told_response in self._responses
            self._responses.add(told_response)
        group.counts[problem.id] = group.counts.get(problem.id, 0) + 1
        group.rows += 1
        group.with_tokens += one.tokens is not None
        group.with_finish += one.finish_reason is not None
        group.cut += one.cut
        group.mended += one.mended


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]
