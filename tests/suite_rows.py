"""Rows in the shape of public data sets that are not at hand, each with an answer that is right and one that is not."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A row, and what a model may answer to it."""

    row: dict[str, Any]
    right: str
    wrong: str


def program(text: str) -> str:
    """An answer that is this program."""
    return f"So:\n\n```python\n{text}\n```"


GPQA = [
    Row(
        {
            "Record ID": f"rec{number}", "Question": f"Which is {number}?\n", "Correct Answer": f"{number}\n",
            "Incorrect Answer 1": "no", "Incorrect Answer 2": "never", "Incorrect Answer 3": "none",
            "High-level domain": "Physics", "Subdomain": "Optics",
        },
        "", "",  # the letter is drawn from the id
    )
    for number in range(3)
]  # fmt: skip

# The shape of EvalPlus' tests: helpers that use numpy, inputs and results.
_CHECKS = """
import numpy as np

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    if isinstance(x, (list, tuple)):
        return all(isinstance(i, float) for i in x)
    if isinstance(x, np.ndarray):
        return x.dtype == np.float64 or x.dtype == np.float32
    return False


def assertion(out, exp, atol):
    exact_match = out == exp
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if not exact_match and atol != 0:
        {compare}
    else:
        assert exact_match

"""
_OLD = "np.testing.assert_allclose(out, exp, atol=atol)"
_NEW = "assert np.allclose(out, exp, rtol=1e-07, atol=atol)"

HUMANEVAL_PLUS = [
    Row(
        {
            "task_id": f"HumanEval/{number}",
            "prompt": "from typing import List\n\ndef halves(xs: List[float]) -> List[float]:\n    '''Half.'''\n",
            "canonical_solution": "    return [x / 2 for x in xs]\n", "entry_point": "halves",
            "test": _CHECKS.format(compare=compare)
            + "def check(candidate):\n    inputs = [[[1.0, 3.0]], [[]], [[0.2]]]\n"
            "    results = [[0.5, 1.5], [], [0.1]]\n"
            "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 0)\n",
        },
        program("def halves(xs):\n    return [x * 0.5 + 1e-9 for x in xs]"),
        program("def halves(xs):\n    return [x * 0.5 + 1e-3 for x in xs]"),
    )
    for number, compare in enumerate((_OLD, _NEW))
]  # fmt: skip

MBPP_PLUS = [
    Row(
        {
            "task_id": 7, "code": "def double(n):\n    return 2 * n", "prompt": "Write a function to double a number.",
            "test_imports": [], "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
            "test": _CHECKS.format(compare=_NEW)
            + "inputs = [[2], [0], [-3], [0.5]]\nresults = [4, 0, -6, 1.0]\n"
            "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(double(*inp), exp, 0)\n",
        },
        program("def double(n):\n    return n + n"),
        program("def double(n):\n    return abs(n + n)"),  # passes the asserts that are shown, and no more
    )
]  # fmt: skip


_PAIRS = "class Solution:\n    def pairs(self, xs: List[int], k: int) -> List[List[int]]:\n        "


def _packed(cases: list[dict[str, str]]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def _lcb(
    number: str, date: str, kind: str, public: list[tuple[str, str]], private: list[tuple[str, str]]
) -> dict[str, Any]:
    cases = [
        [{"input": given, "output": wanted, "testtype": kind} for given, wanted in part]
        for part in (public, private)
    ]
    functional = kind == "functional"
    return {
        "question_title": "T", "question_id": number, "question_content": f"Task {number}.",
        "platform": "leetcode" if functional else "atcoder", "contest_id": "c", "contest_date": f"{date}T00:00:00",
        "difficulty": "easy", "public_test_cases": json.dumps(cases[0]), "private_test_cases": _packed(cases[1]),
        "starter_code": _PAIRS if functional else "",
        "metadata": json.dumps({"func_name": "pairs"} if functional else {}),
    }  # fmt: skip


LIVECODEBENCH = [
    Row(
        _lcb("abc1", "2024-08-01", "stdin", [("1 2\n", "3\n")], [("5 -5\n", "0\n"), ("10 1\n", "11\n")]),
        program("print(sum(map(int, input().split())))"),
        program("print(3)"),  # the public case alone
    ),
    Row(
        _lcb("3001", "2025-01-31", "functional", [("[1, 2]\n1", "[[1, 1], [2, 1]]")], [("[]\n7", "[]")]),
        program(f"{_PAIRS}return [(x, pow(k, 1, 97)) for x in xs]"),
        program(f"from typing import List\n{_PAIRS}return [[x, k] for x in xs] or None"),
    ),
    Row(_lcb("early", "2024-07-31", "stdin", [("1", "1")], [("1", "1")]), "", ""),
    Row(_lcb("late", "2025-02-01", "stdin", [("1", "1")], [("1", "1")]), "", ""),
]

_CODEFORCES = {
    "id": "1/A", "title": "Sum", "description": "Add two numbers.", "input_format": "Two integers.",
    "output_format": "Their sum.",
    "interaction_format": None, "note": None, "examples": [{"input": "1 2", "output": "3"}], "rating": 800,
    "tags": ["math"], "time_limit": 1.0, "memory_limit": 256.0, "input_mode": "stdio", "generated_checker": None,
    "official_tests": [{"input": "1 2", "output": "3"}, {"input": "4 4", "output": "8"}],
}  # fmt: skip
CODEFORCES = [
    Row(_CODEFORCES, program("print(sum(map(int, input().split())))"), program("print(3)")),
    Row({**_CODEFORCES, "id": "1/B", "generated_checker": "import sys"}, "", ""),
    Row({**_CODEFORCES, "id": "1/C", "interaction_format": "Ask."}, "", ""),
]


def write(path: Any, rows: list[Row]) -> Any:
    """The rows as a JSONL file."""
    path.write_text("".join(json.dumps(one.row) + "\n" for one in rows))
    return path
