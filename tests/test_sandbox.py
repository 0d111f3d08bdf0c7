"""The sandbox: what tests may ask of a program, a table of attacks on it, and that nothing outlives us."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path

import pytest

from distill.errors import UserError
from distill.verify.programs import job_of
from distill.verify.sandbox import Sandbox, SandboxDied, client, sandbox
from distill.verify.sandbox.outputs import same_output

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
    told = box.submit(job_of(program, TESTS | tests)).result(timeout=60)
    return told.verdict, told.reason


def run_stdio(box: Sandbox, program: str, *cases: tuple[str, str]) -> tuple[str, str]:
    tests = {
        "type": "stdio",
        "cases": [{"input": given, "output": want} for given, want in cases],
        "time_limit": 1.0,
    }
    told = box.submit(job_of(program, tests)).result(timeout=60)
    return told.verdict, told.reason


def test_right_and_wrong_functions(box):
    assert run(box, RIGHT) == ("correct", "")
    assert run(box, RIGHT.replace("2", "3")) == ("wrong", "assert f(3) == 7: AssertionError")
    assert run(box, "def g(x): return x") == ("wrong", "the program defines no f")
    assert run(box, "def f(x) return")[1].startswith("the program raised SyntaxError")
    assert run(box, "def f(x): return x / 0")[1].endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("text", ["x" * 7_900, "\U0001d465" * 7_900, "\udc00" * 7_900, "x" * 300_000])
def test_long_programs_reach_their_process(box, text):
    assert run(box, f"s = {text!r}\n{RIGHT}") == ("correct", "")
    assert run(box, f"import os\ns = {text!r}\n{RIGHT}") == ("correct", "")
    assert run(box, RIGHT, code=TESTS["code"] + f"\nassert f(1) == 4, {text!r}")[0] == "wrong"


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


# ---------------------------------------------------------------------------------------------- what tests may ask


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("def f(x):\n    x.append(4)\n    x[0] = 9", "v = [1, 2]\nf(v)\nassert v == [9, 2, 4]"),
        ("def f(d, s):\n    d['a'] = 1\n    s.clear()", "d, s = {}, {1}\nf(d, s)\nassert d == {'a': 1} and s == set()"),
        ("def f(g, x): return [g(n) for n in x]", "assert f(lambda n: n * n, [1, 2, 3]) == [1, 4, 9]"),
        ("def f(g): return sorted([3, 1, 2], key=g)", "def key(n):\n    return -n\nassert f(key) == [3, 2, 1]"),
        ("def f(x): return (n * n for n in x)", "assert list(f(range(4))) == [0, 1, 4, 9]\nassert next(f([5])) == 25"),
        ("def f(x): return sum(x)", "assert f(iter([1, 2])) == 3 and f(map(int, '12')) == 3 and f(n for n in (1, 2)) == 3"),
        ("from collections import Counter\ndef f(x): return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}\nassert f('b')['z'] == 0"),
        ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(x): return P(x, 2)", "assert f(1) == (1, 2)"),
        ("def f(*, a, b=2): return {(a, b): {a}}", "assert f(a=1) == {(1, 2): {1}}"),
        ("def f(x): return 10 ** 400 + x", "assert f(1) == 10 ** 400 + 1 and isinstance(f(1), int)"),
        ("def f(x): return float('inf'), x, 1 + 2j, b'a', None, True", "assert f(1.5) == (float('inf'), 1.5, 1 + 2j, b'a', None, True)"),
        ("def f(x): return float('nan')", "import math\nassert math.isnan(f(0))"),
        ("def f(x):\n    raise ValueError('no', x)", "try:\n    f(1)\n    assert False\nexcept ValueError as e:\n    assert e.args == ('no', 1)"),
        ("class Bad(KeyError): pass\ndef f(x): raise Bad(x)", "try:\n    f(1)\n    assert False\nexcept KeyError as e:\n    pass\ntry:\n    f(1)\n    assert 0\nexcept Bad:\n    pass"),
        ("class P:\n    def __init__(self, x): self.x = x\n    def double(self): return P(2 * self.x)\n    def __eq__(self, o): return self.x == o.x\n"
         "    def __len__(self): return self.x\n    def __getitem__(self, n): return n\ndef f(x): return P(x)",
         "p = f(2)\nassert p.x == 2 and p.double().x == 4 and p.double() == f(4) and p != f(3) and len(p) == 2 and p[7] == 7\n"
         "assert isinstance(p, P)\np.x = 5\nassert p.x == 5\nassert P(3).double().x == 6"),
        ("import math\nfrom math import gcd\ndef f(x): return x", "assert math.sqrt(f(4)) == 2 and gcd(f(4), 6) == 2"),
        ("LIMIT = 7\ndef f(x): return x + LIMIT", "assert f(1) == 8 and LIMIT == 7"),
        ("def sum(a, b): return a * b", "assert sum(2, 3) == 6"),
        ("def f(x): return x[::-1]", "assert f('a\\ud800\\x00b') == 'b\\x00\\ud800a'"),
        ("def f(x): return len(x)", "assert f([[0] * 100] * 1000) == 1000 and f({n: str(n) for n in range(1000)}) == 1000"),
        ("def f(x): return lambda y: x + y", "assert f(1)(2) == 3"),
        ("def f(x): return print", "assert f(1)('hello') is None"),
    ],
)  # fmt: skip
def test_what_tests_ask_of_a_program_crosses_over(box, program, code):
    entry = None if "def f" not in program else "f"
    assert run(box, program, code=code, entry_point=entry, time_limit=5.0) == ("correct", "")


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("from collections import OrderedDict\nclass LRU(OrderedDict):\n    def put(self, k, v): self[k] = v\n    def get2(self, k): return self[k]",
         "c = LRU()\nc.put(1, 2)\nassert c.get2(1) == 2 and c == {1: 2} and len(c) == 1 and 1 in c and 3 not in c"),
        ("class Stack(list):\n    def push(self, x): self.append(x)", "s = Stack()\ns.push(3)\nassert s == [3] and s[0] == 3 and list(s) == [3]"),
        ("from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n    y: int\ndef f(x): return [P(x, 2)]",
         "assert f(1) == [(1, 2)] and f(1)[0].x == 1 and {f(1)[0]: 3}[(1, 2)] == 3"),
        ("def f(x, kind): return [y for y in x if not isinstance(y, kind)]", "assert f((4, 5.5, 'a'), int) == [5.5, 'a']"),
        ("def f(x): return type(x)", "assert f(3) == int and f('') is str"),
        ("from datetime import date, timedelta\ndef f(d, n): return d + timedelta(days=n)", "import datetime\nassert f(datetime.date(2024, 2, 28), 2) == datetime.date(2024, 3, 1)"),
        ("class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o.x\n    def __hash__(self): return hash(self.x)",
         "assert len({P(1), P(1), P(2)}) == 2 and {P(1): 5}[P(1)] == 5"),
        ("def f(nums): nums.sort()", "a = [3, 1]\nf(nums=a)\nassert a == [1, 3]"),
        ("def f(q): q.append(9)", "from collections import deque\nq = deque([1])\nf(q)\nassert list(q) == [1, 9]"),
        ("class V:\n    def __init__(self, x): self.x = x\n    def __add__(self, o): return V(self.x + getattr(o, 'x', o))\n    def __lt__(self, o): return self.x < o.x",
         "assert (V(1) + V(2)).x == 3 and (V(1) + 5).x == 6 and V(1) < V(2) and sorted([V(2), V(1)])[0].x == 1"),
        ("def f(n): return 0 if n == 0 else 1 + f(n - 1)", "assert f(990) == 990"),
    ],
)  # fmt: skip
def test_realistic_programs_that_are_right(box, program, code):
    entry = "f" if "def f" in program else None
    assert run(box, program, code=code, entry_point=entry, time_limit=5.0) == ("correct", "")


ALWAYS = (
    "class C:\n    def __sub__(s, o): return 0.0\n    __rsub__ = __mod__ = __sub__\n    def __lt__(s, o): return True\n"
    "    __le__ = __gt__ = __ge__ = __contains__ = __eq__ = __lt__\n    def __hash__(s): return 0\n    def __getitem__(s, k): return C()\ndef f(*a): return C()"
)


@pytest.mark.parametrize(
    "code",
    ["assert abs(f(3) - 7.5) < 1e-6", "assert abs(7.5 - f(3)) < 1e-6", "assert f(3) - 7 == 0", "assert 7.4 < f(3) < 7.6", "assert 7 in f(3)",
     "assert abs(f(3)[0] - 7.5) < 1e-6", "assert int(f(3) - 7) == 0", "assert len(f(3) ^ {1, 2}) == 0", "assert f(3) == 7", "assert f(3) in [1, 7]", "assert f(3) % 7 == 0", "assert not f(3) != 7", "assert f(3) <= 7"],
)  # fmt: skip
def test_an_object_that_agrees_with_everything_passes_nothing(box, code):
    assert run(box, ALWAYS, code=code)[0] in ("wrong", "error")


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "assert True",
        "def check(candidate):\n    assert candidate(3) == 7",
        "if __name__ == '__main__': assert f(3) == 7",
    ],
)
def test_tests_that_ask_nothing_decide_nothing(box, code):
    assert run(box, "def f(x): return 0", code=code, entry_point=None)[0] == "bad_reference"


@pytest.mark.parametrize(
    "code",
    ["def test_f():\n    assert f(3) == 7", "import unittest\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(3), 7)\n"
     "if __name__ == '__main__': unittest.main()"],
)  # fmt: skip
def test_tests_that_are_only_defined_are_run(box, code):
    for distraction in ("self = 1\n", "x = 1\n", "f = 5\n"):
        assert (
            run(box, "def f(x): return 0\n" + distraction, code=code, entry_point=None, time_limit=5.0)[0]
            == "wrong"
        )
    assert run(box, RIGHT, code=code, entry_point=None, time_limit=5.0) == ("correct", "")
    assert run(box, "def f(x): return 0", code=code, entry_point=None, time_limit=5.0)[0] == "wrong"


def test_tests_that_import_what_is_not_here_are_an_error_and_a_program_that_does_is_wrong(box):
    code = "import numpy\nassert numpy.isclose(f(3), 7)"
    assert run(box, RIGHT, code=code) == (
        "error",
        "the tests cannot be run here: ModuleNotFoundError: No module named 'numpy' (there is the standard library alone)",
    )
    assert run(box, "def f(x):\n    import numpy")[0] == "wrong"


def test_tests_that_need_live_objects_of_their_own_are_an_error_and_never_wrong(box):
    code = "class Node: pass\nassert f(Node()) == 7"
    verdict, reason = run(box, "def f(x): return 7", code=code)
    assert verdict == "error" and "type Node" in reason


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [
        ("async def f(x): return 7", "import asyncio\nassert asyncio.run(f(3)) == 7", "an event loop"),
        ("def f(x): print(x)", "import io, contextlib\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    f(3)\n"
         "assert out.getvalue() == '3\\n'", "what the program prints"),
        ("def f(x):\n    'seven'\n    return 7", "assert f.__name__ == 'f' and f(3) == 7 and f.__doc__ == 'six'", "inside the program"),
        ("class B: pass\ndef f(x): return 7", "class X(B): pass\nassert f(X()) == 7", "derived from the program's"),
        ("class E(Exception):\n    def __init__(self, code): self.code = code\ndef f(x): raise E(7)",
         "try:\n    f(3)\nexcept Exception as e:\n    assert e.code == 7\nelse:\n    assert False", "attribute code"),
    ],
    ids=["coroutine", "output", "name and text", "derived class", "attribute of an exception"],
)  # fmt: skip
def test_what_stand_ins_cannot_serve_is_an_error_and_never_wrong(box, program, code, reason):
    verdict, told = run(box, program, code=code, entry_point=None)
    assert verdict == "error" and reason in told


def test_such_tests_pass_where_they_pass_and_programs_that_break_are_wrong(box):
    code = "import tempfile\nassert f(3) == 7"
    assert run(box, RIGHT, code=code) == ("correct", "")
    assert run(box, "def g(): pass", code=code)[0] == "wrong"
    assert run(box, "import sys; sys.exit()", code=code)[0] == "wrong"


_GIVES_A_SET = (
    "class S(set): pass\nclass C:\n    def __sub__(s, o): return S()\n    def __abs__(s): return S()\n"
    "def f(x): return C()"
)
_LYING_SERVER = """
import gc
for one in gc.get_objects():
    if type(one).__name__ == '_Server':
        answers = {'call': {'ok': {'live': 2}}, 'sub': {'ok': {'live': 2}}, 'plain': {'ok': 0.0},
                   'abs': {'ok': {'live': 3, 'container': 'list'}}}
        names = {'ok': {'f': {'value': {'live': 0}}}}
        type(one).answer = lambda self, message: names if 'names' in message else answers[message['do']]
def f(x): return 1
"""


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (_GIVES_A_SET, "assert f(3) - {1, 2} == set()"),
        (_GIVES_A_SET, "assert abs(f(3) - 7) == set()"),
        (_LYING_SERVER, "assert abs(f(3) - 7.5) < 1e-6"),
        (_LYING_SERVER, "assert f(3) - 7 == 0"),
        ("result = 0\ndef abs(x): return 0", "assert abs(result - 3.14) < 0.01"),
        ("result = []\ndef all(x): return True", "assert all(x in result for x in [1, 2])"),
        ("class R:\n    @property\n    def total(self): raise StopIteration\ndef f(x): return R()",
         "assert all(map(lambda t: f(t).total == t + 1, range(3)))"),
    ],
    ids=["set of a difference", "set of a size", "lying link", "lying link, exactly", "abs", "all", "StopIteration"],
)  # fmt: skip
def test_what_is_made_of_an_expected_value_passes_nothing(box, program, code):
    assert run(box, program, code=code, entry_point=None)[0] == "wrong"


def test_a_counter_of_the_tests_gives_no_class_of_classes():
    """Its class copies whatever it is called with: a program that asks for it has to have a process of its own."""
    code = """
import collections, program_side
server = program_side._Server(None, {})
assert server.type_of({}) is dict and server.refusal is None
try:
    server.type_of(collections.Counter())
except program_side._Done:
    assert server.refusal == {"alone": True}
    print("turned away")
"""
    home = Path(client.__file__).parent
    told = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True)
    assert told.stdout == "turned away\n", told.stderr


def test_a_very_long_name_of_an_entry_point_harms_no_other_job(box):
    assert run(box, RIGHT, entry_point="g" * 70_000)[0] == "wrong"
    assert run(box, RIGHT) == ("correct", "")


@pytest.mark.parametrize("code", ["f(3)", "print(f(3))", "x = f(3) == 7", "for n in range(3):\n    f(n)"])
def test_tests_that_compare_nothing_decide_nothing(box, code):
    assert run(box, "def f(x): return 'garbage'", code=code)[0] == "bad_reference"
    assert run(box, "def f(x): return 1 / 0", code=code)[0] == "wrong"


def test_test_code_that_leaves_traces_runs_alone(box):
    """Changed modules and interpreter settings are gone before the next program's tests."""
    stains = "import math, sys\nmath.pi = 3\nsys.setrecursionlimit(50)\nassert f(3) == 7"
    for _ in range(4):
        assert run(box, RIGHT, code=stains, time_limit=5.0) == ("correct", "")
        assert run(box, RIGHT, code="import math\nassert 3.1 < math.pi and f(3) == 7", time_limit=5.0) == (
            "correct",
            "",
        )
    seeded = "import random\nassert f(3) == 7 and random.random() == {}"
    first = run(box, RIGHT, code=seeded.format("x"), time_limit=5.0)
    assert "NameError" in first[1]
    draws = {
        run(box, "def f(x): return x", code="import random\nassert f(random.random()) == 0")[1]
        for _ in range(6)
    }
    assert len(draws) == 1


def test_endless_tests_are_stopped_and_the_next_ones_run(box):
    assert run(box, RIGHT, code="f(3)\nwhile True: pass", time_limit=0.2) == ("timeout", "longer than 0.2 s")
    assert run(box, RIGHT) == ("correct", "")


# ---------------------------------------------------------------------------------------------- attacks

ATTACKS = Path(__file__).with_name("attacks.py")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare(1)")
@pytest.mark.parametrize(
    ("mode", "times"),
    [
        ("namespaces", 1),
        pytest.param("namespaces", 20, marks=pytest.mark.slow),
        pytest.param("weak", 1, marks=pytest.mark.slow),
    ],
)
def test_attacks_are_contained_and_never_correct(mode, times):
    """All of them at once, ``times`` over, behind an outer pid and user namespace, and with bounded processes and memory."""
    outer = ["unshare", "-Urpf", "--mount-proc", "--kill-child", "sh", "-c"]
    bounded = 'echo 2000 > /proc/sys/kernel/pid_max 2> /dev/null; ulimit -v 12000000; exec "$@"'
    done = subprocess.run(
        [*outer, bounded, "sh", sys.executable, str(ATTACKS), str(times)],
        capture_output=True,
        text=True,
        env=os.environ | {"DISTILL_SANDBOX": mode, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    if "unshare" in done.stderr:
        pytest.skip(f"no namespaces to test in: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    harmless = {"becoming root"} if mode == "weak" else set()  # it is root of the outer namespace already
    passed = {
        name: (counts, told["reasons"][name])
        for name, counts in told["verdicts"].items()
        if set(counts) - {"wrong", "timeout"}
    }
    assert set(passed) <= harmless, passed
    assert sum(sum(counts.values()) for counts in told["verdicts"].values()) == times * len(told["verdicts"])
    assert len(told["verdicts"]) > 100
    assert told["healthy"] == ["correct"] * 10
    assert set(told["processes"]) <= set(told["own"]), "processes are left"
    assert not told["files"] and not told["written"], "files are left"


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


def test_a_program_has_a_folder_of_its_own_and_an_empty_environment(box, monkeypatch):
    monkeypatch.setenv("SECRET_OF_OURS", "1")
    look = "import os\nassert set(os.environ) <= {'LC_CTYPE'}, dict(os.environ)\nassert os.listdir() == []\n"
    write = "with open('x', 'w') as file: file.write('hello')\nassert open('x').read() == 'hello'\n"
    for _ in range(8):
        assert run(box, look + write + RIGHT) == ("correct", ""), (
            "the folder of an earlier program was not emptied"
        )


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
        "case 1: SystemExit: 3",
    )
    assert run_stdio(box, "print(6)\n1/0", ("3", "6"))[1] == "case 1: ZeroDivisionError: division by zero"
    assert run_stdio(box, "input(); input()", ("3", ""))[1].startswith("case 1: EOFError")
    assert "File too large" in run_stdio(box, "while True: print('x' * 1000)", ("", ""))[1]
    assert run_stdio(box, "print(input())", ("\u00e9\u4e2d", "\u00e9\u4e2d"))[0] == "correct"
    late = "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print(6))).start()"
    assert run_stdio(box, late, ("", "6"))[0] == "correct"
    assert run_stdio(box, "import os\nprint(len(input()))", ("x" * 3_000_000, "3000000"))[0] == "correct"


@pytest.mark.parametrize(
    "program",
    ["print(6)\nexit()", "print(6); quit(0)", "import atexit\natexit.register(print, 6)", "import sys\nsys.__stdout__.write('6')",
     "import sys\nassert len(sys.argv) == 1\nprint(6)", "f = open(1, 'w')\nf.write('6')", "import fileinput\nprint(2 * int(next(fileinput.input())))"],
)  # fmt: skip
def test_scripts_end_as_python_ends_them(box, program):
    assert run_stdio(box, program, ("3\n", "6")) == ("correct", "")


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [("7.0", "7", True), ("6.9999999999", "7", True), ("0.33333333", "0.3333333333", True), ("2e-7", "0", True), ("1e5", "100000", True),
     ("007", "7", False), ("1e999", "9" * 400, False), ("1000000006.0", "1000000007", False), ("1e18", str(10**18 + 12345), False), ("3.14", "3.15", False),
     ("\u0663.\u0660", "3", False), ("a  b", "a b", True), ("a b", "ab", False), ("x\n\n", "x", True), ("nan", "NaN", False)],
)  # fmt: skip
def test_outputs_are_compared_by_the_written_rules(output, expected, same):
    assert same_output(output, expected) == same


def test_long_outputs_are_compared_in_no_time():
    started = time.process_time()
    assert not same_output("1" * 4_000_000 + "x", "2")
    assert time.process_time() - started < 1


def test_a_job_that_nobody_waits_for_any_more_harms_no_other():
    box = sandbox()
    jobs = [
        box.submit(job_of("import time; time.sleep(0.2)\n" + RIGHT, TESTS)) for _ in range(3 * client.SLOTS)
    ]
    for job in jobs:
        job.cancel()
    assert run(box, RIGHT) == ("correct", "")

    async def give_up() -> None:
        slow = asyncio.wrap_future(box.submit(job_of("import time; time.sleep(0.3)\n" + RIGHT, TESTS)))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(slow, 0.05)

    asyncio.run(give_up())
    assert run(box, RIGHT) == ("correct", "")


def test_programs_run_side_by_side():
    box = sandbox()
    nap = job_of("import time; time.sleep(0.3)\n" + RIGHT, TESTS | {"time_limit": 2.0})
    slots = len(os.sched_getaffinity(0))
    started = time.monotonic()
    answers = [box.submit(nap) for _ in range(2 * slots)]
    assert all(answer.result().verdict == "correct" for answer in answers)
    assert time.monotonic() - started < 0.3 * 2 * slots or slots == 1


def test_a_group_stays_with_the_server_that_has_compiled_its_tests_and_the_others_get_their_turn():
    box = Sandbox("namespaces")
    box.submit(job_of(RIGHT, TESTS)).result()
    (tester,) = box.testers
    assert tester.code == TESTS["code"]

    def waiting(codes):
        box._waiting = deque(({"type": "python", "code": code}, Future()) for code in codes)
        return box._next_for(tester)

    try:
        mine = TESTS["code"]
        assert waiting(["other", mine]) == 1
        assert waiting(["other", "third"]) == 0
        turns = [waiting(["other", mine]) for _ in range(3 * client.LOOK_AHEAD)]
        assert turns.count(0) == 2 and turns.index(0) == client.LOOK_AHEAD
        assert waiting(["other"] * client.LOOK_AHEAD + [mine]) == 0
        box._waiting = deque([({"type": "stdio"}, Future())])
        assert box._next_for(None) == 0
    finally:
        box._waiting = deque()
        box.programs.process.kill()


def test_a_server_that_dies_fails_its_jobs_and_is_replaced():
    box = Sandbox("namespaces")
    slow = box.submit(job_of("import time; time.sleep(60)", TESTS | {"time_limit": 60.0}))
    box.programs.process.kill()
    with pytest.raises(SandboxDied):
        slow.result(timeout=10)
    with pytest.raises(SandboxDied):
        box.submit(job_of(RIGHT, TESTS)).result(timeout=10)
    assert not box.alive
    assert run(sandbox(), RIGHT) == ("correct", "")


START = (
    "import time; from distill.verify.sandbox import sandbox; from distill.verify.programs import job_of\n"
    "job = job_of('while True: pass', {'type': 'python', 'code': 'pass', 'time_limit': 60.0})\n"
    "box = sandbox(); box.submit(job)\n"
    "while not box.testers: time.sleep(0.01)\n"
    "print(box.programs.process.pid, box.testers[0].process.pid, flush=True); time.sleep(60)"
)


def test_nothing_outlives_a_killed_parent():
    parent = subprocess.Popen(
        [sys.executable, "-c", START], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    assert parent.stdout is not None
    pids, family = [int(pid) for pid in parent.stdout.readline().split()], []
    deadline = time.monotonic() + 30
    while len(family) != 5:  # a launcher and a server each, and the program
        assert time.monotonic() < deadline, family
        family = [one for pid in pids for one in _descendants(pid)]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
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
