"""No dead options: every field of every recipe section is read somewhere."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from distill import recipe, recipe_filters, recipe_parts, recipe_rewards, recipe_rl
from distill.recipe_types import Section

CHECKOUT = Path(__file__).resolve().parent.parent
SCHEMA = {
    "recipe.py",
    "recipe_parts.py",
    "recipe_types.py",
    "recipe_errors.py",
    "recipe_file.py",
    "recipe_filters.py",
    "recipe_rl.py",
    "recipe_rewards.py",
    "recipe_checks.py",
}


def sections() -> list[type[Section]]:
    named = {
        **vars(recipe),
        **vars(recipe_parts),
        **vars(recipe_filters),
        **vars(recipe_rl),
        **vars(recipe_rewards),
    }
    found = [kind for kind in named.values() if isinstance(kind, type) and issubclass(kind, Section)]
    return [kind for kind in found if kind is not Section]


def attributes_read(sources: Iterable[str]) -> set[str]:
    """Names that stand after a dot somewhere and are read there."""
    nodes = (node for source in sources for node in ast.walk(ast.parse(source)))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def dead_fields(kinds: Iterable[type[Section]], sources: Iterable[str]) -> list[str]:
    read = attributes_read(sources)
    return [f"{kind.__name__}.{name}" for kind in kinds for name in kind.model_fields if name not in read]


def project() -> list[str]:
    files = [
        file for package in ("distill", "teacher", "eval") for file in (CHECKOUT / package).rglob("*.py")
    ]
    return [file.read_text() for file in files if not (file.parent.name == "distill" and file.name in SCHEMA)]


def test_every_field_of_a_recipe_is_read() -> None:
    assert dead_fields(sections(), project()) == []


def test_the_sections_are_all_seen() -> None:
    assert {recipe.Recipe, recipe.SftStage, recipe_rl.Kl, recipe_parts.Taken} <= set(sections())


def test_a_planted_dead_field_is_caught() -> None:
    class Planted(Section):
        alive: int = 0
        dead_option: int = 0
        only_written: int = 0

    source = "def f(p):\n    p.only_written = p.alive"
    assert dead_fields([Planted], [source]) == ["Planted.dead_option", "Planted.only_written"]
