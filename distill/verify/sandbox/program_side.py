"""The process of untrusted programs: one run as a script, one that answers its tests, or many one after another.

It knows the program and what it is called with, and nothing of what is expected. Everything that it says may be the
program's doing. Standard library only.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import gc
import operator
import os
import resource
import signal
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from distill.verify.sandbox.plain import Link, Message, NotPlain, decode, encode
    from distill.verify.sandbox.traceless import BUILTINS, is_traceless
else:
    from plain import Link, NotPlain, decode, encode
    from traceless import BUILTINS, is_traceless

SOURCE, LINK = 3, 4  # file descriptors
SHOWN_CHARS = 200
WORN_KIB = 128 << 10  # a process that once took more memory than this serves no further program
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


#: What programs that share a process find as built in; the names that they may use are checked before, too.
_FEW_BUILTINS = {name: getattr(builtins, name) for name in (*BUILTINS, "__import__")}


def run_main() -> NoReturn:
    """Run the program as a script; its exit code and its output are the result, its error goes to standard error."""
    code = 1
    try:
        exec(compile(_source(), "<program>", "exec", dont_inherit=True), _module("__main__").__dict__)
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


def serve_one() -> NoReturn:
    """Run the program that lies in SOURCE and do what its tests ask of it until they are gone."""
    _serve(Link(LINK), _source(), _module("solution").__dict__)
    os._exit(0)


def serve_many() -> NoReturn:
    """Serve one program after another, those that can leave no trace (`traceless`); the others are told ``alone``."""
    link, random_state = Link(LINK), sys.modules["random"].getstate()
    while (order := link.receive()) is not None:
        signal.setitimer(
            signal.ITIMER_PROF, order["cpu"]
        )  # the kernel ends this process at the program's limit
        if (tree := _traceless(order["program"])) is None:
            link.send({"alone": True})
            link.receive()
        else:
            sys.modules["random"].setstate(random_state)
            _serve(link, tree, {"__name__": "solution", "__builtins__": dict(_FEW_BUILTINS)})
        gc.collect()  # what the program left ends here, in its own time
        signal.setitimer(signal.ITIMER_PROF, 0)
        fresh = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < WORN_KIB
        link.send({"ready": fresh})
        if not fresh:
            break
    os._exit(0)


def _traceless(program: str) -> ast.Module | None:
    try:
        tree = ast.parse(program)
        return tree if is_traceless(tree) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # in a process of its own it will say so itself


def _serve(link: Link, program: str | ast.Module, names: dict[str, Any]) -> None:
    """Define the program's names, then do what the tests ask until they are done or gone."""
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), names)
    except BaseException as error:
        link.send({"failed": f"the program raised {shown(error)}"})
    else:
        link.send({"loaded": True})
    server = _Server(link, names)
    while (message := link.receive()) is not None and "done" not in message:
        answer = server.answer(message)
        if server.done:
            return
        link.send(answer)


class _Done(BaseException):
    """The tests are done while a program waits for a function of theirs."""


class _Server:
    def __init__(self, link: Link, names: dict[str, Any]) -> None:
        self.link, self.names = link, names
        self.done = False
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
            if self.done:
                raise _Done
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
                if "done" in message:
                    self.done = True
                    raise _Done
                answer = self.answer(message)
                if self.done:
                    raise _Done
                self.link.send(answer)
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
