"""The process of the tests of one program, which runs elsewhere: what it defines is here as stand-ins.

A call of a stand-in sends plain data over the link and builds the result anew from exact built-in types, so that
equality, ``assert`` and every built-in function are ours. A program's own objects (instances of its classes,
generators) stay with it and are here as `live.Live`.

What is shared with a program that runs in the tests' interpreter: arguments that it changes in place are changed
here too; a function of the tests that is handed to it is called back. Standard library only.
"""

from __future__ import annotations

import ast
import builtins
import collections
import functools
import importlib
import types
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from distill.verify.sandbox.defined import run_defined
    from distill.verify.sandbox.live import Live, Unfit
    from distill.verify.sandbox.plain import CONTAINERS, Link, Message, NotPlain, decode, encode, is_iterator
    from distill.verify.sandbox.program_side import SHARED_MODULES, SHOWN_CHARS, shown
    from distill.verify.sandbox.traceless import is_traceless, names_read, nodes_of
    from distill.verify.sandbox.unserved import decides, unserved
else:
    from defined import run_defined
    from live import Live, Unfit
    from plain import CONTAINERS, Link, NotPlain, decode, encode, is_iterator
    from program_side import SHARED_MODULES, SHOWN_CHARS, shown
    from traceless import is_traceless, names_read, nodes_of
    from unserved import decides, unserved


class ProgramEnded(BaseException):
    """The program is gone, or says what no program of ours says. No ``except Exception`` of the tests catches it."""


class Unloaded(BaseException):
    """The program raised before its names were defined; the message says what."""


class Alone(BaseException):
    """The program has to have a process of its own."""


class Tests(NamedTuple):
    """Compiled test code, the names that it reads, whether it is `traceless`, and what `unserved` tells."""

    text: str
    code: types.CodeType
    names: list[str]
    traceless: bool
    unserved: str
    decides: bool


@functools.lru_cache(maxsize=1024)  # a problem's tests judge many programs
def prepare(text: str) -> Tests:
    """Compile test code.

    Raises:
        SyntaxError, ValueError, RecursionError: it does not compile.
    """
    tree = ast.parse(text)
    code = compile(tree, "<tests>", "exec", dont_inherit=True)
    nodes = nodes_of(tree)
    return Tests(text, code, names_read(nodes), is_traceless(nodes), unserved(nodes), decides(nodes))


def run(tests: Tests, entry: str | None, link: Link, order: Message) -> tuple[str, str]:
    """Run tests over the names of the program behind the link; ``order`` goes there with the first question.

    Returns: An outcome, "passed", "failed", "ended" (the program, before its tests), "empty" (they asked nothing of
        it), "error", "alone" or "unfit" (see `Alone`, `Unfit`), and its detail.
    """
    program = _Program(link, order)
    try:
        names = program.names(tests.names, entry)
        if entry and entry not in names:
            return "failed", f"the program defines no {entry}"
        space: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins} | names
        exec(tests.code, space)
        check = space.get("check")
        if entry and check is not None and check is not names.get("check"):  # HumanEval's form
            check(names[entry])
        run_defined(space, names, program.unfit)
    except Unloaded as error:
        return "failed", str(error)
    except BaseException as error:
        if program.left is not None:
            return program.left
        if isinstance(error, ImportError) and error is not program.raised:
            return (
                "error",
                f"the tests cannot be run here: {shown(error)} (there is the standard library alone)",
            )
        if isinstance(error, Unfit):
            return "unfit", str(error)
        if not program.gone:
            why = f"{_test_line(error, tests.text)}{shown(error)}"
            if tests.unserved:
                elsewhere = f"the tests use {tests.unserved}, which their own process has not"
                return "unfit", f"{elsewhere}, and did not pass: {why}"
            return "failed", why
    if program.left is not None:  # whatever the tests caught
        return program.left
    if program.gone:  # it has passed none
        return "ended", program.gone
    return ("passed", "") if program.was_asked and tests.decides else ("empty", "")


class _Program:
    """The other side, as the tests see it."""

    def __init__(self, link: Link, order: Message) -> None:
        self.link, self.order = link, order
        self.gone = ""  # why, once it is
        self.was_asked = False  # whether the tests called anything of it, or have a value of its to look at
        self.raised: BaseException | None = None  # its last exception
        self.left: tuple[str, str] | None = None  # why the tests cannot go on with it
        self.callbacks: list[Any] = []
        self.live: dict[int, Any] = {}

    def names(self, loaded: list[str], entry: str | None) -> dict[str, Any]:
        """What the program defines of the names that the tests use.

        A name of Python's own is the program's only where the tests must mean that: it is the entry point, or, where
        none is named, nothing else that the tests use is the program's. So no program replaces ``all`` or ``abs``.
        """
        loaded = list(dict.fromkeys([*loaded, *([entry] if entry else [])]))
        own = [name for name in loaded if not hasattr(builtins, name) or name == entry]
        found = self._bound(own)
        if entry is None and not found:
            found |= self._bound([name for name in loaded if hasattr(builtins, name)])
        return found

    def _bound(self, names: list[str]) -> dict[str, Any]:
        message = self._asked({"names": names} | self.order)
        self.order = {}
        if "failed" in message:
            raise Unloaded(str(message["failed"])[: 2 * SHOWN_CHARS])
        described = message.get("ok")
        if not isinstance(described, dict):
            raise self._ended("the program answered nonsense")
        found = {}
        for name in names:
            about = described.get(name)
            if not isinstance(about, dict):
                continue
            if "module" in about or "shared" in about:
                value = self._imported(name, about)
                if value is None:
                    continue
                found[name] = value
            else:
                found[name] = self._received(about.get("value"))
                self.was_asked |= not (type(found[name]) is Live or isinstance(found[name], type))
        return found

    def _imported(self, name: str, about: Message) -> Any:
        """A module, or a function of one, that the program has by its own name: imported here, not the program's."""
        home = about.get("module", about.get("shared"))
        if home not in SHARED_MODULES or ("module" in about and home != name):
            return None
        module = importlib.import_module(str(home))
        return module if "module" in about else getattr(module, name, None)

    def do(self, operation: str, *arguments: Any, **keywords: Any) -> Any:
        """Have the program's side do something; its result, or its exception."""
        self.was_asked = True
        message = self._asked(
            {
                "do": operation,
                "args": [self._sent(argument) for argument in arguments],
                "kwargs": {name: self._sent(value) for name, value in keywords.items()},
            }
        )
        if "raised" in message:
            self.raised = self._exception(message["raised"])
            # StopIteration would end a loop of the tests.
            if operation != "next" and isinstance(self.raised, StopIteration):
                raise RuntimeError("the program raised StopIteration") from None
            raise self.raised
        if "unfit" in message:
            raise TypeError(f"the program returned {str(message['unfit'])[:SHOWN_CHARS]}")
        changed = message.get("changed")
        if isinstance(changed, dict):
            for number, data in changed.items():
                if number in keywords:
                    _take_over(keywords[number], self._received(data))
                elif str(number).isdigit() and int(number) < len(arguments):
                    _take_over(arguments[int(number)], self._received(data))
        return self._received(message.get("ok"))

    # ---- what goes out and comes in

    def _asked(self, message: Message) -> Message:
        if self.gone:
            raise ProgramEnded(self.gone)
        try:
            self.link.send(message)
        except OSError:
            raise self._ended() from None
        while True:
            answer = self._receive()
            if "alone" in answer:
                self.left = "alone", ""
                raise Alone
            if "callback" not in answer:
                return answer
            self._call_back(answer)

    def _call_back(self, message: Message) -> None:
        try:
            function = self.callbacks[message["callback"]]
            arguments = [self._received(argument) for argument in message["args"]]
            keywords = {str(name): self._received(value) for name, value in message["kwargs"].items()}
        except (LookupError, TypeError, AttributeError):
            raise self._ended("the program answered nonsense") from None
        try:
            told: Message = {"result": self._sent(function(*arguments, **keywords))}
        except Exception as error:
            told = {"raised": type(error).__name__, "text": shown(error)}
        try:
            self.link.send(told)
        except OSError:
            raise self._ended() from None

    def _receive(self) -> Message:
        try:
            message = self.link.receive()
        except NotPlain as error:
            raise self._ended(f"the program sent {error}") from None
        if message is None:
            raise self._ended()
        return message

    def _ended(self, why: str = "the program ended before its tests did") -> ProgramEnded:
        self.gone = self.gone or why
        return ProgramEnded(self.gone)

    def _sent(self, value: Any) -> Any:
        try:
            return encode(value, self._named)
        except NotPlain as error:
            raise self.unfit(f"the tests hand the program {error}") from None

    def unfit(self, why: str) -> Unfit:
        """What to raise where the tests cannot be run with a program that is elsewhere."""
        self.left = "unfit", why
        return Unfit(why)

    def _named(self, value: Any) -> Message:
        if type(value) is Live:
            return {"live": object.__getattribute__(value, "_number")}
        if isinstance(value, type) and isinstance(number := value.__dict__.get("_live_number"), int):
            return {"live": number}
        if is_iterator(value):
            return {"iterator": [self._sent(item) for item in value]}
        if callable(value):
            self.callbacks.append(value)
            return {"callback": len(self.callbacks) - 1}
        raise NotPlain(f"an object of type {type(value).__name__}, which cannot leave their process")

    def _received(self, data: Any) -> Any:
        try:
            return decode(data, self._stand_in)
        except NotPlain as error:
            raise self._ended(f"the program sent {error}") from None

    def _stand_in(self, data: Message) -> Any:
        number = data["live"]
        if not isinstance(number, int):
            raise TypeError("no number")
        if number not in self.live:
            if "exception" in data:
                self.live[number] = _exception_class(str(data["exception"]), data["bases"], number)
            else:
                self.live[number] = Live(self, number, _container(data.get("container")))
        return self.live[number]

    def _exception(self, told: Any) -> BaseException:
        if not isinstance(told, dict):
            return self._ended("the program answered nonsense")
        kind = self.live.get(told.get("live", -1))
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            kind = _exception_class(str(told.get("name")), told.get("bases", []), None)
        arguments = self._received(told.get("args", []))
        try:
            return kind(*arguments)
        except Exception:
            return Exception(str(told.get("text"))[:SHOWN_CHARS])


def _exception_class(name: str, bases: Any, number: int | None) -> type[BaseException]:
    """The built-in exception of that name, or a class of that name under the nearest built-in one."""
    found = [getattr(builtins, str(base), None) for base in bases] if isinstance(bases, list) else []
    kinds = [kind for kind in found if isinstance(kind, type) and issubclass(kind, BaseException)]
    nearest = kinds[0] if kinds else Exception
    if nearest.__name__ == name or not issubclass(nearest, Exception | SystemExit | KeyboardInterrupt):
        return nearest
    own = {"__getattr__": _no_attribute} | ({} if number is None else {"_live_number": number})
    return type(name[:SHOWN_CHARS] or "Exception", (nearest,), own)


def _no_attribute(error: BaseException, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise Unfit(f"the tests read the attribute {name} of the program's own exception, which stays with it")


def _container(name: Any) -> str | None:
    """The container that a live object says it is, where there is such a one."""
    return name if name in CONTAINERS else None


def _take_over(mine: Any, changed: Any) -> None:
    """Change an argument as the program changed its copy."""
    if type(mine) is not type(changed):
        return  # an answer that no program of ours gives
    if isinstance(mine, list | bytearray):
        mine[:] = changed
    elif isinstance(mine, dict | set):
        mine.clear()
        mine.update(changed)
    elif isinstance(mine, collections.deque):
        mine.clear()
        mine.extend(changed)


def _test_line(error: BaseException, code: str) -> str:
    """The line of the tests that raised, to make the reason one that a person can act on."""
    number, at = 0, error.__traceback__
    while at is not None:
        if isinstance(at, types.TracebackType) and at.tb_frame.f_code.co_filename == "<tests>":
            number = at.tb_lineno
        at = at.tb_next
    lines = code.splitlines()
    return f"{lines[number - 1].strip()[:SHOWN_CHARS]}: " if 0 < number <= len(lines) else ""
