"""The reference model of the KL term: a frozen copy of the policy as it was, or the policy without its adapters.

Low-rank adapters need no second model: at first the reference is the model with the adapters switched off, and once it
has moved, the same model with a copy of the adapters as they were then. Where several processes hold the policy in
shards, the copy is cut as the policy is, and each keeps its shards of the adapters.

Legend: N trained tokens of a packed row.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from distill.device import Device
from distill.training.logprobs import token_logprobs
from distill.training.packing import PackedRow
from distill.training.world import ALONE, World, cut_again, local, spread


class Reference:
    """Log-probabilities under what the policy was.

    Args:
        model: the policy, as it is now, before it is spread; it goes on to change.
        adapters: it is trained through low-rank adapters alone.
        device: where a copy computes.
        world: the processes that train the policy; all ask at the same times.
    """

    def __init__(self, model: Any, adapters: bool, device: Device, world: World = ALONE) -> None:
        self._policy = model
        self._copy = None
        if not adapters:
            frozen = copy.deepcopy(model).eval().requires_grad_(False)
            self._copy = spread(frozen, world, device) if world.sharded else frozen
        self._kept: dict[str, torch.Tensor] | None = None  # the adapters as they were, once it has moved
        self._moved = False

    @torch.no_grad()
    def logprobs(self, row: PackedRow, temperature: float) -> torch.Tensor:
        """log p of the row's N trained tokens, in float32."""
        if self._copy is not None:
            found = token_logprobs(self._copy, row, temperature)
            cut_again(self._copy)
            return found
        training = self._policy.training
        self._policy.eval()
        try:
            with self._as_it_was():
                return token_logprobs(self._policy, row, temperature)
        finally:
            cut_again(self._policy)
            self._policy.train(training)

    @torch.no_grad()
    def move(self, mix: float) -> None:
        """Become the policy (``mix`` 1), or go that share of the way; adapters can only be replaced."""
        self._moved = True
        cut_again(self._policy)
        if self._copy is None:
            assert mix == 1, (
                "an average of adapters is no average of models: the recipe's check lets none through"
            )
            self._kept = {name: value.clone() for name, value in self._trained()}
            return
        for one, other in zip(self._copy.parameters(), self._policy.parameters(), strict=True):
            ours, theirs = local(one), local(other.detach())
            ours.copy_(theirs) if mix == 1 else ours.lerp_(theirs.to(ours.dtype), mix)

    def state(self) -> dict[str, torch.Tensor] | None:
        """What this process's checkpoint needs: None while it is where it began."""
        if not self._moved:
            return None
        if self._copy is None:
            return self._kept
        return {name: local(one.detach()) for name, one in self._copy.named_parameters()}

    @torch.no_grad()
    def restore(self, state: dict[str, torch.Tensor] | None) -> None:
        """Back to `state`."""
        self._moved = state is not None
        if self._copy is None:
            self._kept = state
        elif state is not None:
            for name, one in self._copy.named_parameters():
                local(one).copy_(state[name])

    def _trained(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What this process holds of the adapters."""
        named = self._policy.named_parameters()
        return ((name, local(one.detach())) for name, one in named if one.requires_grad)

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """The policy with its adapters switched off, or with those that were kept in their place."""
        if self._kept is None:
            with self._policy.disable_adapter():
                yield
            return
        cut_again(self._policy)
        now = {name: one.clone() for name, one in self._trained()}
        try:
            for name, one in self._trained():  # into their memory: shards are gathered from there
                one.copy_(self._kept[name])
            yield
        finally:
            cut_again(self._policy)
            for name, one in self._trained():
                one.copy_(now[name])
