"""math-verify at arm's length: slow to import, and there are answers on which it never ends or crashes.

So it lives in child processes (`external_server`), up to WORKERS of them, each started when the others are busy. A
child kills itself when one comparison takes too long and is then started anew. Any thread may ask, and a caller in an
event loop does so through a thread: nothing here uses signals or the main thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import weakref
from pathlib import Path

from distill.records import Verdict

SECONDS = 5.0  # for one comparison; nearly all take milliseconds, and what takes longer seldom ends at all
WORKERS = len(os.sched_getaffinity(0))

_SERVER = Path(__file__).with_name("external_server.py")


class _Worker:
    """One place for a child; the child comes with the first question and is replaced when it dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        _workers.add(self)

    def compare(self, reference: str, answer: str) -> tuple[Verdict, str]:
        process = self._started()
        if process is None:
            return Verdict.ERROR, "math-verify does not start"
        assert process.stdin is not None and process.stdout is not None
        try:
            print(json.dumps([reference, answer, SECONDS]), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except OSError:
            line = ""
        except BaseException:  # Ctrl-C: its answer, still to come, must not be taken for the next one's
            process.kill()
            self._stop()
            raise
        if not line.endswith("\n"):
            code = self._stop()
            if code == -signal.SIGALRM:
                return Verdict.TIMEOUT, f"the comparison took longer than {SECONDS:g} s"
            return Verdict.ERROR, f"math-verify died (exit code {code})"
        told = json.loads(line)
        if "error" in told:
            return Verdict.ERROR, f"math-verify failed: {told['error']}"
        return (Verdict.CORRECT, "") if told["equal"] else (Verdict.WRONG, "another answer")

    def _started(self) -> subprocess.Popen[str] | None:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(_SERVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                env={},
                cwd="/",
                start_new_session=True,  # Ctrl-C is for us to handle
            )
            assert self.process.stdout is not None
            if not self.process.stdout.readline():
                self._stop()
        return self.process

    def _stop(self) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # what was not yet sent has nobody to go to
                stream.close()
        return process.wait()


def _fresh() -> queue.LifoQueue[_Worker]:
    """All places, none with a child; the last one given back is the next one taken, so few children start."""
    free: queue.LifoQueue[_Worker] = queue.LifoQueue()
    for _ in range(WORKERS):
        free.put(_Worker())
    return free


_workers: weakref.WeakSet[_Worker] = weakref.WeakSet()
_free = _fresh()


def stop() -> None:
    """End every child: who waits for one is told ERROR at once."""
    for worker in list(_workers):
        if (process := worker.process) is not None:
            process.kill()


def compare(reference: str, answer: str) -> tuple[Verdict, str]:
    """Whether math-verify finds two answers equal: CORRECT or WRONG; TIMEOUT or ERROR; and why. Waits for its turn."""
    free = _free
    worker = free.get()
    try:
        return worker.compare(reference, answer)
    finally:
        free.put(worker)


def _forget() -> None:
    global _free
    _workers.clear()
    _free = _fresh()


# A forked child must not read the answers to its parent's questions, nor end those whom the parent asks.
os.register_at_fork(after_in_child=_forget)
