r"""What an expression is worth by numbers, at sample points of its letters.

Two expressions that agree at several generic points to thirty digits are the same function: for rational ones that is
the Schwartz-Zippel lemma, for the others (roots, logarithms, sines) it is what computer algebra calls zero-testing by
evaluation. A disagreement proves that they differ. Every size is bounded before it is computed: a model wrote the text.
"""

from __future__ import annotations

import cmath
import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

from distill.verify.maths.exact import Inexact, TooLarge, Undefined, numeral
from distill.verify.maths.expressions import Tree

LARGEST_EXPONENT = 1e9  # of two, beyond which no number is worked out
DIGITS = 40  # of the second, decisive evaluation


# ---------------------------------------------------------------------------------------------- letters

_CONSTANTS = frozenset({"pi", "e", "i", "infty", "emptyset"})
_REAL_LETTERS = frozenset("xyztuvw")
_DISCRETE = frozenset({"fact", "binom"})


def letters(tree: Tree) -> set[str]:
    """The names in a tree that stand for unknowns."""
    return {node[1] for node in nodes(tree) if node[0] == "sym" and node[1] not in _CONSTANTS}


def nodes(tree: Tree) -> Iterator[Tree]:
    """Every node of a tree, itself first."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(part for part in node[1:] if isinstance(part, tuple))


def is_discrete(tree: Tree) -> bool:
    """Whether its letters must be whole numbers: it counts, rounds (where no letter is one of real numbers), or
    alternates in sign."""
    for node in nodes(tree):
        if node[0] in _DISCRETE or (node[0] == "fn" and node[1] in ("gcd", "lcm")):
            return True
        if node[0] == "fn" and node[1] in ("floor", "ceil") and not letters(tree) & _REAL_LETTERS:
            return True
        if node[0] == "pow" and node[1] == ("neg", ("num", Fraction(1), 0)) and letters(node[2]):
            return True
    return False


_STEPS = (1, 3, 7, 9, 11, 13, 17)  # prime to _NATURALS, so that each letter meets every one of them
_NATURALS = 40
_LARGE_NATURALS = (60, 111, 250)


@lru_cache(maxsize=4096)
def sample(name: str, point: int, kind: str) -> Fraction:
    """A letter's value at a sample point, the same in every expression.

    ``kind``: "positive", "signed" (all negative at point 0, else of any sign), "far" (of any sign, from about 3 on, the
    further the higher the point) or "natural" (each of 2 to 41 in some order as the point goes up, then larger ones).
    """
    digest = hashlib.sha256(name.encode() if kind == "natural" else f"{name}/{point}".encode()).digest()
    word = int.from_bytes(digest[:4], "big")
    if kind == "natural" and point >= _NATURALS:
        return Fraction(_LARGE_NATURALS[point - _NATURALS] + word % 5)
    if kind == "natural":
        return Fraction(2 + (word + point * _STEPS[digest[4] % len(_STEPS)]) % _NATURALS)
    value = Fraction(3 + word % 9973, 4001 + digest[5])  # from nearly 0 to about 2.5
    if kind == "far":
        sign = -1 if (point + digest[4]) % 2 else 1
        return sign * (3 + value) * Fraction(7 ** (point // 2))
    return -value if kind == "signed" and (point == 0 or digest[4] % 2) else value


# ---------------------------------------------------------------------------------------------- numeric


_contexts = threading.local()


def _precise() -> Any:
    """mpmath at DIGITS digits; its working precision is state, so each thread has a context of its own."""
    if not hasattr(_contexts, "mp"):
        _contexts.mp = mpmath.MPContext()
        _contexts.mp.dps = DIGITS
    return _contexts.mp


class Numbers:
    """One arithmetic (cmath's complex, or mpmath's at DIGITS digits) in which trees are evaluated.

    ``left_reals`` tells, after an evaluation, whether a root or logarithm met a negative number: then the value rests
    on a choice of branch.
    """

    def __init__(self, precise: bool) -> None:
        self.precise = precise
        self.m: Any = _precise() if precise else cmath
        self.left_reals = False

    def number(self, value: Fraction) -> Any:
        if self.precise:
            return self.m.mpf(value.numerator) / value.denominator
        try:
            return complex(value)
        except OverflowError:
            raise TooLarge("a number") from None

    def evaluate(self, tree: Tree, at: Mapping[str, Any]) -> Any:
        """The value of a tree with these values for its letters.

        Raises:
            TooLarge, Undefined: it has none that we can work out.
        """
        self.left_reals = False
        try:
            value = self._value(tree, at)
        except (ZeroDivisionError, ValueError, TypeError) as error:  # for arguments out of a domain
            raise Undefined(str(error)) from None
        except (OverflowError, MemoryError) as error:
            raise TooLarge(str(error)) from None
        if self.m.isnan(value) or (self.m.isinf(value) and ("sym", "infty") not in nodes(tree)):
            raise Undefined("not a number")
        return value

    def _value(self, tree: Tree, at: Mapping[str, Any]) -> Any:
        operation = tree[0]
        if operation == "num":
            return self.number(tree[1])
        if operation == "based":
            try:
                return self.number(numeral(tree))
            except Inexact:
                raise Undefined("a base in words") from None
        if operation == "sym":
            return self._symbol(tree[1], at)
        if operation == "add":
            total = self._value(tree[1], at)
            for term in tree[2:]:
                total = total + self._value(term, at)
            return total
        if operation == "mul":
            product = self._value(tree[1], at)
            for factor in tree[2:]:
                product = product * self._value(factor, at)
            return product
        if operation == "call":
            return self._called(tree, at)
        if operation == "fn":
            return self._function(tree[1], [self._value(part, at) for part in tree[2:]])
        values = [self._value(part, at) for part in tree[1:]]
        return _NUMERIC[operation](self, *values)

    def _symbol(self, name: str, at: Mapping[str, Any]) -> Any:
        if name in at:
            return at[name]
        if name in ("pi", "e"):
            return +getattr(self.m, name)
        if name == "i":
            return self.m.mpc(0, 1) if self.precise else 1j
        if name == "infty":
            return self.m.inf
        raise Undefined(f"{name} has no value")

    def power(self, base: Any, exponent: Any) -> Any:
        real, imaginary = _real(exponent), _imaginary(exponent)
        size = abs(base)
        if size == 0:
            if real <= 0:
                raise Undefined("0 to a power that is not positive")
            return base * 0
        bits = abs(real) * abs(math.log2(float(min(max(size, 1e-300), 1e300))))
        if bits > LARGEST_EXPONENT or abs(imaginary) > 1e6:
            raise TooLarge("a power")
        whole = imaginary == 0 and real == round(float(real)) if abs(real) < 1e9 else False
        if whole:
            return base ** round(float(real))
        if _imaginary(base) != 0 or _real(base) < 0:
            self.left_reals = True
        if self.precise:
            return self.m.power(base, exponent)
        return complex(base) ** exponent

    def root(self, inner: Any, index: Any) -> Any:
        if _imaginary(inner) == 0 and _real(inner) < 0:
            if _imaginary(index) == 0 and float(_real(index)) % 2 == 1:
                return -self.power(-inner, 1 / index)  # the real cube root, as school means it
            self.left_reals = True
        if _imaginary(inner) != 0:
            self.left_reals = True
        if index == 0:
            raise Undefined("the zeroth root")
        if inner == 0:
            return inner
        return self.m.sqrt(inner) if index == 2 else self.power(inner, 1 / index)

    def absolute(self, inner: Any) -> Any:
        return abs(inner)

    def factorial(self, inner: Any) -> Any:
        return self._gamma(inner + 1)

    def _gamma(self, argument: Any) -> Any:
        if abs(argument) > 1e6:
            raise TooLarge("a factorial")
        if self.precise:
            return self.m.gamma(argument)
        if _imaginary(argument) != 0:
            raise Undefined("a complex factorial")
        return complex(math.gamma(_real(argument)))

    def binomial(self, upper: Any, lower: Any) -> Any:
        if abs(upper) > 1e6 or abs(lower) > 1e6:
            raise TooLarge("a binomial")
        found = _precise().binomial(upper, lower)
        return found if self.precise else complex(found)

    def _called(self, tree: Tree, at: Mapping[str, Any]) -> Any:
        """An unknown function: some smooth one that its name decides."""
        values = [self._value(part, at) for part in tree[2:]]
        samples = (sample(f"{tree[1]}()", number, "positive") for number in range(len(values) + 2))
        weights = [self.number(weight) for weight in samples]
        inner = sum((w * v for w, v in zip(weights[2:], values, strict=True)), weights[0])
        return self.m.cos(inner) + weights[1] * inner

    def _function(self, name: str, values: list[Any]) -> Any:
        m = self.m
        if name in ("max", "min", "gcd", "lcm"):
            reals = [_real(value) for value in values]
            if name in ("max", "min"):
                return (max if name == "max" else min)(reals)
            wholes = [int(real) for real in reals]
            if any(whole != real for whole, real in zip(wholes, reals, strict=True)):
                raise Undefined(f"{name} of a fraction")
            return self.number(Fraction((math.gcd if name == "gcd" else math.lcm)(*wholes)))
        (value,) = values
        if name in ("floor", "ceil"):
            nearest = round(float(_real(value))) if abs(value) < 1e15 else 0
            if abs(value - nearest) < 1e-12:  # rounding of ours, not of the expression
                return self.number(Fraction(nearest))
            rounded = _precise().floor if name == "floor" else _precise().ceil
            return self.number(Fraction(int(rounded(_real(value)))))
        if name in ("ln", "lg"):
            if value == 0:
                raise Undefined("the logarithm of zero")
            if _imaginary(value) != 0 or _real(value) < 0:
                self.left_reals = True
            return m.log(value) / (m.log(10) if name == "lg" else 1)
        if name in ("asin", "acos") and (_imaginary(value) != 0 or abs(value) > 1):
            self.left_reals = True
        if name in ("exp", "sinh", "cosh", "cis") and abs(value) > 1e6:
            raise TooLarge(name)
        if name == "abs":
            return abs(value)
        if name == "cis":
            return m.exp(1j * value)
        if name in ("cot", "sec", "csc"):
            return 1 / {"cot": m.tan, "sec": m.cos, "csc": m.sin}[name](value)
        return getattr(m, name)(value)


def _real(value: Any) -> Any:
    return value.real if hasattr(value, "real") else value


def _imaginary(value: Any) -> Any:
    return value.imag if hasattr(value, "imag") else 0


_NUMERIC: dict[str, Callable[..., Any]] = {
    "neg": lambda numbers, inner: 0 - inner,  # -(1+0j) has an imaginary part of -0, which is another branch
    "over": lambda numbers, inner: 1 / inner,
    "pow": Numbers.power,
    "root": Numbers.root,
    "percent": lambda numbers, inner: inner / 100,
    "degree": lambda numbers, inner: inner * +numbers.m.pi / 180,
    "abs": Numbers.absolute,
    "fact": Numbers.factorial,
    "binom": Numbers.binomial,
}
