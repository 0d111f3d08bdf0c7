"""Models as the toolkit uses them: find or build, load, adapt, save as ordinary transformers folders.

`path` may be a folder or a hub name. A model that a stage makes is a folder of the run.
"""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import distill.training.attention
from distill.chat import ChatFormat, ThoughtTags
from distill.device import Device
from distill.errors import UserError
from distill.recipe_parts import Architecture, Lora, ModelSource, Thought

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


def load_tokenizer(name: str, source: ModelSource) -> Any:
    """The model's tokenizer, with the recipe's chat template where it brings one.

    Raises:
        UserError: there is none at that place, or the template file cannot be read.
    """
    if source.tokenizer == "world":
        from distill.world_tokenizer import build_tokenizer

        return _with_template(name, source, build_tokenizer())
    place = source.tokenizer or source.path
    key = f"models.{name}.{'tokenizer' if source.tokenizer else 'path'}"
    if (
        place
        and Path(place, "adapter_config.json").is_file()
        and not Path(place, "tokenizer_config.json").is_file()
    ):
        place = _base_of_adapter(key, place)  # peft alone saves no tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            key,
            place,
            f"no tokenizer can be loaded from it ({_first_line(error)})",
            "give a folder or hub name that holds tokenizer.json",
        ) from None
    # Where a folder has no tokenizer, transformers makes one up from the special tokens alone.
    if tokenizer.vocab_size <= len(tokenizer.all_special_tokens):
        raise UserError(
            key,
            place,
            "no tokenizer can be loaded from it (there is no vocabulary)",
            "give a folder or hub name that holds tokenizer.json",
        )
    return _with_template(name, source, tokenizer)


def _with_template(name: str, source: ModelSource, tokenizer: Any) -> Any:
    if source.chat_template:
        try:
            tokenizer.chat_template = Path(source.chat_template).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"models.{name}.chat_template",
                source.chat_template,
                f"cannot be read: {error.strerror}",
                "give a Jinja file",
            ) from None
    return tokenizer


def build_folder(name: str, source: ModelSource, folder: Path, seed: int) -> None:
    """Build a random model of the given architecture and save it with its tokenizer as a transformers folder."""
    assert source.build is not None
    tokenizer = _as_reloaded(name, source.build, load_tokenizer(name, source))
    chat = ChatFormat(name, tokenizer, tags_of(source.think))  # refuses what cannot be trained
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(source.build, tokenizer))
    save(LoadedModel(name, model, chat), folder)


#: Words, digits, blanks, code, another script and an emoji: where ways of splitting a text differ.
_PROBE = "Let 3.14159 x 12345678 = \\frac{1}{2}, don't I'LL.\n\n  def f(x):\n\treturn x**2  # \u5148\u52a0 \U0001f600"


def _as_reloaded(name: str, build: Architecture, tokenizer: Any) -> Any:
    """The tokenizer as transformers will load it beside a model of this architecture.

    It picks the class by the architecture, and that class may split texts its own way or add a token.

    Raises:
        UserError: the same text would get other ids.
    """
    with tempfile.TemporaryDirectory() as folder:
        _config(build, tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        reloaded = AutoTokenizer.from_pretrained(folder)
    probe = _PROBE + (tokenizer.eos_token or "")
    if reloaded.encode(probe, add_special_tokens=False) != tokenizer.encode(probe, add_special_tokens=False):
        reason = f"beside a {build.architecture} model, transformers reads texts into other tokens with it"
        remedy = "choose the architecture that the tokenizer belongs to, or `architecture: llama`"
        raise UserError(f"models.{name}.tokenizer", None, reason, remedy)
    return reloaded


def _config(build: Architecture, tokenizer: Any) -> Any:
    kinds = {"qwen2": transformers.Qwen2Config, "llama": transformers.LlamaConfig}
    return kinds[build.architecture](
        vocab_size=len(tokenizer),
        hidden_size=build.hidden,
        num_hidden_layers=build.layers,
        num_attention_heads=build.heads,
        num_key_value_heads=build.kv_heads or build.heads,
        intermediate_size=build.intermediate or 4 * build.hidden,
        max_position_embeddings=build.max_length,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        # 0.02 suits hidden sizes in the thousands; small models learn several times faster from wider weights.
        initializer_range=max(0.02, 0.6 * build.hidden**-0.5),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tags_of(think: Thought) -> ThoughtTags:
    """A recipe's tags as chat.py wants them."""
    return ThoughtTags(think.open, think.close)


def load(
    name: str, place: str | Path, source: ModelSource, device: Device, *, train: bool = False
) -> LoadedModel:
    """Load a model with its tokenizer onto the device.

    Args:
        name: what the recipe calls it.
        place: folder or hub name.
        source: the recipe's entry of the model it descends from (tags, template, context changes).
        train: keep float32 weights; otherwise weights are in the device's compute dtype.

    Raises:
        UserError: no model, tokenizer, EOS or chat template is there, or the architecture is beyond our attention.
    """
    key = f"models.{name}.path"
    given = source if source.path else source.model_copy(update={"tokenizer": str(place)})
    base = _base_of_adapter(key, place)
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
    dtype = torch.float32 if train else device.compute_dtype
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            base or place,
            config=config,
            dtype=dtype,
            attn_implementation=distill.training.attention.NAME,
            output_loading_info=True,
        )
        if told["missing_keys"]:  # transformers would fill these with random numbers
            raise ValueError(f"{len(told['missing_keys'])} are missing, {min(told['missing_keys'])} first")
        if base:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, place).merge_and_unload()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            key,
            str(place),
            f"its weights cannot be loaded ({_first_line(error)})",
            "give a folder or hub name with safetensors weights",
        ) from None
    stop_ids = _stop_ids(model.generation_config)
    chat = ChatFormat(name, tokenizer, tags_of(source.think), source.think.prefill, stop_ids)
    return LoadedModel(name, model.to(device.kind), chat)


def _stop_ids(generation: Any) -> tuple[int, ...]:
    stop = generation.eos_token_id
    return tuple(stop) if isinstance(stop, list) else (stop,) if stop is not None else ()


#: Architectures whose packed log-probabilities were compared with transformers' own. Others may compute something else:
#: ALiBi, state-space layers and other attention classes never ask for ours, or ask with what it does not know.
ARCHITECTURES = ("llama", "qwen2", "qwen3")


def _check_architecture(key: str, place: str | Path, config: Any) -> None:
    if config.model_type not in ARCHITECTURES:
        reason = f"is a {config.model_type} model, whose attention over packed rows is not known to be right"
        raise UserError(key, str(place), reason, f"use one of {', '.join(ARCHITECTURES)}")


def _base_of_adapter(key: str, place: str | Path) -> str | None:
    """The model that a PEFT folder adapts, as the folder names it; None for a folder with weights of its own."""
    file = Path(place, "adapter_config.json")
    if not file.is_file():
        return None
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError):
        base = None
    if not base:
        remedy = "write base_model_name_or_path into its adapter_config.json, or merge it"
        raise UserError(key, str(place), "is an adapter that does not say of which model", remedy)
    return str(base)


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


def preview(name: str, source: ModelSource) -> Preview:
    """Refuse, before anything is written, a model whose tokenizer or config cannot serve; tell what is known of it.

    Raises:
        UserError: no config, no tokenizer, no EOS or no chat template at that place.
    """
    tokenizer = load_tokenizer(name, source)
    context = source.build.max_length if source.build is not None else source.max_length
    stop_ids: tuple[int, ...] = ()
    if source.path is not None:
        key = f"models.{name}.path"
        place = _base_of_adapter(key, source.path) or source.path
        config = _load_config(key, place)
        _check_architecture(key, source.path, config)
        _check_vocabulary(name, config, tokenizer)
        context = context or context_of(config)
        try:
            generation = GenerationConfig.from_pretrained(place)
        except OSError:  # it has none, and transformers takes its settings from the model's own
            generation = GenerationConfig.from_model_config(config)
        stop_ids = _stop_ids(generation)
    if source.build is not None:
        tokenizer = _as_reloaded(name, source.build, tokenizer)
    assert context is not None, (
        f"models.{name} has neither path nor build: the recipe's check lets none through"
    )
    chat = ChatFormat(name, tokenizer, tags_of(source.think), source.think.prefill, stop_ids)
    return Preview(chat, context)


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
            f"no model can be loaded from it ({_first_line(error)})",
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
    config = _load_config(key, _base_of_adapter(key, source.path) or source.path)
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


def save(loaded: LoadedModel, folder: Path) -> None:
    """Save as an ordinary transformers folder, adapters merged; the folder appears whole or not at all.

    Raises:
        OSError: the disk is full, ...; a folder that was there before still is.
    """
    model = loaded.model
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    waiting = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(waiting, ignore_errors=True)
    defaults = model.generation_config
    if any(getattr(defaults, name, None) is not None for name in ("temperature", "top_p", "top_k", "min_p")):
        defaults.do_sample = True  # transformers refuses to save sampling settings beside greedy decoding
    model.generation_config.eos_token_id = sorted(loaded.chat.stop_ids)
    model.generation_config.pad_token_id = loaded.chat.tokenizer.pad_token_id
    try:
        waiting.mkdir(parents=True)
        model.save_pretrained(waiting)
        loaded.chat.tokenizer.save_pretrained(waiting)
        shutil.rmtree(folder, ignore_errors=True)
        waiting.replace(folder)
    except SafetensorError as error:  # it hides the system's error in its text
        full = "os error 28" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, f"{folder}: {error}") from error
    finally:
        shutil.rmtree(waiting, ignore_errors=True)  # half a model would keep a full disk full


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
