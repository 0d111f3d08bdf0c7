"""The reference model of the KL term: a frozen copy of the policy as it was, or the policy without its adapters.

Low-rank adapters need no second model: at first the reference is the model with the adapters switched off, and once it
has moved, the same model with a copy of the adapters as they were then.

Legend: N trained tokens of a packed row.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from distill.training.logprobs import token_logprobs
from distill.training.packing import PackedRow


class Reference:
    """Log-probabilities under what the policy was.

    Args:
        model: the policy, as it is now; it goes on to change.
        adapters: it is trained through low-rank adapters alone.
    """

    def __init__(self, model: Any, adapters: bool) -> None:
        self._policy, self._adapters = model, adapters
        self._copy = None if adapters else copy.deepcopy(model).eval().requires_grad_(False)
        self._kept: dict[str, torch.Tensor] | None = None  # the adapters as they were, once it has moved
        self._moved = False

    @torch.no_grad()
    def logprobs(self, row: PackedRow, temperature: float) -> torch.Tensor:
        """log p of the row's N trained tokens, in float32."""
        if self._copy is not None:
            return token_logprobs(self._copy, row, temperature)
        training = self._policy.training
        self._policy.eval()
        try:
            with self._as_it_was():
                return token_logprobs(self._policy, row, temperature)
        finally:
            self._policy.train(training)

    @torch.no_grad()
    def move(self, mix: float) -> None:
        """Become the policy (``mix`` 1), or go that share of the way; adapters can only be replaced."""
        self._moved = True
        if self._copy is None:
            assert mix == 1, (
                "an average of adapters is no average of models: the recipe's check lets none through"
            )
            self._kept = {name: value.detach().clone() for name, value in self._trained()}
            return
        for ours, theirs in zip(self._copy.parameters(), self._policy.parameters(), strict=True):
            ours.copy_(theirs) if mix == 1 else ours.lerp_(theirs.to(ours.dtype), mix)

    def state(self) -> dict[str, torch.Tensor] | None:
        """What a checkpoint needs: None while it is where it began."""
        if not self._moved:
            return None
        return self._kept if self._copy is None else self._copy.state_dict()

    def restore(self, state: dict[str, torch.Tensor] | None) -> None:
        """Back to `state`."""
        self._moved = state is not None
        if self._copy is None:
            self._kept = state
        elif state is not None:
            self._copy.load_state_dict(state)

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, one) for name, one in self._policy.named_parameters() if one.requires_grad)

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """The policy with its adapters switched off, or with those that were kept in their place."""
        if self._kept is None:
            with self._policy.disable_adapter():
                yield
            return
        now = {name: one.data for name, one in self._trained()}
        try:
            for name, one in self._trained():
                one.data = self._kept[name].to(one.device)
            yield
        finally:
            for name, one in self._trained():
                one.data = now[name]
