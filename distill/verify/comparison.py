"""math-verify at arm's length: slow to import, and there are answers on which it never ends or crashes.

So it lives in a child process (`math_server`), started at the first comparison that needs it, which kills
itself when one comparison takes too long and is then started anew for the next. Any thread may ask; they
take turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from distill.records import Verdict

SECONDS = 5.0  # for one comparison; nearly all take milliseconds, and what takes longer seldom ends at all

_SERVER = Path(__file__).with_name("math_server.py")
_turn = threading.Lock()
_process: subprocess.Popen[str] | None = None


def compare(reference: str, answer: str) -> tuple[Verdict, str]:
    """Whether math-verify finds two answers equal: CORRECT or WRONG; TIMEOUT or ERROR; and why."""
    with _turn:
        process = _started()
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
            _stop()
            raise
        if not line.endswith("\n"):
            code = _stop()
            if code == -signal.SIGALRM:
                return Verdict.TIMEOUT, f"the comparison took longer than {SECONDS:g} s"
            return Verdict.ERROR, f"math-verify died (exit code {code})"
    told = json.loads(line)
    if "error" in told:
        return Verdict.ERROR, f"math-verify failed: {told['error']}"
    return (Verdict.CORRECT, "") if told["equal"] else (Verdict.WRONG, "not the same")


def _started() -> subprocess.Popen[str] | None:
    global _process
    if _process is None:
        _process = subprocess.Popen(
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
        assert _process.stdout is not None
        if not _process.stdout.readline():
            _stop()
    return _process


def _stop() -> int:
    global _process
    assert _process is not None
    process, _process = _process, None
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(OSError):  # what was not yet sent has nobody to go to
            stream.close()
    return process.wait()


def _forget() -> None:
    global _process, _turn
    _process, _turn = None, threading.Lock()


os.register_at_fork(
    after_in_child=_forget
)  # a forked child must not read the answers to its parent's questions
