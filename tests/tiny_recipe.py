"""A whole recipe small enough to run in a test: every kind of stage, models of two narrow layers, a few steps.

The harvest keeps everything: a teacher that was hardly trained is never right.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from distill.recipe import Recipe
from distill.recipe_file import override_key, parse_recipe

_BUILD = {"hidden": 16, "layers": 2, "heads": 2, "max_length": 192}
_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 12}
_KEEP_ALL = {"verified": False, "format": False, "finished": False, "duplicates": False}
_SFT = {
    "kind": "sft",
    "learning_rate": 1e-3,
    "batch_size": 4,
    "max_length": 192,
    "epochs": 1,
    "checkpoint_every": 2,
}

RAW: dict[str, Any] = {
    "name": "tiny",
    "models": {
        "blank": {"build": _BUILD, "tokenizer": "world"},
        "student-blank": {"build": {**_BUILD, "layers": 1}, "tokenizer": "world"},
    },
    "problems": {"practice": {"world": {"count": 6, "families": ["chains"]}}},
    "traces": {
        "rough": {"world": {"count": 20, "families": ["chains"], "wrong_steps": 0.2, "missing_tags": 0.2}}
    },
    "suites": {"chains": {"limit": 4}},
    "stages": [
        {"name": "warm", "model": "blank", "traces": {"rough": 1}, "makes": "base", "role": "base", **_SFT},
        {
            "name": "zero",
            "kind": "grpo",
            "model": "base",
            "problems": "practice",
            "makes": "teacher",
            "steps": 4,
            "learning_rate": 1e-3,
            "problems_per_step": 2,
            "samples_per_problem": 2,
            "max_tokens": 12,
            "kl": {"coefficient": 0.01},
            "optimiser": {"weight_decay": 1.0},  # moves the weights although nothing is ever right
            "reference": {"refresh_every": 2},
            "checkpoint_every": 1,
            "engine": {"max_rows": 8},
        },
        {
            "name": "harvest",
            "kind": "sample",
            "model": "teacher",
            "problems": "practice",
            "makes": "verified",
            "sampling": _SAMPLING,
            "collect": {"samples": 2},
            "filters": _KEEP_ALL,
            "engine": {"max_rows": 2},
        },
        {
            "name": "distil",
            "model": "student-blank",
            "traces": {"rough": 0.5, "verified": 1},
            "makes": "student",
            **_SFT,
        },
        {
            "name": "exam",
            "kind": "eval",
            "models": ["base", "teacher", "student"],
            "suites": ["chains"],
            "samples": 2,
            "sampling": _SAMPLING,
            "engine": {"max_rows": 2},
        },
        {"name": "report", "kind": "compare", "results": "exam"},
    ],
}


def raw_recipe(*overrides: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The recipe as a file would hold it, with overrides as `--set` takes them, without some stages."""
    raw = copy.deepcopy(RAW)
    raw["stages"] = [stage for stage in raw["stages"] if stage["name"] not in without]
    for override in overrides:
        override_key(raw, override)
    return raw


def tiny_recipe(*overrides: str) -> Recipe:
    """The recipe, checked."""
    return parse_recipe(raw_recipe(*overrides))


def write_recipe(path: Path, *overrides: str, without: tuple[str, ...] = ()) -> Path:
    """The recipe as a YAML file."""
    path.write_text(yaml.safe_dump(raw_recipe(*overrides, without=without), sort_keys=False))
    return path
