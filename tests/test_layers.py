"""Imports point down only: every import of every file, those inside functions too, against the table of layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

LAYERS = {
    0: "errors recipe recipe_parts recipe_filters recipe_rewards recipe_rl recipe_types recipe_checks recipe_errors "
    "recipe_file runs places manifest records shards",
    1: "verify grade grade_files chat lengths loops reflection language card card_results card_reward licences "
    "conversations messages trace_rows",
    2: "generate training models problems world world_tokenizer suites traces device",
    3: "student report ask plan",
    4: "cli cli_eval cli_recipe cli_recorded cli_review cli_suites cli_traces chain chain_rewards crew order inputs "
    "fingerprints export export_traces",
}
LEVEL = {f"distill.{name}": level for level, names in LAYERS.items() for name in names.split()}
LEVEL |= {"teacher": 3, "eval": 3}

HEAVY = {"torch", "transformers", "vllm", "datasets", "accelerate", "peft", "bitsandbytes"}


def unit(module: str) -> str:
    """The entry of the table that a module belongs to: ``distill.verify.sandbox`` is ``distill.verify``."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "distill" else parts[0]


def imports(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """Each imported module with its line, and whether the import stands inside a function."""
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, node in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the whole path of a module"
            package = node.module == "distill"  # `from distill import chat` imports a module
            names = [f"distill.{alias.name}" for alias in node.names] if package else [node.module or ""]
            yield from ((name, node.lineno, node in inside) for name in names)


def offences(module: str, source: str) -> list[str]:
    """What is wrong with the imports of one module."""
    found = []
    here = unit(module)
    if here not in LEVEL:
        return [f"{module} stands in no layer: give it one in tests/test_layers.py and CONTRIBUTING.md"]
    level = LEVEL[here]
    for name, line, in_function in imports(ast.parse(source)):
        there = unit(name)
        where = f"{module}, line {line}: imports {name}"
        if name.split(".")[0] in HEAVY and (level <= 1 or (level == 4 and not in_function)):
            found.append(f"{where}, too heavy for L{level}")
        if (
            name.split(".")[0] not in ("distill", "teacher", "eval")
            or there == here
            or there == "distill.__version__"
        ):
            continue
        if there not in LEVEL:
            found.append(f"{where}, which stands in no layer")
        elif LEVEL[there] > level:
            found.append(f"{where}, L{level} on L{LEVEL[there]}")
        elif level == LEVEL[there] == 3:
            found.append(f"{where}, sideways in L3")
        elif level == 4 and LEVEL[there] in (2, 3) and not in_function:
            found.append(f"{where} at its top: `distill --help` would load it")
    return found


def modules() -> list[tuple[str, Path]]:
    files = [
        file
        for package in ("distill", "teacher", "eval")
        for file in sorted((CHECKOUT / package).rglob("*.py"))
    ]
    return [
        (".".join(file.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__"), file)
        for file in files
    ]


def test_every_import_points_down() -> None:
    found = [
        offence
        for name, file in modules()
        if name != "distill"
        for offence in offences(name, file.read_text())
    ]
    assert not found, "\n".join(found)


def test_the_walk_sees_the_project() -> None:
    names = [name for name, _ in modules()]
    assert {"distill.runs", "distill.verify", "distill.generate.engine", "teacher", "eval"} <= set(names)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("distill.runs", "import distill.chat"),
        ("distill.runs", "from distill import chat"),
        ("distill.runs", "import torch"),
        ("distill.runs", "def f():\n    from torch import nn"),
        ("distill.verify.sandbox", "if True:\n    from distill.generate.engine import Engine"),
        ("distill.verify.sandbox", "import transformers"),
        ("distill.language", "def f():\n    import torch"),
        ("distill.card", "from distill.models import save"),
        ("distill.export", "import distill.models"),
        ("distill.training.packing", "class A:\n    def f(self):\n        import teacher.grpo"),
        ("distill.student.sft", "from teacher.harvest import funnel"),
        ("distill.student", "from distill.report import page"),
        ("teacher.harvest", "async def f():\n    import eval.metrics"),
        ("eval.runner", "from distill.cli import main"),
        ("distill.cli", "import teacher"),
        ("distill.chain", "from distill.student.sft import train"),
        ("distill.cli", "import torch"),
        ("distill.utils", "import os"),
        ("teacher.loop", "from distill.utils import anything"),
    ],
)
def test_a_planted_bad_import_is_caught(module: str, source: str) -> None:
    assert offences(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("distill.cli", "from distill.recipe import Recipe\nfrom distill import __version__"),
        ("distill.cli", "def f():\n    import teacher.loop, torch\n    from eval.compare import compare"),
        ("distill.cli", "from distill.chain import run"),
        ("distill.cli", "from distill.export import add_export"),
        ("distill.chain", "from distill import card"),
        ("distill.generate.stream", "from distill.models import load\nfrom distill.shards import repair"),
        ("teacher.loop", "from teacher.loss import loss\nimport torch"),
        ("distill.verify", "def f():\n    import sympy"),
    ],
)
def test_a_good_import_is_let_through(module: str, source: str) -> None:
    assert offences(module, source) == []
