"""vLLM in processes of its own, on GPUs of its own, as the sampler of a policy in training; proved before each rollout.

The policy is written into a folder, and each copy reads it in place of what it held. Then

    looked for   a copy looks for every weight of the folder in its own memory: it has to be there bit for bit
    checksum     the copy's, of what it has found so, has to be the trainer's, of what it holds itself at that moment
    probe        log-probabilities of completions that the copies draw are the trainer's (`probe`)

So an old folder is seen, a part of one, and weights that were read and not used. What `synced` says of each holds here.
"""

from __future__ import annotations

import threading
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from distill.device import Device
from distill.errors import RunFailed
from distill.generate.probe import probe
from distill.generate.vllm_copies import gpus_here
from distill.generate.vllm_engine import VllmEngine, check_vllm
from distill.generate.vllm_policy import checksum, parts_of, policy_settings, write_weights
from distill.models import LoadedModel, context_of
from distill.recipe_parts import PolicyVllm

#: Seconds after which a thread that waits for copies looks whether it is still wanted.
_LOOK_EVERY = 0.2


class ApartEngine(VllmEngine):
    """Generates with a policy that this process trains, as it was at the last `sync`; in any thread.

    Args:
        loaded: the policy; its weights are read at each `sync`.
        device: where it is trained.
        settings: copies, the share of their GPUs' memory, and the longest row.
        temperature: that of the rollouts, and of the probe.
        folder: where weights are left for the copies.

    Raises:
        UserError: vLLM is not installed, or the trainer leaves too few GPUs.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        device: Device,
        settings: PolicyVllm,
        temperature: float,
        folder: Path,
    ) -> None:
        check_vllm("engine", settings, others=1)
        config = folder / "model"
        policy_settings(loaded, config, 1, False)
        context = context_of(loaded.model.config.get_text_config())
        super().__init__(loaded.name, config, loaded.chat, settings, context=context)
        self.loaded, self.device, self.temperature = loaded, device, temperature
        self.folder, self.length = folder, self._most
        self._stopped = threading.Event()

    # ------------------------------------------------------------------------------------------ weights

    def sync(self, version: int) -> dict[str, Any]:
        """Take the policy's weights as they are now, after ``version`` updates, and prove it; tells what was measured.

        Nothing may be generating, and the policy may not be changing.

        Raises:
            RunFailed: vLLM cannot be loaded, or does not hold or use these weights.
        """
        began = time.monotonic()
        first = not self._copies
        if first:
            self._start(self._most)
        parts = parts_of(self.loaded.model, torch.bfloat16 if self._gpus() else torch.float32, first)
        write_weights(self.loaded.model, parts, self.folder)
        names = {part: list(weights) for part, weights in parts.items()}
        for copy in self._copies:
            self._send(copy, ("take", (str(self.folder), names)))
        expected = checksum(parts)
        for copy in self._copies:
            _, (wrong, held) = self._receive(copy)
            if wrong:
                reason = f"vLLM does not hold the weights of update {version}"
                raise RunFailed(f"{reason}: {len(wrong)} of them differ or are not there, {wrong[0]} first")
            if held != expected:
                reason = f"vLLM holds other weights than those of update {version}"
                raise RunFailed(f"{reason}: their checksum is {held}, the trainer's {expected}")
        self.policy_version = version
        changing = "adapters" if "adapters" in parts else "base"
        return {
            "weights_checksum": checksum({changing: parts[changing]}),
            "probe_difference": probe(self, self.loaded, self.device, self.temperature, self.length),
            "seconds_sync": time.monotonic() - began,
        }

    def rest(self) -> None:
        """Nothing to give back: its memory is its own."""

    def stop(self) -> None:
        """End what is being generated, wherever it is; it fails there."""
        self._stopped.set()

    # ------------------------------------------------------------------------------------------ processes

    def _gpus(self) -> list[str]:
        return gpus_here()[1:]  # the first is the trainer's

    def _shape(self, length: int, on_gpu: bool) -> dict[str, Any]:
        return policy_settings(self.loaded, Path(self.place), length, on_gpu)

    def _hear(self) -> list[tuple[int, list[int], list[float], str | None]]:
        while True:
            if self._stopped.is_set():
                raise RunFailed("the sampler was stopped")
            if wait([copy.channel for copy in self._copies], _LOOK_EVERY):
                return super()._hear()
