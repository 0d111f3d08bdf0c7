r"""Whether two answers are the same: every kind of thing against every other.

What counts as the same, where graders differ: a unit, a percent sign or a degree sign that one side leaves out does
not matter; a decimal equals an irrational number only to eight digits or more; items without brackets are unordered, a
tuple is not; an inequality is its interval; ``x = 5`` is 5; letters are compared without case where no two differ by
case alone. Values are left to `equivalence`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from distill.verify.maths import values
from distill.verify.maths.equivalence import Undecided, close, same_value
from distill.verify.maths.exact import Inexact, TooLarge, Undefined, exact
from distill.verify.maths.expressions import Tree
from distill.verify.maths.reading import Answer, Matrix, Relation, Several, Union, Value, Words
from distill.verify.maths.spelling import squeezed
from distill.verify.maths.units import contradict
from distill.verify.maths.values import Numbers

__all__ = ["Undecided", "same"]

MOST_ITEMS = 60


def same(left: Answer, right: Answer) -> bool:
    """Whether two answers are the same; symmetric.

    Raises:
        Undecided.
    """
    left, right = _solved(left), _solved(right)
    if isinstance(left, Relation) or isinstance(right, Relation):
        return _same_relation(left, right)
    if isinstance(left, Value) and isinstance(right, Value):
        return not contradict(left.unit, right.unit) and same_value(left.tree, right.tree)
    if isinstance(left, Matrix) or isinstance(right, Matrix):
        return _same_matrix(left, right)
    if isinstance(left, Union) or isinstance(right, Union):
        return _same_bag(_parts(left), _parts(right))
    if isinstance(left, Several) and isinstance(right, Several):
        return _same_several(left, right)
    if isinstance(left, Several) or isinstance(right, Several):
        group, single = (left, right) if isinstance(left, Several) else (right, left)
        return isinstance(group, Several) and len(group.items) == 1 and same(group.items[0], single)
    if isinstance(left, Words) and isinstance(right, Words):
        return squeezed(left.text.lower()) == squeezed(right.text.lower())
    return False


# ---------------------------------------------------------------------------------------------- groups


def _same_several(left: Several, right: Several) -> bool:
    if "{" in (left.open, right.open):
        if left.open == right.open == "{":
            return _same_set(left.items, right.items)
        return "" in (left.open, right.open) and _same_bag(left.items, right.items)
    if left.open == right.open == "":
        if named := _by_label(left, right):
            return all(same(*pair) for pair in named)
        return _same_bag(left.items, right.items)
    if len(left.items) != len(right.items):
        return False
    brackets = {(left.open, left.close), (right.open, right.close)} - {("", "")}
    matter = len(left.items) == 2 or brackets != {("(", ")"), ("[", "]")}
    if len(brackets) == 2 and matter and _ends(left) != _ends(right):
        return False
    return all(same(one, other) for one, other in zip(left.items, right.items, strict=True))


def _ends(interval: Several) -> tuple[str, str]:
    """Its brackets; at infinity every bracket is an open one."""
    first, last = interval.items[0], interval.items[-1]
    return "(" if _is_infinite(first) else interval.open, ")" if _is_infinite(last) else interval.close


def _is_infinite(item: Answer) -> bool:
    return isinstance(item, Value) and any(node == ("sym", "infty") for node in values.nodes(item.tree))


def _by_label(left: Several, right: Several) -> list[tuple[Answer, Answer]] | None:
    """Items paired by the names before their equals signs, where both sides name all of theirs, and alike."""
    named: list[dict[str, Answer]] = []
    for side in (left, right):
        labels = {item.label: item for item in side.items if isinstance(item, Relation) and item.label}
        if len(labels) != len(side.items):
            return None
        named.append({str(label): item for label, item in labels.items()})
    if named[0].keys() != named[1].keys():
        return None
    return [(named[0][label], named[1][label]) for label in named[0]]


def _same_bag(left: Sequence[Answer], right: Sequence[Answer]) -> bool:
    """The same items as often, in any order."""
    if len(left) != len(right):
        return False
    if len(left) > MOST_ITEMS:
        return all(same(one, other) for one, other in zip(left, right, strict=True))
    waiting = list(right)
    for item in left:
        found = next((n for n, other in enumerate(waiting) if same(item, other)), None)
        if found is None:
            return False
        del waiting[found]
    return True


def _same_set(left: Sequence[Answer], right: Sequence[Answer]) -> bool:
    if max(len(left), len(right)) > MOST_ITEMS:
        return _same_bag(left, right)
    return all(any(same(item, other) for other in right) for item in left) and all(
        any(same(item, other) for other in left) for item in right
    )


def _parts(answer: Answer) -> Sequence[Answer]:
    return answer.parts if isinstance(answer, Union) else (answer,)


def _same_matrix(left: Answer, right: Answer) -> bool:
    if isinstance(left, Matrix) and isinstance(right, Matrix):
        if [len(row) for row in left.rows] != [len(row) for row in right.rows]:
            return False
        pairs = zip(itertools.chain(*left.rows), itertools.chain(*right.rows), strict=True)
        return all(same(one, other) for one, other in pairs)
    matrix, other = (left, right) if isinstance(left, Matrix) else (right, left)
    if not isinstance(matrix, Matrix) or not isinstance(other, Several) or other.open == "{":
        return False
    column = list(itertools.chain(*matrix.rows))
    is_vector = len(matrix.rows) == 1 or all(len(row) == 1 for row in matrix.rows)
    return is_vector and len(column) == len(other.items) and all(map(same, column, other.items))


# ---------------------------------------------------------------------------------------------- relations


def _solved(answer: Answer) -> Answer:
    """An inequality in one letter as its interval; ``x in S`` as S; alternatives joined; all else as it is."""
    if isinstance(answer, Value) and answer.tree in _REALS:
        return Several("(", ")", (_MINUS_INFINITY, _INFINITY))
    if isinstance(answer, Words):
        text = answer.text.lower()
        if text in _ALL_REALS:
            return Several("(", ")", (_MINUS_INFINITY, _INFINITY))
        return Value(_EMPTY) if text in _NOTHING else answer
    if isinstance(answer, Relation):
        if answer.signs == ("in",):
            return _solved(answer.sides[1])
        if set(answer.signs) <= {"<", "<=", ">", ">=", "!="}:
            return _interval(answer) or answer
    if isinstance(answer, Several) and answer.open == "" and len(answer.items) > 1:
        solved = [_solved(item) for item in answer.items]
        if all(map(_is_inequality, answer.items)) and all(isinstance(item, Several) for item in solved):
            return Union(tuple(solved))
    return answer


def _is_inequality(answer: Answer) -> bool:
    return isinstance(answer, Relation) and set(answer.signs) <= {"<", "<=", ">", ">="}


_REALS = {("sym", "mathbb(R)"), ("sym", "mathbf(R)")}
_EMPTY = ("sym", "emptyset")
_ALL_REALS = {
    "all real numbers",
    "all reals",
    "real numbers",
    "reals",
    "set of all real numbers",
    "set of real numbers",
}
_NOTHING = {"no solution", "no solutions", "empty set", "no real solutions", "no real solution"}
_INFINITY = Value(("sym", "infty"))
_MINUS_INFINITY = Value(("neg", ("sym", "infty")))
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!="}


def _interval(relation: Relation) -> Answer | None:
    sides, signs = list(relation.sides), list(relation.signs)
    if len(signs) == 2 and "!=" not in signs:
        if signs[0][0] == ">":
            sides, signs = sides[::-1], [_TURNED[sign] for sign in signs[::-1]]
        if signs[0][0] != "<" or signs[1][0] != "<" or not _is_letter(sides[1]):
            return None
        low, high = ("[" if signs[0] == "<=" else "("), ("]" if signs[1] == "<=" else ")")
        return Several(low, high, (sides[0], sides[2]))  # type: ignore[arg-type]
    if len(signs) != 1 or not all(isinstance(side, Value) for side in sides):
        return None
    sign, (left, right) = signs[0], sides
    if _is_letter(left) and _is_letter(right):
        return None  # x > y
    if not _is_letter(left):
        if _is_letter(right):
            left, right, sign = right, left, _TURNED[sign]
        else:
            found = _linear(left, right)
            if found is None:
                return None
            bound, turned = found
            right, sign = Value(("num", bound, 0)), _TURNED[sign] if turned else sign
    elif values.letters(right.tree) & values.letters(left.tree):  # type: ignore[union-attr]
        return None
    if sign == "!=":
        return Union((Several("(", ")", (_MINUS_INFINITY, right)), Several("(", ")", (right, _INFINITY))))
    if sign[0] == "<":
        return Several("(", "]" if sign == "<=" else ")", (_MINUS_INFINITY, right))
    return Several("[" if sign == ">=" else "(", ")", (right, _INFINITY))


def _is_letter(side: Answer) -> bool:
    """A name that stands for the unknown: ``x``, or ``f(x)``."""
    return isinstance(side, Value) and side.tree[0] in ("sym", "call") and bool(values.letters(side.tree))


def _linear(left: Answer, right: Answer) -> tuple[Fraction, bool] | None:
    """Where ``left - right``, linear in its one letter, is zero, and whether it falls; None where it is not so."""
    assert isinstance(left, Value) and isinstance(right, Value)
    names = values.letters(left.tree) | values.letters(right.tree)
    if len(names) != 1:
        return None
    (name,) = names
    try:
        at = [_difference_at(left.tree, right.tree, name, x) for x in (0, 1, 3)]
    except (Inexact, TooLarge, Undefined):
        return None
    slope = at[1] - at[0]
    if slope == 0 or at[2] - at[0] != 3 * slope:
        return None
    return -at[0] / slope, slope < 0


def _difference_at(left: Tree, right: Tree, name: str, value: int) -> Fraction:
    at = {("sym", name): ("num", Fraction(value), 0)}
    return exact(_replaced(left, at)) - exact(_replaced(right, at))


def _replaced(tree: Tree, at: dict[Tree, Tree]) -> Tree:
    if tree in at:
        return at[tree]
    return (tree[0], *(_replaced(part, at) if isinstance(part, tuple) else part for part in tree[1:]))


def _same_relation(left: Answer, right: Answer) -> bool:
    if not (isinstance(left, Relation) and isinstance(right, Relation)):
        relation, other = (left, right) if isinstance(left, Relation) else (right, left)
        assert isinstance(relation, Relation)
        value = _stated(relation)
        return value is not None and same(value, other)
    if left.label and right.label and left.label != right.label and left.label[0] == right.label[0] == "(":
        right = _in_order(right, left.label)
    stated = _stated(left), _stated(right)
    if stated[0] is not None and stated[1] is not None and same(stated[0], stated[1]):
        named = bool(left.label and right.label) and not _other_curves(left.label, right.label)
        if named or same(left.sides[0], right.sides[0]):
            return True
    if left.signs == right.signs == ("=",):
        return _same_equation(left, right)
    turned = tuple(_TURNED.get(sign, sign) for sign in right.signs[::-1])
    return (left.signs == right.signs and all(map(same, left.sides, right.sides))) or (
        left.signs == turned and all(map(same, left.sides, right.sides[::-1]))
    )


def _other_curves(left: str | None, right: str | None) -> bool:
    """Whether two labels are coordinates, or products of such, and not the same: ``x = 4`` is not ``y = 4``."""
    names = [set(label or "") for label in (left, right)]
    return all(name <= set("xyz") for name in names) and left != right


def _in_order(relation: Relation, label: str) -> Relation:
    """``(y, x) = (2, 3)`` in the order of ``(x, y)``, where it names the same letters."""
    names, wanted = (
        [name.strip() for name in text[1:-1].split(",")] for text in (relation.label or "", label)
    )
    values = relation.sides[-1]
    if sorted(names) != sorted(wanted) or not isinstance(values, Several) or len(values.items) != len(names):
        return relation
    items = tuple(values.items[names.index(name)] for name in wanted)
    return Relation((*relation.sides[:-1], Several(values.open, values.close, items)), relation.signs, label)


def _stated(relation: Relation) -> Answer | None:
    """What ``label = value`` or a chain of equalities says; None for an equation that says more.

    ``exact ~ rounded`` says what is exact, but for a label before it.
    """
    if not set(relation.signs) <= {"=", "~"}:
        return None
    first, last = relation.sides[0], relation.sides[-1]
    if relation.signs[-1] == "~" and not (len(relation.sides) == 2 and relation.label):
        last = relation.sides[-2]
        if len(relation.sides) == 2:
            return first
    if relation.label is None and not _is_name(first):
        return None
    if isinstance(first, Value) and not values.letters(first.tree) and not _is_constant(last):
        return first if len(relation.sides) == 2 and _is_letter(last) else None  # 2 = x, but not 7 = 11a + c
    return last


def _is_constant(answer: Answer) -> bool:
    return isinstance(answer, Value) and not values.letters(answer.tree)


def _is_name(side: Answer) -> bool:
    """A number, or a product of letters without a number before it: what may stand left of an answer."""
    if isinstance(side, Words):
        return True
    if isinstance(side, Several):
        return all(_is_letter(item) for item in side.items)
    if not isinstance(side, Value):
        return False
    if not values.letters(side.tree):
        return True
    kinds = {node[0] for node in values.nodes(side.tree)}
    return kinds <= {"sym", "mul", "over", "fn", "call", "pow", "degree"} or side.tree[0] in ("fn", "call")


def _same_equation(left: Relation, right: Relation) -> bool:
    """Whether two equations have the same solutions: one is a multiple of the other, or each solves the other."""
    if not all(isinstance(side, Value) for side in (*left.sides, *right.sides)):
        return False
    one, other = (
        ("add", relation.sides[0].tree, ("neg", relation.sides[1].tree))  # type: ignore[union-attr]
        for relation in (left, right)
    )
    names = values.letters(one) | values.letters(other)
    if not names:
        return False
    numbers = Numbers(precise=True)
    points = [
        {name: numbers.number(values.sample(name, point, kind)) for name in names}
        for kind in ("positive", "signed", "far")
        for point in (0, 1)
    ]
    return _is_multiple(one, other, points, numbers) or (
        _solves(one, other, points, numbers) and _solves(other, one, points, numbers)
    )


def _is_multiple(one: Tree, other: Tree, points: list[dict[str, Any]], numbers: Numbers) -> bool:
    ratios = []
    for at in points:
        try:
            ratios.append(numbers.evaluate(one, at) / numbers.evaluate(other, at))
        except (TooLarge, Undefined, ZeroDivisionError):
            continue
    return len(ratios) > 3 and ratios[0] != 0 and all(close(ratio, ratios[0], 1e-25) for ratio in ratios)


def _solves(one: Tree, other: Tree, points: list[dict[str, Any]], numbers: Numbers) -> bool:
    """Whether what the first equation gives for each letter that it gives satisfies the second, at every point."""
    tried = 0
    for at in points:
        for name in sorted(at):
            for root in _roots_in(one, name, at, numbers):
                try:
                    left = numbers.evaluate(other, {**at, name: root})
                except (TooLarge, Undefined):
                    return False
                if abs(left) > 1e-20 * (1 + abs(root)):
                    return False
                tried += 1
    return tried > 1


def _roots_in(tree: Tree, name: str, at: dict[str, Any], numbers: Numbers) -> list[Any]:
    """Where the tree, linear in this letter or in its square, is zero when the others hold their values."""
    for power in (1, 2):
        try:
            tried = [numbers.m.mpf(x) ** (numbers.m.mpf(1) / power) for x in (1, 2, 5)]
            points = [numbers.evaluate(tree, {**at, name: value}) for value in tried]
        except (TooLarge, Undefined):
            return []
        slope = points[1] - points[0]
        if abs(slope) > 1e-20 and abs(points[2] - points[0] - 4 * slope) < 1e-25 * (1 + abs(points[2])):
            root = 1 - points[0] / slope
            if power == 1:
                return [root]
            return (
                [sign * numbers.m.sqrt(root) for sign in (1, -1)] if root.imag == 0 and root.real >= 0 else []
            )
    return []
