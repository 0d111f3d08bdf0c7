"""Reference programs of code suites, and each of them changed so that it is wrong: by a fixed list of operators."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import NamedTuple


class Reference(NamedTuple):
    """A program that is right, its tests, and the function that they call."""

    name: str
    program: str
    code: str
    entry_point: str | None
    function: str


#: What is put behind a program; ``{f}`` is its function, and ``was`` what the function returned.
_CHANGED = """
def _changed(was):
    if isinstance(was, bool): return not was
    if isinstance(was, (int, float, complex)): return was + 1
    if isinstance(was, str): return was + "x"
    if isinstance(was, (list, tuple)): return was + type(was)([0]) if type(was) in (list, tuple) else None
    if isinstance(was, dict): return {**was, "x": 1}
    if isinstance(was, (set, frozenset)): return was | {"x"}
    return 0 if was is None else None
"""
_BEHIND = "\n{before}\n_original = {f}\ndef {f}(*arguments, **keywords):\n    {body}\n"
OPERATORS = {
    "returns None": ("", "return None"),
    "returns 0": ("", "return 0"),
    "returns its first argument": ("", "return arguments[0] if arguments else None"),
    "result in a list": ("", "return [_original(*arguments, **keywords)]"),
    "result changed": (_CHANGED, "return _changed(_original(*arguments, **keywords))"),
    "raises": ("", "raise ValueError"),
}


def mutants(one: Reference) -> dict[str, str]:
    """Operator to the program under it."""
    found = {
        name: one.program + _BEHIND.format(before=before, f=one.function, body=body)
        for name, (before, body) in OPERATORS.items()
    }
    tree = ast.parse(one.program)
    branch = next((node for node in ast.walk(tree) if isinstance(node, ast.If)), None)
    if branch is not None:
        branch.test = ast.UnaryOp(ast.Not(), branch.test)
        found["first condition negated"] = ast.unparse(ast.fix_missing_locations(tree))
    found["missing"] = f"{one.program}\ndel {one.function}\n"
    found["cut in half"] = one.program[: len(one.program) // 2] + "\n("
    return found


def references(data: Path) -> list[Reference]:
    """HumanEval's and MBPP's (sanitized) reference solutions, with their tests as the suites have them."""
    found = []
    for row in map(json.loads, (data / "code" / "humaneval.jsonl").read_text().splitlines()):
        before, _, _ = row["prompt"].rpartition(f"def {row['entry_point']}(")
        program = row["prompt"] + row["canonical_solution"]
        found.append(
            Reference(row["task_id"], program, before + row["test"], row["entry_point"], row["entry_point"])
        )
    for row in map(json.loads, (data / "code" / "mbpp_sanitized.jsonl").read_text().splitlines()):
        code = "\n".join([*row["test_imports"], *row["test_list"]])
        found.append(
            Reference(
                f"MBPP/{row['task_id']}", row["code"], code, None, _called(row["code"], row["test_list"][0])
            )
        )
    return found


def _called(program: str, test: str) -> str:
    """The function of the program that its first test calls."""
    defined = {node.name for node in ast.parse(program).body if isinstance(node, ast.FunctionDef)}
    calls = [
        node.func.id
        for node in ast.walk(ast.parse(test))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return next(name for name in calls if name in defined)
