"""Models as folders: built at random, and saved as plain transformers folders."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from distill.chat import ChatFormat
from distill.models.loading import LoadedModel, tags_of
from distill.models.vocabulary import as_reloaded, config_of, load_tokenizer
from distill.recipe_parts import ModelSource
from distill.runs import ADAPTER


def build_folder(name: str, source: ModelSource, folder: Path, seed: int) -> None:
    """Build a random model of the given architecture and save it with its tokenizer as a transformers folder."""
    assert source.build is not None
    tokenizer = as_reloaded(name, source.build, load_tokenizer(name, source))
    chat = ChatFormat(name, tokenizer, tags_of(source.think))  # refuses what cannot be trained
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_of(source.build, tokenizer))
    save(LoadedModel(name, model, chat), folder)


def save(loaded: LoadedModel, folder: Path, texts: Mapping[str, str] | None = None) -> None:
    """Save as an ordinary transformers folder; it appears whole or not at all.

    Low-rank adapters are merged into its weights and also kept as they are, in ``adapter/``.

    Args:
        texts: files that appear with it (its card), by their path in the folder.

    Raises:
        OSError: the disk is full, ...; a folder that was there before still is.
    """
    waiting = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(waiting, ignore_errors=True)
    try:
        waiting.mkdir(parents=True)
        model = _merged(loaded.model, waiting / ADAPTER)
        if model.can_generate():  # a reward model does not
            _set_generation_defaults(model, loaded.chat)
        model.save_pretrained(waiting)
        loaded.chat.tokenizer.save_pretrained(waiting)
        for place, text in (texts or {}).items():
            (waiting / place).parent.mkdir(exist_ok=True)
            (waiting / place).write_text(text, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        waiting.replace(folder)
    except Exception as error:
        # Libraries written in Rust hide the system's error in their text; tokenizers' has no class of its own.
        hidden = re.search(r"\(os error (\d+)\)", str(error))
        if isinstance(error, OSError) or not (hidden or isinstance(error, SafetensorError)):
            raise
        raise OSError(int(hidden[1]) if hidden else errno.EIO, f"{folder}: {error}") from error
    finally:
        shutil.rmtree(waiting, ignore_errors=True)  # half a model would keep a full disk full


def _merged(model: Any, adapter: Path) -> Any:
    """The model with its adapters merged into its weights; before that they are saved in a folder of their own."""
    if not hasattr(model, "merge_and_unload"):
        return model
    # The base's embeddings are never trained with the adapters. To find out, peft would ask the hub.
    model.save_pretrained(adapter, save_embedding_layers=False)
    (adapter / "README.md").unlink(missing_ok=True)  # peft's form, with nothing filled in
    return model.merge_and_unload()


def _set_generation_defaults(model: Any, chat: ChatFormat) -> None:
    defaults = model.generation_config
    if any(getattr(defaults, name, None) is not None for name in ("temperature", "top_p", "top_k", "min_p")):
        defaults.do_sample = True  # transformers refuses to save sampling settings beside greedy decoding
    defaults.eos_token_id = sorted(chat.stop_ids)
    defaults.pad_token_id = chat.tokenizer.pad_token_id
