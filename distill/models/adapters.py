"""Low-rank adapters looked at before any weights are loaded: they must be of this model, and lie on its linear layers.

Peft passes over weights that are missing in an adapter's file, and over those that it has no place for: what was
loaded would be another model than the one that was saved.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from distill.errors import UserError
from distill.models.vocabulary import base_of_adapter, first_line

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
REMEDY = "give the folder that was saved, whole, with the model that it names"


def meta_model(key: str, place: str | Path, config: Any) -> Any:
    """A model's modules and shapes without any numbers.

    Raises:
        UserError: its config describes no model.
    """
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:  # whatever values of a wrong type or size lead to
        reason = f"its config.json describes no model that can be built ({told(error)})"
        raise UserError(key, str(place), reason, "give the config.json that the weights came with") from None


def told(error: BaseException) -> str:
    """What an error says, in a line, or its kind where it says nothing."""
    return f"{type(error).__name__}: {first_line(error)}".removesuffix(": ")


def check_adapter(key: str, place: str | Path, base: str, config: Any) -> None:
    """Refuse an adapter that has not exactly the weights that its own config asks for on this base.

    Args:
        config: of the base.

    Raises:
        UserError: names what is missing, left over or of another shape.
    """
    if base_of_adapter(key, base):
        reason = f"adapts {base}, which is an adapter itself, and peft loads no adapter on top of another"
        raise UserError(
            key, str(place), reason, "merge that one first, and name the merged model as the base"
        )
    wanted, known = _wanted(key, place, meta_model(key, base, config))
    found = _found(key, place)
    missing = sorted(wanted.keys() - found.keys())
    further = sorted(found.keys() - wanted.keys() - known)
    if missing:
        reason = f"its adapter lacks {len(missing)} of {len(wanted)} weights, {missing[0]} first"
        raise UserError(key, str(place), reason, REMEDY)
    if further:
        reason = f"its adapter holds {len(further)} weights that have no place in {base}, {further[0]} first"
        raise UserError(key, str(place), reason, REMEDY)
    for name, shape in wanted.items():
        if found[name] != shape:
            reason = f"its adapter is of another shape: {name} is {found[name]}, {base} takes {shape}"
            raise UserError(key, str(place), reason, REMEDY)


def _wanted(key: str, place: str | Path, model: Any) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """The shapes that an adapter's config asks for, and the names of what it may hold besides."""
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict

    try:
        config: Any = PeftConfig.from_pretrained(str(place))
        merges = not config.is_prompt_learning
        if merges:
            if hasattr(config, "init_lora_weights"):
                config.init_lora_weights = True  # other ways would look at weights that are not here
            adapted = get_peft_model(model, config, low_cpu_mem_usage=True)
            merges = hasattr(adapted, "merge_and_unload")
    except Exception as error:  # whatever a malformed file leads to
        reason = f"its adapter_config.json cannot be used ({told(error)})"
        raise UserError(key, str(place), reason, REMEDY) from None
    if not merges:
        reason = f"is an adapter of type {config.peft_type}, which cannot be merged into weights"
        raise UserError(key, str(place), reason, "give a merged model, or a LoRA adapter")
    weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tuple(value.shape) for name, value in weights.items()}, set(adapted.state_dict())


def _found(key: str, place: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights in an adapter's folder, without reading them."""
    from safetensors import safe_open

    file = next((file for name in WEIGHTS if (file := Path(place, name)).is_file()), None)
    if file is None:
        raise UserError(key, str(place), f"is an adapter without weights ({WEIGHTS[0]})", REMEDY)
    try:
        if file.suffix == ".bin":
            held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            return {name: tuple(value.shape) for name, value in held.items()}
        with safe_open(file, "pt") as held:
            return {name: tuple(held.get_slice(name).get_shape()) for name in held.keys()}  # noqa: SIM118
    except Exception as error:  # bytes that are no weights may raise anything
        raise UserError(key, str(place), f"its {file.name} cannot be read ({told(error)})", REMEDY) from None


def check_targets(key: str, targets: list[str], model: Any) -> None:
    """Refuse targets of fresh adapters that name no linear layer of a model; ``key`` is where they stand.

    Raises:
        UserError: one names nothing, another kind of module, or a head that shares its matrix with the embedding.
    """
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    known = sorted({name.rpartition(".")[2] for name in linear})
    remedy = f"use some of {', '.join(known)}, or all-linear"
    if not targets:
        raise UserError(key, targets, "names no layer", remedy)
    for target in targets:
        named = [name for name, _ in model.named_modules() if f".{name}".endswith(f".{target}") and name]
        if not target or not named:
            near = difflib.get_close_matches(target, known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise UserError(key, target, "names no module of the model", hint + remedy)
        if others := [name for name in named if name not in linear]:
            kind = type(model.get_submodule(others[0])).__name__
            raise UserError(key, target, f"{others[0]} is no linear layer but a {kind}", remedy)
        head = model.get_output_embeddings()
        if model.config.tie_word_embeddings and any(model.get_submodule(name) is head for name in named):
            reason = "the head is the embedding's matrix too: merged, the adapter would change both"
            raise UserError(key, target, reason, "leave it out")
