"""The marks that point at a final answer: boxes and tags. Each finder is linear in its text, which a model wrote."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

_BRACES = re.compile(r"\\f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
_ANSWER_TAGS = re.compile(r"<(/?)answer>", re.IGNORECASE)


def boxes(text: str) -> Iterator[str]:
    r"""The contents of every balanced ``\boxed{...}`` (or ``\fbox{...}``) that lies in no other, in order."""
    found: list[tuple[int, int]] = []
    open_braces: list[tuple[int, bool]] = []  # where its content starts, and whether it belongs to a box
    for token in _BRACES.finditer(text):
        if token[0].endswith("{") and token[0] != r"\{":
            open_braces.append((token.end(), token[0] != "{"))
        elif token[0] == "}" and open_braces:
            start, boxed = open_braces.pop()
            if boxed:
                while found and found[-1][0] > start:
                    found.pop()
                found.append((start, token.start()))
    return (text[start:end].strip() for start, end in found)


def last_boxed(text: str) -> str | None:
    """The content of the last balanced box, None where there is none or it is empty."""
    last = deque(boxes(text), maxlen=1)
    return (last[0] or None) if last else None


def last_tagged(text: str) -> str | None:
    """What stands between the last ``<answer>`` that is closed and its closing tag; None where there is none."""
    opened, content = -1, None
    for tag in _ANSWER_TAGS.finditer(text):
        if not tag[1]:
            opened = tag.end()
        elif opened >= 0:
            content, opened = text[opened : tag.start()], -1
    return content
