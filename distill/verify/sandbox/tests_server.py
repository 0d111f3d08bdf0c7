"""The process that runs tests, those of one program after another; the programs run elsewhere (`server`).

Tests are trusted, and still kept behind the same walls as programs: namespaces, limits, filtered calls. Test code
that can leave no trace (`test_side.Tests.traceless`) runs in this process itself, which costs no fork; any other in
a child of its own. Time is kept by the client, which kills this process and starts another when tests never end.

A program of its own (``python -I -S tests_server.py MODE FOLDER``); orders come as datagrams on standard input,
each with the descriptors of the tests' text and of the link to the program. Standard library only.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.verify.sandbox import test_side
    from distill.verify.sandbox.isolation import die_with_parent, enter_namespaces, settle
    from distill.verify.sandbox.program_side import shown
    from distill.verify.sandbox.walls import CallFilter
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import test_side
    from isolation import die_with_parent, enter_namespaces, settle
    from program_side import shown
    from walls import CallFilter

    del sys.path[0]

MEMORY = 2 << 30  # address space; it may have to hold what a program returns
PRELOADED = (
    "collections",
    "copy",
    "decimal",
    "fractions",
    "itertools",
    "math",
    "random",
    "re",
    "string",
    "typing",
)


def serve(client: socket.socket) -> None:
    """Run tests until the client is gone."""
    while True:
        data, fds, _, _ = socket.recv_fds(client, 1 << 16, 4)
        if not data:
            return
        source, link = fds
        outcome, detail = _judge(source, link)
        os.close(source)
        os.close(link)  # which tells the program that nobody will ask it again
        client.send(json.dumps({"id": json.loads(data)["id"], "outcome": outcome, "detail": detail}).encode())


def _judge(source: int, link: int) -> tuple[str, str]:
    size = os.fstat(source).st_size
    job = json.loads(os.pread(source, size, 0))
    try:
        tests = test_side.prepare(job["code"])
    except (SyntaxError, ValueError, RecursionError) as error:
        return "bad_tests", shown(error)
    if tests.traceless:
        sys.modules["random"].seed(0)
        return test_side.run(tests, job["entry_point"], link)
    return _in_a_child(tests, job["entry_point"], link)


def _in_a_child(tests: test_side.Tests, entry: str | None, link: int) -> tuple[str, str]:
    report, answer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(answer, json.dumps(test_side.run(tests, entry, link)).encode())
        finally:
            os._exit(0)
    os.close(answer)
    with open(report, "rb") as file:
        told = file.read()
    _, status = os.waitpid(child, 0)
    if not told:
        return "error", f"the tests ended without a word (status {status})"
    outcome, detail = json.loads(told)
    return outcome, detail


def main(mode: str, folder: str) -> None:
    """Isolate, say ``ready`` or why not, and serve."""
    for name in PRELOADED:
        __import__(name)
    die_with_parent()
    client = socket.socket(fileno=os.dup(0))
    try:
        if mode == "namespaces":
            enter_namespaces(folder, 0)
        settle()
    except (OSError, AttributeError) as error:
        client.send(json.dumps({"refused": str(error)}).encode())
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    filtered = CallFilter(program=False).put_on()
    with contextlib.suppress(OSError):
        os.close(0)
    gc.collect()
    gc.freeze()
    client.send(json.dumps({"ready": mode, "seccomp": filtered}).encode())
    serve(client)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
