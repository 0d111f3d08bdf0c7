"""Models as the toolkit uses them: find or build, load, adapt, save as ordinary transformers folders.

`path` may be a folder or a hub name. A model that a stage makes is a folder of the run.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

import distill.training.attention
from distill.chat import ChatFormat, ThoughtTags
from distill.device import Device
from distill.errors import UserError
from distill.lengths import context_of
from distill.models.adapters import check_adapter, check_targets, meta_model, told
from distill.models.vocabulary import (
    as_reloaded,
    base_of_adapter,
    config_of,
    first_line,
    load_tokenizer,
    why_not,
)
from distill.recipe import GrpoStage, SftStage
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
    base, config = _described(key, place, ours=True)
    tokenizer = load_tokenizer(name, given)
    _check_vocabulary(name, config, tokenizer)
    stop_ids = _stop_ids(key, base or place, config)
    chat = ChatFormat(name, tokenizer, tags_of(source.think), source.think.prefill, stop_ids)
    _change_context(config, source)
    dtype = dtype or device.compute_dtype
    model = (
        _empty(config, dtype)
        if empty
        else _with_weights(key, place, base, config, dtype, device if four_bit else None)
    )
    return LoadedModel(name, model if four_bit or empty or on_host else model.to(device.kind), chat)


def _generation_config(key: str, place: str | Path, config: Any) -> Any:
    try:
        return GenerationConfig.from_pretrained(place)
    except OSError:  # it has none, and transformers takes its settings from the model's own
        return GenerationConfig.from_model_config(config)
    except Exception as error:  # values of a wrong type may raise anything
        reason = f"its generation_config.json cannot be used ({told(error)})"
        raise UserError(key, str(place), reason, "mend it, or remove it") from None


def _stop_ids(key: str, place: str | Path, config: Any) -> tuple[int, ...]:
    """The tokens at which generation with a model stops, as its folder says."""
    stop = _generation_config(key, place, config).eos_token_id
    stops = tuple(stop) if isinstance(stop, list) else (stop,) if stop is not None else ()
    for one in stops:
        if isinstance(one, bool) or not isinstance(one, int):
            reason = f"its eos_token_id {one!r} is no number of a token"
            raise UserError(key, str(place), reason, "mend its generation_config.json and config.json")
    return stops


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
        model, loading = AutoModelForCausalLM.from_pretrained(
            base or place,
            config=config,
            dtype=dtype,
            attn_implementation=distill.training.attention.NAME,
            output_loading_info=True,
            **settings,
        )
        if missing := loading["missing_keys"]:  # transformers would fill these with random numbers
            raise ValueError(f"{len(missing)} are missing, {min(missing)} first")
        # It would leave these out: layers that config.json does not count, scales of quantised weights.
        if further := {
            name for name in loading["unexpected_keys"] if not name.endswith("rotary_emb.inv_freq")
        }:
            raise ValueError(
                f"{len(further)} have no place in what config.json describes, {min(further)} first"
            )
        if base:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, place).merge_and_unload()
            model.name_or_path = str(place)  # what further adapters stand on, not the model below this one
    except (
        OSError,
        ValueError,
        RuntimeError,
        SafetensorError,
        TypeError,
        LookupError,
        AttributeError,
    ) as error:
        raise UserError(
            key,
            str(place),
            f"its weights cannot be loaded ({first_line(error)})",
            "give a folder or hub name with safetensors weights",
        ) from None
    return model


def _nf4(key: str, place: str | Path, device: Device) -> transformers.BitsAndBytesConfig:
    if base_of_adapter(key, place):
        _refuse_adapter(key, place)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=device.compute_dtype,
    )


def _refuse_adapter(key: str, place: object) -> NoReturn:
    """Say that four-bit weights take no adapter in."""
    remedy = "merge it first, or train on the model that it adapts"
    raise UserError(key, str(place), "is an adapter, which cannot be merged into four-bit weights", remedy)


#: Architectures whose packed log-probabilities were compared with transformers' own. Others may compute something else:
#: ALiBi, state-space layers and other attention classes never ask for ours, or ask with what it does not know.
ARCHITECTURES = ("llama", "qwen2", "qwen3")


def _check_architecture(key: str, place: str | Path, config: Any) -> None:
    if config.model_type not in ARCHITECTURES:
        reason = f"is a {config.model_type} model, whose attention over packed rows is not known to be right"
        raise UserError(key, str(place), reason, f"use one of {', '.join(ARCHITECTURES)}")
    layers = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if layers and (getattr(config, "sliding_window", None) or layers != {"sliding_attention"}):
        window = (
            "it attends through a sliding window" if "sliding_attention" in layers else f"has {min(layers)}"
        )
        reason = f"{window}, which packed rows do not support"
        raise UserError(key, str(place), reason, "use a model with full attention")
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "longrope":
        # transformers takes one set of frequencies for all of a batch, by its longest row.
        reason = "its rope_type `longrope` turns short texts in another way when a longer one is beside them"
        raise UserError(
            key, str(place), reason, "use a model whose positions do not depend on the longest text"
        )
    if getattr(config, "quantization_config", None):
        reason = "its weights are quantised, and neither trained nor merged as they are"
        raise UserError(
            key, str(place), reason, "use the model in bf16 or float32; `method: qlora` quantises it"
        )


def _described(key: str, place: str | Path, *, ours: bool) -> tuple[str | None, Any]:
    """The base of an adapter (None: the place holds a whole model), and the config of what is loaded first.

    Raises:
        UserError: there is none; or it is ``ours`` to run and describes nothing that our attention serves, or an
            adapter that is not its base's.
    """
    base = base_of_adapter(key, place)
    config = _load_config(key, base or place)
    if ours:
        _check_architecture(key, place, config)
        if base:
            check_adapter(key, place, base, config)
        else:
            meta_model(key, place, config)
    return base, config


def _change_context(config: Any, source: ModelSource) -> None:
    if source.max_length:
        config.max_position_embeddings = source.max_length
    if source.rope_theta:
        config.rope_parameters = {**config.rope_parameters, "rope_theta": source.rope_theta}


def preview(name: str, source: ModelSource, *, ours: bool = True) -> Preview:
    """Refuse, before anything is written, a model whose tokenizer or config cannot serve; tell what is known of it.

    Args:
        ours: this process's torch will run it, so its architecture has to be a known one.

    Raises:
        UserError: no config, no tokenizer, no EOS or no chat template at that place.
    """
    context = source.build.max_length if source.build is not None else source.max_length
    stop_ids: tuple[int, ...] = ()
    if source.path is not None:
        key = f"models.{name}.path"
        base, config = _described(key, source.path, ours=ours)
        context = context or context_of(config)
        stop_ids = _stop_ids(key, base or source.path, config)
    tokenizer = load_tokenizer(name, source)
    if source.path is not None:
        _check_vocabulary(name, config, tokenizer)
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
    return sum(parameter.numel() for parameter in meta_model(key, place, config).parameters())


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
    except Exception as error:  # values of a wrong type in it may raise anything
        raise UserError(
            key,
            str(place),
            f"no model can be loaded from it ({why_not(place, error)})",
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


def check_lora(stage: SftStage | GrpoStage, name: str, source: ModelSource, *, made: bool) -> None:
    """Refuse, before anything is written, adapters that the model of a training stage cannot take.

    Args:
        stage: says the method and the targets.
        name: the recipe's entry ``source`` that the stage's model is, or (``made``) descends from.

    Raises:
        UserError: a target names no linear layer, the rank is more than the model's width, or the base of four-bit
            weights is an adapter.
    """
    key = f"models.{name}.path"
    base = base_of_adapter(key, source.path) if source.path else None
    if stage.method == "qlora" and base and not made:
        _refuse_adapter(key, source.path)
    if stage.method == "full" or stage.lora is None:
        return
    if source.build is not None:
        config = config_of(source.build, load_tokenizer(name, source))
    else:
        assert source.path is not None
        config = _load_config(key, base or source.path)
    stage.lora.check_rank(f"stages.{stage.name}.lora.rank", getattr(config, "hidden_size", None))
    if stage.lora.targets == "all-linear":
        return
    check_targets(f"stages.{stage.name}.lora.targets", stage.lora.targets, meta_model(key, name, config))


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
