"""Models as the toolkit uses them: find or build, load, adapt, save as ordinary transformers folders.

`path` may be a folder or a hub name. A model that a stage makes is a folder of the run.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

import distill.training.attention
from distill.chat import ChatFormat, ThoughtTags
from distill.device import Device
from distill.errors import UserError
from distill.models.vocabulary import as_reloaded, base_of_adapter, first_line, load_tokenizer
from distill.recipe_parts import Lora, ModelSource, Thought

# It says at import that a CPU kernel of its own is not there.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model with its chat format."""

    name: str
    model: Any
    chat: ChatFormat

    @property
    def parameters(self) -> int:
        """How many weights it has, tied ones once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


@dataclass(frozen=True, slots=True)
class Preview:
    """What can be known of a model before its weights are loaded; ``context`` counts tokens."""

    chat: ChatFormat
    context: int


def tags_of(think: Thought) -> ThoughtTags:
    """A recipe's tags as chat.py wants them."""
    return ThoughtTags(think.open, think.close)


def load(
    name: str,
    place: str | Path,
    source: ModelSource,
    device: Device,
    *,
    dtype: torch.dtype | None = None,
    four_bit: bool = False,
    empty: bool = False,
    on_host: bool = False,
) -> LoadedModel:
    """Load a model with its tokenizer onto the device.

    Args:
        name: what the recipe calls it.
        place: folder or hub name.
        source: the recipe's entry of the model it descends from (tags, template, context changes).
        dtype: of the weights; None is the device's compute dtype.
        four_bit: keep the linear layers' weights in NF4, their scales quantised too (QLoRA, Dettmers et al. 2023).
        empty: shapes alone, on no device; another process brings the weights.
        on_host: leave the weights in the host's memory: they are to be cut among devices, or only to be saved, and one
            device might not hold them whole.

    Raises:
        UserError: no model, tokenizer, EOS or chat template is there, or the architecture is beyond our attention.
    """
    key = f"models.{name}.path"
    given = source if source.path else source.model_copy(update={"tokenizer": str(place)})
    base = base_of_adapter(key, place)
    config = _load_config(key, base or place)
    tokenizer = load_tokenizer(name, given)
    _check_vocabulary(name, config, tokenizer)
    _check_architecture(key, place, config)
    _change_context(config, source)
    if getattr(config, "sliding_window", None) and "sliding_attention" in getattr(config, "layer_types", []):
        raise UserError(
            key,
            str(place),
            "it attends through a sliding window, which packed rows do not support",
            "use a model with full attention",
        )
    dtype = dtype or device.compute_dtype
    model = (
        _empty(config, dtype)
        if empty
        else _with_weights(key, place, base, config, dtype, device if four_bit else None)
    )
    stop_ids = _stop_ids(_generation_config(base or place, config))
    chat = ChatFormat(name, tokenizer, tags_of(source.think), source.think.prefill, stop_ids)
    return LoadedModel(name, model if four_bit or empty or on_host else model.to(device.kind), chat)


def _generation_config(place: str | Path, config: Any) -> Any:
    try:
        return GenerationConfig.from_pretrained(place)
    except OSError:  # it has none, and transformers takes its settings from the model's own
        return GenerationConfig.from_model_config(config)


def _stop_ids(generation: Any) -> tuple[int, ...]:
    stop = generation.eos_token_id
    return tuple(stop) if isinstance(stop, list) else (stop,) if stop is not None else ()


def _empty(config: Any, dtype: torch.dtype) -> Any:
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=distill.training.attention.NAME
        )


def _with_weights(
    key: str, place: str | Path, base: str | None, config: Any, dtype: torch.dtype, nf4_on: Device | None
) -> Any:
    settings = (
        {"quantization_config": _nf4(key, place, nf4_on), "device_map": {"": nf4_on.kind}} if nf4_on else {}
    )
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            base or place,
            config=config,
            dtype=dtype,
            attn_implementation=distill.training.attention.NAME,
            output_loading_info=True,
            **settings,
        )
        if told["missing_keys"]:  # transformers would fill these with random numbers
            raise ValueError(f"{len(told['missing_keys'])} are missing, {min(told['missing_keys'])} first")
        if base:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, place).merge_and_unload()
            model.name_or_path = str(place)  # what further adapters stand on, not the model below this one
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            key,
            str(place),
            f"its weights cannot be loaded ({first_line(error)})",
            "give a folder or hub name with safetensors weights",
        ) from None
    return model


def _nf4(key: str, place: str | Path, device: Device) -> transformers.BitsAndBytesConfig:
    if base_of_adapter(key, place):
        remedy = "merge it first, or train on the model that it adapts"
        raise UserError(
            key, str(place), "is an adapter, which cannot be merged into four-bit weights", remedy
        )
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=device.compute_dtype,
    )


#: Architectures whose packed log-probabilities were compared with transformers' own. Others may compute something else:
#: ALiBi, state-space layers and other attention classes never ask for ours, or ask with what it does not know.
ARCHITECTURES = ("llama", "qwen2", "qwen3")


def _check_architecture(key: str, place: str | Path, config: Any) -> None:
    if config.model_type not in ARCHITECTURES:
        reason = f"is a {config.model_type} model, whose attention over packed rows is not known to be right"
        raise UserError(key, str(place), reason, f"use one of {', '.join(ARCHITECTURES)}")


def _change_context(config: Any, source: ModelSource) -> None:
    if source.max_length:
        config.max_position_embeddings = source.max_length
    if source.rope_theta:
        config.rope_parameters = {**config.rope_parameters, "rope_theta": source.rope_theta}


def context_of(config: Any) -> int:
    """How many tokens a model reads. Rope scaling may go beyond the positions of pre-training, which some configs state
    (Qwen2.5 with YaRN) and others (Llama 3.1) do not."""
    rope = getattr(config, "rope_parameters", None) or {}
    stretched = rope.get("factor", 1) * rope.get("original_max_position_embeddings", 0)
    return max(int(config.max_position_embeddings), int(stretched))


def preview(name: str, source: ModelSource, *, ours: bool = True) -> Preview:
    """Refuse, before anything is written, a model whose tokenizer or config cannot serve; tell what is known of it.

    Args:
        ours: this process's torch will run it, so its architecture has to be a known one.

    Raises:
        UserError: no config, no tokenizer, no EOS or no chat template at that place.
    """
    tokenizer = load_tokenizer(name, source)
    context = source.build.max_length if source.build is not None else source.max_length
    stop_ids: tuple[int, ...] = ()
    if source.path is not None:
        key = f"models.{name}.path"
        place = base_of_adapter(key, source.path) or source.path
        config = _load_config(key, place)
        if ours:
            _check_architecture(key, source.path, config)
        _check_vocabulary(name, config, tokenizer)
        context = context or context_of(config)
        stop_ids = _stop_ids(_generation_config(place, config))
    if source.build is not None:
        tokenizer = as_reloaded(name, source.build, tokenizer)
    assert context is not None, (
        f"models.{name} has neither path nor build: the recipe's check lets none through"
    )
    chat = ChatFormat(name, tokenizer, tags_of(source.think), source.think.prefill, stop_ids)
    return Preview(chat, context)


def as_made(source: ModelSource, place: str | Path) -> ModelSource:
    """The source of a model at ``place`` that descends from ``source``, for `preview`: what `load` makes of the two."""
    tokenizer = str(place) if source.path is None else source.tokenizer or source.path
    return source.model_copy(update={"path": str(place), "build": None, "tokenizer": tokenizer})


def count_parameters(name: str, place: str | Path) -> int:
    """How many weights a model has, tied ones once, from its config alone.

    Raises:
        UserError: no config is at its place.
    """
    key = f"models.{name}.path"
    config = _load_config(key, base_of_adapter(key, place) or place)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def _check_vocabulary(name: str, config: Any, tokenizer: Any) -> None:
    if len(tokenizer) > config.get_text_config().vocab_size:
        raise UserError(
            f"models.{name}",
            None,
            f"its tokenizer has {len(tokenizer)} tokens, the model only {config.get_text_config().vocab_size}",
            "give the tokenizer the model was made with",
        )


def _load_config(key: str, place: str | Path) -> Any:
    try:
        return AutoConfig.from_pretrained(place)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            key,
            str(place),
            f"no model can be loaded from it ({first_line(error)})",
            "give a folder or hub name that holds config.json and weights",
        ) from None


def width(name: str, source: ModelSource) -> int:
    """The hidden size of a model that is there or will be built.

    Raises:
        UserError: no config is at its place.
    """
    if source.build is not None:
        return source.build.hidden
    assert source.path is not None
    key = f"models.{name}.path"
    config = _load_config(key, base_of_adapter(key, source.path) or source.path)
    return int(config.get_text_config().hidden_size)


def with_lora(loaded: LoadedModel, lora: Lora | None, seed: int) -> LoadedModel:
    """The model with fresh low-rank adapters as its only trainable weights (None: the default adapters)."""
    lora = lora or Lora()
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        task_type="CAUSAL_LM",
    )
    return LoadedModel(loaded.name, get_peft_model(loaded.model, config), loaded.chat)


def take_over(loaded: LoadedModel, weights: dict[str, torch.Tensor]) -> None:
    """Give a model, loaded as the trained one was, the weights that others have trained."""
    told = loaded.model.load_state_dict(weights, strict=False)
    assert not told.unexpected_keys, f"weights of another model: {told.unexpected_keys[:3]}"
