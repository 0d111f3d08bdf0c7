r"""Units behind a value: split off, and told apart where they are known.

A unit that the reference leaves out (or the answer) does not matter; two known units that differ do. Single letters
without a wrapper are not units: ``15m`` may as well be a product.
"""

from __future__ import annotations

import re
from fractions import Fraction

from distill.verify.maths.symbols import CONSTANTS, COUNTING, FUNCTIONS, LOOSE_UNITS, NO_UNITS, UNITS

_FACTORS = frozenset({"i", "e", "x", "y", "z", "n", "k", "t", "pi", "a", "b", "c"})  # set upright
_NOUN = re.compile(
    r"(?P<number>.*\d[\d)}%]*|.*\\pi)\s+(?P<noun>[A-Za-z]{3,20}(?:\s+[A-Za-z]{1,20}){0,4})", re.DOTALL
)
_NAMES = {spelling.lower(): name for name, row in UNITS.items() for spelling in (name, *row.split())}
_NAMES.pop("in.", None)

_SHORT = frozenset("mgshljcnkavwtpbd")
_LONG = [re.escape(name) for name in _NAMES if name not in _SHORT and "/" not in name]
_BARE = "|".join(sorted(_LONG, key=len, reverse=True))
_WORD = (
    r"(?:\\(?:text|mathrm|mbox|textrm|textnormal|hbox|mathbf|mathit|rm)\s*\{[^{}]*\}"  # anything in a wrapper
    rf"|(?i:{_BARE})(?![a-zA-Z])|k?m/(?:s|h|hr)(?![a-zA-Z])"
    r"|(?:squared?|cubed?|cubic|sq\.?)(?![a-zA-Z]))"
)
_POWER = r"(?:\s*\^\s*(?:\{\s*[-+]?\d\s*\}|[-+]?\d)|\s*\^\{?-?\\circ\}?)"
_TAIL = re.compile(
    rf"(?P<unit>{_WORD}{_POWER}?"
    # Every repetition can match in one way only, for the text is a model's; "/s" needs no wrapper.
    rf"(?:\s*(?:(?:\\cdot|\*|\bper\b|-)\s*)?{_WORD}{_POWER}?|\s*/\s*(?:{_WORD}|[a-zA-Z]){_POWER}?){{0,8}})"
    r"\s*\.?\s*$"
)
_BEFORE = re.compile(r"[\d)}\]%!a-zA-Z|.]\s*$")
_LONGEST_TAIL = 120  # characters
_BOUNDARY = re.compile(rf"(?:(?<=[\d)}}\]\s%!|])|(?<=\\pi))(?={_WORD})")
_INSIDE = re.compile(r"\\[a-zA-Z]+\s*\{([^{}]*)\}")
_UNIT_TEXT = re.compile(r"[A-Za-z\u00c5\s.^/\\\d{}~*()-]*")
# A counting word in another script: 5 pages in Chinese.
_OTHER_SCRIPT = re.compile(r"(?<=[\d)}])\s*[^\W\d_a-zA-Z\u0370-\u03ff\u00aa-\u02af]{1,12}$")


def split_unit(text: str) -> tuple[str, str | None]:
    """A value's text and the unit behind it, in one spelling; None where no unit stands."""
    if other := _OTHER_SCRIPT.search(text):
        return text[: other.start()].strip(), other[0].strip()
    for boundary in _BOUNDARY.finditer(text):
        at = boundary.start()
        if at == 0 or len(text) - at > _LONGEST_TAIL or not _BEFORE.search(text[max(0, at - 20) : at]):
            continue
        tail = _TAIL.match(text, at)
        if tail is not None and _is_unit(tail["unit"]):
            return text[:at].strip(), spelled(tail["unit"])
    return text, None


def _is_unit(text: str) -> bool:
    content = " ".join(_INSIDE.findall(text)).strip()
    said = set(re.findall(r"[a-z]+", content.lower()))
    if said & NO_UNITS or content in _FACTORS:
        return False
    return _UNIT_TEXT.fullmatch(content) is not None


def times(unit: str | None) -> Fraction | None:
    """What a counting word behind a number multiplies it by: million, dozen, thirds; None for any other unit."""
    return COUNTING.get(unit) if unit else None


def split_noun(text: str) -> str | None:
    """The number before a bare noun of the question's ("10 apples", "20 years old"); None where there is none."""
    found = _NOUN.fullmatch(text)
    if found is None:
        return None
    said = found["noun"].lower().split()
    no_noun = any(
        word in NO_UNITS or word in FUNCTIONS or word in CONSTANTS or word in COUNTING for word in said
    )
    return None if no_noun or not re.search(r"[aeiouy]", said[0]) else found["number"].strip()


def spelled(unit: str) -> str:
    """One spelling: wrappers, case, plural and blanks aside."""
    bare = _INSIDE.sub(r" \1 ", unit).replace("\\cdot", " ").replace("~", " ")
    bare = bare.replace("{", "").replace("}", "")
    bare = re.sub(r"\b(?:square|sq\.?)\s+(\w+)", r"\1^2", bare, flags=re.IGNORECASE)
    bare = re.sub(r"\bcubic\s+(\w+)", r"\1^3", bare, flags=re.IGNORECASE)
    return "".join(map(_spelled_piece, re.findall(r"[A-Za-z\u00c5]+|\^\s*-?\d|/", bare)))


def _spelled_piece(piece: str) -> str:
    if not piece[0].isalpha():
        return piece.replace(" ", "")
    return _NAMES.get(piece.lower(), piece.lower())


def contradict(left: str | None, right: str | None) -> bool:
    """Whether two units are known and differ."""
    if left is None or right is None or left == right:
        return False
    bases = [frozenset(re.findall(r"[a-z]+", unit)) for unit in (left, right)]
    known = frozenset(UNITS) - LOOSE_UNITS
    return all(names and names <= known for names in bases)
