"""Reflective words: where a text doubts itself and looks again.

DeepSeek-R1 counted ten of them over its training (arXiv 2501.12948v2, appendix C.2) and found them five to seven times
as frequent at the end; "wait" all but absent at first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

WORDS = ("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check")
_REFLECTIVE = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)
_WORD = re.compile(r"\w+")


def reflective_rate(texts: Sequence[str]) -> float | None:
    """Reflective words for each thousand words of all the texts; None where they hold no word."""
    words = sum(len(_WORD.findall(text)) for text in texts)
    return 1000 * sum(map(count_reflective, texts)) / words if words else None


def count_reflective(text: str) -> int:
    """How many reflective words a text holds."""
    return len(_REFLECTIVE.findall(text))


def reflective_parts(text: str) -> Iterator[tuple[str, bool]]:
    """The text in parts, in order, each with whether it is a reflective word; joined they are the text."""
    at = 0
    for found in _REFLECTIVE.finditer(text):
        if found.start() > at:
            yield text[at : found.start()], False
        yield found[0], True
        at = found.end()
    if at < len(text):
        yield text[at:], False
