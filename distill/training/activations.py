"""Activations that are not kept: computed again in the backward pass, and what that needs kept on the host.

Legend: T tokens of a packed row, H hidden size.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch.autograd.graph import saved_tensors_hooks

SMALLEST_TO_MOVE = 1 << 16  # bytes; smaller ones cost more in waiting than they free


def recompute(model: Any) -> None:
    """Have each layer keep its input alone, T x H numbers, and compute the rest again (Chen et al. 2016)."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def keeping(where: Literal["keep", "recompute", "offload"]) -> AbstractContextManager[None]:
    """Around a forward pass: with ``offload``, what autograd keeps waits in the host's memory."""
    return saved_tensors_hooks(_to_host, _back) if where == "offload" else nullcontext()


def _to_host(tensor: torch.Tensor) -> torch.Tensor | tuple[torch.device, torch.Tensor]:
    owner = tensor if tensor._base is None else tensor._base
    if owner.is_leaf or tensor.untyped_storage().nbytes() < SMALLEST_TO_MOVE:  # a weight stays where it is
        return tensor
    pinned = tensor.device.type == "cuda"
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
    host.copy_(tensor, non_blocking=pinned)
    return tensor.device, host


def _back(kept: torch.Tensor | tuple[torch.device, torch.Tensor]) -> torch.Tensor:
    if isinstance(kept, torch.Tensor):
        return kept
    device, host = kept
    return host.to(device, non_blocking=True)
