r"""Units behind a value: split off, and told apart where they are known.

A unit that the reference leaves out (or the answer) does not matter; two known units that differ do. Single letters
without a wrapper are not units: ``15m`` may as well be a product.
"""

from __future__ import annotations

import re

from distill.verify.maths.symbols import LOOSE_UNITS, UNITS

_NAMES = {spelling.lower(): name for name, row in UNITS.items() for spelling in (name, *row.split())}
_NAMES.pop("in.", None)

_SHORT = frozenset("mgshljcnkavwtpbd")
_LONG = [re.escape(name) for name in _NAMES if name not in _SHORT and "/" not in name]
_BARE = "|".join(sorted(_LONG, key=len, reverse=True))
_WORD = (
    r"(?:\\(?:text|mathrm|mbox|textrm|textnormal|hbox|mathbf|mathit|rm)\s*\{[^{}]*\}"  # anything in a wrapper
    rf"|(?i:{_BARE})(?![a-zA-Z])"
    r"|(?:squared?|cubed?|cubic|square|sq\.?)(?![a-zA-Z])"
    r"|\u00c5|\\AA)"
)
_POWER = r"(?:\s*\^\s*(?:\{\s*[-+]?\d\s*\}|[-+]?\d)|\s*\^\{?-?\\circ\}?)"
_TAIL = re.compile(
    rf"(?P<unit>{_WORD}{_POWER}?"
    rf"(?:\s*(?:/|\\cdot|\*|\bper\b|-)?\s*(?:{_WORD}|(?<=/)\s*[a-zA-Z]){_POWER}?){{0,8}})"  # "/s" needs no wrapper
    r"\s*\.?\s*$"
)
_BEFORE = re.compile(r"[\d)}\]%!a-zA-Z|.]\s*$")
_BOUNDARY = re.compile(rf"(?<=[\d)}}\]\s%!|])(?={_WORD})")
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
        if at == 0 or not _BEFORE.search(text[:at]):
            continue
        tail = _TAIL.match(text, at)
        if tail is not None and _is_unit(tail["unit"]):
            return text[:at].strip(), spelled(tail["unit"])
    return text, None


def _is_unit(text: str) -> bool:
    content = " ".join(_INSIDE.findall(text)).strip()
    return content.lower() not in ("and", "or") and _UNIT_TEXT.fullmatch(content) is not None


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
