"""What every command with a RECIPE does: read it, pick its stages, walk them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from distill.cli_traces import show
from distill.errors import UserError


def recipe_of(options: argparse.Namespace) -> tuple[Any, Path]:
    """The recipe with its overrides, and the folder it runs in."""
    from distill.inputs import check_published
    from distill.recipe_file import find_recipe, load_recipe

    recipe = load_recipe(find_recipe(options.recipe), options.set)
    check_published(recipe)
    return recipe, Path(options.out or Path("runs") / recipe.name)


def of_kind(recipe: Any, kind: str) -> list[Any]:
    """The recipe's stages of a kind.

    Raises:
        UserError: it has none.
    """
    stages = [stage for stage in recipe.stages if stage.kind == kind]
    if not stages:
        raise UserError("RECIPE", recipe.name, f"has no {kind} stage", f"add one with `kind: {kind}`")
    return stages


def walk(options: argparse.Namespace, recipe: Any, out: Path, stages: Any, quiet: bool = False) -> None:
    """Run these stages (None: all); unless ``quiet``, print where the run and its report are."""
    from distill.chain import run_recipe

    report = run_recipe(recipe, out, stages)
    if not quiet:
        show(options, {"run": str(out), "report": str(report) if report else None}, [str(report or out)])
