"""A program's own objects as its tests see them: what is no plain data stays with the program and is asked about.

What may never come back is an answer to a question that holds what is expected. So equality with a value is decided
here, and an operation of such an object with a value gives another object or nothing: ``abs(f(3) - 7) < 1e-6`` is no
question that an object of the program's may answer. Between two of its own objects the program is asked.

Standard library only: this runs in the sandbox's processes.
"""

from __future__ import annotations

import builtins
import collections
import operator
from collections.abc import Callable
from typing import Any, Protocol

_FAMILIES = (list, tuple, dict, set, frozenset, collections.deque)


class Unfit(BaseException):
    """The tests hand the program what cannot leave them, or ask what it may not be asked."""


def _is_live(value: object) -> bool:
    return type(value) is Live


class Program(Protocol):
    """The other side of the link."""

    def do(self, operation: str, *arguments: Any, **keywords: Any) -> Any:
        """Have the program's side do something; its result, or its exception."""

    def unfit(self, why: str) -> Unfit:
        """What to raise where the tests cannot go on."""


class Live:
    """Something of the program's that is no plain data: a function, a class, an instance, a generator.

    ``_container`` is the container that its class is derived from: what it holds is plain. ``_tainted``: it came of an
    operation with a value of the tests, and gives them no value but its attributes.
    """

    def __init__(self, program: Program, number: int, container: str | None) -> None:
        base = (getattr(collections, container, None) or getattr(builtins, container)) if container else None
        for name, value in (
            ("program", program),
            ("number", number),
            ("container", base),
            ("tainted", False),
        ):
            object.__setattr__(self, f"_{name}", value)

    def _alone(self, found: Any) -> Any:
        """A result, unless it may have been made of what is expected; what an object so made gives is made so too."""
        if self._tainted:
            if not _is_live(found):
                raise TypeError("an object of the program's, made with a value of the tests, gives no value")
            object.__setattr__(found, "_tainted", True)
        return found

    def _held(self) -> Any:
        """What a container holds, which has to be such a container."""
        held = self._alone(self._program.do("plain", self))
        if not any(isinstance(held, kind) and issubclass(self._container, kind) for kind in _FAMILIES):
            raise TypeError("an object of the program's is not the container that it says it is")
        return held

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._alone(self._program.do("call", self, *arguments, **keywords))

    def __getattr__(self, name: str) -> Any:
        return self._program.do("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.do("set", self, name, value)

    def __mro_entries__(self, bases: Any) -> Any:
        raise self._program.unfit("a class of their own is derived from the program's, which stays with it")

    def __eq__(self, other: object) -> bool:
        """The program's own equality is asked between two of its objects, and nowhere else."""
        if self is other:
            return True
        if _is_live(other):
            return self._program.do("eq", self, other) is True
        return bool(self._container and self._held() == other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._held()) if self._container else int(self._program.do("hash", self))

    def __instancecheck__(self, instance: object) -> bool:
        return _is_live(instance) and self._program.do("isinstance", instance, self) is True

    def __contains__(self, item: object) -> bool:
        if self._container:
            return item in self._held()
        if _is_live(item):
            return self._program.do("contains", self, item) is True
        raise self._program.unfit(
            "a question with `in` for a value in an object of its own, which could always say yes"
        )

    def __bool__(self) -> bool:
        return self._alone(self._program.do("bool", self)) is True

    def __iter__(self) -> Any:
        found = self._alone(self._program.do("iter", self))
        return _Iterator(found) if _is_live(found) else iter(found)

    def __next__(self) -> Any:
        return self._alone(self._program.do("next", self))

    def __len__(self) -> int:
        return int(self._alone(self._program.do("len", self)))

    def __str__(self) -> str:
        return str(self._alone(self._program.do("str", self)))

    def __repr__(self) -> str:
        return str(self._alone(self._program.do("repr", self)))

    def __int__(self) -> int:
        return int(self._alone(self._program.do("int", self)))

    def __float__(self) -> float:
        return float(self._alone(self._program.do("float", self)))


def _asked(operation: str) -> Any:
    def method(self: Live, *arguments: Any) -> Any:
        if self._container and arguments and isinstance(arguments[0], slice):
            return self._held()[arguments[0]]
        return self._alone(self._program.do(operation, self, *arguments))

    return method


def _with(operation: str) -> Any:
    """An operation with another: with a value, what a container holds gives the result, another object an object."""

    def method(self: Live, other: Any) -> Any:
        if _is_live(other):
            return self._alone(self._program.do(operation, self, other))
        if self._container:
            return _PLAIN[operation](self._held(), other)
        found = NotImplemented if operation in _ORDERS else self._program.do(operation, self, other)
        if not _is_live(found):
            raise TypeError(f"an object of the program's is no number for {operation!r} with {other!r:.50}")
        object.__setattr__(found, "_tainted", True)
        return found

    return method


_ORDERS = frozenset({"lt", "le", "gt", "ge"})
_PLAIN: dict[str, Callable[[Any, Any], Any]] = {
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge, "add": operator.add,
    "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv, "floordiv": operator.floordiv,
    "mod": operator.mod, "pow": operator.pow, "matmul": operator.matmul, "and": operator.and_, "or": operator.or_,
    "xor": operator.xor, "radd": lambda held, other: other + held, "rsub": lambda held, other: other - held,
    "rmul": lambda held, other: other * held,
}  # fmt: skip
for _operation in ("getitem", "setitem", "delitem", "neg", "abs", "enter", "exit"):
    setattr(Live, f"__{_operation}__", _asked(_operation))
for _operation in _PLAIN:
    setattr(Live, f"__{_operation}__", _with(_operation))


class _Iterator:
    def __init__(self, live: Live) -> None:
        self.live = live

    def __iter__(self) -> _Iterator:
        return self

    def __next__(self) -> Any:
        return next(self.live)
