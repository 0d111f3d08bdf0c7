r"""What kind of thing an answer is: a value, a list, a set, an interval, a relation, a matrix, or words.

`read` gives every sensible reading of a text (``1,234`` is one number or two), best first. Structure is found on the
text, bracket by bracket; what stands between is an expression (`expressions`). Lengths are bounded by the caller.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from distill.verify.maths.expressions import Tree, parse
from distill.verify.maths.spelling import squeezed, words
from distill.verify.maths.symbols import FUNCTIONS, NUMBER_WORDS
from distill.verify.maths.tokens import NotRead, tokenise
from distill.verify.maths.units import split_noun, split_unit, times


@dataclass(frozen=True, slots=True)
class Value:
    """A number or an expression, with the unit that stood behind it (None: there was none)."""

    tree: Tree
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words: "even", "Evelyn", "5 pm"."""

    text: str


@dataclass(frozen=True, slots=True)
class Several:
    r"""Items in brackets, or in none: ``1, 2`` (``open`` and ``close`` empty), ``(1, 2)``, ``[0, 1)``, ``\{1, 2\}``."""

    open: Literal["", "(", "[", "{"]
    close: Literal["", ")", "]", "}"]
    items: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Union:
    """Sets joined by cups."""

    parts: tuple[Answer, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """``sides[0] signs[0] sides[1] ...``; signs are =, ~ (nearly), !=, <, <=, >, >= and "in".

    ``label`` is the text of a first side that only names the answer.
    """

    sides: tuple[Answer, ...]
    signs: tuple[str, ...]
    label: str | None


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of answers."""

    rows: tuple[tuple[Answer, ...], ...]


Answer = Value | Words | Several | Union | Relation | Matrix

_OPENING = {
    "(": ")", "[": "]", "{": "}", r"\{": r"\}",
    r"\langle": r"\rangle", r"\lbrace": r"\rbrace", r"\lbrack": r"\rbrack",
}  # fmt: skip
_ALL_BRACKETS = (
    r"\\begin\s*\{[a-z]{1,12}\*?\}|\\end\s*\{[a-z]{1,12}\*?\}"
    r"|\\[{}]|\\[lr]angle|\\[lr]brace|\\[lr]brack|[()\[\]{}]"
)
_SEPARATOR = (
    r",|;|\\text\w*\s*\{\s*,?\s*(?:and|or|\\&|&)\s*\}|\\land|\\lor"
    r"|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])|\n"
)
# Where whoever stored the answer dropped its blanks.
_GLUED = r"|(?<=[\d)}\]])(?:and|or)(?=[-+\d({\[\\])|or(?=[a-z]\([a-z]\)=)"
_LISTED = re.compile(f"{_ALL_BRACKETS}|(?P<cut>{_SEPARATOR}{_GLUED})")
_RELATED = re.compile(
    rf"{_ALL_BRACKETS}|(?P<cut><=|>=|!=|==|=|<|>"
    r"|\\(?:leq?|geq?|leqslant|geqslant|lt|gt|neq?|approx|equiv|in|sim|simeq)(?![a-zA-Z]))"
)
_JOINED = re.compile(rf"{_ALL_BRACKETS}|(?P<cut>\\cup(?![a-zA-Z])|(?<=[)\]])\s*U\s*(?=[(\[]))")
_RATIO = re.compile(rf"{_ALL_BRACKETS}|(?P<cut>:)")
_ROWS = re.compile(rf"{_ALL_BRACKETS}|(?P<cut>\\\\)")
_CELLS = re.compile(rf"{_ALL_BRACKETS}|(?P<cut>&)")
_SIGNS = {
    "==": "=", r"\equiv": "=", r"\sim": "=", r"\simeq": "=", r"\approx": "~", r"\ne": "!=", r"\neq": "!=", r"\in": "in",
    r"\lt": "<", r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=",
    r"\gt": ">", r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">=",
}  # fmt: skip
_TIGHT = re.compile(r"/\s*(?:\d+|[a-zA-Z]|\\[a-zA-Z]+)\s*[a-zA-Z\\(]")
_IF = re.compile(r"^(?:\\text\w*\s*\{\s*(?:if|for|when|where)\s*\}|\\?(?:if|for|when)\b)\s*")
_MATRIX = re.compile(
    r"\\begin\s*\{([a-zA-Z]?matrix|array|cases|smallmatrix)\}"
    r"(?:\s*\{[lcr|\s]{1,40}\})?"  # the columns of an array
    r"(.*)\\end\s*\{\1\}",
    re.DOTALL,
)
_LABEL = re.compile(
    r"\\?[A-Za-z]+'*(?:\s*\\[a-zA-Z]+)?(?:\s*[_^]\s*(?:\{[^{}]{0,30}\}|\w|\\[a-z]+))*'*"  # x, \alpha, f_1'
    r"\s*(?:\([^()=]{0,30}\))?"  # ... (x)
    r"|\([a-z]?\)"  # (a)
    r"|\([A-Za-z]\w?(?:\s*,\s*[A-Za-z]\w?)+\)"  # (x, y)
    r"|\\text\w*\s*\{[^{}]*\}"
    r"|[A-Z]\s*:\s*[A-Z](?:\s*:\s*[A-Z])*"  # A : B
    r"|\\(?:angle|triangle)\s*[A-Z]+"
)
_WRAPPED = re.compile(r"\\(?:text\w*|mbox|hbox|mathrm|mathbf|mathit)\s*\{([^{}]*)\}")
_FIRST_WORD = re.compile(r"\\?([A-Za-z]+)")
_PROSE = re.compile(r"[A-Za-z][A-Za-z' .-]*")
_MOMENT = re.compile(r"\d{1,2}(?::\d\d)?\s*(?:[ap]\.?\s*m\.?)", re.IGNORECASE)
_ORDINAL = re.compile(r"(\d+)\s*(?:\^\s*)?\{?(?:\\text\w*\s*\{)?(?:st|nd|rd|th)\}{0,2}")
_DANGLING = re.compile(r"[\^_]\s*\{?\s*(?:\\(?:mathrm|text)\s*\{\s*\}\s*\})?$")
_BUILDER = re.compile(
    r"\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:\||\\mid|:)"  # x \in \mathbb{R} |
    r"\s*(?=.*[<>]|.*\\[lgn]e)",
    re.DOTALL,
)
_BOXED = re.compile(r"\\f?box(?:ed)?\s*\{(.*)\}", re.DOTALL)


def read(tidy: str) -> Iterator[Answer]:
    """Readings of a tidy text (`spelling.tidy`), best first, each made when asked for.

    Raises:
        NotRead: no reading at all; by the first step of the iteration.
    """
    thousands = (True, False) if _GROUPED_DIGITS.search(tidy) else (True,)
    tight = (False, True) if _TIGHT.search(tidy) else (False,)
    yield from (_Reader(*how).answer(tidy) for how in itertools.product(thousands, tight))


def split_list(tidy: str) -> list[str]:
    r"""The items of a list such as ``1, 2``, ``\{1, 2\}`` or ``1 and 2`` as texts."""
    bracketed = _whole_bracket(tidy)
    inner = bracketed[1] if bracketed and bracketed[0] in ("{", r"\{") else tidy
    return [part.strip() for part in _split(inner, _LISTED, thousands=True)[0] if part.strip()]


class _Reader:
    def __init__(self, thousands: bool, tight: bool) -> None:
        self.thousands, self.tight = thousands, tight

    def answer(self, text: str, depth: int = 0) -> Answer:
        """Lists before relations before unions before brackets: from loose to tight."""
        text = _DANGLING.sub("", text.strip()).strip()
        if depth > 12:
            raise NotRead("nested too deep")
        if boxed := _BOXED.fullmatch(text):
            text = boxed[1]
        if wrapped := _WRAPPED.fullmatch(text):
            text = wrapped[1].strip()
        if matrix := _MATRIX.fullmatch(text):
            return self._matrix(matrix[1], matrix[2], depth)
        parts, _ = _split(text, _LISTED, self.thousands)
        if len(parts) > 1:
            items = tuple(self.answer(part, depth + 1) for part in parts if part.strip())
            return items[0] if len(items) == 1 else Several("", "", items)
        sides, signs = _split(text, _RELATED)
        if signs:
            return self._relation(sides, signs, depth)
        parts, cups = _split(text, _JOINED)
        if cups:
            return Union(tuple(self.answer(part, depth + 1) for part in parts))
        if bracketed := _whole_bracket(text):
            opener, inner, closer = bracketed
            if opener in ("{", r"\{") and (built := _BUILDER.match(inner)):
                return self.answer(inner[built.end() :], depth + 1)
            texts, _ = _split(inner, _LISTED, self.thousands)
            if len(texts) > 1 or opener == r"\{":
                return self._several(opener, texts, closer, depth)
            if not inner.strip():
                raise NotRead("empty brackets")
            if (opener, closer) in (("(", ")"), ("[", "]")) and not _is_prose(inner):
                return self.answer(inner, depth + 1)
        parts, colons = _split(text, _RATIO)
        if colons and all(part.strip() for part in parts):
            return self._ratio(parts)
        return self._leaf(text)

    def _several(self, opener: str, items: list[str], closer: str, depth: int) -> Several:
        # Bare braces group and are not printed, so they are no set.
        kinds = {"(": "(", "[": "[", "{": "", r"\{": "{", r"\lbrace": "{", r"\langle": "(", r"\lbrack": "["}
        ends = {")": ")", "]": "]", "}": "", r"\}": "}", r"\rbrace": "}", r"\rangle": ")", r"\rbrack": "]"}
        found = tuple(self.answer(item, depth + 1) for item in items if item.strip())
        return Several(kinds[opener], ends[closer], found)  # type: ignore[arg-type]

    def _relation(self, sides: list[str], signs: list[str], depth: int) -> Answer:
        if len(signs) == 1 and not sides[0].strip():  # "= 5"
            return self.answer(sides[1], depth + 1)
        label = squeezed(sides[0]) if _LABEL.fullmatch(sides[0].strip()) else None
        if label and (word := _FIRST_WORD.match(label)) and word[1] in FUNCTIONS:
            label = None  # sin(x) = ... names no answer
        read: list[Answer] = []
        for number, side in enumerate(sides):
            try:
                read.append(self.answer(side, depth + 1))
            except NotRead:
                if number == len(sides) - 1:
                    raise
                read.append(Words(squeezed(side)))
        return Relation(tuple(read), tuple(_SIGNS.get(sign, sign) for sign in signs), label)

    def _matrix(self, kind: str, inside: str, depth: int) -> Answer:
        rows = [row for row in _split(inside, _ROWS)[0] if row.strip()]
        texts = [_split(row, _CELLS)[0] for row in rows]
        if kind == "cases":
            lines = [[cell for cell in row if cell.strip()] for row in texts]
            return Several("", "", tuple(self._case(row, depth) for row in lines if row))
        return Matrix(tuple(self._row(row, depth) for row in texts))

    def _row(self, cells: list[str], depth: int) -> tuple[Answer, ...]:
        """A row of a matrix; a blank cell keeps its place, but for those behind the last."""
        while cells and not cells[-1].strip():
            cells = cells[:-1]
        return tuple(self.answer(cell, depth + 1) if cell.strip() else Words("") for cell in cells)

    def _case(self, cells: list[str], depth: int) -> Answer:
        """A line of a definition by cases: its value, with the condition where one stands."""
        value = self.answer(cells[0].strip().rstrip(","), depth + 1)
        if len(cells) == 1:
            return value
        condition = _IF.sub("", " ".join(cells[1:]).strip())
        try:
            return Several("(", ")", (value, self.answer(condition, depth + 1)))
        except NotRead:
            return Several("(", ")", (value, Words(words(condition))))

    def _ratio(self, parts: list[str]) -> Answer:
        trees = [self._tree(part) for part in parts]
        if len(trees) == 2:
            return Value(("mul", trees[0], ("over", trees[1])))
        return Several("(", ")", tuple(Value(("mul", tree, ("over", trees[-1]))) for tree in trees))

    def _leaf(self, text: str) -> Answer:
        if _MOMENT.fullmatch(text):
            return Words(squeezed(text).lower().replace(".", ""))
        if ordinal := _ORDINAL.fullmatch(text):
            return Value(("num", Fraction(ordinal[1]), 0))
        if (number := NUMBER_WORDS.get(words(text))) is not None:
            return Value(("num", Fraction(number), 0))
        if _is_prose(text):
            return Words(words(text))
        value, unit = split_unit(text)
        value = split_noun(value) or value
        if factor := _behind(text):
            value, unit = factor[0], None
        tree = self._tree(value)
        if factor:
            tree = ("mul", tree, ("num", factor[1], 0))
        for sign in ("pm", "mp"):
            if _has(tree, sign):
                return Several("", "", (Value(_signed(tree, "add"), unit), Value(_signed(tree, "neg"), unit)))
        return Value(tree, unit)

    def _tree(self, text: str) -> Tree:
        return parse(tokenise(text, thousands=self.thousands), tight=self.tight)


_COUNTED = re.compile(
    r"(.*[\d)}])\s*(?:\\(?:text|mathrm|mbox|textbf)\s*\{\s*([a-z]+)\s*\}|\s([a-z]+))", re.DOTALL
)


def _behind(text: str) -> tuple[str, Fraction] | None:
    """The number before a counting word ("5 million"), and what the word multiplies it by."""
    found = _COUNTED.fullmatch(text)
    factor = times(found[2] or found[3]) if found else None
    return (found[1], factor) if found and factor else None


def _is_prose(text: str) -> bool:
    bare = words(text)
    if not text.strip() or not _PROSE.fullmatch(bare) or _has_maths(text):
        return False
    names = bare.split()
    if (
        any(name in FUNCTIONS or name in ("pi", "infty", "infinity", "inf") for name in names)
        and len(names) <= 2
    ):
        return False
    letters = sum(map(len, names))
    written = squeezed(text)
    mixed = letters >= 2 and not written.islower() and not written.isupper()
    return letters >= 4 or "text" in text or mixed


_MATHS = re.compile(r"[\d^_=+*/<>{}()\[\]|]|\\(?!text|mathrm|mbox|textbf|mathbf)")


def _has_maths(text: str) -> bool:
    return bool(_MATHS.search(re.sub(r"\\(?:text\w*|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1", text)))


def _has(tree: Tree, operation: str) -> bool:
    return tree[0] == operation or any(_has(part, operation) for part in tree[1:] if isinstance(part, tuple))


def _signed(tree: Tree, sign: Literal["add", "neg"]) -> Tree:
    """The tree with every ± read as this sign and every ∓ as the other."""
    parts = tuple(_signed(part, sign) if isinstance(part, tuple) else part for part in tree[1:])
    if tree[0] in ("pm", "mp"):
        plus = (tree[0] == "pm") == (sign == "add")
        return ("add", parts[0], parts[1] if plus else ("neg", parts[1]))
    return (tree[0], *parts)


def _split(text: str, pattern: re.Pattern[str], thousands: bool = False) -> tuple[list[str], list[str]]:
    """The pieces between the pattern's cuts that lie in no bracket, and the cuts."""
    pieces, cuts, depth, start = [], [], 0, 0
    groups = _GROUPED_DIGITS.finditer(text) if thousands else ()
    kept = {comma for group in groups for comma in range(*group.span())}
    for found in pattern.finditer(text):
        mark = found[0]
        if found["cut"] is not None:
            if depth == 0 and found.start() not in kept:
                pieces.append(text[start : found.start()])
                cuts.append(mark.strip())
                start = found.end()
        elif mark in _OPENING or mark.startswith(r"\begin"):
            depth += 1
        else:
            depth = max(0, depth - 1)
    return [*pieces, text[start:]], cuts


_GROUPED_DIGITS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_BRACKETS = re.compile(_ALL_BRACKETS)


def _whole_bracket(text: str) -> tuple[str, str, str] | None:
    """Opener, content and closer of a text that one pair of brackets (of any two kinds) encloses."""
    depth, first, last = 0, None, None
    for found in _BRACKETS.finditer(text):
        if depth == 0:
            if first is not None or found.start() != 0 or found[0] not in _OPENING:
                return None
            first = found
        depth += 1 if found[0] in _OPENING or found[0].startswith(r"\begin") else -1
        last = found
    if first is None or last is None or depth or last.end() != len(text) or last[0] not in _OPENING.values():
        return None
    return first[0], text[first.end() : last.start()], last[0]
