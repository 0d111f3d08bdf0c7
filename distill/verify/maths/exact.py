r"""Exact values: of rational expressions as fractions, of whole numbers of any size modulo a prime.

Every size is bounded before it is computed: a model wrote the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from distill.verify.maths.expressions import Tree

MOST_BITS = 200_000  # of an exact number; 2^2022 and 100! are answers, 10^10^10 is an attack


class TooLarge(ArithmeticError):
    """A number beyond what we work out."""


class Inexact(ArithmeticError):
    """The expression is not rational (or holds letters)."""


class Undefined(ArithmeticError):
    """It has no value there: 0/0, the logarithm of zero, ..."""


def exact(tree: Tree) -> Fraction:
    """The value of a rational expression without letters.

    Raises:
        Inexact, TooLarge, Undefined.
    """
    rule = _EXACT.get(tree[0])
    if rule is None:
        raise Inexact(tree[0])
    return rule(tree)


def _exact_power(tree: Tree) -> Fraction:
    base, power = exact(tree[1]), exact(tree[2])
    if base == 0 and power <= 0:
        raise Undefined("0 to a power that is not positive")
    if power.denominator != 1:
        upright = base ** (1 if power > 0 else -1)
        return _exact_root(upright, abs(power.numerator), power.denominator)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and (bits - 1) * abs(power) > MOST_BITS:
        raise TooLarge("a power")
    if abs(base) == 1:
        return base if power % 2 else abs(base)
    return base ** int(power)


def _exact_root(base: Fraction, power: int, index: int) -> Fraction:
    if index == 0:
        raise Undefined("the zeroth root")
    if base < 0 or index > 64 or power > 64:
        raise Inexact("a root")
    upper, lower = _integer_root(base.numerator, index), _integer_root(base.denominator, index)
    return Fraction(upper, lower) ** power


def _integer_root(number: int, index: int) -> int:
    if index == 2:
        root = math.isqrt(number)
    else:
        if number.bit_length() > 4000:
            raise Inexact("a root")
        root = round(number ** (1 / index)) if number.bit_length() < 1000 else 0
    for candidate in (root - 1, root, root + 1):
        if candidate >= 0 and candidate**index == number:
            return candidate
    raise Inexact("a root")


def _exact_quotient(tree: Tree) -> Fraction:
    divisor = exact(tree[1])
    if divisor == 0:
        raise Undefined("division by zero")
    return 1 / divisor


def _whole(value: Fraction) -> int:
    if value.denominator != 1 or value < 0:
        raise Inexact("not a natural number")
    if value > 3000:
        raise TooLarge("a factorial")
    return value.numerator


_ROUNDED: dict[str, Callable[[Fraction], Any]] = {"floor": math.floor, "ceil": math.ceil, "abs": abs}


def _exact_function(tree: Tree) -> Fraction:
    name, *arguments = tree[1:]
    values = [exact(argument) for argument in arguments]
    if name in ("max", "min"):
        return (max if name == "max" else min)(values)
    if name in ("gcd", "lcm"):
        return Fraction((math.gcd if name == "gcd" else math.lcm)(*map(_whole, values)))
    if name in _ROUNDED:
        return Fraction(_ROUNDED[name](values[0]))
    raise Inexact(name)


def _exact_product(tree: Tree) -> Fraction:
    product = Fraction(1)
    for factor in tree[1:]:
        product *= exact(factor)
        if product.numerator.bit_length() > MOST_BITS or product.denominator.bit_length() > MOST_BITS:
            raise TooLarge("a product")
    return product


def _exact_sum(tree: Tree) -> Fraction:
    total = Fraction(0)
    for term in tree[1:]:
        total += exact(term)
        if max(total.numerator.bit_length(), total.denominator.bit_length()) > MOST_BITS:
            raise TooLarge("a sum")
    return total


def numeral(tree: Tree) -> Fraction:
    """A numeral in a base that is named by a number."""
    if not tree[2].isdigit() or not 2 <= int(tree[2]) <= 36:
        raise Inexact("a base in words")
    try:
        return Fraction(int(tree[1], int(tree[2])))
    except ValueError:
        raise Undefined("a digit beyond its base") from None


_EXACT: dict[str, Callable[[Tree], Fraction]] = {
    "num": lambda tree: tree[1],
    "add": _exact_sum,
    "based": numeral,
    "neg": lambda tree: -exact(tree[1]),
    "mul": _exact_product,
    "over": _exact_quotient,
    "pow": _exact_power,
    "root": lambda tree: _exact_root(exact(tree[1]), 1, _whole(exact(tree[2]))),
    "percent": lambda tree: exact(tree[1]) / 100,
    "abs": lambda tree: abs(exact(tree[1])),
    "fact": lambda tree: Fraction(math.factorial(_whole(exact(tree[1])))),
    "binom": lambda tree: Fraction(math.comb(_whole(exact(tree[1])), _whole(exact(tree[2])))),
    "fn": _exact_function,
}


def residue(tree: Tree, prime: int) -> int:
    """What remains of a whole number, however large, modulo a prime.

    Raises:
        Inexact: it is not made of whole numbers by sums, products and natural powers.
    """
    operation = tree[0]
    if operation == "num" and tree[1].denominator == 1:
        return int(tree[1]) % prime
    if operation == "neg":
        return -residue(tree[1], prime) % prime
    if operation == "add":
        return sum(residue(term, prime) for term in tree[1:]) % prime
    if operation == "mul":
        return math.prod(residue(factor, prime) for factor in tree[1:]) % prime
    if operation == "pow":
        exponent = exact(tree[2])
        if exponent.denominator == 1 and exponent >= 0:
            return pow(residue(tree[1], prime), int(exponent), prime)
    raise Inexact(operation)
