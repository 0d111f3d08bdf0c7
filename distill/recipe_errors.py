"""A mistake in a recipe told in the recipe's own words: pydantic's errors with keys as the user wrote them."""

from __future__ import annotations

import difflib
import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError

from distill.errors import UserError
from distill.recipe import CompareStage, EvalStage, GrpoStage, Recipe, SampleStage, SftStage, Stage
from distill.recipe_parts import AdaptiveCollect, FixedCollect, LocalEngine, ServerEngine, VllmEngine
from distill.recipe_rewards import RewardStage
from distill.recipe_types import Section

STAGE_KINDS: dict[str, type[Stage]] = {
    "sft": SftStage,
    "grpo": GrpoStage,
    "reward": RewardStage,
    "sample": SampleStage,
    "eval": EvalStage,
    "compare": CompareStage,
}

ENGINE_KINDS: dict[str, type[Section]] = {
    "local": LocalEngine,
    "vllm": VllmEngine,
    "server": ServerEngine,
}

STRATEGIES: dict[str, type[Section]] = {"fixed": FixedCollect, "adaptive": AdaptiveCollect}
_BRANCHES: dict[str, Any] = STAGE_KINDS | ENGINE_KINDS | STRATEGIES


#: What TRL and open-r1 call some of our keys, from a stage or from the section that holds the last part.
TRL_NAMES = {
    "num_generations": "samples_per_problem",
    "steps_per_generation": "steps_per_rollout",
    "max_completion_length": "max_tokens",
    "max_steps": "steps",
    "save_steps": "checkpoint_every",
    "beta": "kl.coefficient",
    "epsilon": "clip.low",
    "epsilon_high": "clip.high",
    "loss_type": "aggregate",
    "scale_rewards": "advantage.scale",
    "importance_sampling_level": "ratio",
    "mask_truncated_completions": "overlong.mask",
    "ref_model_sync_steps": "reference.refresh_every",
    "ref_model_mixup_alpha": "reference.mix",
    "reward_funcs": "rewards.own",
    "reward_weights": "rewards",
    "use_vllm": "engine",
    "vllm_mode": "engine",
    "gradient_checkpointing": "memory.activations",
    "num_train_epochs": "epochs",
    "max_seq_length": "max_length",
    "warmup_ratio": "schedule.warmup",
    "lr_scheduler_type": "schedule.kind",
    "max_grad_norm": "optimiser.max_grad_norm",
    "lora_r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_target_modules": "lora.targets",
}


def unknown_name(key: str, value: object, what: str, name: str, known: list[str]) -> UserError:
    """There is no such ``what``, with the nearest of the known names."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return UserError(key, value, f"there is no {what} `{name}`", f"{hint}known: {', '.join(known) or 'none'}")


def explain(error: ValidationError, raw: dict[str, Any], root: type[Section] = Recipe) -> UserError:
    """The first mistake in the recipe's own words, and how many keys more are wrong."""
    problems = sorted(error.errors(), key=_telling)
    places = [_locate(problem["loc"], raw, problem["type"], root) for problem in problems]
    first, (key, kind) = problems[0], places[0]
    others = len({other for other, _ in places} - {key})
    more = f" ({others} more after this one)" if others else ""
    value = first["input"]
    if key.endswith("engine.key"):
        value = None  # somebody may have written the key itself, which is to stand in no log
    match first["type"]:
        case "extra_forbidden":
            known = [field.alias or name for name, field in _section(kind).model_fields.items()]
            return _unknown_key(key, value, str(first["loc"][-1]), known, at_top=_section(kind) is Recipe)
        case "missing":
            return UserError(key, None, f"is missing{more}", "add it")
        case "union_tag_not_found":
            return UserError(f"{key}.kind", None, f"is missing{more}", f"use {' | '.join(STAGE_KINDS)}")
        case "union_tag_invalid":
            unions: dict[Any, Any] = {
                "engine": ("kind", "engine", ENGINE_KINDS),
                "collect": ("strategy", "strategy", STRATEGIES),
            }
            tag, what, kinds = unions.get(first["loc"][-1], ("kind", "kind of stage", STAGE_KINDS))
            expected = str(first["ctx"]["expected_tags"])  # a policy's engines are not all engines
            known = [name for name in kinds if f"'{name}'" in expected]
            return unknown_name(f"{key}.{tag}", value[tag], what, str(value[tag]), known)
    # a union of plain types gives one error for each of them
    same = [problem for problem, place in zip(problems, places, strict=True) if place[0] == key]
    reasons = dict.fromkeys(problem["msg"].removeprefix("Value error, ") for problem in same)
    reason = ", or ".join(f"{reason[0].lower()}{reason[1:]}" for reason in reasons)
    return UserError(key, value, reason + more, _remedy(first))


def _unknown_key(key: str, value: object, name: str, known: list[str], *, at_top: bool) -> UserError:
    """There is no such key here, with what it is called here, the stages that have it, or the nearest of the known."""
    called = TRL_NAMES.get(name, "")
    own = called if called.partition(".")[0] in known else called.rpartition(".")[2]
    holders = [kind for kind, stage in STAGE_KINDS.items() if name in stage.model_fields]
    if own.partition(".")[0] in known:
        hint = f"here it is `{own}`"
    elif at_top and holders:
        hint = f"it is a key of a stage ({', '.join(holders)}): stages.NAME.{name}"
    else:
        return unknown_name(key, value, "key", name, known)
    return UserError(key, value, f"there is no key `{name}`", f"{hint}; known: {', '.join(known)}")


def _telling(problem: Any) -> int:
    """The kind of a thing explains its unknown keys, and a typo a missing key."""
    if problem["type"] == "literal_error" and problem["loc"][-1] == "kind":
        return 0
    return 1 if problem["type"] == "extra_forbidden" else 2


def _remedy(problem: Any) -> str:
    context = problem.get("ctx", {})
    words = {
        "ge": "at least",
        "gt": "more than",
        "le": "at most",
        "lt": "less than",
        "min_length": "at least",
    }
    bounds = [f"{words[word]} {context[word]:g}" for word in words if word in context]
    match problem["type"]:
        case "string_type":
            return "write a text; in quotes, if YAML takes it for something else"
        case "list_type":
            return "write a list: [first, second]"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "write its keys, each with a value: {key: value}"
        case "value_error":  # the only ones are those of recipe_types
            if problem["loc"][-1] == "shard":
                return "write 3/16 for the third of sixteen shards"
            return "write a number, such as 64 or 1e-4"
        case "bool_type" | "bool_parsing":
            return "write true or false"
        case "too_short" | "string_too_short":
            return f"give {bounds[0]}"
        case "string_pattern_mismatch":
            if problem["loc"][-1] == "key":
                return "give the NAME of an environment variable that holds the API key"
            return "use letters, digits, '.', '_' and '-' only, a letter or digit first"
    if "expected" in context:
        return f"use {context['expected']}"
    return f"use {' and '.join(bounds)}" if bounds else "change the value"


def _locate(loc: tuple[int | str, ...], raw: Any, error: str, root: type[Section]) -> tuple[str, Any]:
    """The dotted key as a user would write it (stages by name), and the annotation of what its last part stands in."""
    parts: list[str] = []
    node: Any = raw
    kind: Any = root
    around: Any = root
    for place, item in enumerate(loc):
        absent = error == "missing" and place == len(loc) - 1
        if isinstance(item, int) and isinstance(node, list):
            node = node[item] if item < len(node) else None
            named = isinstance(node, dict) and isinstance(node.get("name"), str)
            parts.append(node["name"] if named else str(item))
        elif isinstance(node, dict) and (item in node or absent):
            parts.append(str(item))
            node = node.get(item)
        else:  # pydantic's own word for the branch of a union, no key of the user's
            kind = _BRANCHES.get(str(item), kind)
            around = kind if place == len(loc) - 1 else around
            continue
        around, kind = kind, _inside(kind, item)
    return ".".join(parts), around


def _inside(kind: Any, item: int | str) -> Any:
    """The annotation of what a key or an index holds, given that of what it stands in."""
    for option in _options(kind):
        if isinstance(option, type) and issubclass(option, Section):
            for name, field in option.model_fields.items():
                if item == (field.alias or name):
                    return field.annotation
        elif get_origin(option) in (dict, list):
            return get_args(option)[-1]
    return None


def _section(kind: Any) -> type[Section]:
    return next(
        option for option in _options(kind) if isinstance(option, type) and issubclass(option, Section)
    )


def _options(kind: Any) -> list[Any]:
    """A union's members, and what Annotated wraps; anything else alone."""
    if get_origin(kind) is Annotated:
        return _options(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [option for member in get_args(kind) for option in _options(member)]
    return [kind]
