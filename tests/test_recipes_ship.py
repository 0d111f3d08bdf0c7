"""Every recipe that ships is good, and there are some."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

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
