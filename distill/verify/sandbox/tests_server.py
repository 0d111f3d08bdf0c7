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
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.verify.sandbox import test_side
    from distill.verify.sandbox.isolation import die_with_parent, enter_namespaces, settle
    from distill.verify.sandbox.plain import Link, NotPlain
    from distill.verify.sandbox.program_side import shown
    from distill.verify.sandbox.walls import CallFilter
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import test_side
    from isolation import die_with_parent, enter_namespaces, settle
    from plain import Link, NotPlain
    from program_side import shown
    from walls import CallFilter

    del sys.path[0]

MOST_DETAIL = 2000  # characters; an answer has to fit a datagram
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


class Server:
    """Judges one program after another, until the client is gone."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.shared: Link | None = None  # to the process that programs share
        self.cleaning = False  # whether that process has yet to say that it is ready again

    def serve(self) -> None:
        """Take orders, each with the job or a file of it, and a link: to a new shared process, or a lone program."""
        while True:
            data, links, _, _ = socket.recv_fds(self.client, 1 << 17, 4)
            if not data:
                return
            order = json.loads(data)
            job = order.get("job") or _read(links.pop(0))
            started = time.perf_counter()
            try:
                tests = test_side.prepare(job["code"])
            except (SyntaxError, ValueError, RecursionError) as error:
                outcome, detail = "bad_tests", shown(error)
            except MemoryError:
                outcome, detail = "error", "the tests are too large for their process"
            else:
                judge = self.judge_alone if order["alone"] else self.judge_shared
                outcome, detail = judge(job, tests, order["cpu"], links)
            told = {
                "outcome": outcome,
                "detail": detail[:MOST_DETAIL],
                "seconds": time.perf_counter() - started,
            }
            self.client.send(json.dumps(told).encode())

    def judge_alone(
        self, job: dict[str, Any], tests: test_side.Tests, _cpu: float, links: list[int]
    ) -> tuple[str, str]:
        """Judge a program that has a process of its own, whose time the server of programs keeps."""
        outcome, detail = _judge(tests, job["entry_point"], Link(links[0]), {})
        os.close(links[0])  # which tells the program that nobody will ask it again
        return ("ended", "the program answered nonsense") if outcome == "alone" else (outcome, detail)

    def judge_shared(
        self, job: dict[str, Any], tests: test_side.Tests, cpu: float, links: list[int]
    ) -> tuple[str, str]:
        """Judge a program in the shared process; "again" where that has ended, or will, before this program began."""
        if links:
            if self.shared is not None:
                os.close(self.shared.fd)
            self.shared, self.cleaning = Link(links[0]), False
        assert self.shared is not None
        try:
            if self.cleaning:
                ready = self.shared.receive()
                if ready is None or not ready.get("ready"):
                    return "again", ""
            self.cleaning = True
            told = _judge(tests, job["entry_point"], self.shared, {"program": job["program"], "cpu": cpu})
            self.shared.send({"done": True})
        except (OSError, NotPlain):
            return "ended", "the program ended before its tests did"
        return told


def _read(file: int) -> Any:
    text = os.pread(file, os.fstat(file).st_size, 0)
    os.close(file)
    return json.loads(text)


def _judge(tests: test_side.Tests, entry: str | None, link: Link, order: dict[str, Any]) -> tuple[str, str]:
    """An outcome of `test_side.run` and its detail; the tests run here, or in a child where they could leave traces."""
    if not tests.traceless:
        return _in_a_child(tests, entry, link, order)
    sys.modules["random"].seed(0)
    return test_side.run(tests, entry, link, order)


def _in_a_child(
    tests: test_side.Tests, entry: str | None, link: Link, order: dict[str, Any]
) -> tuple[str, str]:
    report, answer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(answer, json.dumps(test_side.run(tests, entry, link, order)).encode())
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
    Server(client).serve()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
