"""Whether two expressions are equal: by exact arithmetic where both are rational, else by evaluation.

Letters stand for positive numbers where a root or logarithm would otherwise need a choice of branch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from distill.verify.maths import values
from distill.verify.maths.exact import Inexact, TooLarge, Undefined, exact, residue
from distill.verify.maths.expressions import Tree
from distill.verify.maths.values import Numbers

SAME = 1e-28  # relative; what evaluation at DIGITS digits leaves between equals
LONG_DECIMAL = 8  # significant digits from which a decimal may stand for an irrational number
_POINTS = (0, 1, 2)
_FAR_POINTS = tuple(range(6))
_NATURAL_POINTS = tuple(range(43))
_TRIES = 48
_PRIMES = (2**61 - 1, 2**89 - 1, 2**107 - 1)


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
        return bool(left[1].lstrip("0") == right[1].lstrip("0") and left[2] == right[2]) or same_tree(
            left, right
        )
    based, plain = (left, right) if left[0] == "based" else (right, left)
    if plain[0] != "num":
        return same_tree(left, right)
    return bool(plain[2] == 0 and str(plain[1]) == based[1].lstrip("0"))


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
        exactly = exact(left), exact(right)
    except Inexact:
        pass
    except Undefined:
        return False
    except TooLarge:
        return _same_huge(left, right)
    else:
        return exactly[0] == exactly[1] or _is_rounded(left, right, *exactly)
    roughly = _pair(left, right, {}, Numbers(precise=False))
    if roughly is not None and not close(*roughly, 1e-6):
        return False
    precisely = _pair(left, right, {}, Numbers(precise=True))
    if precisely is None:
        return False
    return close(*precisely, SAME) or _is_rounded(left, right, *precisely)


def _same_huge(left: Tree, right: Tree) -> bool:
    """Numbers too long to write out: by what remains of them modulo large primes, else by their leading digits."""
    try:
        return all(residue(left, prime) == residue(right, prime) for prime in _PRIMES)
    except (Inexact, TooLarge):
        pass
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
    if close(found[0], found[1], SAME):
        raise Undecided("both numbers are too large to write out, and begin with the same digits")
    return False


def _is_rounded(left: Tree, right: Tree, one: Any, other: Any) -> bool:
    """Whether one side is a long decimal that rounds (or cuts) the other, a number that no decimal writes out."""
    digits = [_decimals(tree) for tree in (left, right)]
    if max(digits) < LONG_DECIMAL or min(digits) > 0:
        return False
    decimal, value = (left, other) if digits[0] else (right, one)
    if isinstance(value, Fraction) and _ends(value.denominator):
        return False
    step = Fraction(1, 10 ** (decimal[1][2] if decimal[0] == "neg" else decimal[2]))
    return bool(
        abs(one - other) <= (step if isinstance(value, Fraction) else Numbers(precise=True).number(step))
    )


def _ends(denominator: int) -> bool:
    """Whether fractions with this denominator end as decimals."""
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


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
        for point in range(_TRIES if kind == "positive" else len(points)):
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
    return discrete or _same_elsewhere(left, right, names)


def _nowhere_defined(left: Tree, right: Tree, names: list[str], kind: str, numbers: Numbers) -> bool:
    """False where one side alone has no value at any point; where neither has, nothing can be said."""
    for point in _POINTS:
        for tree in (left, right):
            if _pair(tree, tree, _at(names, point, kind, numbers), numbers) is not None:
                return False
    raise Undecided("neither side has a value at any point that was tried")


def _same_elsewhere(left: Tree, right: Tree, names: list[str]) -> bool:
    """Letters of any sign and size: there ``|x - 3|`` is not 3 - x. A point with a choice of branch says nothing."""
    numbers = Numbers(precise=True)
    for kind, points in (("signed", _POINTS), ("far", _FAR_POINTS)):
        for point in points:
            at = _at(names, point, kind, numbers)
            found = [_real_value(tree, at, numbers) for tree in (left, right)]
            if None not in found and not close(found[0], found[1], SAME):
                return False
    return True


def _real_value(tree: Tree, at: dict[str, Any], numbers: Numbers) -> Any | None:
    """The value at a point; None where there is none, or where it rests on a choice of branch."""
    try:
        value = numbers.evaluate(tree, at)
    except (TooLarge, Undefined):
        return None
    return None if numbers.left_reals else value


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
