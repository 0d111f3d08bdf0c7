"""Values as plain data between a program and its tests, and the link they travel over.

What arrives is built anew from exact built-in types, so nothing that a program returns brings code with it: no
object that equals everything, no list with its own ``__len__``. What is no plain data stays where it is and is
*named* to the other side by a number (``live``).

Standard library only: this runs in the sandbox's processes, which import nothing else.
"""

from __future__ import annotations

import builtins
import collections
import decimal
import fractions
import json
import math
import os
import types
from collections.abc import Callable
from typing import Any

MOST_BYTES = 16 << 20  # of one message
DEEPEST = 150  # lists in lists

Message = dict[str, Any]
_EXACT_IN_JSON = 1 << 53
_ITERATORS: tuple[Any, ...] = (
    map, filter, zip, enumerate, range, reversed, types.GeneratorType,
    type(iter([])), type(iter(())), type(iter({})), type({}.keys()), type({}.values()), type({}.items()),
)  # fmt: skip


CONTAINERS = frozenset(
    {"list", "tuple", "dict", "set", "frozenset", "deque", "Counter", "OrderedDict", "defaultdict"}
)
CONTAINER_TYPES = (
    list, tuple, dict, set, frozenset, collections.deque, collections.Counter, collections.OrderedDict,
    collections.defaultdict,
)  # fmt: skip
#: Of the module `datetime`, which is imported only where one of them comes by: how to write and to read them.
_DATES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "date": (lambda value: value.isoformat(), lambda data: _datetime().date.fromisoformat(data)),
    "time": (lambda value: value.isoformat(), lambda data: _datetime().time.fromisoformat(data)),
    "datetime": (lambda value: value.isoformat(), lambda data: _datetime().datetime.fromisoformat(data)),
    "timedelta": (
        lambda value: [value.days, value.seconds, value.microseconds],
        lambda data: _datetime().timedelta(*map(int, data)),
    ),
}
#: Built-in types that go over by their names.
_TYPES = frozenset(
    {
        "int",
        "float",
        "complex",
        "bool",
        "str",
        "bytes",
        "bytearray",
        "list",
        "tuple",
        "dict",
        "set",
        "frozenset",
        "range",
    }
)


def _datetime() -> Any:
    import datetime

    return datetime


class NotPlain(Exception):
    """A value that cannot be handed over; the message says why."""


def encode(
    value: Any, live: Callable[[Any], Message], container: Callable[[Any], Message] | None = None
) -> Any:
    """A value as JSON: lists as they are, every other container as an object with one key that names its type.

    Args:
        live: names a value that is no plain data to the other side.
        container: the same for an instance of a subclass of a container; without it, that goes as what it holds.

    Raises:
        NotPlain: nested too deep, or ``live`` refuses.
    """
    return _encoded(value, live, container, 0)


def _encoded(
    value: Any, live: Callable[[Any], Message], container: Callable[[Any], Message] | None, depth: int
) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -_EXACT_IN_JSON < value < _EXACT_IN_JSON else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if depth > DEEPEST:
        raise NotPlain(f"a value nested more than {DEEPEST} levels deep")

    def items(values: Any) -> list[Any]:
        return [_encoded(item, live, container, depth + 1) for item in values]

    if kind is list:
        return items(value)
    if container is not None and kind not in CONTAINER_TYPES and isinstance(value, CONTAINER_TYPES):
        return container(value)
    if isinstance(value, tuple):
        return {"tuple": items(tuple.__iter__(value))}
    if isinstance(value, dict):
        name = kind.__name__ if kind in (collections.Counter, collections.OrderedDict) else "dict"
        return {name: [items(pair) for pair in dict.items(value)]}
    if isinstance(value, list):
        return items(list.__iter__(value))
    if isinstance(value, frozenset):
        return {"frozenset": items(frozenset.__iter__(value))}
    if isinstance(value, set):
        return {"set": items(set.__iter__(value))}
    if isinstance(value, bytes | bytearray):
        return {"bytearray" if isinstance(value, bytearray) else "bytes": bytes(value).hex()}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return {"int": hex(int.__index__(value))}
    if isinstance(value, float):
        return {"float": float.__repr__(value)}
    if kind is complex:
        return {"complex": [{"float": repr(part)} for part in (value.real, value.imag)]}
    if kind is collections.deque:
        return {"deque": items(value)}
    if kind is range:
        return {"range": items((value.start, value.stop, value.step))}
    if kind in (fractions.Fraction, decimal.Decimal):
        return {kind.__name__: str(value)}
    if kind.__module__ == "datetime" and kind.__name__ in _DATES and getattr(value, "tzinfo", None) is None:
        return {kind.__name__: _DATES[kind.__name__][0](value)}
    if kind is type and value.__name__ in _TYPES and getattr(builtins, value.__name__) is value:
        return {"type": value.__name__}
    return live(value)


def decode(data: Any, live: Callable[[Message], Any]) -> Any:
    """The value of `encode`'s JSON, in exact built-in types.

    Raises:
        NotPlain: it is not what `encode` makes.
    """
    try:
        return _decoded(data, live)
    except (KeyError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise NotPlain(f"no plain data ({type(error).__name__})") from None


def _decoded(data: Any, live: Callable[[Message], Any]) -> Any:
    if isinstance(data, list):
        return [_decoded(item, live) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1 or next(iter(data)) not in _DECODERS:
        return live(data)
    ((name, inner),) = data.items()
    return _DECODERS[name](inner, live)


def _pairs(data: Any, live: Callable[[Message], Any]) -> list[tuple[Any, Any]]:
    return [(_decoded(key, live), _decoded(item, live)) for key, item in data]


_DECODERS: dict[str, Callable[[Any, Callable[[Message], Any]], Any]] = {
    "tuple": lambda data, live: tuple(_decoded(list(data), live)),
    "dict": lambda data, live: dict(_pairs(data, live)),
    "OrderedDict": lambda data, live: collections.OrderedDict(_pairs(data, live)),
    "Counter": lambda data, live: collections.Counter(dict(_pairs(data, live))),
    "set": lambda data, live: set(_decoded(list(data), live)),
    "frozenset": lambda data, live: frozenset(_decoded(list(data), live)),
    "deque": lambda data, live: collections.deque(_decoded(list(data), live)),
    "bytes": lambda data, live: bytes.fromhex(data),
    "bytearray": lambda data, live: bytearray.fromhex(data),
    "int": lambda data, live: int(str(data), 16),
    "float": lambda data, live: float(data),
    "complex": lambda data, live: complex(*_decoded(list(data), live)),
    "range": lambda data, live: range(*_decoded(list(data), live)),
    "Fraction": lambda data, live: fractions.Fraction(str(data)),
    "Decimal": lambda data, live: decimal.Decimal(str(data)),
    "type": lambda data, live: getattr(builtins, data) if data in _TYPES else live({}),
} | {name: lambda data, live, read=read: read(data) for name, (_, read) in _DATES.items()}


def is_iterator(value: Any) -> bool:
    """Whether tests may hand this to a program as the list of what it yields."""
    return isinstance(value, _ITERATORS)


_as_json = json.JSONEncoder(check_circular=False).encode  # what is circular is nested too deep before


class Link:
    """One end of a stream of messages, each four bytes of length and JSON."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._read = bytearray()  # and not yet received

    def send(self, message: Message) -> None:
        """Write one message; OSError where the other end is gone."""
        data = _as_json(message).encode()
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(self.fd, data) :]

    def receive(self) -> Message | None:
        """The next message; None where the other end is gone.

        Raises:
            NotPlain: what came is no message.
        """
        if not self._fill(4):
            return None
        end = 4 + int.from_bytes(self._read[:4], "big")
        if end > MOST_BYTES:
            raise NotPlain(f"more than {MOST_BYTES >> 20} MiB at once")
        if not self._fill(end):
            return None
        data = self._read[4:end]
        del self._read[:end]
        try:
            message = json.loads(data.decode())
        except (ValueError, RecursionError):
            raise NotPlain("no message") from None
        if not isinstance(message, dict):
            raise NotPlain("no message")
        return message

    def _fill(self, count: int) -> bool:
        """Read until so many bytes are there; whether they are."""
        while len(self._read) < count:
            try:
                piece = os.read(self.fd, max(count - len(self._read), 1 << 14))
            except ConnectionError:
                return False
            if not piece:
                return False
            self._read += piece
        return True
