"""Whether two expressions are equal: by exact arithmetic where both are rational, else by evaluation.

Letters stand for positive numbers where a root or logarithm would otherwise need a choice of branch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distill.verify.maths import values
from distill.verify.maths.expressions import Tree
from distill.verify.maths.values import Inexact, Numbers, TooLarge, Undefined

CLOSE = 1e-7  # relative; how far a long decimal may lie from what it rounds
SAME = 1e-28  # relative; what evaluation at DIGITS digits leaves between equals
LONG_DECIMAL = 8  # significant digits from which a decimal may stand for an irrational number
_POINTS = (0, 1, 2)
_NATURAL_POINTS = tuple(range(40))
_TRIES = 48


class Undecided(ArithmeticError):
    """Neither equality nor difference could be shown; the message says why."""


def same_value(left: Tree, right: Tree) -> bool:
    """Whether two expressions are the same, a percent or degree sign on one side aside.

    Raises:
        Undecided.
    """
    signs = {left[0], right[0]}
    if "based" in (left[0], right[0]):
        return _same_based(left, right)
    for sign in ("percent", "degree"):
        if sign in signs and left[0] != right[0]:
            marked, plain = (left, right) if left[0] == sign else (right, left)
            return same_tree(marked[1], plain) or same_tree(marked, plain)
    return same_tree(left, right)


def _same_based(left: Tree, right: Tree) -> bool:
    """Numerals with a base: the same digits in the same base, or in none."""
    if left[0] == right[0]:
        return bool(left[1].lstrip("0") == right[1].lstrip("0") and left[2] == right[2])
    based, plain = (left, right) if left[0] == "based" else (right, left)
    return bool(plain[0] == "num" and plain[2] == 0 and str(plain[1]) == based[1].lstrip("0"))


def same_tree(left: Tree, right: Tree) -> bool:
    """Whether two expressions are equal, by exact arithmetic or by evaluation.

    Raises:
        Undecided.
    """
    if left == right:
        return True
    names = values.letters(left), values.letters(right)
    if not names[0] and not names[1]:
        return _same_constant(left, right)
    if names[0] != names[1]:
        folded = _folded(*names)
        if folded is not None:
            left, right = (_renamed(tree, folded) for tree in (left, right))
    return _same_function(left, right)


def _same_constant(left: Tree, right: Tree) -> bool:
    try:
        exactly = values.exact(left), values.exact(right)
    except Inexact:
        pass
    except Undefined:
        return False
    except TooLarge:
        return _same_huge(left, right)
    else:
        if exactly[0] == exactly[1]:
            return True
        return _is_long_decimal(left, right) and close(*exactly, CLOSE)
    roughly = _pair(left, right, {}, Numbers(precise=False))
    if roughly is not None and not close(*roughly, 1e-6):
        return False
    precisely = _pair(left, right, {}, Numbers(precise=True))
    if precisely is None:
        return False
    return close(*precisely, CLOSE if _is_long_decimal(left, right) else SAME)


def _same_huge(left: Tree, right: Tree) -> bool:
    """Numbers too long to write out: by their leading digits, or not at all."""
    numbers = Numbers(precise=True)
    found = []
    for tree in (left, right):
        try:
            found.append(numbers.evaluate(tree, {}))
        except TooLarge:
            found.append(None)
        except Undefined:
            return False
    if None in found:
        if found[0] is found[1]:
            raise Undecided("both numbers are too large to work out")
        return False
    return close(found[0], found[1], SAME)


def _is_long_decimal(left: Tree, right: Tree) -> bool:
    """Whether one side is a decimal long enough to stand for a number that it only rounds, and the other is none."""
    decimal = [_decimals(tree) for tree in (left, right)]
    return max(decimal) >= LONG_DECIMAL and min(decimal) == 0


def _decimals(tree: Tree) -> int:
    """Significant digits of a literal with a decimal point; 0 for any other expression."""
    if tree[0] == "neg":
        return _decimals(tree[1])
    if tree[0] != "num" or tree[2] == 0:
        return 0
    return len(str(abs(tree[1].numerator * 10 ** tree[2] // tree[1].denominator)))


def _folded(left: set[str], right: set[str]) -> dict[str, str] | None:
    """Names without their case, where that makes both sides' the same and merges none; None otherwise."""
    lower = [{name.lower() for name in names} for names in (left, right)]
    if lower[0] != lower[1] or len(lower[0]) != len(left) or len(lower[1]) != len(right):
        return None
    return {name: name.lower() for name in left | right}


def _renamed(tree: Tree, names: dict[str, str]) -> Tree:
    if tree[0] == "sym":
        return ("sym", names.get(tree[1], tree[1]))
    return (tree[0], *(_renamed(part, names) if isinstance(part, tuple) else part for part in tree[1:]))


def _same_function(left: Tree, right: Tree) -> bool:
    """Equal at several generic points: fast first, precisely where that found no difference."""
    names = sorted(values.letters(left) | values.letters(right))
    discrete = values.is_discrete(left) or values.is_discrete(right)
    kind, points = ("natural", _NATURAL_POINTS) if discrete else ("positive", _POINTS)
    for precise in (False, True):
        numbers, compared = Numbers(precise), 0
        for point in range(_TRIES):
            pair = _pair(left, right, _at(names, point, kind, numbers), numbers)
            if pair is None:
                continue
            if not close(*pair, SAME if precise else 1e-6):
                return False
            compared += 1
            if compared == len(points):
                break
        if precise and not compared:
            return _nowhere_defined(left, right, names, kind, numbers)
    return discrete or _same_where_negative(left, right, names)


def _nowhere_defined(left: Tree, right: Tree, names: list[str], kind: str, numbers: Numbers) -> bool:
    """False where one side alone has no value at any point; where neither has, nothing can be said."""
    for point in _POINTS:
        for tree in (left, right):
            if _pair(tree, tree, _at(names, point, kind, numbers), numbers) is not None:
                return False
    raise Undecided("neither side has a value at any point that was tried")


def _same_where_negative(left: Tree, right: Tree, names: list[str]) -> bool:
    """Letters of any sign: there ``|x|`` is not x. A point that needs a choice of branch says nothing."""
    numbers = Numbers(precise=True)
    for point in _POINTS:
        at = _at(names, point, "signed", numbers)
        found = []
        for tree in (left, right):
            try:
                found.append(numbers.evaluate(tree, at))
            except (TooLarge, Undefined):
                break
            if numbers.left_reals:
                break
        if len(found) == 2 and not close(found[0], found[1], SAME):
            return False
    return True


def _at(names: Sequence[str], point: int, kind: str, numbers: Numbers) -> dict[str, Any]:
    return {name: numbers.number(values.sample(name, point, kind)) for name in names}


def _pair(left: Tree, right: Tree, at: dict[str, Any], numbers: Numbers) -> tuple[Any, Any] | None:
    """Both values at one point; None where one of them has none there (that we can work out)."""
    try:
        return numbers.evaluate(left, at), numbers.evaluate(right, at)
    except (TooLarge, Undefined):
        return None


def close(left: Any, right: Any, relative: float) -> bool:
    """Whether two numbers differ by no more than this share of the larger; nothing is close to infinity but itself."""
    if left == right:
        return True
    size = max(abs(left), abs(right))
    return bool(abs(left - right) <= relative * size) if size < math.inf else False
