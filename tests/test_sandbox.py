"""The sandbox: what a program may not do, what it may, and that nothing outlives us. Simple attacks only."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill.errors import UserError
from distill.verify import sandbox as client
from distill.verify.programs import job_of
from distill.verify.sandbox import Sandbox, SandboxDied, sandbox

RIGHT = "def f(x):\n    y = x * 2\n    return y + 1"
TESTS = {
    "type": "python",
    "code": "assert f(3) == 7\nassert f(-2) == -3",
    "entry_point": "f",
    "time_limit": 0.5,
}


@pytest.fixture(scope="module", params=["namespaces", "weak"])
def box(request):
    return sandbox() if request.param == "namespaces" else Sandbox("weak")


def run(box: Sandbox, program: str, **tests: object) -> tuple[str, str]:
    told = box.submit(job_of(program, TESTS | tests)).result()
    return told["verdict"], told["reason"]


def run_stdio(box: Sandbox, program: str, *cases: tuple[str, str]) -> tuple[str, str]:
    tests = {
        "type": "stdio",
        "cases": [{"input": given, "output": want} for given, want in cases],
        "time_limit": 1.0,
    }
    told = box.submit(job_of(program, tests)).result()
    return told["verdict"], told["reason"]


def test_right_and_wrong_functions(box):
    assert run(box, RIGHT) == ("correct", "")
    assert run(box, RIGHT.replace("2", "3")) == ("wrong", "assert f(3) == 7: AssertionError")
    assert run(box, "def g(x): return x") == ("wrong", "the program defines no f")
    assert run(box, "def f(x) return")[1].startswith("the program raised SyntaxError")
    assert run(box, "def f(x): return x / 0")[1].endswith("ZeroDivisionError: division by zero")


def test_programs_are_real_modules(box):
    program = """
        from __future__ import annotations
        import dataclasses, typing, threading, json, decimal
        @dataclasses.dataclass
        class Point:
            x: int
            kind: typing.ClassVar[str] = "p"
        def f(x):
            return Point(2 * x + 1).x
        if __name__ == "__main__":
            raise SystemExit("not run as a script")
    """
    assert run(box, "\n".join(line[8:] for line in program.splitlines())) == ("correct", "")


def test_a_check_function_is_called_with_the_entry_point(box):
    code = "def check(candidate):\n    assert candidate(3) == 7\n"
    assert run(box, RIGHT, code=code) == ("correct", "")
    assert run(box, RIGHT.replace("2", "3"), code=code)[0] == "wrong"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended before its tests"),
        ("def f(x):\n    import os; os._exit(0)", "ended before its tests"),
        ("def f(x): raise SystemExit(0)", "SystemExit"),
        ("def f(x): raise KeyboardInterrupt", "KeyboardInterrupt"),
        ('import os; os.write(4, b\'{"outcome": "passed"}\'); os._exit(0)', "ended before its tests"),
        ("import os; os.write(4, b'[' * 100000); os._exit(0)", "wrote over the report"),
        ("def f(x): return [0] * 10**10", "MemoryError"),
        ("x = bytearray(400 << 20)", "MemoryError"),
        ("import ctypes; ctypes.string_at(0)", "killed by signal 11"),
        ("class E(Exception):\n    def __str__(self): return 1/0\ndef f(x): raise E", "E"),
    ],
)
def test_leaving_early_or_breaking_is_wrong(box, program, reason):
    verdict, why = run(box, program, memory_mb=128)
    assert verdict == "wrong" and reason in why, why


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "def f(x):\n    import time; time.sleep(100)",
        "def f(x):\n    while True: print('x' * 10000)",
        "import signal\nfor n in {*range(1, 32)} - {9, 19}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
    ],
)
def test_what_does_not_end_is_stopped_in_time(box, program):
    started = time.monotonic()
    assert run(box, program, time_limit=0.2) == ("timeout", "longer than 0.2 s")
    assert time.monotonic() - started < 4


def test_nothing_can_be_written_and_the_environment_is_empty(box, monkeypatch):
    monkeypatch.setenv("SECRET_OF_OURS", "1")
    look = "import os\nassert set(os.environ) <= {'LC_CTYPE'}, dict(os.environ)\nassert os.listdir() == []\n"
    assert run(box, look + RIGHT) == ("correct", "")
    write = "open('x', 'w').write('hello' * (5 << 20))\n"
    verdict, reason = run(box, write + RIGHT)
    assert verdict == "wrong" and ("Read-only" in reason or "File too large" in reason), reason


def test_network_files_and_processes_of_the_machine_are_out_of_reach(tmp_path):
    box = sandbox()
    secret = tmp_path / "secret"
    secret.write_text("s")
    for attack, error in [
        ("import socket; socket.create_connection(('127.0.0.1', 22), 1)", "unreachable"),
        ("import socket; socket.create_connection(('1.1.1.1', 53), 1)", "unreachable"),
        (f"open({str(secret)!r})", "FileNotFoundError"),
        (f"open({__file__!r})", "FileNotFoundError"),
        ("open('/etc/passwd')", "FileNotFoundError"),
        ("import os; os.listdir('/proc')", "FileNotFoundError"),
        ("import os; os.setuid(0)", "Error"),
        ("import os; os.kill(2, 9)", "ProcessLookupError"),
        ("import subprocess; subprocess.run(['/bin/sh', '-c', 'true'])", "FileNotFoundError"),
        ("import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0", "AssertionError"),
        (
            "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/lib', b'tmpfs', 0, None) == 0",
            "AssertionError",
        ),
    ]:
        verdict, reason = run(box, attack + "\n" + RIGHT)
        assert verdict == "wrong" and error in reason, (attack, reason)


def test_children_of_a_program_die_with_it():
    marker = f"stray{os.getpid()}"
    stray = (
        "import os, time, ctypes\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        ctypes.CDLL(None).prctl(15, b'{marker}', 0, 0, 0)\n"
        "        time.sleep(60)\n"
        "    os._exit(0)\n"
        "time.sleep(0.2)\n"
    )
    assert run(sandbox(), stray + RIGHT, time_limit=2.0) == ("correct", "")
    names = [path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm") if path.exists()]
    assert marker[:15] not in names


def test_scripts_read_and_write(box):
    double = "n = int(input())\nprint(2 * n)"
    assert run_stdio(box, double, ("3\n", "6\n"), ("4", "8")) == ("correct", "")
    assert run_stdio(box, double, ("3\n", "6 \n\n"), ("4", "9")) == ("wrong", "case 2: another output")
    assert (
        run_stdio(box, "import sys\nprint(2 * int(sys.stdin.buffer.read()))\nsys.exit()", ("3", "6"))[0]
        == "correct"
    )
    assert run_stdio(box, "print(6)\nimport sys; sys.exit(3)", ("3", "6")) == (
        "wrong",
        "case 1: exit code SystemExit: 3",
    )
    assert run_stdio(box, "print(6)\n1/0", ("3", "6"))[1] == "case 1: ZeroDivisionError: division by zero"
    assert run_stdio(box, "input(); input()", ("3", ""))[1].startswith("case 1: EOFError")
    assert (
        run_stdio(box, "while True: print('x' * 1000)", ("", ""))[1]
        == "case 1: OSError: [Errno 27] File too large"
    )
    assert run_stdio(box, "print(input())", ("\u00e9\u4e2d", "\u00e9\u4e2d"))[0] == "correct"
    late = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print(6))).start()"
    assert run_stdio(box, late, ("", "6"))[0] == "correct"
    assert run_stdio(box, "import os\nprint(len(input()))", ("x" * 3_000_000, "3000000"))[0] == "correct"


def test_programs_run_side_by_side():
    box = sandbox()
    nap = job_of("import time; time.sleep(0.3)\n" + RIGHT, TESTS | {"time_limit": 2.0})
    slots = len(os.sched_getaffinity(0))
    started = time.monotonic()
    answers = [box.submit(nap) for _ in range(2 * slots)]
    assert all(answer.result()["verdict"] == "correct" for answer in answers)
    assert time.monotonic() - started < 0.3 * 2 * slots or slots == 1


def test_a_server_that_dies_fails_its_jobs_and_is_replaced():
    box = Sandbox("namespaces")
    slow = box.submit(job_of("import time; time.sleep(60)", TESTS | {"time_limit": 60.0}))
    assert box.server is not None
    box.server.kill()
    with pytest.raises(SandboxDied):
        slow.result(timeout=10)
    with pytest.raises(SandboxDied):
        box.submit(job_of(RIGHT, TESTS)).result(timeout=10)
    assert not box.alive
    assert run(sandbox(), RIGHT) == ("correct", "")


START = (
    "import time; from distill.verify.sandbox import sandbox; from distill.verify.programs import job_of\n"
    "job = job_of('while True: pass', {'type': 'python', 'code': 'pass', 'time_limit': 60.0})\n"
    "box = sandbox(); box.submit(job); time.sleep(0.2); print(box.server.pid, flush=True); time.sleep(60)"
)


def test_nothing_outlives_a_killed_parent():
    parent = subprocess.Popen(
        [sys.executable, "-c", START], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    assert parent.stdout is not None
    family = _descendants(int(parent.stdout.readline()))
    assert len(family) == 3  # launcher, server, program
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while any(_alive(pid) for pid in family):
        assert time.monotonic() < deadline, "left behind"
        time.sleep(0.02)


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [one for child in children for one in _descendants(int(child))]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
def test_a_machine_without_namespaces_is_refused_with_the_weaker_mode_named():
    ask = (
        "from distill.verify.sandbox import sandbox\nfrom distill.errors import UserError\n"
        "try: sandbox(); print('isolated')\nexcept UserError as error: print(error)"
    )
    command = f'echo 0 > /proc/sys/user/max_user_namespaces && exec {sys.executable} -c "$0"'
    told = subprocess.run(
        ["unshare", "-Ur", "sh", "-c", command, ask],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    if "unshare" in told.stderr:
        pytest.skip(f"no user namespace to test in: {told.stderr.strip()}")
    assert "DISTILL_SANDBOX=weak" in told.stdout and "No space left" in told.stdout, told


def test_an_unknown_mode_is_refused(monkeypatch):
    monkeypatch.setenv("DISTILL_SANDBOX", "none")
    monkeypatch.setattr(client, "_running", None)
    with pytest.raises(UserError, match="namespaces, weak"):
        sandbox()
