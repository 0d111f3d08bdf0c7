"""Our verdicts beside those that a file of recorded responses stores: how often they agree, and each row where not.

A stored label is another grader's word, not the truth. So a disagreement is not counted for or against anybody: it is
shown with what can be told by code of its cause, and with ``needs reading`` where nothing can.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.chat import split_thought
from distill.problems import Row
from distill.records import Verdict
from distill.runs import write_text_atomic
from distill.verify.marks import last_boxed
from eval.metrics import UNGRADED

_TAIL = 200  # characters of a response's end that are shown
_SHOWN = 2000  # disagreements that are written out; all are counted

CUT = "response cut by whoever recorded it"
ENDLESS = "the thought never ends: no answer, where theirs takes the last number or box it finds"
NO_ANSWER = "no final answer found by us, where theirs takes some number of the text"
NO_BOX = "no box: theirs and ours take another part of the text for the answer"
LIMIT = "our grader ran out of time"
IDENTICAL = "the same answer, letter for letter"
SPELLING = "the same answer but for its spelling (blanks, separators, LaTeX dressing)"
LESS = "the answer leaves out a unit, a name or a base that the reference has, or adds one"
VALUE = "equal by value or as a set, by our rules"
NEEDS_READING = "needs reading"


def reason(row: Row) -> str:
    """Why our verdict on a row differs from its label, as far as code can tell."""
    verdict, extracted = row["verdict"], row["extracted"]
    if row.get("cut"):
        return CUT
    if verdict == Verdict.TIMEOUT:
        return LIMIT
    text = str(row["prefill"]) + str(row["completion"])
    if row["label"]:
        if verdict in (Verdict.TRUNCATED, Verdict.NO_ANSWER):
            return ENDLESS if split_thought(text).answer is None else NO_ANSWER
        return NEEDS_READING if last_boxed(split_thought(text).answer or "") else NO_BOX
    references = row["reference"]
    if row["kind"] != "math" or not isinstance(references, str) or extracted is None:
        return NEEDS_READING
    if extracted.strip() == references.strip():
        return IDENTICAL
    ours, theirs = _bare(extracted), _bare(references)
    if ours == theirs:
        return SPELLING
    if ours and theirs and (ours in theirs or theirs in ours):
        return LESS
    return VALUE


#: Marks that dress an answer without changing it: spaces, thousands separators, signs for a degree or a currency.
_DRESSING = re.compile(
    r"\\[,!;: ]|\\(?:left|right|displaystyle|quad|qquad)(?![a-zA-Z])|\{,\}|(?<=\d),(?=\d{3}(?!\d))|[\s$]|\\$"
)


def _bare(text: str) -> str:
    for _ in range(2):  # a separator may be dressed itself: 10,\!080
        text = _DRESSING.sub("", text)
    return text.replace("dfrac", "frac").replace("tfrac", "frac").rstrip(".")


class Disagreements:
    """All of one command, told apart by model and suite."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._counted: list[tuple[str, str, dict[str, Any]]] = []
        self._shown: list[tuple[str, str, Row, str]] = []

    def count(self, model: str, suite: str, rows: Iterable[Row]) -> dict[str, Any]:
        """What agrees with the labels among the rows of one result, each given by `eval.recorded`.

        Returns:
            ``label``, ``rows`` (labelled and graded by us), ``agree``, ``reasons`` (disagreements by cause),
            ``ungraded`` (labelled rows that we could not grade) and ``unlabelled``.
        """
        compared = agree = unlabelled = ungraded = 0
        reasons: Counter[str] = Counter()
        for row in rows:
            if "label" not in row:
                unlabelled += 1
            elif row["verdict"] in UNGRADED:
                ungraded += 1
            else:
                compared += 1
                if (row["verdict"] == Verdict.CORRECT) == row["label"]:
                    agree += 1
                    continue
                cause = reason(row)
                reasons[cause] += 1
                if len(self._shown) < _SHOWN:
                    self._shown.append((model, suite, _short(row), cause))
        told = {"label": self.label, "rows": compared, "agree": agree, "reasons": dict(reasons.most_common())}
        told |= {"ungraded": ungraded, "unlabelled": unlabelled}
        self._counted.append((model, suite, told))
        return told

    def write(self, path: Path) -> None:
        """The tables, as Markdown."""
        lines = [f"# Our verdicts and the stored label `{self.label}`", ""]
        lines += ["| model | suite | labelled and graded | agree | disagree | not graded by us | no label |"]
        lines += ["|---|---|--:|--:|--:|--:|--:|"]
        for model, suite, told in self._counted:
            differ = told["rows"] - told["agree"]
            counts = [told["rows"], told["agree"], differ, told["ungraded"], told["unlabelled"]]
            lines.append(f"| {_cell(model)} | {_cell(suite)} | {' | '.join(map(str, counts))} |")
        causes = sum((Counter(told["reasons"]) for _, _, told in self._counted), Counter[str]())
        if causes:
            lines += ["", "| cause, as far as code can tell | rows |", "|---|--:|"]
            lines += [f"| {cause} | {count} |" for cause, count in causes.most_common()]
            lines += ["", "## Each of them", "", "In code, \u02cb is a backtick and \u2223 a bar.", ""]
            lines += [
                "| model | suite | row | problem | label | verdict | reference | extracted | cause | end |"
            ]
            lines += ["|---|---|--:|---|---|---|---|---|---|---|"]
            lines += [_line(*entry) for entry in self._shown]
        if (total := causes.total()) > len(self._shown):
            lines += ["", f"{total - len(self._shown)} more are counted above and not written out."]
        write_text_atomic(path, "\n".join(lines) + "\n")


def agreement_as_lines(model: str, suite: str, told: dict[str, Any]) -> list[str]:
    """How a result agrees with its labels, for the terminal."""
    if not told["rows"]:
        return [f"{model}: {suite}: no row is both labelled and graded"]
    share = told["agree"] / told["rows"]
    left = f", {told['ungraded']} not graded by us" if told["ungraded"] else ""
    left += f", {told['unlabelled']} without a label" if told["unlabelled"] else ""
    agree = f"{told['agree']} of {told['rows']} verdicts agree with `{told['label']}` ({share:.4f}){left}"
    return [f"{model}: {suite}: {agree}"] + [
        f"  {count} x {cause}" for cause, count in told["reasons"].items()
    ]


def _short(row: Row) -> Row:
    text = str(row["prefill"]) + str(row["completion"])
    names = ("id", "row", "label", "verdict", "reference", "extracted")
    return {name: row[name] for name in names} | {"end": text[-_TAIL:]}


def _line(model: str, suite: str, row: Row, cause: str) -> str:
    label = "true" if row["label"] else "false"
    names = [model, suite, row["row"], row["id"], label, row["verdict"]]
    cells = [*map(_cell, names), _code(row["reference"]), _code(row["extracted"]), cause, _code(row["end"])]
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    """A name in a cell of a table: no line's end, no bar, no mark-up, no link."""
    text = str(value)
    for mark, escaped in (("&", "&amp;"), ("<", "&lt;"), ("|", "&#124;"), ("`", "&#96;"), ("[", "&#91;")):
        text = text.replace(mark, escaped)
    return " ".join(text.split())


def _code(value: object) -> str:
    """A model's or a file's text in a cell, as code: nothing in it is mark-up, a link or HTML."""
    text = "" if value is None else " ".join(str(value).replace("`", "\u02cb").replace("|", "\u2223").split())
    return f"`{text}`" if text else ""
