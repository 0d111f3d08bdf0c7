"""The variants of `benchmarks/ablations.py` take away what they are called after, and the table tells it."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from distill.recipe import GrpoStage


@pytest.fixture(scope="module")
def ablations() -> ModuleType:
    file = Path(__file__).with_name("benchmarks") / "ablations.py"
    spec = importlib.util.spec_from_file_location("ablations", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_variant_differs_by_its_word(ablations: ModuleType) -> None:
    options = argparse.Namespace(seed=0, updates=20)
    stages = {}
    for name, changes in ablations.VARIANTS.items():
        recipe = ablations.recipe_of(changes, options)
        stage = recipe.stage("zero-rl")
        assert isinstance(stage, GrpoStage)
        stages[name] = stage
    shipped = stages.pop("as is")
    assert (shipped.kl.coefficient, shipped.reference.refresh_every, shipped.clip.kind) == (0.001, 10, "ppo")
    for name, stage in stages.items():
        expected = {
            "kl": 0.0 if "no kl" in name else 0.1 if "kl x 100" in name else 0.001,
            "refresh": None if "no refresh" in name else 10,
            "clip": "none" if "no clip" in name else "ppo",
            "per rollout": 10 if "10 updates" in name else 2,
        }
        found = {
            "kl": stage.kl.coefficient,
            "refresh": stage.reference.refresh_every,
            "clip": stage.clip.kind,
            "per rollout": stage.steps_per_rollout,
        }
        assert found == expected, name
        changed = {"kl", "reference", "clip", "steps_per_rollout"}
        assert stage.model_dump(exclude=changed) == shipped.model_dump(exclude=changed), name


def test_the_table_tells_intervals_and_where_there_is_no_reference(ablations: ModuleType) -> None:
    row = {
        "variant": "no kl", "from_base": 0.5, "from_base_error": 0.1, "from_reference": None, "clipped": 0.25,
        "entropy": 1.0, "right": [0.5, 0.4, 0.6], "language": 0.75,
    }  # fmt: skip
    line = ablations.table([row]).splitlines()[-1]
    assert line == "| no kl | 0.5000 ± 0.1960 | none | 0.2500 | 1.000 | 0.500 [0.400, 0.600] | 0.750 |"
