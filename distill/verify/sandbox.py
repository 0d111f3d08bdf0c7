"""The parent's side of the sandbox: one warm server for each process, started when first needed.

What the sandbox protects from, and what not, stands at the top of ``sandbox_server.py``, which does the work.
``DISTILL_SANDBOX=weak`` in the environment accepts resource limits alone on machines that refuse namespaces.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any

from distill.errors import UserError

_SERVER = Path(__file__).with_name("sandbox_server.py")
_MODES = ("namespaces", "weak")


class SandboxDied(Exception):
    """The server ended before it answered."""


class Sandbox:
    """A running server. Any thread may submit jobs."""

    def __init__(self, mode: str) -> None:
        self._writing = threading.Lock()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._next = 0
        self._input: IO[bytes] | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self._ready: Future[None] = Future()
        # The server asks to be killed with its parent, which to Linux is the *thread* that started it.
        threading.Thread(target=self._live, args=(mode,), name="sandbox", daemon=True).start()
        self._ready.result()

    @property
    def alive(self) -> bool:
        """False once the server has ended."""
        return self._input is not None

    def submit(self, job: dict[str, Any]) -> Future[dict[str, Any]]:
        """Queue a job (the keys that `programs.job_of` makes); its future holds verdict, reason and seconds.

        The future raises SandboxDied when the server ends first.
        """
        future: Future[dict[str, Any]] = Future()
        with self._writing:
            if self._input is None:
                future.set_exception(SandboxDied())
                return future
            self._next += 1
            self._waiting[self._next] = future
            data = json.dumps(job | {"id": self._next}).encode()
            try:
                self._input.write(len(data).to_bytes(4, "big") + data)
                self._input.flush()
            except OSError:
                pass  # it has ended: the reading thread is about to see that, and fails all that wait
        return future

    def _live(self, mode: str) -> None:
        with tempfile.TemporaryDirectory(prefix="distill-sandbox-") as folder:
            slots = str(len(os.sched_getaffinity(0)))
            command = [sys.executable, "-I", "-S", str(_SERVER), mode, slots, folder]
            server = self.server = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us to handle
            )
            assert server.stdin is not None and server.stdout is not None
            first = _read(server.stdout)
        if first is None:
            self._ready.set_exception(SandboxDied())
        elif "refused" in first:
            self._ready.set_exception(_refused(first["refused"]))
        else:
            self._input = server.stdin
            self._ready.set_result(None)
            while (answer := _read(server.stdout)) is not None:
                self._waiting.pop(answer["id"]).set_result(answer)
        with self._writing:
            self._input = None
            for future in self._waiting.values():
                future.set_exception(SandboxDied())
            self._waiting.clear()
        server.kill()
        server.wait()


_starting = threading.Lock()
_running: Sandbox | None = None


def sandbox() -> Sandbox:
    """The server of this process, started now if there is none.

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


os.register_at_fork(after_in_child=_forget)  # a forked child has the pipes but not the thread that reads them


def _refused(why: str) -> UserError:
    return UserError(
        "DISTILL_SANDBOX",
        os.environ.get("DISTILL_SANDBOX"),
        f"this machine refuses to isolate untrusted programs ({why})",
        "allow user namespaces (Linux 5.12 or later), or set DISTILL_SANDBOX=weak to run programs with "
        "resource limits alone: they can then read your files and use the network",
    )


def _read(stream: IO[bytes]) -> dict[str, Any] | None:
    """One frame, None at the end of the stream."""
    head = stream.read(4)
    body = stream.read(int.from_bytes(head, "big"))
    if len(head) < 4 or len(body) < int.from_bytes(head, "big"):
        return None
    answer: dict[str, Any] = json.loads(body)
    return answer
