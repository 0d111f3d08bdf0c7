"""From a YAML file to a checked recipe, or to one clear error: key, value, reason, remedy.

Unknown keys are refused with the nearest valid name. What one field says of another is checked in one place,
`_check_across`. No data is read and no model loaded here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distill.errors import UserError
from distill.recipe import CompareStage, EvalStage, GrpoStage, Recipe, SampleStage, SftStage, Stage
from distill.recipe_errors import explain, unknown_name
from distill.recipe_filters import LANGUAGE_CODES, Filters
from distill.recipe_parts import (
    AdaptiveCollect,
    FixedCollect,
    ModelSource,
    ProblemSource,
    SuiteSource,
    TraceSource,
    most_samples,
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
    remedy = f"give a file, or one of: {', '.join(sorted(shipped))}"
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
        raw = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
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
    _check_across(recipe)
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


def check_filters(at: str, filters: Filters, samples: int | None = None) -> None:
    """What one field of the filters says of another, of the languages known, and of the samples drawn.

    Raises:
        UserError: a window that nothing can pass, a language or number of samples that there is not.
    """
    if filters.language is not None and filters.language.target not in LANGUAGE_CODES:
        raise unknown_name(
            f"{at}.language.target",
            filters.language.target,
            "language",
            filters.language.target,
            LANGUAGE_CODES,
        )
    for name, window in (("tokens", filters.tokens), ("difficulty", filters.difficulty)):
        if window and window.min is not None and window.max is not None and window.min > window.max:
            raise UserError(f"{at}.{name}.min", window.min, f"is above max={window.max}", "swap them")
    if filters.difficulty and samples is not None and filters.difficulty.first > samples:
        reason = f"but a problem has only {samples} samples"
        raise UserError(f"{at}.difficulty.first", filters.difficulty.first, reason, "lower it, or draw more")


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key written twice is an error; by default the last one wins without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key.value}` stands twice", key.start_mark
                )
            seen.add(key.value if isinstance(key.value, str) else str(key.start_mark))
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
        value = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
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


# -------------------------------------------------------------------------------- what one field says of another


def _check_across(recipe: Recipe) -> None:
    """Names are defined before they are used and made once; fields that only make sense together are together."""
    for name, model in recipe.models.items():
        _check_model(f"models.{name}", model)
    for name, problems in recipe.problems.items():
        _check_data(f"problems.{name}", problems)
        _check_agreement(f"problems.{name}", problems)
    for name, traces in recipe.traces.items():
        _check_data(f"traces.{name}", traces)
    for name, suite in recipe.suites.items():
        _check_data(f"suites.{name}", suite)
    _check_names(recipe)
    for stage in recipe.stages:
        _check_stage(f"stages.{stage.name}", stage, recipe.hourly)


def _check_model(at: str, model: ModelSource) -> None:
    _exactly_one(at, model, "path", "build")
    if model.think.open == model.think.close:
        raise UserError(f"{at}.think.close", model.think.close, "equals think.open", "give each its own tag")
    if not (build := model.build):
        return
    if model.tokenizer is None:
        raise UserError(
            f"{at}.tokenizer", None, "a built model brings none", "write `tokenizer: world` or a path"
        )
    for key in ("max_length", "rope_theta"):
        if (value := getattr(model, key)) is not None:
            raise UserError(
                f"{at}.{key}", value, "changes a loaded model, this one is built", "use `build.max_length`"
            )
    if build.hidden % (2 * build.heads):
        reason = f"does not divide hidden={build.hidden} into heads of even width"
        raise UserError(f"{at}.build.heads", build.heads, reason, "choose a divisor of hidden / 2")
    if build.kv_heads and build.heads % build.kv_heads:
        raise UserError(
            f"{at}.build.kv_heads", build.kv_heads, f"does not divide heads={build.heads}", "use a divisor"
        )


def _check_data(at: str, source: ProblemSource | TraceSource | SuiteSource) -> None:
    if not isinstance(source, SuiteSource) or (source.path and source.world):
        _exactly_one(at, source, "path", "world")  # a suite may have neither: a known one with another limit
    for key in ("fields", "each", "where", "rewrite"):
        if source.world and getattr(source, key, None):
            raise UserError(f"{at}.{key}", None, "has no effect with `world`", "drop it, or give a `path`")
    instruction = None if isinstance(source, TraceSource) else source.instruction
    if instruction is not None and "{problem}" not in instruction:
        remedy = "write {problem} where the problem goes"
        raise UserError(f"{at}.instruction", instruction, "leaves the problem out", remedy)


def _check_agreement(at: str, source: ProblemSource) -> None:
    if source.agreement is not None and (source.kind != "math" or source.world):
        reason = "has no effect but on problems of kind math from a file or hub data set"
        raise UserError(f"{at}.agreement", source.agreement, reason, "drop it")


def _check_names(recipe: Recipe) -> None:
    """Stages in order: what each reads exists by then, and what it makes does not."""
    models, traces = set(recipe.models), set(recipe.traces)
    evals: set[str] = set()
    seen: set[str] = set()
    measured: dict[tuple[str, str], str] = {}
    reports: list[str] = []
    for name in sorted(models & traces):
        raise UserError(f"traces.{name}", name, "a model has this name too", "give each its own name")
    for stage in recipe.stages:
        at = f"stages.{stage.name}"
        if stage.name in seen:
            raise UserError(f"{at}.name", stage.name, "two stages have this name", "rename one")
        seen.add(stage.name)
        match stage:
            case SftStage() | GrpoStage() | SampleStage():
                _known(f"{at}.model", [stage.model], "model (given, or made by an earlier stage)", models)
                if stage.makes in models | traces:
                    raise UserError(f"{at}.makes", stage.makes, "this name is taken", "choose another")
            case EvalStage():
                _known(f"{at}.models", stage.models, "model (given, or made by an earlier stage)", models)
                evals.add(stage.name)
                for pair in itertools.product(stage.models, stage.suites):
                    if (
                        measured.get(pair, stage.name) != stage.name
                    ):  # a run has one result for a model on a suite
                        reason = f"{pair[0]} on {pair[1]} is measured by stage `{measured[pair]}` already"
                        raise UserError(f"{at}.models", pair[0], reason, "measure it once, or in another run")
                    measured[pair] = stage.name
            case CompareStage():
                _known(f"{at}.results", [stage.results], "earlier eval stage", evals)
                reports.append(stage.name)
                if len(reports) > 1:
                    reason = f"stage `{reports[0]}` makes the run's one report"
                    raise UserError(
                        f"{at}.kind", "compare", reason, "compare once, or with `distill compare`"
                    )
        if isinstance(stage, SftStage):
            _known(f"{at}.traces", stage.traces, "trace set (given, or made by an earlier stage)", traces)
        if isinstance(stage, GrpoStage | SampleStage):
            _known(f"{at}.problems", [stage.problems], "problem set", recipe.problems)
        if isinstance(stage, GrpoStage) and recipe.problems[stage.problems].agreement is not None:
            reason = "has problems without references, which reward nothing"
            raise UserError(f"{at}.problems", stage.problems, reason, "train on others, or drop `agreement`")
        if isinstance(stage, SftStage | GrpoStage):
            models.add(stage.makes)
        if isinstance(stage, SampleStage):
            traces.add(stage.makes)


def _check_stage(at: str, stage: Stage, hourly: float | None) -> None:
    match stage:
        case SftStage():
            if stage.lora and stage.method == "full":
                reason = "has no effect with method: full"
                raise UserError(f"{at}.lora", None, reason, "write `method: lora` or drop it")
            if stage.memory.weights == "bfloat16" and stage.method != "full":
                reason = f"has no effect with method: {stage.method}, which trains its adapters in float32"
                raise UserError(f"{at}.memory.weights", "bfloat16", reason, "drop it")
            if stage.max_length > (budget := stage.micro_batch_tokens):
                reason = f"a trace of max_length={stage.max_length} does not fit"
                raise UserError(f"{at}.micro_batch_tokens", budget, reason, "raise it, or lower max_length")
        case GrpoStage():
            if not (stage.rewards.accuracy or stage.rewards.format):
                reason = "every weight is 0, nothing can be learnt"
                raise UserError(f"{at}.rewards", None, reason, "weigh one above 0")
            if stage.steps % stage.steps_per_rollout:
                reason = f"is not whole rollouts of steps_per_rollout={stage.steps_per_rollout}"
                raise UserError(f"{at}.steps", stage.steps, reason, "use a multiple")
        case SampleStage():
            _check_collect(f"{at}.collect", stage.collect, hourly)
            fixed = stage.collect.strategy == "fixed"
            check_filters(f"{at}.filters", stage.filters, most_samples(stage.collect, at_first=True))
            if stage.sampling.temperature == 0 and (samples := most_samples(stage.collect)) > 1:
                reason = f"draws the same completion {samples} times"
                remedy = f"raise it, or use collect.{'samples' if fixed else 'most'}=1"
                raise UserError(f"{at}.sampling.temperature", 0.0, reason, remedy)
        case EvalStage():
            for key, names in (("models", stage.models), ("suites", stage.suites)):
                if twice := [name for name in names if names.count(name) > 1]:
                    raise UserError(f"{at}.{key}", twice[0], "is listed twice", "list it once")


def _check_collect(at: str, collect: FixedCollect | AdaptiveCollect, hourly: float | None) -> None:
    if isinstance(collect, FixedCollect):
        return
    for name in ("first", "keep_per_problem"):
        if (value := getattr(collect, name)) > collect.most:
            raise UserError(f"{at}.{name}", value, f"is above most={collect.most}", "lower it, or raise most")
    if collect.budget_cost is not None and not (collect.price or hourly):
        reason = "nobody says what anything costs"
        remedy = "give collect.price (of a million generated tokens) or hardware.hourly (of a GPU)"
        raise UserError(f"{at}.budget_cost", collect.budget_cost, reason, remedy)


def _known(key: str, names: Iterable[str], what: str, known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise unknown_name(key, name, what, name, sorted(known))


def _exactly_one(key: str, section: Section, first: str, second: str) -> None:
    given = [name for name in (first, second) if getattr(section, name) is not None]
    if len(given) != 1:
        reason = f"has both `{first}` and `{second}`" if given else f"has neither `{first}` nor `{second}`"
        raise UserError(key, None, reason, "write exactly one of them")
