"""A copy of a policy in training that samples while the policy changes, and proves that it was brought up to date.

Only what is trained is copied: weights under adapters, which nobody changes, are shared.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from distill.device import Device
from distill.errors import RunFailed
from distill.generate.local import LocalEngine
from distill.generate.vllm_weights import checksum_of
from distill.models import LoadedModel


class FrozenCopy(LocalEngine):
    """Generates with the policy as it was at the last `sync`; in any thread.

    Args:
        loaded: the policy, wherever its training has come to.
        device: where both are.
        max_rows: completions side by side.
    """

    def __init__(self, loaded: LoadedModel, device: Device, max_rows: int) -> None:
        self._policy = loaded.model
        super().__init__(LoadedModel(loaded.name, _copied(self._policy), loaded.chat), device, max_rows)
        self._stopped = threading.Event()

    def sync(self, version: int) -> dict[str, Any]:
        """Take the policy's weights as they are now, after ``version`` updates; tells the checksum of what is held.

        Nothing may be generating, and the policy may not be changing.

        Raises:
            RunFailed: the copy does not hold the policy's weights, bit for bit.
        """
        began = time.monotonic()
        self._take()
        ours = dict(self.loaded.model.named_parameters())
        theirs = dict(self._policy.named_parameters())
        assert ours.keys() == theirs.keys(), "the policy has changed its shape"
        if wrong := [name for name, one in theirs.items() if not torch.equal(ours[name], one)]:
            reason = f"the sampler does not hold the weights of update {version}"
            raise RunFailed(f"{reason}: {len(wrong)} of them differ, {wrong[0]} first")
        self.policy_version = version
        held = (ours[name].detach() for name, one in theirs.items() if one.requires_grad)
        return {"weights_checksum": checksum_of(held), "seconds_sync": time.monotonic() - began}

    @torch.no_grad()
    def _take(self) -> None:
        for held, one in zip(self.loaded.model.parameters(), self._policy.parameters(), strict=True):
            if one.requires_grad:
                held.copy_(one)

    def stop(self) -> None:
        """End what is being generated, wherever it is; it fails there."""
        self._stopped.set()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        if self._stopped.is_set():
            raise RunFailed("the sampler was stopped")
        with super()._computing():
            yield


def _copied(policy: Any) -> Any:
    """A model like this one, with copies of the weights that are trained and the very weights that are not."""
    shared = [one for one in policy.parameters() if not one.requires_grad]
    found = copy.deepcopy(policy, {id(one): one for one in shared})
    found.__dict__.pop("forward", None)  # the trainer's, bound to the policy's own weights
    return found.eval()
