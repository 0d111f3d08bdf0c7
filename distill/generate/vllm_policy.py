"""What vLLM is told of a policy in training: its shape, and in a folder its weights, for a process that is not ours.

Files of the folder ``weights``: ``base.safetensors``, every weight in vLLM's precision; ``adapters.safetensors``, the
adapters' matrices as vLLM computes with them; ``adapter``, the same as peft saves them, which vLLM reads.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from distill.generate.vllm_engine import llm_settings
from distill.generate.vllm_weights import adapter_weights, base_weights, checksum_of, is_adapted
from distill.models import LoadedModel

#: Ranks that vLLM has kernels for; others take the next one's room.
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

Parts = dict[str, dict[str, torch.Tensor]]


def policy_settings(loaded: LoadedModel, place: Path, length: int, on_gpu: bool) -> dict[str, Any]:
    """Settings of ``vllm.LLM`` for a policy's shape with random weights; its config is saved at ``place``."""
    adapted = is_adapted(loaded.model)
    config = deepcopy(loaded.model.config)
    model = loaded.model.get_base_model() if adapted else loaded.model
    config.architectures = [type(model).__name__]
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # it gets them unpacked
    config.save_pretrained(place)
    settings = llm_settings(str(place), config.get_text_config(), length, on_gpu) | {"load_format": "dummy"}
    if adapted:
        rank = loaded.model.peft_config["default"].r
        room = next(known for known in LORA_RANKS if known >= rank)
        settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}
    return settings


@torch.no_grad()
def parts_of(model: Any, dtype: torch.dtype, base: bool) -> Parts:
    """A policy's weights on the host, by file; ``base``: those under adapters too, rounded to ``dtype``."""
    parts: Parts = {}
    if base or not is_adapted(model):
        parts["base"] = {name: value.to(dtype).cpu().contiguous() for name, value in base_weights(model)}
    if is_adapted(model):
        parts["adapters"] = {name: value.cpu().contiguous() for name, value in adapter_weights(model).items()}
    return parts


def checksum(parts: Parts) -> int:
    """The checksum of these weights in their order."""
    return checksum_of(value for weights in parts.values() for value in weights.values())


def write_weights(model: Any, parts: Parts, folder: Path) -> None:
    """Write these weights of ``model`` in place of those that lie there."""
    from safetensors.torch import save_file

    for part, weights in parts.items():
        save_file(weights, folder / f"{part}.safetensors")
    if is_adapted(model):
        model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
