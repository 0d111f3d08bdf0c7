"""The built-in world's R1 pipeline whole, with models too small to learn and a step or two of each stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.chain import run_recipe
from distill.recipe_file import find_recipe, parse_recipe

MODELS = ["base", "zero", "dev1", "dev2", "dev3", "r1"]
KEEP_ALL = {"verified": False, "format": False, "finished": False, "duplicates": False}


def shrunk() -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load(find_recipe("quickstart-r1").read_text(encoding="utf-8"))
    raw["models"]["blank"]["build"] = {"hidden": 16, "layers": 1, "heads": 2, "max_length": 256}
    for section, count in (("problems", 4), ("traces", 16), ("suites", 4)):
        for source in raw[section].values():
            if "world" in source:
                source["world"]["count"] = count
    raw["suites"]["functions"] = {"limit": 2}
    for stage in raw["stages"]:
        match stage["kind"]:
            case "grpo":
                stage |= {"steps": 2, "problems_per_step": 1, "samples_per_problem": 2, "max_tokens": 8}
                stage |= {"reference": {"refresh_every": 1}}
            case "sample":
                stage["sampling"]["max_tokens"] = 8
                stage["filters"] = KEEP_ALL
            case "sft":
                stage["batch_size"] = 8
            case "eval":
                stage["sampling"] = {"temperature": 1.0, "max_tokens": 8}
    cold_start = next(stage for stage in raw["stages"] if stage["name"] == "cold-start-sft")
    cold_start["traces"] = {
        "cold-start": 1,
        "general": 1,
    }  # what such models write never ends, and is left out
    return raw


def test_every_stage_runs_and_the_report_tells_stage_by_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILL_QUIET", "1")
    out = tmp_path / "run"
    report = run_recipe(parse_recipe(shrunk()), out)
    assert report is not None and report.is_file()
    told = (out / "report" / "report.md").read_text(encoding="utf-8")
    part = told.split("### Stage by stage")[1].split("###")[0]
    rows = [line.split("|")[1].split("(")[0].strip() for line in part.splitlines() if line.startswith("| ")]
    assert rows == ["model", ":--", *MODELS]
    pairs = [
        (row["a"], row["b"])
        for row in json.loads((out / "report" / "summary.json").read_text(encoding="utf-8"))["comparisons"]
    ]
    assert {("r1", "zero"), ("dev2", "dev1"), ("r1", "base")} <= set(pairs)
    log = (out / "stages" / "05-reasoning-rl" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(log) == 2 and all("reward_language" in json.loads(line) for line in log)
