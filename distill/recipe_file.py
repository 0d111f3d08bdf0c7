"""From a YAML file to a checked recipe, or to one clear error: key, value, reason, remedy.

Unknown keys are refused with the nearest valid name. What one field says of another is checked in one place,
`recipe_checks`. No data is read and no model loaded here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distill.errors import UserError
from distill.recipe import Recipe
from distill.recipe_checks import check_across, check_filters
from distill.recipe_errors import explain, unknown_name
from distill.recipe_filters import Filters
from distill.recipe_parts import (
    SuiteSource,
)
from distill.recipe_types import Count, Section


def shipped_recipes() -> dict[str, Path]:
    """Recipes that ship, by name: inside the installed package, else in the checkout beside it."""
    package = Path(__file__).parent
    for folder in (package / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def find_recipe(given: str) -> Path:
    """Where a recipe is: the given path, else one that ships, named with or without ``recipes/`` and ``.yaml``.

    Raises:
        UserError: neither exists.
    """
    path = Path(given)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    name = path.name.removesuffix(".yaml")
    if name in shipped and str(path.parent) in (".", "recipes"):
        return shipped[name]
    near = difflib.get_close_matches(name, shipped, n=1, cutoff=0.7)
    hint = f"did you mean `{near[0]}`? " if near else ""
    remedy = f"{hint}give a file, or one of: {', '.join(sorted(shipped))}"
    raise UserError("RECIPE", given, "no such file, and no recipe of that name ships", remedy)


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read, override and check a recipe.

    Args:
        path: a YAML file.
        overrides: ``dotted.key=value`` each, stages by name, values in YAML.

    Raises:
        UserError: the file is no YAML mapping, or anything in it is wrong.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            "RECIPE", str(path), f"cannot be read: {_one_line(error)}", "give a YAML file"
        ) from error
    if not isinstance(raw, dict):
        raise UserError("RECIPE", str(path), "holds no mapping", "start with `name:` and `stages:`")
    for override in overrides or []:
        override_key(raw, override)
    return parse_recipe(raw)


def parse_recipe(raw: dict[str, Any]) -> Recipe:
    """A checked recipe from plain data.

    Raises:
        UserError: naming key, value, reason and remedy of the first mistake, and how many follow.
    """
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise explain(error, raw) from None
    check_across(recipe)
    return recipe


def parse_filters(flag: str, values: dict[str, str]) -> Filters:
    """The filters of a command line, for commands that take no recipe.

    Raises:
        UserError: an unknown filter or an unusable value, named by the flag.
    """
    raw: dict[str, Any] = {}
    for name, value in values.items():
        if name.partition(".")[0] not in Filters.model_fields:
            raise unknown_name(flag, f"{name}={value}", "filter", name, list(Filters.model_fields))
        override_key(raw, f"{name}={value}")
    try:
        filters = Filters.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        name = next((name for name in values if name.startswith(str(first["loc"][0]))), "")
        raise UserError(flag, f"{name}={values.get(name)}", first["msg"], "change the value") from None
    check_filters(flag, filters)
    return filters


class FilterSettings(Section):
    """What decides about a trace set outside a recipe."""

    filters: Filters = Filters()
    keep_per_problem: Count | None = None
    suites: dict[str, SuiteSource] = {}


def parse_filter_settings(raw: dict[str, Any]) -> FilterSettings:
    """Settings of `distill traces` from plain data, with what ``--set`` changed.

    Raises:
        UserError: naming key, value, reason and remedy of the first mistake.
    """
    try:
        settings = FilterSettings.model_validate(raw)
    except ValidationError as error:
        raise explain(error, raw, FilterSettings) from None
    check_filters("filters", settings.filters)
    return settings


class StrictLoader(yaml.SafeLoader):
    """YAML in which a key written twice is an error; by default the last one wins without a word.

    A key `on` (or `yes`, `off`, ...) is that word, where YAML 1.1 takes it for a truth value.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key.value}` stands twice", key.start_mark
                )
            seen.add(key.value if isinstance(key.value, str) else str(key.start_mark))
            if key.tag == "tag:yaml.org,2002:bool":
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())


# -------------------------------------------------------------------------------- --set


def override_key(raw: dict[str, Any], override: str) -> None:
    """Set one ``dotted.key=value`` in a raw recipe, in place.

    Raises:
        UserError: the text is no such pair, or its key names a stage that is not there.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError("--set", override, "is no KEY=VALUE", "write --set stages.NAME.learning_rate=2e-4")
    try:
        value = yaml.load(text, StrictLoader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError("--set", override, f"the value is no YAML: {_one_line(error)}", "quote it") from error
    node: Any = raw
    while True:
        stages = (
            {str(item.get("name")): item for item in node if isinstance(item, dict)}
            if isinstance(node, list)
            else {}
        )
        part, rest = _first_part(key, stages or node)
        if isinstance(node, list) and part not in stages:
            raise unknown_name("--set", override, "stage", part, list(stages))
        if isinstance(node, list) and not rest:
            raise UserError(
                "--set", override, "names a whole stage", "name one of its keys: stages.NAME.KEY=VALUE"
            )
        if not rest:
            node[part] = value
            return
        if isinstance(node, list):
            node = stages[part]
        else:
            if not isinstance(node.get(part), dict | list):
                node[part] = {}
            node = node[part]
        key = rest


def _first_part(key: str, known: Iterable[Any]) -> tuple[str, str]:
    """The first part of a dotted key and the rest. A known name may itself hold dots (``qwen-1.5b``)."""
    fitting = [name for name in known if isinstance(name, str) and f"{key}.".startswith(f"{name}.")]
    part = max(fitting, key=len, default=key.partition(".")[0])
    return part, key[len(part) + 1 :]
