"""Which programs may share a process: the known ways out are refused, what is allowed leaves nothing behind."""

import ast
import importlib
import types

import pytest

from distill.verify.programs import job_of
from distill.verify.sandbox import Sandbox, traceless

TESTS = {"type": "python", "code": "assert f(3) == 7", "entry_point": "f", "time_limit": 0.5}


def stays(program: str) -> bool:
    return traceless.is_traceless(traceless.nodes_of(ast.parse(program)))


@pytest.mark.parametrize(
    "program",
    [
        "from typing import List, Optional\nimport math\ndef f(x: List[int]) -> Optional[int]:\n    return math.gcd(*x)",
        "from collections import Counter, defaultdict\ndef f(x):\n    c = Counter(x)\n    return c.most_common(1)[0]",
        "import re\ndef f(x): return re.sub(r'(a)|b', lambda m: m.group(1) or '', x)",
        "def f(x):\n    try: return x[0]\n    except (IndexError, TypeError) as e: return e.args",
        "from functools import lru_cache, reduce\n@lru_cache(maxsize=None)\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)",
        "def f(x):\n    global y\n    y = [i for i in x if not isinstance(i, bool) and type(i) is int]\n    yield from y",
        "import heapq as h, itertools, string\ndef f(x): h.heapify(x); return '{:>3}'.format(string.digits[x[0]]) + '{:.2f}'.format(1)",
        "def f(_): return _\nif __name__ == '__main__':\n    print(f(3))",
    ],
)
def test_plain_functions_may_share_a_process(program):
    assert stays(program)


@pytest.mark.parametrize(
    "program",
    [
        # attributes by a name that is not on the list, or by text
        "f.__globals__", "f.__code__ = 1", "().__class__", "(x for x in ()).gi_frame", "f.__call__", "x.mro()",
        "getattr(1, 'real')", "setattr(f, 'x', 1)", "vars(f)", "dir(f)", "globals()", "locals()", "super()", "object()",
        "import operator\noperator.attrgetter('__class__')", "from operator import methodcaller",
        "import string\nstring.Formatter().get_field('0.__class__', (1,), {})", "from string import Formatter, Template",
        "import functools\nfunctools.update_wrapper(f, g)", "from functools import wraps",
        "match f:\n    case object(__globals__=g): pass", "match 1:\n    case 1: pass",
        # attributes that are set or taken away, in each form
        "import math\nmath.pi = 3", "import math\ndel math.pi", "import math\nfor math.pi in (3,): pass", "import math\nmath.pi += 1",
        "import math\n(math.pi, x) = 3, 4", "import math\n[0 for math.pi in (3,)]", "import math\nmath.pi: int = 3",
        "from collections import Counter\nCounter.most_common = None",
        "import datetime\ndef f(x): return datetime.datetime.strptime(x, '%d')",
        # new classes, and what runs at special moments
        "class A: pass", "type('A', (), {})", "type", "t = type", "type(*x)", "type(1, 2)", "type(object=1)", "isinstance(int, type)",
        "from typing import NamedTuple", "from collections import namedtuple", "import dataclasses", "import enum", "import abc",
        "with open('x') as f: pass", "async def f(): pass", "import atexit", "import weakref", "import gc", "import signal",
        # code from text, files, and modules with state
        "exec('1')", "eval('1')", "compile('1', '', 'eval')", "open('x')", "input()", "breakpoint()", "exit()", "help()",
        "__import__('os')", "__builtins__", "import os", "import os.path", "import sys\nsys.setrecursionlimit(9)", "import sys\nsys.modules",
        "from sys import path", "import builtins", "import importlib", "from math import *", "from . import x", "import decimal",
        "import re\nre.purge()", "import typing\ntyping.get_type_hints(f)", "import random\nrandom._inst", "import random\nrandom.Random",
        "import copy\ncopy.deepcopy(str.join, {id(str): 1})", "from collections import Counter\nCounter.copy(int)",
        "import collections as c\nT = [c.Counter][0].copy(int)", "'{0.__class__}'.format(1)", "'{0[0]}'.format(x)", "str.format('{}', 1)", "f'{1}'.format_map",
        "s = '{0.real}'\ns.format(1)", "import statistics", "from fractions import Fraction", "import re\nre.A", "def g():\n    try: yield\n    finally: pass", "try: pass\nexcept E: pass\ndef g(): yield from x",
        # names that stand for something else
        "def __builtins__(): pass", "import math as __builtins__", "from math import pi as open", "lambda __x: 1", "def f(open): pass",
        "try: pass\nexcept Exception as __x: pass", "def f():\n    global __builtins__", "def open(): pass", "\uff45\uff58\uff45\uff43('1')",
        "__name__ = 'x'",
    ],
)  # fmt: skip
def test_ways_out_are_refused(program):
    assert not stays(program)


def test_what_is_allowed_of_one_module_is_harmless_in_every_other():
    """A module may go by any name, so that each attribute on the list may be asked of each module on the list."""
    allowed = {
        id(getattr(importlib.import_module(module), name))
        for module, names in traceless.MODULES.items()
        for name in names
    } | {id(importlib.import_module(module)) for module in traceless.MODULES}
    for module in map(importlib.import_module, traceless.MODULES):
        for name in traceless.ATTRIBUTES & set(dir(module)):
            assert id(getattr(module, name)) in allowed, f"{module.__name__}.{name}"


def test_nothing_on_the_list_is_a_way_to_code_frames_or_names():
    def generator():
        yield

    holders = (generator, generator(), types.CodeType, types.FrameType, types.TracebackType, type)
    ways = {name for one in holders for name in dir(one) if not name.startswith("__")}
    # what strings and lists have too, and can do nothing before one holds a frame or a code object
    ways -= {"replace", "clear", "send", "throw", "close"}
    assert not ways & traceless.ATTRIBUTES
    assert (
        not {"getattr", "type", "open", "exec", "eval", "compile", "vars", "super", "object", "property"}
        & traceless.BUILTINS
    )


# ---------------------------------------------------------------------------------------------- in the sandbox


@pytest.fixture
def box():
    """One of its own, so that its only tester shares one process among all programs of a test."""
    box = Sandbox("namespaces")
    yield box
    for server in (box.programs, *box.testers):
        server.process.kill()


def run(box: Sandbox, program: str, **tests: object) -> tuple[str, str]:
    told = box.submit(job_of(program, TESTS | tests)).result(timeout=60)
    return told.verdict, told.reason


RIGHT = "def f(x): return 2 * x + 1"


def test_a_shared_process_serves_many_programs_and_keeps_nothing_of_them(box):
    assert run(box, RIGHT) == ("correct", "")
    (tester,) = box.testers
    process = tester.shared
    assert process is not None
    look = "def f(x):\n    try: return secret\n    except NameError: return 7"
    stains = [
        "secret = 8\ndef f(x):\n    global secret\n    secret = x\n    return 7",
        "import random\nrandom.seed(5)\nsecret = 8\ndef f(x): return 7",
        "def f(x):\n    def g():\n        try: yield g\n        finally: x.append(1)\n    x = [g()]; x.append(next(x[0])); return 7",
    ]
    draw = "import random\ndef f(x): return random.random()"
    draws = {
        run(box, draw.replace("random.random()", "random.randint(1, 10**9)"), code="assert f(3) == {}")[1]
    }
    for stain in stains:
        assert run(box, stain) == ("correct", "")
        assert run(box, look) == ("correct", "")
        draws.add(
            run(box, draw.replace("random.random()", "random.randint(1, 10**9)"), code="assert f(3) == {}")[1]
        )
    assert len(draws) == 1
    assert [one.shared for one in box.testers] == [process]


@pytest.mark.parametrize(
    ("program", "verdict"),
    [
        ("def f(x):\n    while True: pass", "timeout"),
        ("while True: pass", "timeout"),
        ("def f(x): return 9 ** 9 ** 9 ** 9", "timeout"),
        ("import re\ndef f(x): return re.match('(a*)*b', 'a' * 40)", "timeout"),
        ("def f(x): return [0] * 10 ** 12", "wrong"),
        ("def f(x):\n    y = []\n    while True: y.append(bytes(10 ** 8))", "wrong"),
        ("def f(x):\n    while True:\n        try: f(x)\n        except BaseException: pass", "timeout"),
        ("def f(x): return f(x)", "wrong"),
        ("def g():\n    try: yield\n    finally:\n        while True: pass\nx = [g()]\nnext(x[0])\nx.append(x)\ndef f(x): return 7", "correct"),
    ],
)  # fmt: skip
def test_a_program_that_breaks_its_process_harms_no_other(box, program, verdict):
    """The last one is right, and spoils the process after its verdict."""
    jobs = [job_of(one, TESTS) for _ in range(3) for one in (RIGHT, program)]
    told = [box.submit(job).result(timeout=60) for job in jobs]
    assert [one.verdict for one in told] == ["correct", verdict] * 3


def test_what_needs_a_process_of_its_own_gets_one_in_the_middle_too(box):
    kinds = "def f(x): return {}"
    assert run(box, kinds.format("7 if type(x) is int and type([]) == list else 0")) == ("correct", "")
    assert run(box, kinds.format("type(type(x))('A', (), {'y': 7}).y")) == ("correct", "")
    assert run(box, kinds.format("(lambda k: type(k))(int)('A', (), {'y': 7}).y")) == ("correct", "")
    late = "def f(g, x):\n    y = g(x)\n    return type(type(y)) and 7"
    assert run(box, late, code="assert f(lambda n: n + 1, 3) == 7") == ("correct", "")
    swallowed = "def f(x):\n    try: type(int)\n    except BaseException: pass\n    return 0"
    assert run(box, swallowed) == ("wrong", "assert f(3) == 7: AssertionError")


def test_tests_that_give_up_inside_a_callback_leave_the_process_usable(box):
    code = "class Own: pass\ndef back(n): return Own()\nf(back)"
    for _ in range(3):
        assert (
            run(box, "def f(g):\n    try: return g(1)\n    except BaseException: return f(g)", code=code)[0]
            == "error"
        )
        assert run(box, RIGHT) == ("correct", "")


ESCAPES = [
    "import copy\nfrom typing import List\nGA = type(List[int])\ndef grab(n): return copy.copy(GA(list, (n,), name='__builtins__'))\n"
    "def f(x): return 7 if grab('eval')('3+4') == 7 else 0",
    "import random, copy\nMT = type(random.randint)\ndef gi_frame(): pass\ndef f_builtins(): pass\ndef gen(): yield 1\n"
    "b = copy.copy(MT(f_builtins, copy.copy(MT(gi_frame, gen()))))\ndef f(x): return 7",
    "from typing import List\nimport heapq\ntype(List)(lambda: heapq.merge, 0, name='z')()\ndef f(x): return 7",
]


@pytest.mark.parametrize("program", ESCAPES)
def test_ways_out_by_the_classes_of_things_run_alone(box, program):
    assert run(box, RIGHT) == ("correct", "")
    (tester,) = box.testers
    process = tester.shared
    assert run(box, program) == ("correct", "")
    assert run(box, "def f(x): return 0")[0] == "wrong"
    assert tester.shared == process


def test_what_caches_keep_of_a_program_is_gone(box):
    """Kept, 30 times 10 MB would make the process one that serves no further program."""
    stain = (
        "from typing import List\ndata = b'x' * 10_000_000\ndef g(): return data\nList[g]\ndef f(x): return 7"
    )
    assert run(box, RIGHT) == ("correct", "")
    process = box.testers[0].shared
    for _ in range(30):
        assert run(box, stain, time_limit=5.0) == ("correct", "")
    assert box.testers[0].shared == process


def test_another_limit_on_memory_is_kept(box):
    hungry = "def f(x): return 7 if len([0] * (30 << 20)) else 0"  # 240 MB
    for _ in range(2):
        assert run(box, hungry, memory_mb=512, time_limit=5.0) == ("correct", "")
        assert "MemoryError" in run(box, hungry, memory_mb=100, time_limit=5.0)[1]


def test_a_lone_program_cannot_ask_to_be_run_again(box):
    text = '{"alone": true}'
    program = f"import os\ndef f(x): os.write(4, len({text!r}).to_bytes(4, 'big') + {text!r}.encode())"
    assert run(box, program)[0] == "wrong"
