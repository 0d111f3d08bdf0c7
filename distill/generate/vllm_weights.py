"""What a vLLM model holds, against what it was to be given: every weight of a policy, and its adapters, bit for bit.

vLLM keeps some matrices as one (``qkv_proj``: the rows of q, k and v one after the other), pads the vocabulary, and
folds an adapter's scale into its second matrix. Each weight of the policy is looked for where it then has to be.

Legend: r rank of an adapter.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch


class Found(NamedTuple):
    """Names of weights that are not there as they should be, and a checksum of those that a sampler holds."""

    wrong: list[str]
    checksum: int


def is_adapted(model: Any) -> bool:
    """Whether a policy is trained through adapters alone."""
    return hasattr(model, "peft_config")


def base_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """A policy's weights without its adapters, by the names that transformers saves them under; four bits unpacked."""
    bare = model.get_base_model() if is_adapted(model) else model
    for name, parameter in bare.named_parameters():
        if ".lora_" not in name:
            yield name.replace(".base_layer.", "."), _unpacked(parameter)


def _unpacked(parameter: torch.nn.Parameter) -> torch.Tensor:
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.detach()
    from bitsandbytes.functional import dequantize_4bit

    unpacked: torch.Tensor = dequantize_4bit(parameter.data, state)
    return unpacked


def adapter_weights(model: Any) -> dict[str, torch.Tensor]:
    """The adapters' matrices as vLLM computes with them, the scale in the second: ``layers.0.q_proj.lora_A``."""
    from peft import get_peft_model_state_dict

    config = model.peft_config["default"]
    found = {}
    for name, value in get_peft_model_state_dict(model, save_embedding_layers=False).items():
        name = name.removeprefix("base_model.model.").removesuffix(".weight")
        found[name] = value.detach() * (config.lora_alpha / config.r if name.endswith("lora_B") else 1)
    return found


def compare(sampler: Any, weights: Iterable[tuple[str, torch.Tensor]]) -> Found:
    """Look for a policy's weights in vLLM's model; each is rounded to the precision that is held there."""
    held = {
        name.replace(".base_layer.", "."): parameter.detach()
        for name, parameter in sampler.named_parameters()
        if "lora_" not in name
    }
    whole_of = {part: whole for whole, parts in sampler.packed_modules_mapping.items() for part in parts}
    rows: Counter[str] = Counter()  # of each weight there, that have been looked at
    wrong, checksum = [], 0
    for name, value in weights:
        place = name if name in held else _fused(name, whole_of)
        if place not in held:
            wrong.append(name)
            continue
        there = held[place][rows[place] : rows[place] + len(value)]
        rows[place] += len(value)
        if not _same(there, value):
            wrong.append(name)
        checksum = _add(checksum, there)
    return Found(wrong + sorted(held.keys() - rows.keys()), checksum)


def compare_adapters(sampler: Any, adapters: Mapping[str, torch.Tensor]) -> Found:
    """Look for a policy's adapters in the first place of vLLM's layers; layers without one have to hold zeros."""
    left, wrong, checksum = dict(adapters), [], 0
    for name, layer in sampler.named_modules():
        if not hasattr(layer, "lora_a_stacked"):
            continue
        stem, _, module = name.rpartition(".")
        for number, part in enumerate(sampler.packed_modules_mapping.get(module, [module])):
            for side, stacked in (("lora_A", layer.lora_a_stacked), ("lora_B", layer.lora_b_stacked)):
                there = stacked[number][0, 0]
                value = left.pop(f"{stem}.{part}.{side}", None)
                if value is None:
                    same = not there.any()
                else:  # room for a larger rank may follow
                    there = there[: len(value), : value.shape[1]]
                    same = _same(there, value)
                if not same:
                    wrong.append(f"{stem}.{part}.{side}")
                checksum = _add(checksum, there)
    return Found(wrong + sorted(left), checksum)


def _fused(name: str, whole_of: Mapping[str, str]) -> str:
    stem, _, leaf = name.rpartition(".")
    above, _, module = stem.rpartition(".")
    return f"{above}.{whole_of.get(module, module)}.{leaf}"


def _same(there: torch.Tensor, value: torch.Tensor) -> bool:
    return there.shape == value.shape and torch.equal(there, value.to(there.device, there.dtype))


def checksum_of(weights: Iterable[torch.Tensor]) -> int:
    """The checksum of these weights, one after the other."""
    checksum = 0
    for one in weights:
        checksum = _add(checksum, one)
    return checksum


def _add(checksum: int, tensor: torch.Tensor) -> int:
    """CRC-32 over the tensors' hashes (torch's: the exclusive or of their bits)."""
    if not tensor.numel():
        return checksum
    bits = int(torch.hash_tensor(tensor.contiguous()).view(torch.int64))
    return zlib.crc32(bits.to_bytes(8, "little", signed=True), checksum)
