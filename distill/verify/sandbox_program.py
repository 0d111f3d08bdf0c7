"""The child that `sandbox_server` forks for one program: its limits, the program, its tests, the report.

What this protects from, and what not, stands at the top of ``sandbox_server.py``. Standard library only.
"""

from __future__ import annotations

import builtins
import ctypes
import fcntl
import json
import os
import resource
import struct
import sys
import types
from typing import Any, NoReturn

Job = dict[str, Any]

OUTPUT_BYTES = 4 << 20  # of standard output, of its report, and of any file it could write
OWN_MEMORY = 64 << 20  # address space of the interpreter itself, granted on top of the program's limit
OPEN_FILES = 64
SHOWN_CHARS = 200
_SECRET_FD, _REPORT_FD = 3, 4

_CAP_HEADER, _NO_CAPS = (
    struct.pack("Ii", 0x20080522, 0),
    bytes(24),
)  # none effective, permitted or inheritable

libc = ctypes.CDLL(None, use_errno=True)


def call(function: str, *args: object) -> None:
    """Call a function of the C library that returns 0 when it succeeds; OSError otherwise."""
    if getattr(libc, function)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


def run_program(job: Job, fds: tuple[int, ...], folder: str | None) -> NoReturn:
    """Confine this process, run the job's program in it, report, end. ``fds``: see `_confine`."""
    try:
        _confine(job, fds, folder)
    except BaseException as error:
        _report({"outcome": "broken", "detail": _shown(error)})
    try:
        (_run_main if job["type"] == "stdio" else _run_tests)(job)
    finally:
        os._exit(1)  # whatever a program throws, it never gets back into the server's loop


def prepare_streams() -> None:
    """Make the standard streams anew, once in the server: a child only puts other files under their numbers."""
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115


def _confine(job: Job, fds: tuple[int, ...], folder: str | None) -> None:
    """Give up everything that the program must not have; ``fds`` become 0 (input) to 4 (report)."""
    # Sources are moved out of the way first: one of them may lie where another has to go.
    for target, source in enumerate([fcntl.fcntl(fd, fcntl.F_DUPFD, 16) for fd in fds]):
        os.dup2(source, target)
    os.closerange(len(fds), 1 << 20)
    if folder is not None:  # mode `weak`: no pid namespace holds its children together
        os.setsid()
        os.chdir(folder)
    cpu, memory = int(job["time_limit"]) + 1, (job["memory_mb"] << 20) + OWN_MEMORY
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (OUTPUT_BYTES, OUTPUT_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    call("capset", _CAP_HEADER, _NO_CAPS)


def _run_tests(job: Job) -> NoReturn:
    """Define the program's names, run the tests over them, report. Does not return."""
    try:
        tests = compile(job["code"], "<tests>", "exec")
    except (SyntaxError, ValueError) as error:
        _report({"outcome": "bad_tests", "detail": _shown(error)})
    module = _module("solution")
    try:
        exec(compile(job["program"], "<program>", "exec"), module.__dict__)
    except BaseException as error:
        _report({"outcome": "failed", "detail": f"the program raised {_shown(error)}"})
    entry = job["entry_point"]
    if entry and entry not in module.__dict__:
        _report({"outcome": "failed", "detail": f"the program defines no {entry}"})
    names = {name: value for name, value in module.__dict__.items() if not name.startswith("__")}
    checked = _module("tests")
    checked.__dict__.update(names)
    try:
        exec(tests, checked.__dict__)
        check = checked.__dict__.get("check")
        if entry and check is not None and check is not names.get("check"):  # HumanEval's form
            check(names[entry])
    except BaseException as error:
        _report({"outcome": "failed", "detail": f"{_test_line(error, job['code'])}{_shown(error)}"})
    _report({"outcome": "passed", "token": os.read(_SECRET_FD, 64).hex()})


def _run_main(job: Job) -> NoReturn:
    """Run the program as a script over its standard input; its exit code and its output are the result."""
    try:
        exec(compile(job["program"], "<program>", "exec"), _module("__main__").__dict__)
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        sys.stdout.flush()
    except SystemExit as leaving:
        sys.stdout.flush()
        code = leaving.code
        if code not in (None, 0):
            _report({"outcome": "failed", "detail": f"exit code {_shown(leaving)}"})
    except BaseException as error:
        _report({"outcome": "failed", "detail": _shown(error)})
    os._exit(0)


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    sys.modules[name] = module  # dataclasses and pickle look classes up by their module
    return module


def _report(what: dict[str, str]) -> NoReturn:
    try:
        os.write(_REPORT_FD, json.dumps(what).encode())
    finally:
        os._exit(0)


def _shown(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:SHOWN_CHARS].rstrip(": ")
    except BaseException:  # an exception class of the program whose own text raises
        return type(error).__name__


def _test_line(error: BaseException, code: str) -> str:
    """The line of the tests that raised, to make the reason one that a person can act on."""
    number, at = 0, error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == "<tests>":
            number = at.tb_lineno
        at = at.tb_next
    lines = code.splitlines()
    return f"{lines[number - 1].strip()[:SHOWN_CHARS]}: " if 0 < number <= len(lines) else ""
