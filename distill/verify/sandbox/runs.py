"""One job in flight: what its processes were handed, and the verdict over what became of them.

The expected outputs are known here alone and the tests in their own process, neither where the program runs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from distill.verify.sandbox.outputs import same_output

BROKEN = 117  # `server.BROKEN`, which lives in a script
TIME_IS_UP = 27  # `program_side.TIME_IS_UP`
READ_BYTES = 8 << 20  # of a program's output
MOST_IN_ORDER = (
    1 << 13
)  # characters of program and tests that travel in the order itself, of at most twelve bytes each
LIFETIME = 7 * 86400.0  # seconds that a shared process may last
SPOILT = ("ended", "error", "late")  # outcomes after which a shared process serves no further program
_STILL_THERE = {"exit": 0, "late": False}
GRACE = 2.0  # wall seconds that tests have after their program's own limit has ended it


class Verdicted(NamedTuple):
    """A verdict's value, its reason ("" for correct), and the wall seconds that the program took."""

    verdict: str
    reason: str
    seconds: float


class Orders(Protocol):
    """What takes orders: the server of programs, or one of tests."""

    def order(self, what: dict[str, Any], fds: list[int]) -> None:
        """Send an order with the descriptors that it is about."""


class ScriptRun:
    """A program with stdio tests: one case after another, each in a process of its own."""

    def __init__(
        self, process: int, job: dict[str, Any], future: Future[Verdicted], programs: Orders
    ) -> None:
        self.process, self.job, self.future, self.programs = process, job, future, programs
        self.verdict: Verdicted | None = None
        self.seconds = 0.0
        self.case = 0
        self.source = _file("program", job["program"])
        self.files: list[int] = []
        self.start()

    def start(self) -> None:
        """Order the next case."""
        given = _file("input", self.job["cases"][self.case]["input"])
        self.files = [given, os.memfd_create("output"), os.memfd_create("error")]
        self.programs.order(_limits(self.process, self.job) | {"role": "script"}, [*self.files, self.source])

    def program_ended(self, told: dict[str, Any]) -> None:
        """Judge the case, and go on to the next one or set the verdict."""
        self.seconds += told["seconds"]
        verdict, reason = self._judge(told)
        for fd in self.files:
            os.close(fd)
        self.files = []
        if verdict == "correct" and self.case + 1 < len(self.job["cases"]):
            self.case += 1
            self.start()
            return
        where = f"case {self.case + 1}: " if reason and verdict != "error" else ""
        self.verdict = Verdicted(verdict, where + reason, self.seconds)

    def _judge(self, told: dict[str, Any]) -> tuple[str, str]:
        if told["late"]:
            return "timeout", f"longer than {self.job['time_limit']:g} s"
        said = _contents(self.files[2]).decode("utf-8", "replace").strip()
        if told["exit"] == BROKEN:
            return "error", f"the sandbox failed: {said[:200]}"
        if told["exit"] != 0:
            return "wrong", said[-200:] or _exit(told["exit"])
        output = _contents(self.files[1]).decode("utf-8", "replace")
        expected = self.job["cases"][self.case]["output"]
        return ("correct", "") if same_output(output, expected) else ("wrong", "another output")

    def close(self) -> None:
        """Give back every file descriptor."""
        for fd in (self.source, *self.files):
            os.close(fd)


class TestedRun:
    """A program with python tests: its process, and that of its tests.

    It is tried in the process that a server of tests shares among programs; one that could leave a trace there is
    turned away unrun and gets a process of its own.
    """

    def __init__(
        self, process: int, job: dict[str, Any], future: Future[Verdicted], programs: Orders, tests: Orders
    ) -> None:
        self.process, self.job, self.future, self.programs, self.tests = process, job, future, programs, tests
        self.alone = False
        self.verdict: Verdicted | None = None
        self.program: dict[str, Any] | None = None
        self.outcome: dict[str, Any] | None = None
        told = {name: job[name] for name in ("program", "code", "entry_point")}
        self.text: dict[str, Any] = {"job": told}  # what goes into each order
        self.files: list[int] = []
        if sum(len(text or "") for text in told.values()) > MOST_IN_ORDER:
            self.text, self.files = {}, [_file("tests", json.dumps(told))]

    def share(self, process: int, links: list[int]) -> None:
        """Try it in a shared process, with its link where that is new."""
        self.process, self.program = process, None
        order = self.text | {"alone": False, "cpu": self.job["time_limit"]}
        self.tests.order(order, [*self.files, *links])

    def be_alone(self, process: int, null: int) -> None:
        """Order a process for it alone."""
        self.process, self.alone, self.program = process, True, None
        source = _file("program", self.job["program"])
        here, there = socket.socketpair()
        try:
            with here, there:
                order = _limits(process, self.job) | {"role": "one"}
                self.programs.order(order, [null, null, null, source, there.fileno()])
                self.tests.order(self.text | {"alone": True, "cpu": None}, [*self.files, here.fileno()])
        finally:
            os.close(source)

    def program_ended(self, told: dict[str, Any]) -> None:
        """What became of the program's process."""
        self.program = told
        self._conclude()

    def tests_ended(self, told: dict[str, Any]) -> None:
        """What the tests found; a process that nothing more can be asked of is stopped."""
        self.outcome = told
        if self.program is None and self._needs_end(told):
            self.programs.order({"stop": self.process}, [])
        self._conclude()

    def _needs_end(self, told: dict[str, Any]) -> bool:
        return self.alone or told["outcome"] in SPOILT

    def _conclude(self) -> None:
        if self.outcome is None:
            return
        if self.program is not None:
            seconds = self.program["seconds"] if self.alone else self.outcome["seconds"]
            self.verdict = Verdicted(*self._judge(self.program, self.outcome), seconds)
        elif not self._needs_end(self.outcome):
            self.verdict = Verdicted(*self._judge(_STILL_THERE, self.outcome), self.outcome["seconds"])

    def _judge(self, program: dict[str, Any], tests: dict[str, Any]) -> tuple[str, str]:
        if program["exit"] == BROKEN:
            return "error", "the sandbox failed: the program's process could not be confined"
        outcome, detail = tests["outcome"], tests["detail"]
        if outcome == "passed":
            return "correct", ""
        if outcome == "bad_tests":
            return "bad_reference", f"the tests do not compile: {detail}"
        if outcome == "empty":
            return (
                "bad_reference",
                "the tests ask nothing of the program (is tests.entry_point missing?)",
            )
        if outcome == "failed":
            return "wrong", detail
        late = program["late"] or (not self.alone and program["exit"] == TIME_IS_UP)
        if outcome == "late" or (outcome == "ended" and late):
            return "timeout", f"longer than {self.job['time_limit']:g} s"
        if outcome == "ended":
            return "wrong", detail if program["exit"] in (0, -signal.SIGKILL) else _exit(program["exit"])
        return "error", detail

    def close(self) -> None:
        """Give back its file descriptor."""
        for fd in self.files:
            os.close(fd)


Run = ScriptRun | TestedRun


def _limits(number: int, job: dict[str, Any]) -> dict[str, Any]:
    limit = job["time_limit"]
    return {"id": number, "cpu": limit, "wall": 2 * limit + 0.5, "memory_mb": job["memory_mb"]}


def shared_process(number: int, memory_mb: int) -> dict[str, Any]:
    """The order of a process that programs share; the time of each is kept there."""
    return {"id": number, "role": "many", "cpu": LIFETIME, "wall": LIFETIME, "memory_mb": memory_mb}


def wall_limit(job: dict[str, Any]) -> float:
    """Seconds after which tests that have not ended never will."""
    return 2 * float(job["time_limit"]) + 0.5 + GRACE


def _exit(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _file(name: str, text: str) -> int:
    """An anonymous file with this text, read from its start."""
    fd = os.memfd_create(name)
    data = memoryview(text.encode("utf-8", "surrogatepass"))
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _contents(fd: int) -> bytes:
    return os.pread(fd, READ_BYTES, 0)
