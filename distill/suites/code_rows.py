"""Rows of public code data sets in our field names: HumanEval, MBPP, EvalPlus, LiveCodeBench, Codeforces.

As in `rows`, a row that lacks its columns is passed on as it is.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import zlib
from typing import Any

from distill.problems import LeftOut, Row

__all__ = ["codeforces", "humaneval", "humaneval_plus", "livecodebench", "mbpp", "mbpp_plus"]

SLOWER = 5  # times that a program in Python gets of a limit that was set for compiled ones; ours
LEAST_MEMORY = 512  # MB; Python needs more than the small limits of some statements
CASE_SECONDS = 6.0  # LiveCodeBench's own limit for a case
MOST_SECONDS = 60.0  # for all calls of one function together

#: LeetCode's programs find these imported, and its starter code names List without importing it. The built-in names
#: come last: math has a pow of its own.
LEETCODE = (
    "\n".join(
        f"from {module} import *"
        for module in (
            "typing",
            "collections",
            "heapq",
            "bisect",
            "itertools",
            "functools",
            "math",
            "string",
            "builtins",
        )
    )
    + "\nimport collections, functools, heapq, itertools, math, random, re"
)

#: What EvalPlus' tests use of numpy, which the sandbox does not have. Formula of ``allclose``: numpy's documentation.
NUMPY = """\
class np:
    class ndarray:
        pass

    float32 = float64 = float

    @staticmethod
    def allclose(a, b, rtol=1e-05, atol=1e-08):
        if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)):
            if not (isinstance(a, (list, tuple)) and isinstance(b, (list, tuple))) or len(a) != len(b):
                return False
            return all(np.allclose(x, y, rtol, atol) for x, y in zip(a, b))
        return a == b or abs(a - b) <= atol + rtol * abs(b)

    class testing:
        @staticmethod
        def assert_allclose(actual, desired, rtol=1e-07, atol=0):
            assert np.allclose(actual, desired, rtol, atol)
"""
_IMPORT_NUMPY = re.compile(r"^import numpy as np[ \t]*$", re.MULTILINE)


def humaneval(row: Row) -> Row:
    """A HumanEval row (task_id, prompt, entry_point, test).

    The prompt is a function without its body. What stands before that function (imports, helpers) is put
    before the tests too, because some of them call the helpers.
    """
    if not {"task_id", "prompt", "entry_point", "test"} <= row.keys():
        return row
    before, _, _ = row["prompt"].rpartition(f"def {row['entry_point']}(")
    tests = {"type": "python", "code": before + row["test"], "entry_point": row["entry_point"]}
    problem = f"Complete this function:\n\n```python\n{row['prompt'].strip()}\n```"
    return {"id": row["task_id"], "problem": problem, "tests": tests}


def mbpp(row: Row) -> Row:
    """A row of sanitized MBPP (task_id, prompt, test_list, test_imports).

    The asserts are shown to the model, as in Austin et al. 2021: nothing else names the function.
    """
    if not {"task_id", "prompt", "test_list", "test_imports"} <= row.keys():
        return row
    asserts = "\n".join(row["test_list"])
    tests = {"type": "python", "code": "\n".join([*row["test_imports"], asserts])}
    problem = f"{row['prompt']}\n\nYour code should pass these tests:\n\n```python\n{asserts}\n```"
    return {"id": f"mbpp/{row['task_id']}", "problem": problem, "tests": tests}


def humaneval_plus(row: Row) -> Row:
    """A row of HumanEval+ (Liu et al. 2023): HumanEval's columns, with more inputs in its test."""
    adapted = humaneval(row)
    return adapted if adapted is row else _without_numpy(adapted)


def mbpp_plus(row: Row) -> Row:
    """A row of MBPP+ (Liu et al. 2023): MBPP's columns, and a ``test`` that runs more inputs than the asserts shown."""
    adapted = mbpp(row)
    if adapted is row or not isinstance(row.get("test"), str):
        return row
    code = "\n".join([*row["test_imports"], row["test"]])
    return _without_numpy({**adapted, "tests": {"type": "python", "code": code}})


def _without_numpy(row: Row) -> Row:
    tests = row["tests"]
    return {**row, "tests": {**tests, "code": _IMPORT_NUMPY.sub(lambda _: NUMPY, tests["code"])}}


# ------------------------------------------------------------------------------------ LiveCodeBench


def livecodebench(row: Row) -> Row:
    """A row of LiveCodeBench's code generation (Jain et al. 2024).

    Problems of AtCoder and Codeforces read standard input; those of LeetCode ask for a method of ``Solution``, whose
    arguments and result are JSON texts. Public and private cases both count.
    """
    if not {"question_id", "question_content", "public_test_cases", "private_test_cases"} <= row.keys():
        return row
    cases = [*_cases(row["public_test_cases"]), *_cases(row["private_test_cases"])]
    if any(case["testtype"] == "functional" for case in cases):
        name = json.loads(row["metadata"])["func_name"]
        asked = f"Start from this code:\n\n```python\n{row['starter_code'].strip()}\n```"
        tests = _calls(name, cases)
    else:
        asked = "The program reads from standard input and writes to standard output."
        shown = [{"input": case["input"], "output": case["output"]} for case in cases]
        tests = {"type": "stdio", "cases": shown, "time_limit": CASE_SECONDS, "memory_mb": 1024}
    return {
        "id": f"livecodebench/{row['question_id']}",
        "problem": f"{row['question_content'].strip()}\n\n{asked}",
        "tests": tests,
        "level": row.get("difficulty"),
        "subject": row.get("platform"),
    }


def _cases(given: Any) -> list[dict[str, str]]:
    """Cases as JSON text, or as that text pickled, compressed and in base 64, as the private ones are."""
    if isinstance(given, str) and not given.lstrip().startswith("["):
        given = _TextOnly(io.BytesIO(zlib.decompress(base64.b64decode(given)))).load()
    found = json.loads(given) if isinstance(given, str) else given
    assert isinstance(found, list), f"cases are a list, not {type(found).__name__}"
    return found


class _TextOnly(pickle.Unpickler):
    """Reads plain data alone: a pickle that names a class or function, and so might run code, is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"test cases are text; this pickle names {module}.{name}")


def _calls(name: str, cases: list[dict[str, str]]) -> dict[str, Any]:
    """Tests that call a method of ``Solution``; lists and tuples are one, as JSON has only lists."""
    lines = [
        "import json",
        "def plain(x): return [plain(y) for y in x] if isinstance(x, (list, tuple)) else x",
    ]
    for case in cases:
        arguments = [json.loads(line) for line in case["input"].split("\n") if line.strip()]
        given, wanted = json.dumps(arguments), json.dumps(json.loads(case["output"]))
        lines.append(f"assert plain(Solution().{name}(*json.loads({given!r}))) == json.loads({wanted!r})")
    limit = min(CASE_SECONDS * len(cases), MOST_SECONDS)
    return {
        "type": "python", "code": "\n".join(lines), "time_limit": limit, "memory_mb": 1024, "prelude": LEETCODE
    }  # fmt: skip


# ------------------------------------------------------------------------------------ Codeforces

_TAGS = re.compile(r"\n*^Tags:\n\[.*\][ \t]*$", re.MULTILINE)
_TIME, _MEMORY = (
    re.compile(r"^Time Limit: (\d+) ms", re.MULTILINE),
    re.compile(r"^Memory Limit: (\d+) MB", re.MULTILINE),
)


def codeforces(row: Row) -> Row:
    """A Codeforces problem with cases of input and output: columns of open-r1/codeforces, or id, problem and tests.

    Tags of a statement are taken out: they tell the way to solve it. Problems with several right outputs need a checker
    program and are left out.
    """
    if "official_tests" in row:
        return _open_r1(row)
    if not {"problem", "tests"} <= row.keys() or not isinstance(row["tests"], list):
        return row
    problem = row["problem"]
    seconds, memory = _TIME.search(problem), _MEMORY.search(problem)
    limits = _limits(int(seconds[1]) / 1000 if seconds else None, int(memory[1]) if memory else None)
    return {
        "id": row.get("id"),
        "problem": _TAGS.sub("", problem).strip(),
        "tests": {"type": "stdio", "cases": row["tests"], **limits},
        "rating": row.get("rating"),
    }


def _open_r1(row: Row) -> Row:
    if row.get("generated_checker"):
        raise LeftOut("several outputs are right, and a checker program would have to tell")
    if row.get("input_mode") not in (None, "stdio"):
        raise LeftOut("reads and writes files")
    if row.get("interaction_format"):
        raise LeftOut("talks with a judge")
    if not row["official_tests"]:
        raise LeftOut("has no tests")
    parts = {
        None: row["description"], "Input": row.get("input_format"), "Output": row.get("output_format"),
        "Examples": "\n\n".join(
            f"```input\n{one['input']}\n```\n```output\n{one['output']}\n```" for one in row.get("examples") or []
        ),
        "Note": row.get("note"),
        "Limits": f"{row['time_limit']:g} s, {row['memory_limit']:g} MB" if row.get("time_limit") else None,
    }  # fmt: skip
    texts = [
        f"{heading}:\n{text.strip()}" if heading else text.strip() for heading, text in parts.items() if text
    ]
    cases = [{"input": case["input"], "output": case["output"]} for case in row["official_tests"]]
    return {
        "id": f"codeforces/{row['id']}",
        "problem": "\n\n".join(texts),
        "tests": {"type": "stdio", "cases": cases, **_limits(row.get("time_limit"), row.get("memory_limit"))},
        "rating": row.get("rating"),
    }


def _limits(seconds: float | None, memory: float | None) -> dict[str, float]:
    return {"time_limit": SLOWER * (seconds or 2.0), "memory_mb": max(LEAST_MEMORY, int(memory or 0))}
