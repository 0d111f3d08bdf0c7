"""The marks that point at a final answer: boxes and tags. Each finder is linear in its text, which a model wrote."""

from __future__ import annotations

import re
from typing import NamedTuple

_BRACES = re.compile(r"\\f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
_ANSWER_TAGS = re.compile(r"<(/?)answer>", re.IGNORECASE)


class Box(NamedTuple):
    """One box: where the mark begins and ends in its text, and what stands in it."""

    start: int
    end: int
    content: str


def find_boxes(text: str) -> list[Box]:
    r"""Every balanced ``\boxed{...}`` (or ``\fbox{...}``) that lies in no other, in order."""
    found: list[Box] = []
    open_braces: list[tuple[int, int, bool]] = []  # where mark and content start, and whether it is a box
    for token in _BRACES.finditer(text):
        if token[0].endswith("{") and token[0] != r"\{":
            open_braces.append((token.start(), token.end(), token[0] != "{"))
        elif token[0] == "}" and open_braces:
            mark, start, boxed = open_braces.pop()
            if boxed:
                while found and found[-1].start > mark:
                    found.pop()
                found.append(Box(mark, token.end(), text[start : token.start()].strip()))
    return found


def last_boxed(text: str) -> str | None:
    """The content of the last balanced box, None where there is none or it is empty."""
    found = find_boxes(text)
    return (found[-1].content or None) if found else None


def last_tagged(text: str) -> str | None:
    """What stands between the last ``<answer>`` that is closed and its closing tag; None where there is none."""
    opened, content = -1, None
    for tag in _ANSWER_TAGS.finditer(text):
        if not tag[1]:
            opened = tag.end()
        elif opened >= 0:
            content, opened = text[opened : tag.start()], -1
    return content
