"""Attacks on the sandbox, each a real program: none may be judged correct, and none may leave a trace.

Run as a program (``python attacks.py TIMES``) it attacks TIMES over, all at once, and prints what happened as JSON. It is
meant to run inside an outer pid and user namespace (`test_sandbox.py` sees to that): a containment that fails then
reaches nothing but the test. ``kill(-1)`` and the fork bombs must not run outside one.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

RIGHT = "def f(x):\n    return 2 * x + 1\n"
TESTS = {
    "type": "python",
    "code": "assert f(3) == 7\nassert f(-2) == -3",
    "entry_point": "f",
    "time_limit": 0.5,
    "memory_mb": 256,
}
TOKEN = "the-answer-is-5c1f0e"
SECRET = {
    "type": "python",
    "code": f"def wanted(n):\n    return '{TOKEN}' + str(n)\nassert f(1) == wanted(1)\nassert f(2) == wanted(2)",
    "entry_point": "f",
    "time_limit": 2.0,
}
SCRIPT = {"type": "stdio", "cases": [{"input": "1", "output": TOKEN}], "time_limit": 0.5, "memory_mb": 256}


class Attack(NamedTuple):
    """A program and the tests that it attacks; what it does after its attack would be right."""

    name: str
    program: str
    tests: dict[str, Any] = TESTS


def _then_right(name: str, *lines: str) -> Attack:
    return Attack(name, "\n".join(lines) + "\n" + RIGHT)


_SCAN = """
def found(texts):
    for text in texts:
        try:
            at = text.find(MARK)
        except Exception:
            continue
        if at >= 0:
            return text[at : at + 20]
MARK = 'the-answer' + '-is-'
"""

ATTACKS = [
    # ---- using things up
    _then_right("endless loop", "while True: pass"),
    Attack("endless loop in a call", "def f(x):\n    while True: pass"),
    _then_right("sleep", "import time; time.sleep(60)"),
    Attack("sleep in a call", "def f(x):\n    import time; time.sleep(60)"),
    _then_right("fork bomb", "import os", "while True: os.fork()"),
    _then_right("quiet fork bomb", "import os", "try:\n    while True: os.fork()", "except OSError: os._exit(0)"),
    _then_right("vfork by system call", "import ctypes", "if ctypes.CDLL(None).syscall(58) == -1: raise OSError"),
    _then_right("clone3 by system call", "import ctypes", "b = ctypes.create_string_buffer(88)",
                "if ctypes.CDLL(None).syscall(435, b, 88) == -1: raise OSError"),
    _then_right("thread bomb", "import threading, time", "while True: threading.Thread(target=time.sleep, args=(60,)).start()"),
    _then_right("memory bomb", "x = []", "while True: x.append(bytearray(1 << 20))"),
    Attack("memory bomb in a call", "def f(x): return [0] * 10**10"),
    Attack("a result too large", "def f(x): return 'x' * (100 << 20)"),
    Attack("a result too long to write out", "def f(x): return 10 ** (10 ** 7)"),
    Attack("a result nested too deep", "def f(x):\n    y = []\n    for _ in range(100000): y = [y]\n    return y"),
    Attack("a result that holds itself", "def f(x):\n    y = []\n    y.append(y)\n    return y"),
    Attack("output flood", "while True: print('x' * 1000)", SCRIPT),
    Attack("error flood", "import sys\nwhile True: print('x' * 1000, file=sys.stderr)", SCRIPT),
    _then_right("filling the disk", "for n in range(10**6):\n    with open(str(n), 'wb') as file: file.write(b'x' * (1 << 20))"),
    _then_right("filling the folder with names", "for n in range(10**7): open(str(n), 'w').close()"),
    _then_right("a file too large", "with open('x', 'wb') as file:\n    for _ in range(1000): file.write(b'x' * (1 << 20))"),
    _then_right("open files", "import os", "while True: os.open('/', os.O_RDONLY)"),
    _then_right("deep recursion", "import sys; sys.setrecursionlimit(10**9)", "def g(n): return g(n + 1) + 1", "g(0)"),
    _then_right("raising the limits", "import resource", "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))"),
    # ---- getting out
    *(_then_right(f"writing {path}", f"open({path!r}, 'w').write('x')") for path in ("/attack-5c1f0e", "/tmp/attack-5c1f0e", "/etc/attack-5c1f0e", "/usr/lib/attack-5c1f0e",
                                                                                  "/lib/attack-5c1f0e", "../attack-5c1f0e", "/dev/shm/attack-5c1f0e", "/var/tmp/attack-5c1f0e")),
    *(_then_right(f"reading {path}", f"open({path!r}).read()") for path in ("/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/1/environ",
                                                                        "/proc/self/mem", "/proc/meminfo", "/root/.bashrc", "/home", __file__)),
    _then_right("another's temporary folder", "import os", "for n in range(8):\n    if f'/tmp/{n}' != os.getcwd(): os.listdir(f'/tmp/{n}')",
                "raise SystemExit('read')"),
    _then_right("the environment", "import os", "if not set(os.environ) - {'LC_CTYPE'}: raise SystemExit('empty')"),
    _then_right("a TCP socket", "import socket; socket.create_connection(('127.0.0.1', 80), 1)"),
    _then_right("a UDP socket", "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 53))"),
    _then_right("an abstract socket", "import socket; socket.socket(socket.AF_UNIX).bind('\\0attack')"),
    _then_right("a raw socket", "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
    _then_right("a shell", "import subprocess; subprocess.run(['/bin/sh', '-c', 'true'], check=True)"),
    _then_right("os.system", "import os", "if os.system('true') != 0: raise OSError"),
    _then_right("execve", "import os, sys; os.execv(sys.executable, [sys.executable, '-c', ''])"),
    _then_right("killing all", "import os; os.kill(-1, 9); raise OSError"),
    _then_right("killing its group", "import os; os.kill(0, 9); raise OSError"),
    _then_right("killing its parent", "import os; os.kill(os.getppid() or 2, 9)"),
    *(_then_right(f"killing process {pid}", f"import os; os.kill({pid}, 9)") for pid in (2, 3, 4, 5)),
    _then_right("stopping itself", "import os; os.kill(os.getpid(), 19); raise OSError"),
    _then_right("signal to a thread group", "import ctypes", "if ctypes.CDLL(None).syscall(234, 2, 2, 9) == -1: raise OSError"),
    _then_right("ignoring signals", "import signal", "for n in {*range(1, 32)} - {9, 19}: signal.signal(n, signal.SIG_IGN)", "while True: pass"),
    _then_right("a daemon", "import os, time", "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(600)\n    os._exit(0)"),
    _then_right("multiprocessing", "import multiprocessing", "p = multiprocessing.Process(target=print); p.start(); p.join()"),
    *(_then_right(f"{name} by system call", "import ctypes", f"if ctypes.CDLL(None).syscall({call}) == -1: raise OSError")
      for name, call in {
          "ptrace": "101, 16, 2, 0, 0", "process_vm_readv": "310, 2, 0, 0, 0, 0, 0", "unshare": "272, 0x10000000", "setns": "308, 0, 0",
          "mount": "165, b'none', b'/tmp', b'tmpfs', 0, None", "pivot_root": "155, b'.', b'.'", "chroot": "161, b'/tmp'", "bpf": "321, 0, 0, 0",
          "shmget": "29, 0, 4096, 0o1600", "msgget": "68, 0, 0o1600", "keyctl": "250, 0, -3, 0", "perf_event_open": "298, 0, 0, -1, -1, 0",
          "userfaultfd": "323, 1", "io_uring_setup": "425, 8, 0", "memfd_create": "319, b'x', 0", "pidfd_open": "434, 2, 0",
          "open_by_handle_at": "304, -1, 0, 0", "the x32 fork": "0x40000039", "sethostname": "170, b'x', 1", "reboot": "169, 0, 0, 0, 0",
      }.items()),
    _then_right("becoming root", "import os; os.setuid(0)"),
    # ---- passing without being right
    Attack("sys.exit(0)", "import sys; sys.exit(0)"),
    Attack("os._exit(0)", "import os; os._exit(0)"),
    Attack("sys.exit(0) in a call", "def f(x):\n    import sys; sys.exit(0)"),
    Attack("os._exit(0) in a call", "def f(x):\n    import os; os._exit(0)"),
    Attack("os._exit(0) at the end", "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0"),
    Attack("a crash in a call", "def f(x):\n    import ctypes; ctypes.string_at(0)"),
    Attack("an object equal to everything", "class E:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
           "    def __hash__(self): return 0\ndef f(x): return E()"),
    Attack("a number equal to everything", "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef f(x): return E(0)"),
    Attack("an object that is always close", "class E:\n    def __sub__(self, other): return 0\n    __rsub__ = __sub__\n    def __abs__(self): return 0\n"
           "    def __lt__(self, other): return True\n    def __le__(self, other): return True\ndef f(x): return E()",
           TESTS | {"code": "assert abs(f(3) - 7) < 1e-6\nassert f(3) == 7"}),
    Attack("a list equal to everything", "class E(list):\n    def __eq__(self, other): return True\ndef f(x): return E()",
           TESTS | {"code": "assert f(3) == [1, 2]"}),
    Attack("patched built-ins", "import builtins\nbuiltins.all = builtins.any = lambda x: True\nbuiltins.len = lambda x: 2\nbuiltins.abs = lambda x: 0\n"
           "def f(x): return 0", TESTS | {"code": "assert all(f(n) == 2 * n + 1 for n in range(5))\nassert abs(f(3) - 7) < 1e-6"}),
    Attack("names of built-ins", "def all(x): return True\ndef abs(x): return 0\ndef len(x): return 2\ndef sorted(x): return []\ndef f(x): return []",
           TESTS | {"code": "assert all(f(n) == 1 for n in range(5))\nassert len(f(3)) == 2\nassert abs(f(3)[0]) == 0"}),
    Attack("names of built-ins, no entry point", "def all(x): return True\ndef f(x): return 0",
           {"type": "python", "code": "assert all(f(n) == 2 * n + 1 for n in range(5))"}),
    Attack("a patched exception", "import builtins\nclass E(Exception): pass\nbuiltins.AssertionError = E\ndef f(x): raise AssertionError"),
    Attack("a patched test", "def check(candidate): pass\ndef f(x): return 0",
           TESTS | {"code": "def check(candidate):\n    assert candidate(3) == 7"}),
    Attack("tracing the tests", "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef f(x): return 0"),
    Attack("patching modules", "import sys, types\nfor name in list(sys.modules):\n    if name not in ('sys', 'builtins'): sys.modules[name] = types.ModuleType(name)\n"
           "def f(x): return 0", TESTS | {"code": "import math\nassert math.isclose(f(3), 7)"}),
    Attack("swallowed by the tests", "def f(x):\n    import os; os._exit(0)",
           TESTS | {"code": "try:\n    f(3)\nexcept BaseException:\n    pass"}),
    Attack("a callback that lies", "def f(g, x):\n    g(x, 7)\n    return None", TESTS | {"code": "seen = []\nf(lambda *a: seen.append(a), 3)\nassert seen == [(7,)]"}),
    # ---- finding what is expected
    Attack("frames", _SCAN + "import sys\ndef f(n):\n    frame, texts = sys._getframe(), []\n    while frame:\n"
           "        texts += [repr(frame.f_locals), repr(frame.f_globals), repr(frame.f_code.co_consts)]\n        frame = frame.f_back\n"
           "    return found(texts)", SECRET),
    Attack("the garbage collector", _SCAN + "import gc\ndef f(n): return found([x if isinstance(x, str) else repr(x)[:10**5] for x in gc.get_objects()])", SECRET),
    Attack("what lies in open files", _SCAN + "import os\ndef f(n):\n    texts = []\n    for fd in range(64):\n        if fd == 4: continue\n"
           "        try: texts.append(os.pread(fd, 1 << 16, 0).decode())\n        except (OSError, UnicodeDecodeError): pass\n    return found(texts)", SECRET),
    Attack("its memory", _SCAN + "import ctypes, re\ndef f(n):\n    for line in open('/proc/self/maps'):\n        low, high = (int(x, 16) for x in line.split()[0].split('-'))\n"
           "        text = found([ctypes.string_at(low, high - low).decode('latin1')])\n        if text: return text", SECRET),
    Attack("its heap", _SCAN + "import ctypes\ndef f(n):\n    at = id(f) & ~0xFFFFF\n    return found([ctypes.string_at(at, 1 << 20).decode('latin1')])", SECRET),
    Attack("the files of Python's path", _SCAN + "import os, sys\ndef f(n):\n    texts = []\n    for root in ('/', '/tmp', '/empty', *sys.path):\n"
           "        for folder, _, files in os.walk(root):\n            if folder.count('/') < 3: texts += files\n    return found(texts)", SECRET),
    Attack("expected output in memory", _SCAN + "import gc\nprint(found([x for x in gc.get_objects() if isinstance(x, str)]) or found([repr(x)[:10**5] for x in gc.get_objects()]))",
           SCRIPT),
    Attack("expected output in files", _SCAN + "import os\ntexts = []\nfor fd in range(64):\n    try: texts.append(os.pread(fd, 1 << 16, 0).decode())\n"
           "    except (OSError, UnicodeDecodeError): pass\nprint(found(texts))", SCRIPT),
    # ---- saying what a harness says
    Attack("printing a pass", "print('passed'); print('OK'); print('{\"outcome\": \"passed\"}')\ndef f(x): return 0"),
    Attack("answers ahead of the questions", "import os\nfor text in ('{\"loaded\": true}', '{\"ok\": 7}', '{\"ok\": -3}', '{\"outcome\": \"passed\"}'):\n"
           "    for fd in range(1, 10):\n        try: os.write(fd, len(text).to_bytes(4, 'big') + text.encode())\n        except OSError: pass\nos._exit(0)"),
    Attack("nonsense for answers", "import os\ndef f(x):\n    os.write(4, b'\\0\\0\\0\\x08[[[[[[[[')\n    return 7"),
    Attack("half an answer", "import os\ndef f(x):\n    os.write(4, b'\\0\\0\\xff\\xff{')\n    os._exit(0)"),
    Attack("a live object that is none", "import os\ndef f(x):\n    text = '{\"ok\": {\"live\": \"x\"}}'\n    os.write(4, len(text).to_bytes(4, 'big') + text.encode())\n    os._exit(0)"),
    Attack("a right output and a failure", f"print('{TOKEN}'); raise SystemExit(3)", SCRIPT),
    Attack("an exit code alone", "raise SystemExit(0)", SCRIPT),
]  # fmt: skip


def attack(times: int) -> dict[str, Any]:
    """All attacks at once, ``times`` over; what they were judged, and what is left of them."""
    from distill.verify.programs import job_of
    from distill.verify.sandbox import Sandbox

    folder = tempfile.mkdtemp()
    tempfile.tempdir = folder  # whatever we make ourselves
    box = Sandbox(os.environ.get("DISTILL_SANDBOX", "namespaces"))
    began = time.monotonic()
    waiting = [
        (one.name, box.submit(job_of(one.program, one.tests))) for _ in range(times) for one in ATTACKS
    ]
    judged: dict[str, collections.Counter[str]] = {}
    reasons: dict[str, str] = {}
    for name, answer in waiting:
        told = answer.result(timeout=600)
        judged.setdefault(name, collections.Counter())[told.verdict] += 1
        reasons[name] = told.reason
    healthy = [box.submit(job_of(RIGHT, TESTS)).result(timeout=60).verdict for _ in range(10)]
    for server in (box.programs, *box.testers):
        server.process.kill()
        server.process.wait()
    time.sleep(0.3)
    with contextlib.suppress(
        ChildProcessError
    ):  # as the first process of the outer namespace we inherit orphans
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return {
        "verdicts": {name: dict(counts) for name, counts in judged.items()},
        "reasons": reasons,
        "healthy": healthy,
        "processes": sorted(int(path.name) for path in Path("/proc").glob("[0-9]*")),
        "own": [os.getpid(), os.getppid()],
        "files": [str(path) for path in Path(folder).rglob("*")],
        "written": [
            path
            for path in (
                "/attack-5c1f0e",
                "/tmp/attack-5c1f0e",
                "/etc/attack-5c1f0e",
                "/usr/lib/attack-5c1f0e",
                "/lib/attack-5c1f0e",
                "/dev/shm/attack-5c1f0e",
                "/var/tmp/attack-5c1f0e",
            )
            if Path(path).exists()
        ],
        "seconds": time.monotonic() - began,
    }


if __name__ == "__main__":
    print(json.dumps(attack(int(sys.argv[1]))))
