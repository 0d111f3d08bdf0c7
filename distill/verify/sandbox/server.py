"""The process that forks for each program: a warm interpreter behind walls.

It is a program of its own (``python -I -S server.py MODE SLOTS FOLDER``), imports the standard library alone and
stays small, because what it holds is copied into every child. Orders come as datagrams on standard input, each with
the file descriptors that the child gets; what becomes of the child goes back the same way. The programs themselves
travel through those descriptors, so that no program's text, and nothing of any tests, is ever in the memory that
children inherit.
"""

from __future__ import annotations

import builtins
import contextlib
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from distill.verify.sandbox import program_side
    from distill.verify.sandbox.isolation import (
        NEW_PIDS,
        die_with_parent,
        enter_namespaces,
        fresh_folder,
        settle,
        visible_paths,
    )
    from distill.verify.sandbox.walls import CallFilter, FileRules, call
else:  # a script without site-packages finds only what lies beside it, and a program must not find even that
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import program_side
    from isolation import NEW_PIDS, die_with_parent, enter_namespaces, fresh_folder, settle, visible_paths
    from walls import CallFilter, FileRules, call

    del sys.path[0]

Order = dict[str, Any]

FILE_BYTES = 8 << 20  # of standard output, of its error, of any file that it writes
OWN_MEMORY = 64 << 20  # address space of the interpreter itself, granted on top of the program's limit
OPEN_FILES = 64
BROKEN = 117  # the exit code of a child that could not be confined
_ROLES = {"script": program_side.run_main, "one": program_side.serve_one, "many": program_side.serve_many}
_NO_CAPS_HEADER, _NO_CAPS = struct.pack("Ii", 0x20080522, 0), bytes(24)
#: Modules that programs often import: loaded here once, they cost a child nothing.
#: Besides what is quicker here: modules in C that, imported where memory is short, would fall back to Python for good.
PRELOADED = (
    "array", "bisect", "cmath", "collections", "copy", "datetime", "functools", "hashlib", "heapq", "itertools", "json",
    "math", "operator", "random", "re", "string", "typing",
)  # fmt: skip


class Child(NamedTuple):
    """One child in flight, under the number of its order."""

    number: int
    pid: int
    slot: int
    limits: Order
    started: float


class Server:
    """Takes orders, forks, keeps the time, tells what became of each child."""

    def __init__(self, slots: int, folders: list[str], isolated: bool) -> None:
        self.isolated, self.folders = isolated, folders
        self.client = socket.socket(fileno=os.dup(0))
        self.free = list(range(slots))
        self.children: dict[int, Child] = {}  # by pidfd
        self.deadlines: dict[int, float] = {}  # by pidfd; monotonic seconds
        self.late: set[int] = set()

    def raise_walls(self) -> Order:
        """Prepare what each child will put on, and filter our own calls; says which walls there are."""
        self.rules = [FileRules(visible_paths(), [folder]) for folder in self.folders]
        self.filter = CallFilter(program=True)
        filtered = CallFilter(program=False).put_on()
        return {"seccomp": filtered, "landlock": self.rules[0].version}

    def serve(self) -> None:
        """Work until the client is gone."""
        self.own_pid = os.pidfd_open(os.getpid())
        events = select.poll()
        events.register(self.client, select.POLLIN)
        while True:
            pause = min(self.deadlines.values(), default=None)
            ready = events.poll(None if pause is None else max(0.0, 1e3 * (pause - time.monotonic())))
            for fd, _ in ready:
                if fd in self.children:
                    events.unregister(fd)
                    self.finish(fd)
                else:
                    started = self.take_order()
                    if started is None:
                        return
                    if started >= 0:
                        events.register(started, select.POLLIN)
            self.stop_late_ones()

    def take_order(self) -> int | None:
        """Do what the next datagram says.

        Returns: The pidfd of a new child, -1 where there is none, None when the client is gone.
        """
        data, fds, _, _ = socket.recv_fds(self.client, 1 << 16, 16)
        if not data:
            return None
        order: Order = json.loads(data)
        if "stop" in order:
            for child in self.children.values():
                if child.number == order["stop"]:
                    self.kill(child)
            return -1
        return self.start(order, fds)

    def start(self, order: Order, fds: list[int]) -> int:
        """Fork a child for the order; returns its pidfd."""
        slot = self.free.pop()
        if self.isolated:
            call("unshare", NEW_PIDS)  # for the next child only: setns undoes it below
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            self.become(order, fds, slot)
        if self.isolated:
            call("setns", self.own_pid, NEW_PIDS)
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        self.children[pidfd] = Child(order["id"], pid, slot, order, started)
        self.deadlines[pidfd] = started + min(order["cpu"], order["wall"])
        return pidfd

    def become(self, order: Order, fds: list[int], slot: int) -> NoReturn:
        """In the child: give up everything that it must not have, then run the program; never returns.

        The descriptors become 0 (input), 1 (output), 2 (error), 3 (source) and, with tests, 4 (the link to them).
        """
        try:
            self.confine(order, fds, slot)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode()[:200])
            os._exit(BROKEN)
        try:
            _ROLES[order["role"]]()
        finally:
            os._exit(1)  # whatever a program throws, it never gets back into the server's loop

    def confine(self, order: Order, fds: list[int], slot: int) -> None:
        """Limits first, then the walls; after the last of them nothing more can be given up."""
        os.setsid()  # no process group with the server: kill(0) reaches the program alone
        os.chdir(self.folders[slot])
        rules = self.rules[slot]
        # Sources are moved out of the way first: one of them may lie where another has to go.
        kept = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in (*fds, *([rules.fd] if rules.version else []))]
        for target, source in enumerate(kept):
            os.dup2(source, target)
        os.closerange(len(kept), 1 << 16)
        cpu, memory = int(order["cpu"]) + 1, (order["memory_mb"] << 20) + OWN_MEMORY
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
        if rules.version:
            rules.put_on(len(fds))
        if self.isolated:
            call("capset", _NO_CAPS_HEADER, _NO_CAPS)
        if self.filter.known and not self.filter.put_on():
            raise OSError("seccomp")

    def stop_late_ones(self) -> None:
        """Kill what used up its CPU time, or its longer wall time: a busy machine is not a program's fault."""
        now = time.monotonic()
        for pidfd in [pidfd for pidfd, deadline in self.deadlines.items() if deadline <= now]:
            child = self.children[pidfd]
            cpu_left = child.limits["cpu"] - _cpu_seconds(child.pid)
            left = min(cpu_left, child.started + child.limits["wall"] - now)
            if left > 0:
                self.deadlines[pidfd] = now + max(left, 0.01)
            else:
                self.late.add(pidfd)
                self.kill(child)
                self.deadlines[pidfd] = now + 1.0

    def kill(self, child: Child) -> None:
        """End the program and all that it started (weak: all that stayed in its process group)."""
        for kill in (os.kill, os.killpg):
            # It may have ended by itself, or not yet have become the leader of its group.
            with contextlib.suppress(ProcessLookupError):
                kill(child.pid, signal.SIGKILL)

    def finish(self, pidfd: int) -> None:
        """Tell what became of an ended child, and clear up after it."""
        child = self.children.pop(pidfd)
        if not self.isolated:
            # Its children; the leader is a zombie until it is waited for, so the number is still its own.
            self.kill(child)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - child.started
        os.close(pidfd)
        del self.deadlines[pidfd]
        late = pidfd in self.late or usage.ru_utime + usage.ru_stime > child.limits["cpu"]
        self.late.discard(pidfd)
        if os.listdir(self.folders[child.slot]):
            self.clear(child.slot)
        self.free.append(child.slot)
        self.tell(
            {"id": child.number, "exit": os.waitstatus_to_exitcode(status), "late": late, "seconds": seconds}
        )

    def clear(self, slot: int) -> None:
        """Empty a temporary folder, whatever a program has put there."""
        if self.isolated:
            fresh_folder(slot)
        else:
            for name in os.listdir(self.folders[slot]):
                _remove(os.path.join(self.folders[slot], name))
        self.rules[slot].close()
        self.rules[slot] = FileRules(visible_paths(), [self.folders[slot]])

    def tell(self, what: Order) -> None:
        """One datagram to the client; where it is gone, the loop ends with the next order."""
        with contextlib.suppress(OSError):
            self.client.send(json.dumps(what).encode())


def _remove(path: str) -> None:
    """A file, or a folder with all that is in it, however deep: bottom up, following no link."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in (*files, *(one for one in folders if os.path.islink(os.path.join(folder, one)))):
            os.unlink(os.path.join(folder, name))
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    with contextlib.suppress(OSError):
        os.unlink(path)


def _cpu_seconds(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the CPU clock of another process: clock_getcpuclockid(3)
    except OSError:
        return 0.0  # it has just ended


def _leave(code: object = None) -> NoReturn:
    raise SystemExit(code)


def main(mode: str, slots: int, folder: str) -> None:
    """Isolate, say ``ready`` or why not, and serve."""
    for name in PRELOADED:
        __import__(name)
    sys.modules["random"].seed(0)  # the same draws in every program, whatever they are good for
    die_with_parent()
    isolated = mode == "namespaces"
    folders = [f"/tmp/{slot}" if isolated else f"{folder}/{slot}" for slot in range(slots)]
    server = Server(slots, folders, isolated)
    try:
        if isolated:
            enter_namespaces(folder, slots)
        else:
            for path in folders:
                os.mkdir(path, 0o700)
        settle()
        walls = server.raise_walls()
    except (OSError, AttributeError) as error:  # AttributeError: a C library without one of the calls
        server.tell({"refused": str(error)})
        return
    # What `site` would have given programs, a command line that tells them nothing, and room for our own calls.
    builtins.exit = builtins.quit = _leave  # type: ignore[assignment]
    sys.argv[:] = ["program.py"]
    sys.setrecursionlimit(sys.getrecursionlimit() + 10)
    # The standard streams anew, once: a child only puts other files under their numbers.
    for fd, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        stream = open(fd, "r" if fd == 0 else "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    gc.collect()
    gc.freeze()
    server.tell({"ready": mode} | walls)
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
