"""Whether a script's output is the expected one: the rules of a tolerant checker, written down.

1. Lines are compared in order. Blanks at the ends of lines and empty lines at the end do not matter.
2. Where two lines differ as texts, their words (what blanks separate, however many) are compared: as many, each equal
   as a text, or both decimal numbers of which at least one is written with a point or an exponent, and close: within
   1e-6, absolutely or relative to the expected one. Two numbers that are whole, however written, must be equal.
3. Case matters, and so do empty lines in between.

What is not known here: problems with several right answers need a checker of their own; these tests have none.
"""

from __future__ import annotations

import re
from decimal import Decimal

CLOSE = Decimal("1e-6")
LONGEST = 400  # characters of a number with a point or an exponent
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?")


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
    if max(len(word), len(other)) > LONGEST or not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(other)):
        return False
    if _is_digits(word) and _is_digits(other):
        return False  # "007" is not "7"
    number, wanted = Decimal(word), Decimal(other)
    if _is_whole(number) and _is_whole(wanted):
        return number == wanted
    return abs(number - wanted) <= CLOSE * max(Decimal(1), abs(wanted))


def _is_digits(word: str) -> bool:
    return word.lstrip("+-").isdigit()


def _is_whole(number: Decimal) -> bool:
    return number == number.to_integral_value()
