"""The process that runs untrusted programs: ``distill.verify.sandbox`` starts it once, it forks for each.

It is a program of its own (``python -I -S sandbox_server.py MODE SLOTS FOLDER``): it imports the standard
library alone and stays small, because what it holds is copied into every child. Frames of JSON (four bytes
of length, then the text) come in on standard input, one job each, and go out on standard output, one answer
each, as the jobs end.

Covered in mode ``namespaces``: own user, network, IPC, mount and pid namespaces. A program sees a read-only
file system that holds the standard library and shared libraries and nothing else; no network, no processes
but its own, no environment, no capabilities. CPU time, wall time, address space, output, open files and core
dumps are limited. When its first process ends or runs out of time the kernel kills every process that it
made; when this server ends, for whatever reason, all programs die with it. Needs Linux 5.12 and user
namespaces.

Covered in mode ``weak``: a child process, the limits, an empty environment, an empty folder of its own; no
more. Such a program can read the user's files, use the network, and leave processes behind.

Not covered in either mode. The tests of type ``python`` run in the interpreter of the program that they
test: in another module, and a pass is believed only with a random token that is handed over after the last
test, so that leaving early (``sys.exit``, ``os._exit``) is no pass; but a program written against this file
can find the tests or the token through frames or the garbage collector, replace built-ins, or return objects
that equal everything. System calls are not filtered. The number of processes is not limited (all of them die
at the time limit), and the memory limit holds for each process alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import shutil
import signal
import struct
import sys
import sysconfig
import tempfile
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from distill.verify.sandbox_program import OUTPUT_BYTES, Job, call, libc, prepare_streams, run_program
else:  # a script without site-packages finds only what lies beside it, and a program must not find even that
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from sandbox_program import OUTPUT_BYTES, Job, call, libc, prepare_streams, run_program

    del sys.path[0]

Answer = dict[str, Any]

_CLONE_NEWPID = 0x20000000
_NEW_NAMESPACES = _CLONE_NEWPID | 0x00020000 | 0x08000000 | 0x10000000 | 0x40000000  # mount IPC user network
# Modules that programs often import: loaded here once, they cost a child nothing.
PRELOADED = ("bisect", "collections", "functools", "heapq", "itertools", "math", "random", "re", "typing")


# ---- isolation, once for the whole server


def enter_namespaces(folder: str) -> None:
    """Leave the user's machine for an empty one; returns as the first process of the new pid namespace.

    ``folder`` is an empty one that becomes the root of the file system; outside it stays as it was.

    Raises:
        OSError: the kernel, or the container around us, refuses one of the steps.
    """
    uid, gid = os.getuid(), os.getgid()
    call("unshare", _NEW_NAMESPACES)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"1000 {uid} 1")
    _write("/proc/self/gid_map", f"1000 {gid} 1")
    # A second wall only: where this fails, a program may nest namespaces inside these, and these hold.
    with contextlib.suppress(OSError):
        _write("/proc/sys/user/max_user_namespaces", "0")
    child = os.fork()
    if child:
        os.closerange(0, 3)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    die_with_parent()
    _enter_empty_root(folder)


def _enter_empty_root(root: str) -> None:
    ms_private_rec, ms_bind, nosuid_nodev_noexec, mnt_detach = 0x44000, 0x1000, 0xE, 2
    call("mount", None, b"/", None, ms_private_rec, None)
    call("mount", b"tmpfs", os.fsencode(root), b"tmpfs", nosuid_nodev_noexec, b"size=1m,mode=755")
    for path in _visible_paths():
        inside = root + path
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside)
        else:
            os.makedirs(inside, exist_ok=True)
            call("mount", os.fsencode(path), os.fsencode(inside), None, ms_bind, None)
    os.mkdir(root + "/empty")
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", mnt_detach)
    os.chdir("/empty")
    # mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, MOUNT_ATTR_RDONLY) is call 442 on every architecture
    attributes = struct.pack("QQQQ", 1, 0, 0, 0)
    if libc.syscall(442, -100, b"/", 0x8000, attributes, len(attributes)) != 0:
        raise OSError(ctypes.get_errno(), "mount_setattr (Linux 5.12)")


def _visible_paths() -> list[str]:
    """The standard library and the shared libraries that its extensions load; no path inside another."""
    wanted = [
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        os.path.join(sys.base_prefix, "lib"),
    ]
    wanted += ["/usr/lib", "/usr/lib64", "/lib", "/lib64"]
    kept: list[str] = []
    for path in sorted(set(wanted)):
        if os.path.isdir(path) and not any(path.startswith(outer + "/") for outer in kept):
            kept.append(path)
    return kept


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    call("prctl", 1, signal.SIGKILL, 0, 0, 0)


# ---- the loop


class Run(NamedTuple):
    """One program in flight: case number ``case`` of a ``stdio`` job, or the only run of a ``python`` one."""

    job: Job
    case: int
    pid: int
    pidfd: int
    token: str
    output: int
    report: int
    folder: str | None
    started: float


class Server:
    """Takes jobs, keeps up to ``slots`` programs in flight, answers each job once."""

    def __init__(self, slots: int, isolated: bool) -> None:
        self.slots, self.isolated = slots, isolated
        self.null = os.open("/dev/null", os.O_RDWR)
        self.waiting: deque[tuple[Job, int]] = deque()
        self.running: dict[int, Run] = {}  # by pidfd
        self.deadlines: dict[int, float] = {}  # by pidfd; monotonic seconds
        self.late: set[int] = set()
        self.spent: dict[int, float] = {}  # wall seconds so far, by job id
        self.received = bytearray()

    def serve(self) -> None:
        """Run until standard input ends."""
        self.own_pid = os.pidfd_open(os.getpid())
        events = select.poll()
        events.register(0, select.POLLIN)
        while True:
            while self.waiting and len(self.running) < self.slots:
                events.register(self.start(*self.waiting.popleft()), select.POLLIN)
            pause = min(self.deadlines.values(), default=None)
            for fd, _ in events.poll(None if pause is None else max(0.0, 1e3 * (pause - time.monotonic()))):
                if fd == 0:
                    if not self.receive():
                        return
                else:
                    events.unregister(fd)
                    self.finish(self.running.pop(fd))
            self.stop_late_ones()

    def receive(self) -> bool:
        """Take what has come in; False when the other side is gone."""
        data = os.read(0, 1 << 20)
        self.received += data
        while len(self.received) >= 4:
            end = 4 + int.from_bytes(self.received[:4], "big")
            if len(self.received) < end:
                break
            job = json.loads(self.received[4:end])
            del self.received[:end]
            self.spent[job["id"]] = 0.0
            self.waiting.append((job, 0))
        return bool(data)

    def start(self, job: Job, case: int) -> int:
        """Fork a program; returns its pidfd."""
        secret, secret_in = os.pipe()
        token = os.urandom(16)
        os.write(secret_in, token)
        os.close(secret_in)
        report = os.memfd_create("report")
        output, given = self.null, self.null
        if job["type"] == "stdio":
            output, given = os.memfd_create("output"), os.memfd_create("input")
            _write_all(given, job["cases"][case]["input"].encode("utf-8", "replace"))
            os.lseek(given, 0, os.SEEK_SET)
        folder = None if self.isolated else tempfile.mkdtemp(prefix="program-")
        if self.isolated:
            call("unshare", _CLONE_NEWPID)  # for the next child only: setns undoes it below
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            run_program(job, (given, output, self.null, secret, report), folder)
        if self.isolated:
            call("setns", self.own_pid, _CLONE_NEWPID)
        os.close(secret)
        if given != self.null:
            os.close(given)
        pidfd = os.pidfd_open(pid)
        self.running[pidfd] = Run(job, case, pid, pidfd, token.hex(), output, report, folder, started)
        self.deadlines[pidfd] = started + job["time_limit"]
        return pidfd

    def stop_late_ones(self) -> None:
        """Kill what used up its CPU time, or twice that in wall time: a busy machine is not its fault."""
        now = time.monotonic()
        for pidfd in [pidfd for pidfd, deadline in self.deadlines.items() if deadline <= now]:
            run = self.running[pidfd]
            limit = run.job["time_limit"]
            left = min(limit - _cpu_seconds(run.pid), run.started + 2 * limit + 0.5 - now)
            if left > 0:
                self.deadlines[pidfd] = now + max(left, 0.01)
            else:
                self.late.add(pidfd)
                self.kill(run)
                self.deadlines[pidfd] = now + 1.0

    def kill(self, run: Run) -> None:
        """End the program and all that it started (weak: all that stayed in its process group)."""
        for kill in (os.kill, os.killpg):
            # It may have ended by itself, or not yet have become the leader of its group.
            with contextlib.suppress(ProcessLookupError):
                kill(run.pid, signal.SIGKILL)

    def finish(self, run: Run) -> None:
        """Read what an ended program left; answer its job, or put its next case in the queue."""
        if not self.isolated:
            self.kill(
                run
            )  # its children; the leader is a zombie until the next line, so the id is still its own
        _, status, usage = os.wait4(run.pid, 0)
        del self.deadlines[run.pidfd]
        late = run.pidfd in self.late or usage.ru_utime + usage.ru_stime > run.job["time_limit"]
        self.late.discard(run.pidfd)
        report, output = _contents(run.report), b""
        if run.output != self.null:
            output = _contents(run.output)
        os.close(run.pidfd)
        if run.folder is not None:
            shutil.rmtree(run.folder, ignore_errors=True)
        name = run.job["id"]
        self.spent[name] += time.monotonic() - run.started
        verdict, reason = _verdict(run, os.waitstatus_to_exitcode(status), late, report, output)
        if verdict == "correct" and run.job["type"] == "stdio" and run.case + 1 < len(run.job["cases"]):
            self.waiting.appendleft((run.job, run.case + 1))
        else:
            send({"id": name, "verdict": verdict, "reason": reason, "seconds": self.spent.pop(name)})


def _verdict(run: Run, code: int, late: bool, report: bytes, output: bytes) -> tuple[str, str]:
    """The judgement over one ended run: a verdict's value and its reason."""
    where = f"case {run.case + 1}: " if run.job["type"] == "stdio" else ""
    if late:
        return "timeout", f"{where}longer than {run.job['time_limit']:g} s"
    try:
        told = json.loads(report) if report else {}
        outcome, detail = str(told.get("outcome", "")), str(told.get("detail", ""))
    except (ValueError, AttributeError, RecursionError):
        return "wrong", f"{where}the program wrote over the report"
    if outcome == "broken":
        return "error", f"the sandbox failed: {detail}"
    if outcome == "bad_tests":
        return "bad_reference", f"the tests do not compile: {detail}"
    if outcome == "failed":
        return "wrong", where + detail
    if code != 0:
        return "wrong", f"{where}killed by signal {-code}" if code < 0 else f"{where}exit code {code}"
    if run.job["type"] == "stdio":
        expected = run.job["cases"][run.case]["output"]
        return ("correct", "") if _same_output(output, expected) else ("wrong", f"{where}another output")
    if outcome == "passed" and told.get("token") == run.token:
        return "correct", ""
    return "wrong", "the program ended before its tests did"


def _same_output(output: bytes, expected: str) -> bool:
    """Equal line by line, but for blanks at the ends of lines and blank lines at the end."""
    got = output.decode("utf-8", "replace").rstrip().splitlines()
    return [line.rstrip() for line in got] == [line.rstrip() for line in expected.rstrip().splitlines()]


def _cpu_seconds(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | 2)  # the CPU clock of another process: clock_getcpuclockid(3)
    except OSError:
        return 0.0  # it has just ended


def _contents(memfd: int) -> bytes:
    data = os.pread(memfd, OUTPUT_BYTES, 0)
    os.close(memfd)
    return data


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def send(answer: Answer) -> None:
    """Write one frame to the other side."""
    data = json.dumps(answer).encode()
    _write_all(1, len(data).to_bytes(4, "big") + data)


def main(mode: str, slots: int, folder: str) -> None:
    """Isolate, say ``ready`` or why not, and serve."""
    for name in PRELOADED:
        __import__(name)
    die_with_parent()
    server = Server(slots, isolated=mode == "namespaces")
    if server.isolated:
        try:
            enter_namespaces(folder)
        except (OSError, AttributeError) as error:  # AttributeError: a C library without one of the calls
            send({"refused": str(error)})
            return
    call("prctl", 4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: a program in weak mode may not trace its own server
    call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, inherited
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a program that writes too much gets an error instead
    prepare_streams()
    gc.collect()
    gc.freeze()
    send({"ready": mode})
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
