"""The benchmark that is for a GPU: it lists its parts, and they run small on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "benchmarks" / "gpu.py"


def told(*arguments: str) -> str:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_parts_are_listed_and_fit_nine_minutes() -> None:
    limits = [int(line.split()[1]) for line in told("--list").splitlines()]
    assert len(limits) == 8 and sum(limits) <= 540


@pytest.mark.slow
@pytest.mark.parametrize("part", ["machine", "attention", "logprobs", "full-1.5b", "lora-7b-32k", "methods"])
def test_a_part_runs_small_on_the_cpu(part: str, tmp_path: Path) -> None:
    told("--device", "cpu", "--tiny", "--part", part, "--out", str(tmp_path / "out.jsonl"))
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["part"] == part and row["ok"] and "failed" not in row
