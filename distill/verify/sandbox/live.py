"""A program's own objects as its tests see them: what is no plain data stays with the program and is asked about.

What may never come back is an answer to a question that holds what is expected. So equality with a value is decided
here, and an operation of such an object with a value gives another object or nothing: ``abs(f(3) - 7) < 1e-6`` is no
question that an object of the program's may answer. Between two of its own objects the program is asked.

Standard library only: this runs in the sandbox's processes.
"""

from __future__ import annotations

from typing import Any, Protocol


class Unfit(BaseException):
    """The tests hand the program what cannot leave them, or ask what it may not be asked."""


class Program(Protocol):
    """The other side of the link."""

    def do(self, operation: str, *arguments: Any, **keywords: Any) -> Any:
        """Have the program's side do something; its result, or its exception."""


class Live:
    """Something of the program's that is no plain data: a function, a class, an instance, a generator.

    ``_container`` says that it is an instance of a subclass of a container: what it holds is plain.
    """

    def __init__(self, program: Program, number: int, kind: str, container: bool) -> None:
        for name, value in (
            ("program", program),
            ("number", number),
            ("kind", kind),
            ("container", container),
        ):
            object.__setattr__(self, f"_{name}", value)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._program.do("call", self, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return self._program.do("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.do("set", self, name, value)

    def __eq__(self, other: object) -> bool:
        """The program's own equality is asked between two of its objects, and nowhere else."""
        if self is other:
            return True
        if isinstance(other, Live):
            return self._program.do("eq", self, other) is True
        return bool(self._container and self._program.do("plain", self) == other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return (
            hash(self._program.do("plain", self)) if self._container else int(self._program.do("hash", self))
        )

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, Live) and self._program.do("isinstance", instance, self) is True

    def __contains__(self, item: object) -> bool:
        if self._container:
            return item in self._program.do("plain", self)
        if isinstance(item, Live):
            return self._program.do("contains", self, item) is True
        raise Unfit("a question with `in` for a value in an object of its own, which could always say yes")

    def __bool__(self) -> bool:
        return self._program.do("bool", self) is True

    def __iter__(self) -> Any:
        found = self._program.do("iter", self)
        return _Iterator(found) if isinstance(found, Live) else iter(found)

    def __next__(self) -> Any:
        return self._program.do("next", self)

    def __len__(self) -> int:
        return int(self._program.do("len", self))

    def __str__(self) -> str:
        return str(self._program.do("str", self))

    def __repr__(self) -> str:
        return str(self._program.do("repr", self))

    def __int__(self) -> int:
        return int(self._program.do("int", self))

    def __float__(self) -> float:
        return float(self._program.do("float", self))


def _asked(operation: str) -> Any:
    def method(self: Live, *arguments: Any) -> Any:
        return self._program.do(operation, self, *arguments)

    return method


def _between_objects(operation: str) -> Any:
    """An operation whose result, where the other side is a value, may be an object and no value."""

    def method(self: Live, other: Any) -> Any:
        found = self._program.do(operation, self, other)
        if not isinstance(other, Live) and not isinstance(found, Live):
            raise TypeError(f"an object of the program's is no number for {operation!r} with {other!r:.50}")
        return found

    return method


for _operation in ("getitem", "setitem", "delitem", "neg", "abs", "enter", "exit"):
    setattr(Live, f"__{_operation}__", _asked(_operation))
for _operation in (
    "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor",
    "radd", "rsub", "rmul",
):  # fmt: skip
    setattr(Live, f"__{_operation}__", _between_objects(_operation))


class _Iterator:
    def __init__(self, live: Live) -> None:
        self.live = live

    def __iter__(self) -> _Iterator:
        return self

    def __next__(self) -> Any:
        return next(self.live)
