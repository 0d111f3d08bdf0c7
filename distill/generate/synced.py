"""vLLM in this process as the sampler of a policy in training, which proves before each rollout that it is that policy.

A sampler whose weights are old, or partly new, gives sensible answers and ruins a run slowly. So vLLM is loaded with
random weights, from the model's config alone, and gets all that it knows from the trainer: after every rollout's
updates the whole model, or of one trained through adapters the base once and then the adapters alone. Each time

    read back   every weight is looked for in vLLM's own memory: it has to be there bit for bit, in its precision
    probe       log-probabilities of completions that it draws are the trainer's (`probe`)

The first tells an update of any size, which a probe in bf16 cannot: one of R1's updates moves log-probabilities by
less than bf16 rounds them. The second tells what weights do not: positions, temperature, kernels, keys and values of
older weights in the prefix cache, the head.

On a GPU the sampler sleeps between rollouts: its memory is the trainer's during updates (vLLM's sleep mode).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch

from distill.device import Device
from distill.errors import RunFailed, UserError
from distill.generate.engine import Request, Runaway
from distill.generate.probe import probe
from distill.generate.vllm_engine import check_vllm, completion_of, drawing
from distill.generate.vllm_policy import policy_settings
from distill.generate.vllm_weights import (
    Found,
    adapter_weights,
    base_weights,
    compare,
    compare_adapters,
    is_adapted,
)
from distill.models import LoadedModel, context_of
from distill.recipe_parts import Sampling
from distill.recipe_parts import VllmEngine as Settings
from distill.records import Completion

_ADAPTER = 1


@dataclass(slots=True)
class _Row:
    """One completion under way."""

    request: Request
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class SyncedEngine:
    """Generates with a policy that another part of this process trains; `sync` first.

    Args:
        loaded: the policy; its weights are read at each `sync`.
        device: where it is trained.
        settings: share of the memory that the trainer leaves, and the longest row.
        temperature: that of the rollouts, and of the probe.
        moments: bytes of the GPU that the trainer will hold besides what it holds when vLLM is loaded.

    Raises:
        UserError: vLLM is not installed.
    """

    name = "vllm"
    together = None

    def __init__(
        self, loaded: LoadedModel, device: Device, settings: Settings, temperature: float, moments: int = 0
    ) -> None:
        check_vllm("engine", settings)
        self.loaded, self.device, self.settings, self.temperature = loaded, device, settings, temperature
        self.policy_version: int | None = None
        context = context_of(loaded.model.config.get_text_config())
        self.length = min(context, settings.max_length or context)
        self._moments, self._adapted = moments, is_adapted(loaded.model)
        self._llm: Any = None
        self._folder = tempfile.TemporaryDirectory(prefix="distill-policy-")
        self._numbers = count()

    # ------------------------------------------------------------------------------------------ weights

    def sync(self, version: int) -> dict[str, Any]:
        """Take the policy's weights as they are now, after ``version`` updates, and prove it; tells what was measured.

        Raises:
            RunFailed: vLLM cannot be loaded, or does not hold or use these weights.
        """
        began = time.monotonic()
        try:
            first = self._llm is None
            self._load() if first else self._wake("weights")
            self._send(first)
            if not first:
                self._wake("kv_cache")
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            raise RunFailed(f"vLLM could not take the weights of update {version}: {reason}") from error
        self.policy_version = version
        checksum = self._read_back(first)
        if not self._llm.reset_prefix_cache():
            raise RunFailed(f"vLLM keeps keys and values of weights before update {version}")
        difference = self._probe()
        return {
            "weights_checksum": checksum,
            "probe_difference": difference,
            "seconds_sync": time.monotonic() - began,
        }

    def _send(self, first: bool) -> None:
        if first or not self._adapted:
            weights = base_weights(self.loaded.model)
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if self._adapted:
            folder = Path(self._folder.name, "adapter")
            self.loaded.model.save_pretrained(str(folder), save_embedding_layers=False)
            self._llm.llm_engine.add_lora(self._adapter(load_inplace=True))

    def _adapter(self, **more: Any) -> Any:
        from vllm.lora.request import LoRARequest

        return LoRARequest("policy", _ADAPTER, str(Path(self._folder.name, "adapter")), **more)

    def _read_back(self, first: bool) -> int:
        """The checksum of what vLLM holds of the policy.

        Raises:
            RunFailed: it is not what the trainer holds.
        """
        model = self.loaded.model
        (sampler,) = self._llm.collective_rpc(lambda worker: worker.get_model())
        found = Found([], 0)
        if first or not self._adapted:
            found = compare(sampler, base_weights(model))
        if self._adapted and not found.wrong:
            found = compare_adapters(sampler, adapter_weights(model))
        if found.wrong:
            reason = f"vLLM does not hold the weights of update {self.policy_version}"
            raise RunFailed(
                f"{reason}: {len(found.wrong)} of them differ or are not there, {found.wrong[0]} first"
            )
        return found.checksum

    def _probe(self) -> float:
        return probe(self, self.loaded, self.device, self.temperature, self.length)

    # ------------------------------------------------------------------------------------------ generating

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        """One completion for each request, as they end, with the policy's version.

        Raises:
            RunFailed: vLLM is lost.
            UserError: a prompt and what may follow it are longer than the model reads or the settings allow.
        """
        from distill.generate.vllm_worker import add

        assert runaway is None, "a policy's samples are cut nowhere: they would not be its own"
        assert self._llm is not None, "sync first"
        engine, adapter = self._llm.llm_engine, self._adapter() if self._adapted else None
        flying: dict[str, _Row] = {}
        for request in requests:
            if (needed := len(request.prompt_ids) + sampling.max_tokens) > self.length:
                reason = f"a prompt and its completion may take {needed} tokens"
                remedy = "lower max_tokens, or leave the longest problems out"
                raise UserError("engine.max_length", self.length, reason, remedy)
        loaded = self.loaded
        try:
            for request in requests:
                number = next(self._numbers)
                flying[str(number)] = _Row(request)
                add(engine, number, request.prompt_ids, drawing(request, sampling, loaded.chat), adapter)
            while flying:
                for output in self._step():
                    row = flying[output.request_id]
                    (one,) = output.outputs  # what came since the row was last told of
                    row.ids += one.token_ids
                    row.logprobs += one.logprobs.logprobs
                    if output.finished:
                        del flying[output.request_id]
                        yield completion_of(
                            loaded.name, loaded.chat, row.request, row.ids, row.logprobs,
                            one.finish_reason, self.policy_version or 0,
                        )  # fmt: skip
        finally:
            if flying:  # whoever asked wants no more
                engine.abort_request(list(flying))

    def _step(self) -> Any:
        try:
            return self._llm.llm_engine.step()
        except Exception as error:
            raise RunFailed(f"vLLM is lost: {type(error).__name__}: {error}") from error

    # ------------------------------------------------------------------------------------------ the engine

    def _load(self) -> None:
        on_gpu = self.device.kind == "cuda"
        settings = policy_settings(self.loaded, Path(self._folder.name, "model"), self.length, on_gpu)
        if on_gpu:
            settings |= {"enable_sleep_mode": True, "gpu_memory_utilization": self._share()}
        print(f"vLLM loads {self.loaded.name} for rows of {self.length} tokens", file=sys.stderr)
        self._llm = _in_this_process(settings)

    def _share(self) -> float:
        """The share of the GPU: as set, of what the trainer leaves."""
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        return self.settings.memory * max(0, free - self._moments) / total

    def rest(self) -> None:
        """Give the GPU's memory back until the next `sync`; the base of adapters waits on the host."""
        if self.device.kind == "cuda":
            self._llm.sleep(level=1 if self._adapted else 2)

    def _wake(self, part: str) -> None:
        if self.device.kind == "cuda":
            torch.cuda.empty_cache()
            self._llm.wake_up(tags=[part])

    def close(self) -> None:
        """Free what vLLM holds."""
        if self._llm is not None:
            from vllm.distributed import cleanup_dist_env_and_memory

            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            cleanup_dist_env_and_memory()
        self._folder.cleanup()


def _in_this_process(settings: dict[str, Any]) -> Any:
    """Load vLLM here, where its weights can be reached."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # see `vllm_copies.environment`
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the threads are the trainer's too
    }
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM

    from distill.generate.vllm_worker import plain_products

    plain_products()
    return LLM(**settings)
