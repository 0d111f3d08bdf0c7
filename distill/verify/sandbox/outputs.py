"""Whether a script's output is the expected one: the rules of a tolerant checker, written down.

1. Lines are compared in order. Blanks at the ends of lines and empty lines at the end do not matter.
2. Where two lines differ as texts, their words (what blanks separate) are compared: as many, each equal as a text,
   or both decimal numbers of which at least one is written with a point or an exponent, and close: within 1e-6,
   absolutely or relative to the expected one. Whole numbers must be equal digit by digit.
3. Case matters, and so do empty lines in between.

What is not known here: problems with several right answers need a checker of their own; these tests have none.
"""

from __future__ import annotations

import math
import re

CLOSE = 1e-6
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def same_output(output: str, expected: str) -> bool:
    """Whether two outputs are the same by the rules above."""
    got, wanted = output.rstrip().split("\n"), expected.rstrip().split("\n")
    return len(got) == len(wanted) and all(map(_same_line, got, wanted))


def _same_line(got: str, wanted: str) -> bool:
    if got.rstrip() == wanted.rstrip():
        return True
    words, others = got.split(), wanted.split()
    return len(words) == len(others) and all(map(_same_word, words, others))


def _same_word(word: str, other: str) -> bool:
    if word == other:
        return True
    if not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(other)) or (_is_whole(word) and _is_whole(other)):
        return False
    return math.isclose(float(word), float(other), rel_tol=CLOSE, abs_tol=CLOSE)


def _is_whole(word: str) -> bool:
    return word.lstrip("+-").isdigit()
