r"""LaTeX (and the ASCII that people and SymPy write instead) as a list of tokens.

Blanks may have been dropped by whoever stored the answer (``\omegat``, ``\cost``), so an unknown command is cut after
its longest known beginning.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from distill.verify.maths.symbols import CONSTANTS, FUNCTIONS, GREEK, KNOWN, MARKS, TEXT_COMMANDS


class NotRead(ValueError):
    """The text is no expression that we know how to read; the message says where that showed."""


class Unsupported(NotRead):
    """It is mathematics, but of a kind that is not ours to read: a sum, an integral, a set by its property."""


class Token(NamedTuple):
    """``kind`` is number, symbol, function, command, text or mark; ``spaced`` tells of a blank before it."""

    kind: str
    text: str
    spaced: bool


_LONGEST = max(map(len, KNOWN))

_PLAIN_NUMBER = (
    r"\d+\.(?!\d)"  # 5.
    r"|\d+(?:\.\d+)?(?:[eE][+-]?\d{1,4}(?![\d.]))?"  # 5, 5.1, 5e-3
    r"|\.\d+(?:[eE][+-]?\d{1,4}(?!\d))?"  # .5
)
_NUMBER = r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|" + _PLAIN_NUMBER  # 1,234.5 before all others
_WORDS = "|".join(sorted((*FUNCTIONS, "pi", "infty", "infinity", "inf"), key=len, reverse=True))
_TOKEN = (
    r"(?P<blank>\s+)|(?P<number>{number})|\\(?P<command>[a-zA-Z]+)|\\(?P<escaped>.)|(?P<word>(?:{words}))"
    r"|(?P<letter>[^\W\d_])|(?P<mark><=|>=|!=|\*\*|.)"
)
_WITH_THOUSANDS = re.compile(_TOKEN.format(number=_NUMBER, words=_WORDS), re.DOTALL | re.ASCII)
_WITHOUT_THOUSANDS = re.compile(_TOKEN.format(number=_PLAIN_NUMBER, words=_WORDS), re.DOTALL | re.ASCII)
_ESCAPED = {"{": "{:", "}": ":}", "|": "|", "\\": "\\\\", "_": " ", "'": "'", '"': '"'}


def tokenise(text: str, *, thousands: bool = True) -> list[Token]:
    """The tokens of a tidy text.

    Args:
        thousands: read ``1,234`` as one number, not as two.

    Raises:
        NotRead: a command that we do not know.
    """
    tokens: list[Token] = []
    spaced = False
    pattern = _WITH_THOUSANDS if thousands else _WITHOUT_THOUSANDS
    at, end = 0, len(text)
    while at < end:
        found = pattern.match(text, at)
        assert found is not None, f"no token at {at}: {text[at : at + 20]!r}"
        at = found.end()
        kind, piece = found.lastgroup, found[found.lastgroup or 0]
        if kind == "blank":
            spaced = True
            continue
        if kind == "command":
            name = known_beginning(piece)
            if name is None:
                raise Unsupported(f"unknown command \\{piece[:20]}")
            at -= len(piece) - len(name)
            if name in TEXT_COMMANDS:
                token, at = _text(text, at, name, spaced)
            else:
                token = _command(name, spaced)
        elif kind == "escaped":
            token = Token("mark", _ESCAPED.get(piece, piece), spaced)
        elif kind == "word":
            token = _command(piece, spaced)
        elif kind == "letter":
            token = Token("symbol", piece, spaced)
        else:
            token = Token(kind or "mark", "^" if piece == "**" else piece, spaced)
        tokens.append(token)
        spaced = False
    return tokens


def known_beginning(name: str) -> str | None:
    """The longest beginning of a command's name that is a command we have heard of."""
    for length in range(min(len(name), _LONGEST), 1, -1):
        if name[:length] in KNOWN:
            return name[:length]
    return None


def _command(name: str, spaced: bool) -> Token:
    if name in FUNCTIONS:
        return Token("function", FUNCTIONS[name], spaced)
    if name in CONSTANTS:
        return Token("symbol", CONSTANTS[name], spaced)
    if name in GREEK:
        return Token("symbol", "\\" + name.removeprefix("var"), spaced)
    if name in MARKS:
        return Token("mark", MARKS[name], spaced)
    return Token("command", name, spaced)


def _text(text: str, at: int, name: str, spaced: bool) -> tuple[Token, int]:
    r"""The content of ``\text{...}`` as one token; a letter or a number in it stands for itself."""
    while at < len(text) and text[at].isspace():
        at += 1
    if at >= len(text) or text[at] != "{":
        raise NotRead(f"\\{name} without braces")
    depth, start = 1, at + 1
    at = start
    while at < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    if depth:
        raise NotRead("braces that never close")
    content = text[start : at - 1].strip().strip("~").strip()
    if name != "text" and name != "mbox" and content in FUNCTIONS:
        return Token("function", FUNCTIONS[content], spaced), at
    if re.fullmatch(r"\d+(?:\.\d+)?", content, re.ASCII):
        return Token("number", content, spaced), at
    if len(content) == 1 and content.isalpha():
        return Token("symbol", content, spaced), at
    return Token("text", content, spaced), at
