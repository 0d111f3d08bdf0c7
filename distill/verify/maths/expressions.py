r"""Tokens to a tree: the grammar of one expression, by recursive descent.

    sum     = [sign] product { (+ | - | ± | ∓) product }
    product = factor { (* | / | nothing) factor }
    factor  = sign factor | atom { ^ exponent | ! | ' | % | ° | _ subscript }

A tree is a tuple ``(operation, arguments...)``; its leaves are ``("num", Fraction, decimals)`` and ``("sym", name)``.
A number directly before a fraction of numbers is a mixed number. Depth is bounded, for a model wrote the text.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

from distill.verify.maths.symbols import ACCENTS
from distill.verify.maths.tokens import NotRead, Token, Unsupported

Tree = tuple[Any, ...]
_T = TypeVar("_T")

DEEPEST = 120  # rules inside one another; a bracket takes about four
_MOST_POSTFIXES = 12
_OPENERS = {"(": ")", "[": "]", "{": "}", "{:": ":}"}
_OPENING_COMMANDS = {"lfloor": ("rfloor", "floor"), "lceil": ("rceil", "ceil")}
_STARTS = frozenset({"(", "[", "{"})
_CALLED = frozenset("fghuFGH")  # a letter that, before a bracket, names a function rather than a factor
_PREFIXES = frozenset({"angle", "triangle", "nabla", "boxed", "fbox"})
_SEVERAL = frozenset({"gcd", "lcm", "max", "min"})


def parse(tokens: Sequence[Token], *, tight: bool = False) -> Tree:
    """The tree of these tokens, all of them.

    Args:
        tight: ``a/bc`` is a/(bc), not (a/b)c: people write it for both.

    Raises:
        NotRead: they are no expression of our grammar, or nest too deep.
    """
    parser = _Parser(list(tokens), tight)
    tree = parser.sum()
    if parser.at < len(parser.tokens):
        raise NotRead(f"unexpected {parser.tokens[parser.at].text[:20]!r}")
    return tree


def _guarded(rule: Callable[..., _T]) -> Callable[..., _T]:
    """A rule that may lead back to itself: it counts how deep."""

    @functools.wraps(rule)
    def deeper(parser: _Parser, *arguments: Any) -> _T:
        parser.depth += 1
        if parser.depth > DEEPEST:
            raise NotRead("nested too deep")
        found = rule(parser, *arguments)
        parser.depth -= 1
        return found

    return deeper


class _Parser:
    def __init__(self, tokens: list[Token], tight: bool) -> None:
        self.tokens, self.tight, self.at, self.depth = tokens, tight, 0, 0

    # ---- looking and stepping

    def mark(self) -> str | None:
        """The mark here, None where something else (or nothing) stands."""
        if self.at < len(self.tokens) and self.tokens[self.at].kind == "mark":
            return self.tokens[self.at].text
        return None

    def take(self, *marks: str) -> str | None:
        found = self.mark()
        if found in marks:
            self.at += 1
            return found
        return None

    def need(self, mark: str) -> None:
        if not self.take(mark):
            shown = self.tokens[self.at].text[:20] if self.at < len(self.tokens) else "the end"
            raise NotRead(f"expected {mark} before {shown!r}")

    def here(self) -> Token:
        if self.at >= len(self.tokens):
            raise NotRead("it ends too early")
        return self.tokens[self.at]

    # ---- the grammar

    @_guarded
    def sum(self) -> Tree:
        terms: list[Tree] = []
        while True:
            sign = self.take("+", "-", "±", "∓")
            if terms and sign is None:
                return terms[0] if len(terms) == 1 else ("add", *terms)
            term = self.product()
            if sign in ("±", "∓"):
                before = ("add", *terms) if terms else ("num", Fraction(0), 0)
                terms = [("pm" if sign == "±" else "mp", before, term)]
            else:
                terms.append(("neg", term) if sign == "-" else term)

    def product(self) -> Tree:
        factors = [self.factor()]
        while True:
            if sign := self.take("*", "/"):
                right = self.factor()
                if sign == "/" and self.tight:
                    group = [right]
                    while self.starts_factor():
                        group.append(self.factor())
                    right = ("mul", *group)
                factors.append(right if sign == "*" else ("over", right))
            elif self.starts_factor():
                factors.append(self.factor())
            else:
                return factors[0] if len(factors) == 1 else ("mul", *factors)

    def starts_factor(self) -> bool:
        if self.at >= len(self.tokens):
            return False
        token = self.tokens[self.at]
        if token.kind in ("symbol", "function", "number", "text"):
            return True
        if token.kind == "mark":
            return token.text in _STARTS
        return token.kind == "command" and token.text in (
            _OPENING_COMMANDS.keys() | ACCENTS | _PREFIXES | {"frac", "binom", "dbinom", "tbinom", "partial"}
        )

    @_guarded
    def factor(self) -> Tree:
        if sign := self.take("+", "-"):
            inner = self.factor()
            return ("neg", inner) if sign == "-" else inner
        return self.postfixed(self.atom())

    def postfixed(self, tree: Tree) -> Tree:
        for _ in range(_MOST_POSTFIXES):
            mark = self.mark()
            if mark == "^":
                self.at += 1
                tree = self.raised(tree)
            elif mark == "!":
                self.at += 1
                tree = ("fact", tree)
            elif mark == "%":
                self.at += 1
                tree = ("percent", tree)
            elif mark == "°":
                self.at += 1
                tree = ("degree", tree)
            elif mark in ("'", "_"):
                tree = self.subscripted(tree)
            else:
                return tree
        raise NotRead("too many marks on one number")

    @_guarded
    def raised(self, base: Tree) -> Tree:
        """What follows ``^``: an exponent, a degree sign, a prime, or a unit's leftover."""
        if self.take("°"):
            return ("degree", base)
        if self.mark() == "{":
            inside = self.tokens[self.at + 1 : self.at + 3]
            if len(inside) == 2 and inside[1][:2] == ("mark", "}"):
                if inside[0][:2] == ("mark", "°"):
                    self.at += 3
                    return ("degree", base)
                if inside[0][:2] == ("mark", "'"):
                    self.at += 3
                    return _primed(base)
                if inside[0].kind == "text" and not inside[0].text:
                    self.at += 3
                    return base
            self.at += 1
            exponent = self.sum()
            self.need("}")
            return ("pow", base, exponent)
        if self.take("'"):
            return _primed(base)
        if sign := self.take("-", "+"):
            exponent = self.atom()
            return ("pow", base, ("neg", exponent) if sign == "-" else exponent)
        exponent = self.atom()
        if self.take("^"):
            exponent = self.raised(exponent)
        return ("pow", base, exponent)

    def subscripted(self, tree: Tree) -> Tree:
        if self.take("'"):
            return _primed(tree)
        self.at += 1
        name = self.flat()
        if tree[0] == "num" and name.isdigit() and tree[2] == 0 and tree[1] >= 0:
            return ("based", str(tree[1]), name)
        if tree[0] != "sym":
            raise NotRead("a subscript where none can be")
        return ("sym", f"{tree[1]}_{name}")

    def flat(self) -> str:
        """The next group (or token) as a name, whatever it holds."""
        if not self.take("{"):
            token = self.here()
            if token.kind == "number":  # x_12 is x_1 times 2 to LaTeX; nobody means that
                self.at += 1
                return token.text
            if token.kind == "mark" and token.text not in "*+-":
                raise NotRead("an empty subscript")
            self.at += 1
            return token.text
        depth = 1
        name: list[str] = []
        while True:
            token = self.here()
            self.at += 1
            depth += {"{": 1, "}": -1}.get(token.text, 0) if token.kind == "mark" else 0
            if not depth:
                return "".join(name)
            name.append(token.text)

    @_guarded
    def atom(self) -> Tree:
        token = self.here()
        self.at += 1
        if token.kind == "number":
            return self.mixed(number(token.text), token)
        if token.kind == "symbol":
            if token.text in _CALLED and self.mark() == "(" and not self.here().spaced:
                return ("call", token.text, *self.arguments())
            return ("sym", token.text)
        if token.kind == "function":
            return self.function(token.text)
        if token.kind == "text":
            if not token.text or len(token.text) > 40:
                raise NotRead("words")
            return ("sym", f"text {token.text}")
        if token.kind == "command":
            return self.command(token.text)
        return self.bracketed(token.text)

    def bracketed(self, opener: str) -> Tree:
        if opener == "|":
            inner = self.sum()
            self.need("|")
            return ("abs", inner)
        if opener not in _OPENERS:
            raise NotRead(f"unexpected {opener!r}")
        inner = self.sum()
        self.need(_OPENERS[opener])
        return inner

    def mixed(self, whole: Tree, token: Token) -> Tree:
        """A whole number and a proper fraction right after it are one number."""
        if whole[2] or "," in token.text or "e" in token.text.lower():
            return whole
        upper = lower = None
        rest = self.tokens[self.at : self.at + 7]
        shape = [piece.text for piece in rest]
        if rest and rest[0][:2] == ("command", "frac"):
            digits = shape[1] if len(rest) >= 2 and rest[1].kind == "number" else ""
            if len(rest) == 7 and shape[1] == shape[4] == "{" and shape[3] == shape[6] == "}":
                upper, lower, used = rest[2], rest[5], 7
            elif len(digits) == 2 and digits.isdigit():
                upper, lower = (Token("number", digit, False) for digit in digits)
                used = 2
        elif len(rest) >= 3 and rest[0].spaced and rest[1][:2] == ("mark", "/"):
            upper, lower, used = rest[0], rest[2], 3
        if upper is None or lower is None or upper.kind != "number" or lower.kind != "number":
            return whole
        if not (upper.text.isdigit() and lower.text.isdigit()) or int(upper.text) >= int(lower.text):
            return whole
        self.at += used
        return ("num", whole[1] + Fraction(int(upper.text), int(lower.text)), 0)

    def arguments(self) -> list[Tree]:
        self.need("(")
        found = [self.sum()]
        while self.take(","):
            found.append(self.sum())
        self.need(")")
        return found

    def function(self, name: str) -> Tree:
        if name == "sqrt":
            index: Tree = ("num", Fraction(2), 0)
            if self.take("["):
                index = self.sum()
                self.need("]")
            return ("root", self.group(), index)
        base = power = None
        while mark := self.take("_", "^"):
            if mark == "_":
                base = self.group()
            elif self.mark() == "{" or self.mark() is None:
                power = self.group()
            else:
                sign = self.take("-")
                power = ("neg", self.atom()) if sign else self.atom()
        if name in _SEVERAL:
            return ("fn", name, *self.arguments())
        inner = self.argument()
        if power == ("neg", ("num", Fraction(1), 0)) and name in ("sin", "cos", "tan"):
            tree: Tree = ("fn", f"a{name}", inner)
        else:
            tree = ("fn", name, inner)
            if base is not None:
                if name != "ln":
                    raise NotRead(f"{name} with a base")
                tree = ("mul", tree, ("over", ("fn", "ln", base)))
            if power is not None:
                tree = ("pow", tree, power)
        return tree

    @_guarded
    def argument(self) -> Tree:
        """What a function without brackets is applied to: the factors that follow, up to the next function."""
        if self.mark() in ("(", "{", "["):
            return self.atom()
        if sign := self.take("-", "+"):
            inner = self.argument()
            return ("neg", inner) if sign == "-" else inner
        factors = [self.postfixed(self.atom())]
        numeric = factors[0][0] == "num"
        while self.starts_factor():
            token = self.here()
            if token.kind in ("function", "number") or (token.text in ("(", "[") and not numeric):
                break
            factors.append(self.postfixed(self.atom()))
            numeric = False
        return factors[0] if len(factors) == 1 else ("mul", *factors)

    def group(self) -> Tree:
        """The argument of a command: a group in braces, or the next token with its brackets."""
        if self.take("{"):
            inner = self.sum()
            self.need("}")
            return inner
        return self.atom()

    def digit_or_group(self) -> Tree:
        r"""As `group`, but ``\frac12`` takes one digit at a time."""
        token = self.here()
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            self.tokens[self.at] = token._replace(text=token.text[1:])
            return number(token.text[0])
        return self.group()

    def command(self, name: str) -> Tree:
        if name == "frac":
            upper = self.digit_or_group()
            return ("mul", upper, ("over", self.digit_or_group()))
        if name in ("binom", "dbinom", "tbinom"):
            upper = self.digit_or_group()
            return ("binom", upper, self.digit_or_group())
        if name in _OPENING_COMMANDS:
            closing, function = _OPENING_COMMANDS[name]
            inner = self.sum()
            if self.here()[:2] != ("command", closing):
                raise NotRead(f"expected \\{closing}")
            self.at += 1
            return ("fn", function, inner)
        if name in ACCENTS:
            return ("sym", f"{name}({self.flat()})")
        if name in ("angle", "triangle", "nabla"):
            return ("sym", f"{name}({self.flat()})")
        if name in ("boxed", "fbox"):
            return self.group()
        if name == "partial":
            return ("sym", "partial")
        raise Unsupported(f"\\{name} is beyond us")


def number(text: str) -> Tree:
    """A numeral as an exact fraction, with the count of its decimals."""
    plain = text.replace(",", "").rstrip(".")
    mantissa, _, exponent = plain.lower().partition("e")
    return ("num", Fraction(plain), max(0, len(mantissa.partition(".")[2]) - int(exponent or 0)))


def _primed(tree: Tree) -> Tree:
    if tree[0] != "sym":
        raise NotRead("a prime where none can be")
    return ("sym", f"{tree[1]}'")
