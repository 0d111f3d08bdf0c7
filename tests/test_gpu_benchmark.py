"""The benchmark that is for a GPU: it lists its parts, and they run small on the CPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

SCRIPT = Path(__file__).parent / "benchmarks" / "gpu.py"


def told(*arguments: str) -> str:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("chosen", "parts"), [("sft", 8), ("grpo", 3)])
def test_the_parts_are_listed_and_fit_nine_minutes(chosen: str, parts: int) -> None:
    limits = [int(line.split()[1]) for line in told("--list", "--set", chosen).splitlines()]
    assert len(limits) == parts and sum(limits) <= 540


@pytest.fixture
def gpu_grpo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("gpu_grpo")


def test_the_work_of_an_update_counts_each_distinct_token_once(gpu_grpo: ModuleType) -> None:
    shape = gpu_grpo.shape_of("Qwen/Qwen2.5-1.5B", True)
    work = gpu_grpo.work_of(True)._replace(problems=2)
    examples = gpu_grpo.rollout_of(work, shape.vocabulary, gpu_grpo.lengths_of(work, True)).examples
    distinct = {
        (tuple(one.ids[: one.prompt_length]), at if at < one.prompt_length else (number, at)): at
        for number, one in enumerate(examples)
        for at in range(len(one.ids))
    }  # a token's place is the number of tokens before it
    trained = sum(len(one.ids) - one.prompt_length for one in examples)
    naive = 6.0 * shape.matrices * len(distinct) + 6.0 * shape.embedding * trained
    # A token meets itself and those before it, in two products of q numbers each: 2 x 2 q operations, three passes.
    naive += sum(3 * 4 * shape.layers * shape.query_width * (at + 0.5) for at in distinct.values())
    assert gpu_grpo.group_flops(shape, examples, work.answers) == pytest.approx(naive, rel=1e-12)


@pytest.mark.parametrize("coefficient", [0.0, 0.001])
def test_a_supplied_rollout_is_learnt_from(gpu_grpo: ModuleType, coefficient: float) -> None:
    shape, work = gpu_grpo.shape_of("Qwen/Qwen2.5-1.5B", True), gpu_grpo.work_of(True)._replace(problems=2)
    place = SimpleNamespace(kind="cpu", tiny=True, rate=1.0)
    told = gpu_grpo.learnt(place, shape, work, mixed=True, kl={"coefficient": coefficient})
    assert told["right"] and told["mfu_whole"] > told["mfu"] > 0  # shared prompts are less work
    assert (told["kl"] is None) == (coefficient == 0)
    assert ("reference" in told["planned_parts_gib"]) == (coefficient > 0)
    assert "rollout" not in told["planned_parts_gib"]  # nothing is sampled


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "machine", "attention", "logprobs", "full-1.5b", "lora-7b-32k", "methods", "grpo-1.5b", "trl-grpo-1.5b",
    ],
)  # fmt: skip
def test_a_part_runs_small_on_the_cpu(part: str, tmp_path: Path) -> None:
    told("--device", "cpu", "--tiny", "--part", part, "--out", str(tmp_path / "out.jsonl"))
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["part"] == part and row["ok"] and "failed" not in row
