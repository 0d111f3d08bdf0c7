"""Maths answers: where an answer stands in a text, and whether two answers are the same.

Equality goes from cheap to dear: equality of the normalised strings, exact rational arithmetic where both
sides are plain numbers, then the math-verify package in a process of its own (`comparison`). Texts are a
model's: nothing here evaluates them, and lengths are bounded before anything that could grow.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

from distill.records import Verdict
from distill.verify.comparison import compare
from distill.verify.marks import boxes, last_boxed, last_tagged

ANSWER_CHARS = 2000  # a longer "answer" is a runaway; the longest reference in the common sets has under 200

_HASH = re.compile(r"####[ \t]*(\S[^\n]*)")
_SAID = re.compile(r"\banswer(?:\s+is|\s*:|\s*=)(?:\s*:)?|^\**A:", re.IGNORECASE | re.MULTILINE)
_SAID_LINE = re.compile(r"\s*(\S[^\n]*)")
_UP_TO_IS = re.compile(r"^.*\bis\b:?(?=\s*\S)")  # "Answer: the largest $n$ is 34"
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)")


def extract_answer(text: str) -> str | None:
    """The final answer of a text without its thought, by the strongest mark in it; None where no mark stands.

    Marks, strongest first, the last of its kind counting: a box inside ``<answer>``, ``<answer>``, a box,
    ``#### x``, "the answer is x" / "Answer: x" / "A: x" to the end of the sentence.
    """
    tagged = last_tagged(text)
    if tagged is not None:
        return last_boxed(tagged) or tagged.strip() or None
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    hashed = _HASH.findall(text)
    if hashed:
        return str(hashed[-1]).strip()
    said = deque(_SAID.finditer(text), maxlen=1)
    stated = _SAID_LINE.match(text, said[0].end()) if said else None
    if stated is None:
        return None
    line = stated[1].strip().strip("*").strip()
    end = _SENTENCE_END.search(line)
    sentence = line[: end.start()] if end else line
    return _UP_TO_IS.sub("", sentence).strip().strip("*") or None


_DROPPED = re.compile(
    r"\\left(?![a-z])|\\right(?![a-z])|\\[!,;:>]|\\quad|\\qquad|\\displaystyle|\^\{\\mathrm\{\}\}|\\degree|\^\\circ|\^\{\\circ\}|°|~"
)
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"^([+-]?)(?:\\frac\{(\d+)\}\{(\d+)\}|\\frac(\d)(\d)|(\d+)/(\d+))$", re.ASCII)
_MIXED = re.compile(r"^([+-]?)(\d+)(?:\\frac\{(\d+)\}\{(\d+)\}|\\frac(\d)(\d))$", re.ASCII)
_DECIMAL = re.compile(r"^[+-]?(?:\d+\.?\d*|\.\d+)$", re.ASCII)
_SCIENTIFIC = re.compile(r"^([+-]?\d+(?:\.\d+)?)(?:[eE]|\\(?:times|cdot)10\^)\{?([+-]?\d{1,3})\}?$", re.ASCII)
_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?!\d)")
_UNIT = re.compile(
    r"(?<=\d)(?:degrees?|dollars?|cents?|units?|inches|meters?|cm|km|kg|mph|feet|hours?|minutes?|seconds?|days?|points?|square\w+)$"
)


def normalise(answer: str) -> str:
    """One spelling for the ways in which the same answer is commonly typeset; never changes what it means."""
    text = answer.strip().strip("$").strip()
    for mark in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(mark[0]) and text.endswith(mark[1]):
            text = text[2:-2].strip()
    text = text.replace("\\$", "").replace("\\%", "%").replace("\u2212", "-").replace("{,}", ",")
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = _DROPPED.sub("", text)
    text = _WRAPPED.sub(r"\1", text)
    text = re.sub(r"\s+", "", text.replace("\\ ", " ")).replace("$", "").rstrip(".")
    text = re.sub(r"^[a-zA-Z]=(?=[^=])", "", text)
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    return _UNIT.sub("", text)


def exact_number(normalised: str) -> Fraction | None:
    """The value of an integer, a decimal, a fraction or a mixed number; None for all else (percents too)."""
    if len(normalised) > 200:
        return None
    if match := _SCIENTIFIC.match(normalised):
        return Fraction(match[1]) * Fraction(10) ** int(match[2])
    if _DECIMAL.match(normalised):
        return Fraction(normalised.rstrip(".") if normalised.endswith(".") else normalised)
    if match := _MIXED.match(normalised):
        sign, whole, *parts = match.groups()
        upper, lower = (int(part) for part in parts if part is not None)
        return None if lower == 0 else (-1 if sign == "-" else 1) * (int(whole) + Fraction(upper, lower))
    if match := _FRACTION.match(normalised):
        sign, *parts = match.groups()
        upper, lower = (int(part) for part in parts if part is not None)
        return None if lower == 0 else (-1 if sign == "-" else 1) * Fraction(upper, lower)
    return None


def same_answer(reference: str, answer: str) -> tuple[Verdict, str]:
    """Whether an answer equals a reference, with the reason where it does not.

    CORRECT or WRONG; TIMEOUT and ERROR where math-verify could not tell.
    """
    if len(answer) > ANSWER_CHARS:
        return Verdict.WRONG, f"an answer of more than {ANSWER_CHARS} characters"
    ours, theirs = normalise(reference), normalise(answer)
    if not ours:
        return Verdict.BAD_REFERENCE, "the reference is empty"
    if ours == theirs:
        return Verdict.CORRECT, ""
    left, right = exact_number(ours), exact_number(theirs)
    if left is not None and right is not None:
        return (Verdict.CORRECT, "") if left == right else (Verdict.WRONG, "another number")
    if ours.rstrip("%") == theirs.rstrip("%"):  # a percent sign says the unit that the question asked for
        return Verdict.CORRECT, ""
    return compare(reference.strip(), answer.strip())


def matches(reference: str | dict[str, list[str]], extracted: str, answer: str) -> tuple[Verdict, str]:
    """Whether an extracted answer meets a reference; of several, ``any`` wants one, ``all`` wants each once.

    ``answer`` is the text it was taken from: several values may stand in as many boxes.
    """
    if isinstance(reference, str):
        return same_answer(reference, extracted)
    wanted = [one for one in reference.get("any", reference.get("all", [])) if one.strip()]
    if len(reference) != 1 or not wanted:
        return Verdict.BAD_REFERENCE, "the reference is not a text, {any: [texts]} or {all: [texts]}"
    if "any" in reference or len(wanted) == 1:
        return _best(same_answer(one, extracted) for one in wanted)
    given = split_values(extracted)
    if len(given) != len(wanted):
        boxed = list(dict.fromkeys(boxes(answer)))
        given = boxed[-len(wanted) :] if len(boxed) >= len(wanted) else given
    if len(given) != len(wanted):
        return Verdict.WRONG, f"{len(given)} values where {len(wanted)} are asked for"
    for one in wanted:
        verdicts = [same_answer(one, value) for value in given]
        best = _best(iter(verdicts))
        if best[0] is not Verdict.CORRECT:
            return best
        given.pop(verdicts.index(best))
    return Verdict.CORRECT, ""


def _best(found: Iterator[tuple[Verdict, str]]) -> tuple[Verdict, str]:
    """CORRECT if any is; else what could not be told (TIMEOUT, ERROR) before WRONG."""
    seen: list[tuple[Verdict, str]] = []
    for verdict, reason in found:
        seen.append((verdict, reason))
        if verdict is Verdict.CORRECT:
            return verdict, reason
    return next((one for one in seen if one[0] is not Verdict.WRONG), seen[-1])


def split_values(answer: str) -> list[str]:
    r"""The values of a list such as ``1, 2``, ``\{1, 2\}`` or ``1 and 2``, split where no bracket is open."""
    text = answer.strip().strip("$").strip()
    if text.startswith("\\{") and text.endswith("\\}"):
        text = text[2:-2]
    parts, depth, start = [], 0, 0
    for separator in re.finditer(
        r"[([{]|[)\]}]|,(?!\d{3}(?!\d))|;|\band\b|\bor\b|\\text\s*\{\s*(?:and|or)\s*\}", text
    ):
        mark = separator[0]
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : separator.start()])
            start = separator.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]
