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
READ_BYTES = 8 << 20  # of a program's output
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

    def __init__(self, number: int, job: dict[str, Any], future: Future[Verdicted], programs: Orders) -> None:
        self.number, self.job, self.future, self.programs = number, job, future, programs
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
        self.programs.order(_limits(self.number, self.job) | {"role": "main"}, [*self.files, self.source])

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
    """A program with python tests: its process, and that of its tests."""

    def __init__(
        self,
        number: int,
        job: dict[str, Any],
        future: Future[Verdicted],
        programs: Orders,
        tests: Orders,
        null: int,
    ) -> None:
        self.number, self.job, self.future, self.programs = number, job, future, programs
        self.verdict: Verdicted | None = None
        self.program: dict[str, Any] | None = None
        self.outcome: dict[str, Any] | None = None
        source = _file("program", job["program"])
        text = _file("tests", json.dumps({"code": job["code"], "entry_point": job["entry_point"]}))
        here, there = socket.socketpair()
        with here, there:
            programs.order(
                _limits(number, job) | {"role": "serve"}, [null, null, null, source, there.fileno()]
            )
            tests.order({"id": number}, [text, here.fileno()])
        os.close(text)
        os.close(source)

    def program_ended(self, told: dict[str, Any]) -> None:
        """What became of the program's process."""
        self.program = told
        self._conclude()

    def tests_ended(self, told: dict[str, Any]) -> None:
        """What the tests found; the program has nothing more to do."""
        self.outcome = told
        if self.program is None:
            self.programs.order({"stop": self.number}, [])
        self._conclude()

    def _conclude(self) -> None:
        if self.program is not None and self.outcome is not None:
            self.verdict = Verdicted(*self._judge(self.program, self.outcome), self.program["seconds"])

    def _judge(self, program: dict[str, Any], tests: dict[str, Any]) -> tuple[str, str]:
        if program["exit"] == BROKEN:
            return "error", "the sandbox failed: the program's process could not be confined"
        outcome, detail = tests["outcome"], tests["detail"]
        if outcome == "passed":
            return "correct", ""
        if outcome == "bad_tests":
            return "bad_reference", f"the tests do not compile: {detail}"
        if outcome == "failed":
            return "wrong", detail
        if outcome == "late" or (outcome == "ended" and program["late"]):
            return "timeout", f"longer than {self.job['time_limit']:g} s"
        if outcome == "ended":
            return "wrong", detail if program["exit"] in (0, -signal.SIGKILL) else _exit(program["exit"])
        return "error", detail

    def close(self) -> None:
        """It keeps no descriptor."""


Run = ScriptRun | TestedRun


def _limits(number: int, job: dict[str, Any]) -> dict[str, Any]:
    limit = job["time_limit"]
    return {"id": number, "cpu": limit, "wall": 2 * limit + 0.5, "memory_mb": job["memory_mb"]}


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
