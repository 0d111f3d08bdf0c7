"""The parent's side of the sandbox: warm servers for each process, started when first needed.

One server runs programs, the others their tests (see `server`, `tests_server`). ``DISTILL_SANDBOX=weak`` in the
environment accepts, on machines that refuse namespaces, what is left: limits, and seccomp and Landlock where the
kernel has them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.verify.sandbox.runs import (
    SPOILT,
    Run,
    ScriptRun,
    TestedRun,
    Verdicted,
    shared_process,
    wall_limit,
)

_MODES = ("namespaces", "weak")
SLOTS = len(os.sched_getaffinity(0)) + 2  # more than cores: a program waits while its tests compute
LOOK_AHEAD = 4 * SLOTS  # jobs among which one is looked for whose tests are known

Job = tuple[dict[str, Any], "Future[Verdicted]"]


class SandboxDied(Exception):
    """A server ended before it answered."""


class Server:
    """A running server, reached by datagrams that carry file descriptors."""

    def __init__(self, script: str, mode: str, *arguments: str) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.folder = tempfile.mkdtemp(prefix="distill-sandbox-")
        path = str(Path(__file__).with_name(script))
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", path, mode, *arguments, self.folder],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us to handle
            )
        first = self.receive()
        if mode == "namespaces":  # it was the mount point of another root; nothing of ours needs it any more
            shutil.rmtree(self.folder, ignore_errors=True)
        if first is None or "refused" in first:
            self.stop()
            raise _refused(first["refused"]) if first else SandboxDied
        self.walls = first

    def receive(self) -> dict[str, Any] | None:
        """The next datagram; None when the server is gone."""
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            return None
        answer: dict[str, Any] | None = json.loads(data) if data else None
        return answer

    def order(self, what: dict[str, Any], fds: list[int]) -> None:
        """Send an order with the descriptors that it is about."""
        socket.send_fds(self.socket, [json.dumps(what).encode()], fds)

    def stop(self) -> None:
        """End it, and with it every program that it runs."""
        self.socket.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Tester(Server):
    """A server of tests, and the process of programs that it shares among those it judges."""

    def __init__(self, mode: str) -> None:
        super().__init__("tests_server.py", mode)
        self.run: TestedRun | None = None
        self.code: str | None = None  # of the last tests that it was given
        self.until = 0.0  # monotonic seconds; when tests that run have not ended and never will
        self.shared: int | None = None  # the order of that process, while it lasts
        self.memory_mb = 0  # that it may have


class Sandbox:
    """The servers and the thread that talks to them. Any thread may submit jobs."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.alive = True
        self._arriving: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._bell, self._rung = os.pipe(), False
        self._closing = threading.Lock()
        self._ready: Future[None] = Future()
        self._waiting: deque[Job] = deque()
        self._running: list[Run] = []
        self._number = 0
        self._passed = 0  # how often the first of the waiting was passed over
        # The servers ask to be killed with their parent, which to Linux is the *thread* that started them.
        threading.Thread(target=self._live, name="sandbox", daemon=True).start()
        self._ready.result()

    def submit(self, job: dict[str, Any]) -> Future[Verdicted]:
        """Queue a job (the keys that `programs.job_of` makes); its future holds verdict, reason and seconds.

        The future raises SandboxDied when a server ends first.
        """
        future: Future[Verdicted] = Future()
        with self._closing:
            if not self.alive:
                future.set_exception(SandboxDied())
                return future
            self._arriving.put((job, future))
            if not self._rung:  # one byte, however many wait
                self._rung = True
                os.write(self._bell[1], b"!")
        return future

    # ---- the thread

    def _live(self) -> None:
        self.testers: list[Tester] = []
        self.null = os.open("/dev/null", os.O_RDWR)
        try:
            self.programs = Server("server.py", self.mode, str(3 * SLOTS))
        except BaseException as error:
            self.alive = False
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        reason: BaseException = SandboxDied()
        try:
            self._work()
        except (SandboxDied, OSError):
            pass
        except BaseException as error:  # a refusal of the machine, or a fault of ours: told to all that wait
            reason = error
        with self._closing:
            self.alive = False
        for server in (self.programs, *self.testers):
            server.stop()
        self._take_in()
        waiting = [(run.future, run) for run in self._running] + [
            (future, None) for _, future in self._waiting
        ]
        for future, run in waiting:
            if run is not None:
                run.close()
            if not future.done():
                future.set_exception(reason)
        for fd in (self.null, *self._bell):
            os.close(fd)

    def _take_in(self) -> None:
        while not self._arriving.empty():
            self._waiting.append(self._arriving.get())

    def _work(self) -> None:
        self.events = select.poll()
        self.events.register(self._bell[0], select.POLLIN)
        self.events.register(self.programs.socket, select.POLLIN)
        while True:
            busy = [server.until for server in self.testers if server.run is not None]
            pause = max(0.0, 1e3 * (min(busy) - time.monotonic())) if busy else None
            for fd, _ in self.events.poll(pause):
                if fd == self._bell[0]:
                    with self._closing:
                        self._rung = False
                        os.read(fd, 1)
                elif fd == self.programs.socket.fileno():
                    self._program_ended()
                else:
                    tester = next((one for one in self.testers if one.socket.fileno() == fd), None)
                    if tester is not None:  # else it has been replaced since
                        self._tests_ended(tester)
            self._stop_endless_tests()
            self._take_in()
            while self._waiting and len(self._running) < SLOTS:
                tester = next((one for one in self.testers if one.run is None), None)
                at = self._next_for(tester)
                job, future = self._waiting[at]  # it stays in the queue until nothing can lose it
                if future.set_running_or_notify_cancel():
                    self._begin(tester, job, future)
                del self._waiting[at]

    def _next_for(self, tester: Tester | None) -> int:
        """Which of the first in the queue a tester takes: one with the tests that it knows, else with new ones.

        A group's programs then meet tests that are compiled. The first is passed over LOOK_AHEAD times at most.
        """
        at = 0
        if self._passed < LOOK_AHEAD and tester is not None:
            codes = [job.get("code") for job, _ in itertools.islice(self._waiting, LOOK_AHEAD)]
            known = {one.code for one in self.testers}
            mine = (at for at, code in enumerate(codes) if code is not None and code == tester.code)
            new = (at for at, code in enumerate(codes) if code not in known)
            at = next(mine, next(new, 0))
        self._passed = self._passed + 1 if at else 0
        return at

    def _begin(self, tester: Tester | None, job: dict[str, Any], future: Future[Verdicted]) -> None:
        if job["type"] == "stdio":
            self._running.append(ScriptRun(self._next(), job, future, self.programs))
            return
        tester = tester or self._new_tester()
        tester.code = job["code"]
        run = TestedRun(0, job, future, self.programs, tester)
        self._running.append(run)
        self._share(tester, run)

    def _new_tester(self) -> Tester:
        tester = Tester(self.mode)
        self.testers.append(tester)
        self.events.register(tester.socket, select.POLLIN)
        return tester

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _share(self, tester: Tester, run: TestedRun) -> None:
        """Try a program in the tester's shared process, in a new one where that has ended or has another limit."""
        memory_mb = run.job["memory_mb"]
        if tester.shared is not None and tester.memory_mb != memory_mb:
            self._part(tester)
        self._assign(tester, run)
        if tester.shared is not None:
            with contextlib.suppress(BrokenPipeError):  # its end will be seen in the next round
                run.share(tester.shared, [])
            return
        tester.shared, tester.memory_mb = self._next(), memory_mb
        here, there = socket.socketpair()
        with here, there:
            null = self.null
            order = shared_process(tester.shared, memory_mb)
            self.programs.order(order, [null, null, null, null, there.fileno()])
            with contextlib.suppress(BrokenPipeError):
                run.share(tester.shared, [here.fileno()])

    def _assign(self, tester: Tester, run: TestedRun) -> None:
        tester.run, tester.until = run, time.monotonic() + wall_limit(run.job)

    def _part(self, tester: Tester) -> None:
        """Have the shared process end; nobody waits for that."""
        if tester.shared is not None:
            self.programs.order({"stop": tester.shared}, [])
            tester.shared = None

    def _program_ended(self) -> None:
        answer = self.programs.receive()
        if answer is None:
            raise SandboxDied
        for tester in self.testers:
            if tester.shared == answer["id"]:
                tester.shared = None
        for run in [run for run in self._running if run.process == answer["id"]]:
            run.program_ended(answer)  # none: it was a shared process between two programs
            self._conclude(run)

    def _tests_ended(self, tester: Tester) -> None:
        """Tests have said what they found; where their server is gone instead, it takes only this job with it."""
        answer = tester.receive()
        run, tester.run = tester.run, None
        if answer is None:
            self._replace(tester)
            answer = {
                "outcome": "error",
                "detail": "the tests' process ended before it answered",
                "seconds": 0.0,
            }
        if run is None:
            return
        if answer["outcome"] == "again":
            self._part(tester)
            self._share(tester, run)
        elif answer["outcome"] == "alone":
            self._assign(tester, run)
            with contextlib.suppress(BrokenPipeError):  # as in `_share`
                run.be_alone(self._next(), self.null)
        else:
            if not run.alone and answer["outcome"] in SPOILT:
                self._part(tester)
            run.tests_ended(answer)
            self._conclude(run)

    def _stop_endless_tests(self) -> None:
        now = time.monotonic()
        for tester in [one for one in self.testers if one.run is not None and one.until <= now]:
            run = tester.run
            self._replace(tester)
            assert run is not None
            run.tests_ended({"outcome": "late", "detail": "", "seconds": wall_limit(run.job)})
            self._conclude(run)

    def _replace(self, tester: Tester) -> None:
        self._part(tester)
        self.testers.remove(tester)
        self.events.unregister(tester.socket)
        tester.stop()

    def _conclude(self, run: Run) -> None:
        if run.verdict is not None:
            self._running.remove(run)
            run.close()
            run.future.set_result(run.verdict)


_starting = threading.Lock()
_running: Sandbox | None = None


def sandbox() -> Sandbox:
    """The sandbox of this process, started now if there is none.

    Raises:
        UserError: this machine refuses namespaces and the user has not chosen the weaker mode.
        SandboxDied: it did not start.
    """
    global _running
    with _starting:
        if _running is None or not _running.alive:
            mode = os.environ.get("DISTILL_SANDBOX", "namespaces")
            if mode not in _MODES:
                raise UserError("DISTILL_SANDBOX", mode, "no such mode", f"use one of {', '.join(_MODES)}")
            _running = Sandbox(mode)
        return _running


def _forget() -> None:
    global _running, _starting
    _running, _starting = None, threading.Lock()


# A forked child has the sockets but not the thread that reads them.
os.register_at_fork(after_in_child=_forget)


def _refused(why: str) -> UserError:
    return UserError(
        "DISTILL_SANDBOX",
        os.environ.get("DISTILL_SANDBOX"),
        f"this machine refuses to isolate untrusted programs ({why})",
        "allow user namespaces (Linux 5.12 or later), or set DISTILL_SANDBOX=weak to run programs with limits, and "
        "seccomp and Landlock where the kernel has them (without those, they can read your files and use the network)",
    )
