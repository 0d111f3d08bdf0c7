"""What one field of a recipe says of another: names that must exist, settings that need one another.

No data is read and no model loaded here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from distill.errors import UserError
from distill.recipe import (
    CompareStage,
    EvalStage,
    GrpoStage,
    Recipe,
    Rewrite,
    SampleStage,
    SftStage,
    Stage,
)
from distill.recipe_errors import unknown_name
from distill.recipe_filters import LANGUAGE_CODES, Filters
from distill.recipe_parts import (
    AdaptiveCollect,
    FixedCollect,
    ModelSource,
    PolicyVllm,
    ProblemSource,
    SuiteSource,
    TraceSource,
    VllmEngine,
    most_samples,
)
from distill.recipe_rewards import RewardStage
from distill.recipe_rl import check_reached, check_rewards, check_words
from distill.recipe_types import Section

#: vLLM has no kernels for adapters of a higher rank.
VLLM_MOST_RANK = 512


def check_across(recipe: Recipe) -> None:
    """Names are defined before they are used and made once; fields that only make sense together are together.

    Raises:
        UserError: otherwise.
    """
    for name, model in recipe.models.items():
        _check_model(f"models.{name}", model)
    for name, problems in recipe.problems.items():
        _check_data(f"problems.{name}", problems)
        _check_agreement(f"problems.{name}", problems)
        single = [other for other, source in recipe.problems.items() if not source.sets]
        _known(f"problems.{name}.sets", problems.sets or [], "problem set that is no mixture", single)
    for name, traces in recipe.traces.items():
        _check_data(f"traces.{name}", traces)
    for name, suite in recipe.suites.items():
        _check_data(f"suites.{name}", suite)
    _check_names(recipe)
    for stage in recipe.stages:
        _check_stage(f"stages.{stage.name}", stage, recipe.hourly)
        gpus = recipe.hardware.gpus * recipe.hardware.nodes if recipe.hardware else 1
        if isinstance(stage, GrpoStage) and gpus > 1 and not samples_apart(stage):
            check_together(stage, f"{gpus} GPUs of `hardware` train together")


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
    if isinstance(source, ProblemSource) and (source.rows or source.sets):
        beside = {"kind", "fields", "instruction", "limit", "agreement"} if source.rows else set()
        with_ = "rows" if source.rows else "sets"
        for key, field in ProblemSource.model_fields.items():
            if key not in beside | {with_} and getattr(source, key) != field.get_default(
                call_default_factory=True
            ):
                raise UserError(f"{at}.{key}", None, f"has no effect with `{with_}`", "drop one of them")
    elif not isinstance(source, SuiteSource) or (source.path and source.world):
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
    judges = set(recipe.models)  # reward models: they write no texts
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
            case SftStage() | GrpoStage() | RewardStage() | SampleStage():
                _known(f"{at}.model", [stage.model], "model (given, or made by an earlier stage)", models)
                if stage.makes in models | traces | judges:
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
        if isinstance(stage, SampleStage) and recipe.problems[stage.problems].sets:
            reason = "takes several sets together, which only a grpo stage does"
            raise UserError(f"{at}.problems", stage.problems, reason, "sample each set by a stage of its own")
        if isinstance(stage, SampleStage) and stage.rewrite:
            what = "trace set (given, or made by an earlier stage)"
            _known(f"{at}.rewrite.traces", [stage.rewrite.traces], what, traces)
            if recipe.problems[stage.problems].agreement is not None:
                reason = "has problems without references, to which no rewritten trace can be held"
                raise UserError(f"{at}.problems", stage.problems, reason, "name others, or drop `agreement`")
        if isinstance(stage, GrpoStage) and any(
            part.agreement is not None for part in recipe.parts(stage.problems)
        ):
            reason = "has problems without references, which reward nothing"
            raise UserError(f"{at}.problems", stage.problems, reason, "train on others, or drop `agreement`")
        if isinstance(stage, GrpoStage):
            for name, judge in stage.rewards.models.items():
                what = "reward model (given, or made by an earlier stage of kind reward)"
                _known(f"{at}.rewards.models.{name}.model", [judge.model], what, judges)
        if isinstance(stage, RewardStage):
            judges.add(stage.makes)
        if isinstance(stage, SftStage | GrpoStage):
            models.add(stage.makes)
        if isinstance(stage, SampleStage):
            traces.add(stage.makes)


def _check_stage(at: str, stage: Stage, hourly: float | None) -> None:
    match stage:
        case SftStage():
            _check_method(at, stage)
            if stage.max_length > (budget := stage.micro_batch_tokens):
                reason = f"a trace of max_length={stage.max_length} does not fit"
                raise UserError(f"{at}.micro_batch_tokens", budget, reason, "raise it, or lower max_length")
        case GrpoStage():
            if stage.steps % stage.steps_per_rollout:
                reason = f"is not whole rollouts of steps_per_rollout={stage.steps_per_rollout}"
                raise UserError(f"{at}.steps", stage.steps, reason, "use a multiple")
            check_rewards(at, stage.rewards, stage.overlong, stage.max_tokens)
            check_reached(at, stage)
            _check_method(at, stage)
            check_words(at, stage.kl, stage.reference, adapters=stage.method != "full")
            _check_policy_engine(at, stage)
        case RewardStage():
            if stage.memory.weights == "bfloat16":
                reason = "is not there for reward models, whose weights stay in float32"
                raise UserError(f"{at}.memory.weights", "bfloat16", reason, "drop it")
            if 2 * stage.max_length > (budget := stage.micro_batch_tokens):
                reason = f"two answers of max_length={stage.max_length} do not fit"
                raise UserError(f"{at}.micro_batch_tokens", budget, reason, "raise it, or lower max_length")
        case SampleStage():
            if stage.rewrite:
                _check_rewrite(at, stage.rewrite, stage.collect)
            _check_collect(f"{at}.collect", stage.collect, hourly)
            fixed = stage.collect.strategy == "fixed"
            if stage.filters.reviewed:
                reason = "nobody can have looked at what the stage has yet to make"
                remedy = "drop it; `distill traces reviewed` makes such a set"
                raise UserError(f"{at}.filters.reviewed", True, reason, remedy)
            check_filters(f"{at}.filters", stage.filters, most_samples(stage.collect, at_first=True))
            if stage.sampling.temperature == 0 and (samples := most_samples(stage.collect)) > 1:
                reason = f"draws the same completion {samples} times"
                remedy = f"raise it, or use collect.{'samples' if fixed else 'most'}=1"
                raise UserError(f"{at}.sampling.temperature", 0.0, reason, remedy)
        case EvalStage():
            for key, names in (("models", stage.models), ("suites", stage.suites)):
                if twice := [name for name in names if names.count(name) > 1]:
                    raise UserError(f"{at}.{key}", twice[0], "is listed twice", "list it once")


def _check_method(at: str, stage: SftStage | GrpoStage) -> None:
    if stage.lora and stage.method == "full":
        reason = "has no effect with method: full"
        raise UserError(f"{at}.lora", None, reason, "write `method: lora` or drop it")
    if stage.memory.weights == "bfloat16" and stage.method != "full":
        reason = f"has no effect with method: {stage.method}, which trains its adapters in float32"
        raise UserError(f"{at}.memory.weights", "bfloat16", reason, "drop it")
    if isinstance(stage, GrpoStage) and stage.lora and stage.lora.dropout:
        reason = "would have the sampler and the trainer be two models"
        raise UserError(f"{at}.lora.dropout", stage.lora.dropout, reason, "drop it")


def _check_policy_engine(at: str, stage: GrpoStage) -> None:
    if stage.asynchronous and stage.correction.kind == "none":
        reason = "samples by weights that are one rollout old, and nothing corrects for them"
        raise UserError(
            f"{at}.asynchronous", True, reason, "write `correction: {kind: truncate}`, or drop it"
        )
    if not isinstance(stage.engine, PolicyVllm):
        return
    if stage.asynchronous and not stage.engine.apart:
        reason = "shares the trainer's process and device, so the two have to take turns"
        remedy = "write `engine: {kind: vllm, apart: true}`, or drop `asynchronous`"
        raise UserError(f"{at}.engine.apart", False, reason, remedy)
    if (value := stage.engine.tensor_parallel) != 1:
        reason = (
            "the sampler of a policy in training holds it whole on one GPU, where every weight is looked for"
        )
        raise UserError(f"{at}.engine.tensor_parallel", value, reason, "drop it")
    if (value := stage.engine.data_parallel) != 1 and not stage.engine.apart:
        reason = "the sampler of a policy in training shares the trainer's one device"
        raise UserError(
            f"{at}.engine.data_parallel", value, reason, "drop it, or write `apart: true` beside it"
        )
    if stage.lora and stage.lora.rank > VLLM_MOST_RANK:
        reason = f"is more than the {VLLM_MOST_RANK} that vLLM takes"
        raise UserError(
            f"{at}.lora.rank", stage.lora.rank, reason, "lower it, or use `engine: {kind: local}`"
        )


def _check_rewrite(at: str, rewrite: Rewrite, collect: FixedCollect | AdaptiveCollect) -> None:
    for place in ("{problem}", "{response}"):
        if place not in rewrite.prompt:
            reason = f"does not say where the {place.strip('{}')} goes"
            raise UserError(f"{at}.rewrite.prompt", rewrite.prompt, reason, f"write {place} into it")
    if isinstance(collect, AdaptiveCollect):
        reason = "cannot tell which traces are worth another rewriting"
        raise UserError(f"{at}.collect.strategy", collect.strategy, reason, "use `samples` of each")


def samples_apart(stage: GrpoStage) -> bool:
    """Whether samples come from GPUs of their own; one process trains on the first, however many there are."""
    return isinstance(stage.engine, PolicyVllm) and stage.engine.apart


def check_together(stage: GrpoStage, why: str) -> None:
    """Refuse what only one process can do, where several train a policy; ``why`` says who started them.

    Raises:
        UserError.
    """
    if isinstance(stage.engine, VllmEngine):
        remedy = "use `engine: {kind: local}`, or one GPU in one process"
        reason = f"samples for a policy in one process, and {why}"
        raise UserError(f"stages.{stage.name}.engine.kind", "vllm", reason, remedy)
    if stage.asynchronous:
        reason = f"samples beside one process, and {why}"
        raise UserError(
            f"stages.{stage.name}.asynchronous", True, reason, "drop it, or use one GPU in one process"
        )


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
