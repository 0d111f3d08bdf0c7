"""Two walls of the kernel around one process: a filter on its system calls, and the files that it may reach.

seccomp (Linux 3.17) refuses the calls that untrusted programs have no business with; Landlock (Linux 5.13) leaves
them a few folders. Both need no privileges, cannot be taken off, and are inherited. Where the kernel (or the
processor, of which we know two) lacks one, the other walls stand alone, and the server says so.

Standard library only: this runs in the sandbox's processes, which import nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

libc = ctypes.CDLL(None, use_errno=True)


def call(function: str, *args: object) -> None:
    """Call a function of the C library that returns 0 when it succeeds; OSError otherwise."""
    if getattr(libc, function)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


# ---------------------------------------------------------------------------------------------- system calls

_X86_64, _AARCH64 = 0xC000003E, 0xC00000B7
_ARCHITECTURE = {"x86_64": _X86_64, "aarch64": _AARCH64}.get(platform.machine())

#: Name to number on x86_64 and aarch64 (None: that processor has no such call). Never allowed, not to the
#: server either.
FORBIDDEN = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "socket": (41, 198), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_setup": (206, 0), "shmget": (29, 194),
    "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191),
    "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180), "memfd_secret": (447, 447), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "fanotify_init": (300, 262), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
    "personality": (135, 92), "syslog": (103, 116), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None), "execve": (59, 221), "execveat": (322, 281), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "pivot_root": (155, 41), "chroot": (161, 51),
}  # fmt: skip
#: Forbidden to a program, for the server needs them to make one.
FORBIDDEN_TO_PROGRAMS = {
    "fork": (57, None), "vfork": (58, None), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
    "umount2": (166, 39), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
    "memfd_create": (319, 279),
}  # fmt: skip
_CLONE, _CLONE3, _CLONE_THREAD = (56, 220), (435, 435), 0x10000
#: Their first argument is a process: a program may name itself alone.
_SIGNALS = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # places in struct seccomp_data
_OWN_PID = 0x7FFFFFFF  # stands in a filter for the process that puts it on
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE, _UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


def _assembled(lines: list[tuple[int, int, str, str] | str]) -> bytes:
    """BPF of instructions (operation, constant, label if true, label if false; "": the next) between labels."""
    places: dict[str, int] = {}
    code: list[tuple[int, int, str, str]] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(code)
        else:
            code.append(line)
    jump = [[places[label] - at - 1 if label else 0 for label in line[2:]] for at, line in enumerate(code)]
    return b"".join(
        struct.pack("HBBI", op, *jump[at], constant) for at, (op, constant, _, _) in enumerate(code)
    )


def _filter(forbidden: list[int], own_pid: int | None) -> bytes:
    """Refuse these calls; with ``own_pid`` also new processes (not threads) and signals to other processes."""
    which = 0 if _ARCHITECTURE == _X86_64 else 1
    lines: list[tuple[int, int, str, str] | str] = [
        (_LOAD, _ARCH, "", ""),
        (_EQUAL, _ARCHITECTURE or 0, "", "kill"),
        (_LOAD, _NUMBER, "", ""),
    ]
    if which == 0:
        lines.append((_AT_LEAST, 0x40000000, "refuse", ""))  # the x32 numbers of the same calls
    lines += [(_EQUAL, number, "refuse", "") for number in forbidden]
    if own_pid is not None:  # a place holder, see CallFilter
        # The flags of clone3 lie in memory, out of a filter's sight; refused it, the C library uses clone.
        lines.append((_EQUAL, _CLONE3[which], "unknown", ""))
        lines.append((_EQUAL, _CLONE[which], "clone", ""))
        lines += [(_EQUAL, numbers[which], "signal", "") for numbers in _SIGNALS.values()]
    lines += [(_RETURN, _ALLOW, "", "")]
    if own_pid is not None:
        lines += ["clone", (_LOAD, _FIRST_ARGUMENT, "", ""), (_ANY_BIT, _CLONE_THREAD, "allow", "refuse")]
        lines += ["signal", (_LOAD, _FIRST_ARGUMENT, "", ""), (_EQUAL, own_pid, "allow", "refuse")]
    lines += ["allow", (_RETURN, _ALLOW, "", ""), "refuse", (_RETURN, _REFUSE, "", "")]
    lines += ["unknown", (_RETURN, _UNKNOWN, "", ""), "kill", (_RETURN, _KILL, "", "")]
    return _assembled(lines)


class CallFilter:
    """A filter made once and put on by each process, a ``program``'s or the server's own."""

    def __init__(self, *, program: bool) -> None:
        self.program = program
        self.known = _ARCHITECTURE is not None
        if self.known:
            which = 0 if _ARCHITECTURE == _X86_64 else 1
            table = FORBIDDEN_TO_PROGRAMS if program else FORBIDDEN
            numbers = [number for row in table.values() if (number := row[which]) is not None]
            code = _filter(numbers, _OWN_PID if program else None)
            self._place = code.find(struct.pack("HBBI", _EQUAL, 0, 1, _OWN_PID)) + 4 if program else 0
            self._code = ctypes.create_string_buffer(code, len(code))
            self._header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(self._code))

    def put_on(self) -> bool:
        """From now on, for good; False where the kernel has no such thing or the processor is none that we know."""
        if not self.known:
            return False
        if self.program:
            struct.pack_into("I", self._code, self._place, os.getpid())
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, without which a filter needs privileges
        return bool(libc.prctl(22, 2, self._header, 0, 0) == 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


# ---------------------------------------------------------------------------------------------- files

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every processor
_READ = 1 << 2 | 1 << 3  # files, folders
_WRITE = 1 << 1 | sum(1 << bit for bit in range(4, 13))  # contents; making and removing of every kind
_RENAME_ACROSS, _TRUNCATE = 1 << 13, 1 << 14
_IN_A_FILE = 1 << 1 | 1 << 2 | _TRUNCATE  # rights that mean something for a path that is no folder


class FileRules:
    """A set of rules made once and put on by each process: what it may read, and where it may write.

    ``version`` is the kernel's version of Landlock, 0 where there is none; ``fd`` is the rules' descriptor.
    """

    def __init__(self, readable: list[str], writable: list[str]) -> None:
        self.version, self.fd = max(0, int(libc.syscall(_CREATE_RULESET, None, 0, 1))), -1
        if not self.version:
            return
        renames = _RENAME_ACROSS if self.version >= 2 else 0
        handled = 1 | _READ | _WRITE | renames | (_TRUNCATE if self.version >= 3 else 0)
        rules = struct.pack("Q", handled)
        self.fd = _checked(libc.syscall(_CREATE_RULESET, rules, len(rules), 0))
        for paths, rights in ((readable, _READ), (writable, handled & ~1)):
            for path in paths:
                folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
                allowed = rights if os.path.isdir(path) else rights & _IN_A_FILE
                _checked(libc.syscall(_ADD_RULE, self.fd, 1, struct.pack("=Qi", allowed, folder), 0))
                os.close(folder)

    def put_on(self, fd: int) -> None:
        """From now on, for good, from the descriptor ``fd`` of these rules, which is closed; or OSError."""
        _checked(libc.syscall(_RESTRICT_SELF, fd, 0))
        os.close(fd)

    def close(self) -> None:
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock: {os.strerror(ctypes.get_errno())}")
    return result
