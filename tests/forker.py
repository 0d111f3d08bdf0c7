"""A process that has imported what `distill` needs, and forks one for each line on its input.

A line is ``{"arguments": [...], "log": FILE, "before": [...], "most_bytes": N or null}``: what `distill` gets, where
its words go, a command to run first, and the size that no file may grow beyond. It prints the new process's id, and
when that has ended its exit code, negative where a signal ended it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import traceback

import torch  # noqa: F401

import distill.generate.local
import distill.generate.server  # noqa: F401
import teacher.harvest  # noqa: F401
from distill.cli import main


def fork(arguments: list[str], log: str, most_bytes: int | None) -> int:
    """The id of a process that runs the command and ends."""
    if child := os.fork():
        return child
    code = 70  # of what nobody has thought of
    try:
        with open(log, "wb", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if most_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


for line in sys.stdin:
    order = json.loads(line)
    if order["before"]:
        subprocess.run(order["before"], check=True)
    child = fork(order["arguments"], order["log"], order["most_bytes"])
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
