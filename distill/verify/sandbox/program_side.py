"""The process of one untrusted program: run as a script, or kept to answer the calls of its tests.

It knows the program and what it is called with, and nothing of what is expected. Everything that it says may be the
program's doing. Standard library only.
"""

from __future__ import annotations

import builtins
import contextlib
import operator
import os
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from distill.verify.sandbox.plain import Link, Message, NotPlain, decode, encode
else:
    from plain import Link, NotPlain, decode, encode

SOURCE, LINK = 3, 4  # file descriptors
SHOWN_CHARS = 200
#: Modules whose functions and classes the tests' side may import for itself when a program has them by their
#: own name.
SHARED_MODULES = frozenset(
    {"sys", "math", "cmath", "collections", "itertools", "functools", "operator", "string", "re", "heapq",
     "bisect", "typing", "datetime", "decimal", "fractions", "statistics", "copy", "json", "random",
     "abc", "enum", "dataclasses", "numbers"}
)  # fmt: skip

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "get": getattr, "set": setattr, "iter": iter, "next": next, "len": len, "str": str, "repr": repr,
    "hash": hash, "bool": bool, "isinstance": isinstance, "issubclass": issubclass,
    "getitem": operator.getitem, "setitem": operator.setitem, "delitem": operator.delitem,
    "contains": operator.contains, "eq": operator.eq,
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "pow": operator.pow, "neg": operator.neg,
    "and": operator.and_, "or": operator.or_, "xor": operator.xor, "int": int, "float": float, "abs": abs,
    "radd": lambda right, left: left + right, "rsub": lambda right, left: left - right,
    "rmul": lambda right, left: left * right,
    "enter": lambda value: type(value).__enter__(value),
    "exit": lambda value, *why: type(value).__exit__(value, *why),
}  # fmt: skip


def run_main() -> NoReturn:
    """Run the program as a script; its exit code and its output are the result, its error goes to standard error."""
    code = 1
    try:
        exec(compile(_source(), "<program>", "exec"), _module("__main__").__dict__)
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
        if code:
            _complain(leaving)
    except BaseException as error:
        _complain(error)
    try:
        sys.stdout.flush()
    except BaseException as error:
        _complain(error)
        code = 1
    os._exit(code & 0xFF)


def serve() -> NoReturn:
    """Define the program's names, then do what the tests ask until they are gone."""
    server = _Server(Link(LINK))
    module = _module("solution")
    try:
        exec(compile(_source(), "<program>", "exec"), module.__dict__)
    except BaseException as error:
        server.link.send({"failed": f"the program raised {shown(error)}"})
        os._exit(0)
    server.names = module.__dict__
    server.link.send({"loaded": True})
    while (message := server.link.receive()) is not None:
        server.link.send(server.answer(message))
    os._exit(0)


class _Server:
    def __init__(self, link: Link) -> None:
        self.link = link
        self.names: dict[str, Any] = {}
        self.live: list[Any] = []  # keeps each object, so that no id is used twice
        self.numbers: dict[int, int] = {}  # places in that list, by id

    def answer(self, message: Message) -> Message:
        """One operation's result, with what it changed in the arguments that it was given."""
        try:
            if "names" in message:
                return {"ok": {name: self.described(name) for name in message["names"]}}
            given = message["args"]
            arguments = [decode(argument, self.received) for argument in given]
            keywords = {name: decode(value, self.received) for name, value in message["kwargs"].items()}
            if message["do"] == "call":
                result = arguments[0](*arguments[1:], **keywords)
            else:
                result = _OPERATIONS[message["do"]](*arguments)
            told: Message = {"ok": encode(result, self.named)}
            changed = {
                str(number): after
                for number, value in enumerate(arguments)
                if type(value) in (list, dict, set, bytearray)
                and (after := encode(value, self.named)) != given[number]
            }
            return told | {"changed": changed} if changed else told
        except NotPlain as error:
            return {"unfit": str(error)}
        except BaseException as error:
            return {"raised": self.raised(error)}

    def described(self, name: str) -> Any:
        """What a name stands for; None where the program does not define it."""
        if name not in self.names:
            return None
        value = self.names[name]
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        home = getattr(value, "__module__", None)
        if home in SHARED_MODULES and getattr(value, "__qualname__", getattr(value, "_name", None)) == name:
            return {"shared": home}
        try:
            return {"value": encode(value, self.named)}
        except NotPlain:
            return {"value": self.named(value)}

    def named(self, value: Any) -> Message:
        """A number for a live object."""
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.live)
            self.live.append(value)
        told: Message = {"live": self.numbers[id(value)], "type": type(value).__name__[:SHOWN_CHARS]}
        if isinstance(value, type) and issubclass(value, BaseException):
            told |= {"exception": value.__name__, "bases": _builtin_bases(value)}
        return told

    def received(self, data: Message) -> Any:
        """A live object of ours that the tests hand back, an iterator, or a function of theirs to call."""
        if "live" in data:
            return self.live[data["live"]]
        if "iterator" in data:
            return iter([decode(item, self.received) for item in data["iterator"]])
        number = data["callback"]

        def callback(*arguments: Any, **keywords: Any) -> Any:
            self.link.send(
                {
                    "callback": number,
                    "args": [encode(argument, self.named) for argument in arguments],
                    "kwargs": {name: encode(value, self.named) for name, value in keywords.items()},
                }
            )
            while (message := self.link.receive()) is not None:
                if "result" in message:
                    return decode(message["result"], self.received)
                if "raised" in message:
                    raise getattr(builtins, message["raised"], Exception)(message["text"])
                self.link.send(self.answer(message))
            os._exit(0)

        return callback

    def raised(self, error: BaseException) -> Message:
        """An exception by its name, the built-in classes that it descends from, and its arguments if plain."""
        told: Message = {
            "name": type(error).__name__,
            "bases": _builtin_bases(type(error)),
            "text": shown(error),
        }
        try:
            told["args"] = encode(list(error.args), self.named)
        except BaseException:
            told["args"] = []
        kind = type(error)
        if id(kind) in self.numbers:
            told["live"] = self.numbers[id(kind)]
        return told


def _builtin_bases(kind: type[BaseException]) -> list[str]:
    bases = [base for base in kind.__mro__ if base is not object]
    return [base.__name__ for base in bases if getattr(builtins, base.__name__, None) is base]


def _source() -> str:
    os.lseek(SOURCE, 0, os.SEEK_SET)  # an earlier case's process has read it
    with open(SOURCE, encoding="utf-8", errors="surrogatepass") as file:
        return file.read()


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module  # dataclasses and pickle look classes up by their module
    return module


def _complain(error: BaseException) -> None:
    with contextlib.suppress(OSError):  # the cap on what it may write
        os.write(2, shown(error).encode("utf-8", "replace"))


def shown(error: BaseException) -> str:
    """An exception in a line, whatever its class does."""
    try:
        return f"{type(error).__name__}: {error}"[:SHOWN_CHARS].rstrip(": ")
    except BaseException:  # an exception class of the program whose own text raises
        return type(error).__name__
