"""The process of untrusted programs: one run as a script, one that answers its tests, or many one after another.

It knows the program and what it is called with, and nothing of what is expected. Everything that it says may be the
program's doing. Standard library only.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import collections
import contextlib
import ctypes
import gc
import operator
import os
import re
import resource
import signal
import sys
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from distill.verify.sandbox.plain import CONTAINER_TYPES, Link, Message, NotPlain, decode, encode
    from distill.verify.sandbox.traceless import BUILTINS, is_traceless, nodes_of
    from distill.verify.sandbox.walls import libc
else:
    from plain import CONTAINER_TYPES, Link, NotPlain, decode, encode
    from traceless import BUILTINS, is_traceless, nodes_of
    from walls import libc

SOURCE, LINK = 3, 4  # file descriptors
TIME_IS_UP = int(
    signal.SIGPROF
)  # the exit code of a shared process at its program's limit: `_exit` gets the signal
SHOWN_CHARS = 200
WORN_KIB = 128 << 10  # a process that once took more memory than this serves no further program
#: Modules whose functions and classes the tests' side may import for itself when a program has them by their
#: own name.
SHARED_MODULES = frozenset(
    {"sys", "math", "cmath", "collections", "itertools", "functools", "operator", "string", "re", "heapq",
     "bisect", "typing", "datetime", "decimal", "fractions", "statistics", "copy", "json", "random",
     "abc", "enum", "dataclasses", "numbers"}
)  # fmt: skip

_CHANGEABLE = (list, dict, set, bytearray, collections.deque, collections.OrderedDict, collections.Counter)
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "get": getattr, "set": setattr, "iter": iter, "next": next, "len": len, "str": str, "repr": repr,
    "hash": hash, "bool": bool, "isinstance": isinstance, "issubclass": issubclass,
    "getitem": operator.getitem, "setitem": operator.setitem, "delitem": operator.delitem,
    "contains": operator.contains, "eq": operator.eq,
    "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "truediv": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "matmul": operator.matmul, "pow": operator.pow,
    "neg": operator.neg,
    "and": operator.and_, "or": operator.or_, "xor": operator.xor, "int": int, "float": float, "abs": abs,
    "radd": lambda right, left: left + right, "rsub": lambda right, left: left - right,
    "rmul": lambda right, left: left * right,
    "enter": lambda value: type(value).__enter__(value),
    "exit": lambda value, *why: type(value).__exit__(value, *why),
}  # fmt: skip


#: What programs that share a process find as built in; the names that they may use are checked before, too.
_FEW_BUILTINS = {name: getattr(builtins, name) for name in (*BUILTINS, "__import__")}
# `Counter` is not among them: it is written in Python, and copies by the class of whatever it is called with.
_PLAIN_TYPES = {
    int, float, complex, bool, str, bytes, bytearray, list, tuple, dict, set, frozenset, type(None), range,
    collections.OrderedDict, collections.defaultdict, collections.deque,
}  # fmt: skip
#: Caches of modules that programs may use: they would keep a program's objects, and show them to the next one.
_FORGET = (re.purge, *getattr(typing, "_cleanups", ()))
_ALONE = {"alone": True}  # the answer for a program that has to have a process of its own


def run_main() -> NoReturn:
    """Run the program as a script; its exit code and its output are the result, its error goes to standard error."""
    code, names = 1, _module("__main__").__dict__
    try:
        exec(compile(_source(), "<program>", "exec", dont_inherit=True), names)
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
        atexit._run_exitfuncs()
        names.clear()  # closes, and so writes, files that a program has left open
        gc.collect()
        sys.stdout.flush()
    except BaseException as error:
        _complain(error)
        code = 1
    os._exit(code & 0xFF)


def serve_one() -> NoReturn:
    """Run the program that lies in SOURCE and do what its tests ask of it until they are gone."""
    server = _Server(Link(LINK), _module("solution").__dict__)
    server.load(_source())
    server.serve(server.link.receive())
    os._exit(0)


def serve_many() -> NoReturn:
    """Serve one program after another, those that can leave no trace (`traceless`), and turn the others away."""
    link = Link(LINK)
    # As the first process of its namespace it is spared the default actions of signals: one has to be set. A handler
    # in Python would wait for a long power or a regular expression to end.
    libc.signal(signal.SIGPROF, ctypes.cast(libc._exit, ctypes.c_void_p))
    while (order := link.receive()) is not None:
        signal.setitimer(signal.ITIMER_PROF, order["cpu"])  # ends this process with TIME_IS_UP
        server = _Server(link, {"__name__": "solution", "__builtins__": dict(_FEW_BUILTINS)})
        server.names["__builtins__"]["type"] = server.type_of
        code = _traceless(order["program"])
        if code is None:
            server.refusal = _ALONE
        else:
            sys.modules["random"].seed(0)
            server.load(code)
        server.serve(order)
        del server, code
        gc.collect()  # what the program left ends here, in its own time
        for forget in _FORGET:
            forget()
        signal.setitimer(signal.ITIMER_PROF, 0)
        fresh = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < WORN_KIB
        link.send({"ready": fresh})
        if not fresh:
            break
    os._exit(0)


def _traceless(program: str) -> types.CodeType | None:
    """The compiled program, if it can leave no trace."""
    gc.disable()  # a tree is thousands of objects and no garbage
    try:
        tree = ast.parse(program)
        if is_traceless(nodes_of(tree)):
            return compile(tree, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass  # in a process of its own it will say so itself
    finally:
        gc.enable()
    return None


class _Done(BaseException):
    """A program is to run no further."""


class _Server:
    def __init__(self, link: Link, names: dict[str, Any]) -> None:
        self.link, self.names = link, names
        self.refusal: Message | None = None  # the answer to everything
        self.done = False
        self.live: list[Any] = []  # keeps each object, so that no id is used twice
        self.numbers: dict[int, int] = {}  # places in that list, by id

    def load(self, program: str | types.CodeType) -> None:
        """Define the program's names."""
        try:
            if isinstance(program, str):
                program = compile(program, "<program>", "exec", dont_inherit=True)
            exec(program, self.names)
        except BaseException as error:
            self.refusal = self.refusal or {"failed": f"the program raised {shown(error)}"}

    def serve(self, message: Message | None) -> None:
        """Do what the tests ask, from this message on, until they are done or gone."""
        while message is not None and "done" not in message:
            answer = self.refusal or self.answer(message)
            if self.done:
                return
            self.link.send(self.refusal or answer)
            message = self.link.receive()
        self.done = True  # a function of the tests that is still held somewhere says nothing any more

    def type_of(self, value: Any) -> type:
        """``type`` for programs that share a process; one that asks for more than a plain type is turned away.

        What other classes make can be a way out: some copy themselves by looking a name up.
        """
        kind = type(value)
        if kind not in _PLAIN_TYPES:
            self.refusal = _ALONE
            raise _Done
        return kind

    def answer(self, message: Message) -> Message:
        """One operation's result, with what it changed in the arguments that it was given."""
        try:
            if "names" in message:
                return {"ok": {name: self.described(name) for name in message["names"]}}
            given = message["args"]
            arguments = [decode(argument, self.received) for argument in given]
            keywords = {name: decode(value, self.received) for name, value in message["kwargs"].items()}
            if message["do"] == "plain":
                return {"ok": encode(arguments[0], self.named)}
            if message["do"] == "call":
                result = arguments[0](*arguments[1:], **keywords)
            else:
                result = _OPERATIONS[message["do"]](*arguments)
            told: Message = {"ok": encode(result, self.named, self.named_container)}
            sent = {str(number): value for number, value in enumerate(given)} | message["kwargs"]
            had = {str(number): value for number, value in enumerate(arguments)} | keywords
            changed = {
                name: after
                for name, value in had.items()
                if type(value) in _CHANGEABLE
                and (after := encode(value, self.named, self.named_container)) != sent[name]
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
            return {"value": encode(value, self.named, self.named_container)}
        except NotPlain:
            return {"value": self.named(value)}

    def named(self, value: Any) -> Message:
        """A number for a live object."""
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.live)
            self.live.append(value)
        told: Message = {"live": self.numbers[id(value)]}
        if isinstance(value, type) and issubclass(value, BaseException):
            told |= {"exception": value.__name__, "bases": _builtin_bases(value)}
        return told

    def named_container(self, value: Any) -> Message:
        """The same for an instance of a subclass of a container: what it holds can be asked for."""
        name = next(kind.__name__ for kind in type(value).__mro__ if kind in CONTAINER_TYPES)
        return self.named(value) | {"container": name}

    def received(self, data: Message) -> Any:
        """A live object of ours that the tests hand back, an iterator, or a function of theirs to call."""
        if "live" in data:
            return self.live[data["live"]]
        if "iterator" in data:
            return iter([decode(item, self.received) for item in data["iterator"]])
        number = data["callback"]

        def callback(*arguments: Any, **keywords: Any) -> Any:
            if self.done or self.refusal:
                raise _Done
            self.link.send(
                {
                    "callback": number,
                    "args": [encode(argument, self.named, self.named_container) for argument in arguments],
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
                self.link.send(self.refusal or answer)
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
