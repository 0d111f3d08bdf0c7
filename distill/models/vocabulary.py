"""Tokenizers of models: found, given their template, and read as transformers will read them again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer

from distill.errors import UserError
from distill.recipe_parts import Architecture, ModelSource


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
        place = base_of_adapter(key, place)  # peft alone saves no tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
    except Exception as error:  # values of a wrong type in its files may raise anything
        raise UserError(
            key,
            place,
            f"no tokenizer can be loaded from it ({why_not(place, error)})",
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
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "is no UTF-8 text"
            raise UserError(
                f"models.{name}.chat_template",
                source.chat_template,
                f"cannot be read: {why}",
                "give a Jinja file",
            ) from None
    return tokenizer


#: Words, digits, blanks, code, another script and an emoji: where ways of splitting a text differ.
_PROBE = "Let 3.14159 x 12345678 = \\frac{1}{2}, don't I'LL.\n\n  def f(x):\n\treturn x**2  # \u5148\u52a0 \U0001f600"


def as_reloaded(name: str, build: Architecture, tokenizer: Any) -> Any:
    """The tokenizer as transformers will load it beside a model of this architecture.

    It picks the class by the architecture, and that class may split texts its own way or add a token.

    Raises:
        UserError: the same text would get other ids.
    """
    with tempfile.TemporaryDirectory() as folder:
        config_of(build, tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        reloaded = AutoTokenizer.from_pretrained(folder)
    probe = _PROBE + (tokenizer.eos_token or "")
    if reloaded.encode(probe, add_special_tokens=False) != tokenizer.encode(probe, add_special_tokens=False):
        reason = f"beside a {build.architecture} model, transformers reads texts into other tokens with it"
        remedy = "choose the architecture that the tokenizer belongs to, or `architecture: llama`"
        raise UserError(f"models.{name}.tokenizer", None, reason, remedy)
    return reloaded


def config_of(build: Architecture, tokenizer: Any) -> Any:
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


def base_of_adapter(key: str, place: str | Path) -> str | None:
    """The model that a PEFT folder adapts, as the folder names it; None for a folder with weights of its own."""
    file = Path(place, "adapter_config.json")
    if not file.is_file():
        return None
    remedy = "write base_model_name_or_path into its adapter_config.json, or merge it"
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        reason = f"is an adapter whose adapter_config.json is no JSON ({first_line(error)})"
        raise UserError(key, str(place), reason, "give the folder as it was saved") from None
    base = told.get("base_model_name_or_path") if isinstance(told, dict) else None
    if not isinstance(base, str) or not base:
        raise UserError(key, str(place), "is an adapter that does not say of which model", remedy)
    return base


def why_not(place: str | Path | None, error: BaseException) -> str:
    """What an error of transformers means: it takes a folder that is not there for a hub's name, and finds that odd."""
    text = str(place)
    is_folder = text.startswith((".", "/", "~")) or text.count("/") > 1
    return "there is no such folder" if is_folder and not Path(text).exists() else first_line(error)


def first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
