"""Multiple choice: the letter that an answer settles on."""

from __future__ import annotations

import re

from distill.verify.marks import last_boxed, last_tagged

_LETTER = r"[(*]{0,3}([A-Z])[)*]{0,3}(?![A-Za-z'])"
_FIRST = re.compile(rf"\W*(?:\\(?:text|textbf|mathrm|mathbf)\{{)?{_LETTER}")
# The last match of the first pattern that matches anywhere decides.
_SAID = (
    re.compile(rf"(?:ANSWER|Answer|answer)\**[ \t]*:[\s*]*{_LETTER}"),
    re.compile(rf"(?:answer|choice|option)\s+is[\s:]*(?:option\s+|choice\s+)?{_LETTER}"),
    re.compile(rf"^[ \t]*{_LETTER}[ \t]*[.):]?[ \t]*$", re.MULTILINE),
)


def extract_choice(answer: str) -> str | None:
    r"""The chosen letter, by its strongest mark, the last of its kind; None where no mark stands.

    Marks: ``\boxed{B}``, ``<answer>B</answer>``, "ANSWER: B", "the answer is (B)", a line with a lone letter.
    """
    for marked in (last_boxed(answer), last_tagged(answer)):
        if marked is not None and (match := _FIRST.match(marked)):
            return match[1]
    for pattern in _SAID:
        found = pattern.findall(answer)
        if found:
            return str(found[-1])
    return None
