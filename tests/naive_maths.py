"""Maths answers for comparison: random expressions with a value by Python's own arithmetic, and rewritten answers."""

import operator as op
import re
from fractions import Fraction


def expressions(letters: bool = False):
    """A hypothesis strategy: nested tuples ("+", a, b), ("/", a, b), ("^", a, n); numbers; x and y if wanted."""
    from hypothesis import strategies as st

    leaves = st.integers(0, 30) | st.integers(1, 400).map(lambda n: n / 100 if not letters else n)
    if letters:
        leaves = leaves | st.sampled_from(["x", "y"])

    def joined(inner):
        pairs = st.tuples(st.sampled_from("+-*" if letters else "+-*/"), inner, inner)
        return pairs | st.tuples(st.just("^"), inner, st.integers(0, 3))

    return st.recursive(leaves, joined, max_leaves=6)


def latex_of(tree) -> str:
    """The expression as a person would typeset it, with brackets everywhere."""
    if not isinstance(tree, tuple):
        return str(tree)
    sign, left, right = tree
    if sign == "/":
        return rf"\frac{{{latex_of(left)}}}{{{latex_of(right)}}}"
    if sign == "^":
        return rf"({latex_of(left)})^{{{right}}}"
    return f"({latex_of(left)}) {chr(92) + 'cdot' if sign == '*' else sign} ({latex_of(right)})"


def value_of(tree, at=None):
    """Its exact value; None where it divides by zero or asks for 0^0."""
    if not isinstance(tree, tuple):
        return at[tree] if isinstance(tree, str) else Fraction(str(tree))
    sign, left, right = tree
    one, other = value_of(left, at), (right if sign == "^" else value_of(right, at))
    if one is None or other is None:
        return None
    if other == 0 and (sign == "/" or (sign == "^" and one == 0)):
        return None
    operation = {"+": op.add, "-": op.sub, "*": op.mul, "/": op.truediv, "^": op.pow}[sign]
    return operation(one, other)


def agree_at_many_points(left, right):
    """Whether two polynomial expressions take the same values on a grid; None where one has no value at some point."""
    grid = [{"x": Fraction(x), "y": Fraction(y)} for x in range(2, 12) for y in range(13, 23)]
    values = [(value_of(left, at), value_of(right, at)) for at in grid]
    if any(None in pair for pair in values):
        return None
    return all(one == other for one, other in values)


def surely_differ(left: str, right: str) -> bool:
    """Whether two references differ whatever the conventions: their digits, or the words in them, are others.

    Numbers are compared as a multiset of their numerals' values, so that 0.5 and 1/2 are "not surely"; references that
    differ only in a sign, a unit or a percent sign, or that name values on one side alone, are passed over.
    """

    def plain(text):
        found = re.fullmatch(r"\s*\$?(-?\d[\d,]*(?:\.\d+)?)\$?\s*", text)
        return Fraction(found[1].replace(",", "")) if found else None

    numbers = plain(left), plain(right)
    if None not in numbers:
        return numbers[0] != numbers[1]
    numerals = [sorted(re.findall(r"\d+", text)) for text in (left, right)]
    if None in numbers and (numbers[0] is not None or numbers[1] is not None):
        other = left if numbers[0] is None else right
        return bool(re.search(r"\\sqrt|\\pi|[xyn]", other)) and not re.search(r"=", other)
    if len(numerals[0]) != len(numerals[1]) or re.search(r"\d\.\d|/|frac", left + right):
        return False
    return numerals[0] != numerals[1]


def decimal_to_fraction(text: str) -> str:
    """A plain decimal as a fraction; any other text as it is."""
    if not re.fullmatch(r"-?\d+\.\d+", text):
        return text
    value = Fraction(text)
    return rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def fraction_to_decimal(text: str) -> str:
    """A fraction whose decimals end as a decimal; any other text as it is."""
    found = re.fullmatch(r"\\frac\{(\d+)\}\{(\d+)\}", text)
    if not found:
        return text
    value = Fraction(int(found[1]), int(found[2]))
    bare = value.denominator
    for prime in (2, 5):
        while bare % prime == 0:
            bare //= prime
    return str(float(value)) if bare == 1 and value.denominator < 10**6 else text


def reordered(text: str) -> str:
    """The first of several terms last, where the text is one sum and no list, relation or words."""
    more_than_a_sum = r"[,=<>|:;]|\\(?:text|cup|in|pm|begin|le|ge|mathrm|mbox|circ|infty)|[A-Za-z]{4}"
    if re.search(more_than_a_sum, re.sub(r"\\[dt]?frac|\\sqrt", "", text)):
        return text
    text = text.strip("$")
    cuts, depth = [], 0
    for place, mark in enumerate(text):
        depth += {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}.get(mark, 0)
        if depth == 0 and mark in "+-" and place and text[place - 1] not in "^_*/+-":
            cuts.append(place)
    if not cuts or re.search(r"\de[-+]?\d", text):
        return text
    first, rest = text[: cuts[0]].strip(), text[cuts[0] :].strip()
    return f"{rest.removeprefix('+')} {first if first.startswith('-') else '+' + first}"
