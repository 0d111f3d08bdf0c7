"""Every recipe that ships is good, and there are some."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from distill.inputs import Inputs
from distill.recipe_file import find_recipe, load_recipe, parse_recipe, shipped_recipes

CHECKOUT = Path(__file__).resolve().parent.parent
RECIPES = sorted((CHECKOUT / "recipes").glob("*.yaml"))


def test_recipes_ship_the_quickstart_among_them() -> None:
    assert "quickstart" in [path.stem for path in RECIPES]
    assert set(shipped_recipes()) == {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_parses_is_found_by_name_and_reads_back(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    assert (
        find_recipe(path.stem).read_bytes()
        == find_recipe(f"recipes/{path.name}").read_bytes()
        == path.read_bytes()
    )


def test_the_lengths_of_the_quickstart_fit(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(find_recipe("quickstart"))
    Inputs(recipe).check(recipe.stages)
    assert capsys.readouterr().err == "", "nothing had to be cut"


def test_the_lengths_of_the_real_recipe_fit(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the contexts of its models, under their vocabulary, on GSM8K's real problems."""
    raw = yaml.safe_load(find_recipe("gsm8k-distill").read_text())
    build = {"hidden": 16, "layers": 1, "heads": 2}
    tokenizer = str(shared_data / "tokenizers" / "qwen2.5-rebuilt")
    for name, context in (("teacher", 131072), ("student-base", 32768)):
        raw["models"][name] |= {
            "build": {**build, "max_length": context},
            "tokenizer": tokenizer,
            "path": None,
        }
    gsm8k = str(shared_data / "problems" / "gsm8k_test.jsonl")
    raw["problems"]["gsm8k-train"]["path"] = gsm8k
    raw["suites"] = {"gsm8k": {"path": gsm8k}}
    recipe = parse_recipe(raw)
    Inputs(recipe).check(recipe.stages)
    assert capsys.readouterr().err == "", "nothing had to be cut"
