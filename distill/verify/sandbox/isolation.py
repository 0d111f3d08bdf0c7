"""An empty machine around a server: what `server` and `tests_server` enter before they take their first order.

Standard library only, and little of it: each shared object that a server maps makes its forks dearer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
import sysconfig
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.verify.sandbox.walls import call, libc
else:
    from walls import call, libc

FOLDER_BYTES = 16 << 20  # of all files in a program's temporary folder
NEW_PIDS = 0x20000000
_NEW_NAMESPACES = NEW_PIDS | 0x00020000 | 0x08000000 | 0x10000000 | 0x40000000  # mount IPC user network


def enter_namespaces(root: str, slots: int) -> None:
    """Leave the user's machine for an empty one; returns as the first process of the new pid namespace.

    ``root`` is an empty folder that becomes the root of the file system; outside it stays as it was. Inside there
    are the standard library, the shared libraries, and ``slots`` temporary folders, each a small file system in
    memory.

    Raises: OSError: the kernel, or the container around us, refuses one of the steps.
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
    _enter_empty_root(root, slots)


def _enter_empty_root(root: str, slots: int) -> None:
    private_recursive, bind, detach = 0x44000, 0x1000, 2
    call("mount", None, b"/", None, private_recursive, None)
    call("mount", b"tmpfs", os.fsencode(root), b"tmpfs", 0xE, b"size=1m,mode=755")
    for path in visible_paths():
        inside = root + path
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside)
        else:
            os.makedirs(inside, exist_ok=True)
            call("mount", os.fsencode(path), os.fsencode(inside), None, bind, None)
    for slot in range(slots):
        os.makedirs(f"{root}/tmp/{slot}")
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", detach)
    os.chdir("/")
    # mount_setattr(AT_FDCWD, "/", AT_RECURSIVE, MOUNT_ATTR_RDONLY) is call 442 on every architecture
    attributes = struct.pack("QQQQ", 1, 0, 0, 0)
    if libc.syscall(442, -100, b"/", 0x8000, attributes, len(attributes)) != 0:
        raise OSError(ctypes.get_errno(), "mount_setattr (Linux 5.12)")
    for slot in range(slots):
        fresh_folder(slot)


def fresh_folder(slot: int) -> None:
    path = b"/tmp/%d" % slot
    libc.umount2(path, 2)
    call("mount", b"tmpfs", path, b"tmpfs", 0xE, b"size=%d,nr_inodes=1024,mode=700" % FOLDER_BYTES)


def visible_paths() -> list[str]:
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


def settle() -> None:
    """What every server does once it is where it stays."""
    call("prctl", 4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: a program in weak mode may not trace its own server
    call("prctl", 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, inherited
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a program that writes too much gets an error instead
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    call("prctl", 1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
