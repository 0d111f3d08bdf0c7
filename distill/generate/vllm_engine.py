"""vLLM as an engine: copies of a model, each in a process of its own, that are dealt requests problem by problem.

The processes start with the first request and end when the engine is closed, collected or killed with this process; a
stage that comes after has all of the memory. Samples of one problem go to one copy, whose prefix cache has read the
prompt once. Who shares a batch depends on timing, so repeated runs differ where rounding tips a token.

vLLM sees token ids alone: no tokenizer, template, sampling default or stop token but ours, so none can add a second BOS
or end a completion elsewhere.
"""

from __future__ import annotations

import math
import signal
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

from transformers import AutoConfig

from distill.chat import ChatFormat
from distill.errors import RunFailed, UserError
from distill.generate.engine import ASK_EVERY, Request, Runaway
from distill.generate.vllm_copies import Copy, end, environment, gpus_here, launch
from distill.models import base_of_adapter, context_of
from distill.recipe_parts import Sampling
from distill.recipe_parts import VllmEngine as Settings
from distill.records import Completion, FinishReason

#: Tokens of a prompt that a copy is loaded for, besides those to be generated; a longer one has it loaded again.
_PROMPT_ROOM = 4096
#: Requests of a copy that wait in it for a place, so that none stays empty for the time of a message.
_WAITING = 64
#: Bytes of keys and values on a CPU; more only where one row needs more.
_CPU_CACHE = 1 << 30
#: A row's ids are told in one portion.
_AT_THE_END = 1 << 30
_REMEDY = "lower engine.max_length or sampling.max_tokens, or raise engine.tensor_parallel or engine.memory"


def check_vllm(key: str, settings: Settings, others: int = 0) -> None:
    """Refuse, before anything is written, what this machine cannot do.

    Args:
        key: where the engine stands in the recipe.
        others: GPUs that are the trainer's alone.

    Raises:
        UserError: vLLM is not installed, or the GPUs are fewer than the copies need.
    """
    if find_spec("vllm") is None:
        remedy = "pip install 'distill[vllm]'; without a GPU as docs/harvest.md says"
        raise UserError(f"{key}.kind", "vllm", "vLLM is not installed", remedy)
    gpus, needed = len(gpus_here()), settings.tensor_parallel * settings.data_parallel + others
    if gpus and needed > gpus:
        reason = (
            f"{settings.data_parallel} copies on {settings.tensor_parallel} GPUs each"
            f"{f', {others} for the trainer' if others else ''}, and {gpus} are here"
        )
        raise UserError(key, f"{needed} GPUs", reason, "lower data_parallel or tensor_parallel")
    if not gpus and settings.tensor_parallel > 1:
        reason = "no GPU is here, and one copy of a model is not split over a CPU"
        raise UserError(f"{key}.tensor_parallel", settings.tensor_parallel, reason, "write 1")


@dataclass(slots=True)
class _Row:
    """One completion under way; ``asked`` is the length at which the last question about it was put."""

    request: Request
    copy: Copy
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    asked: int = 0

    def runs_away(self, runaway: Runaway, ended: bool) -> bool:
        """Ask at every multiple of `ASK_EVERY` that the row has reached and gone on from; cut it there if so."""
        while self.asked + ASK_EVERY < len(self.ids) + (not ended):
            self.asked += ASK_EVERY
            if runaway(self.ids[: self.asked]):
                del self.ids[self.asked :], self.logprobs[self.asked :]
                return True
        return False


class VllmEngine:
    """Generates with vLLM.

    Args:
        name: what the recipe calls the model.
        place: folder or hub name.
        chat: its chat format, whose stop tokens end a completion.
        settings: copies, GPUs and memory.
        context: tokens that the model reads, however its own config says it.
        rope_theta: replaces the config's.

    Raises:
        UserError: see `check_vllm`; or the model is an adapter.
    """

    name = "vllm"
    together = None
    policy_version: int | None = None  # of a policy in training

    def __init__(
        self,
        name: str,
        place: str | Path,
        chat: ChatFormat,
        settings: Settings,
        *,
        context: int,
        rope_theta: float | None = None,
    ) -> None:
        check_vllm("engine", settings)
        if base_of_adapter(f"models.{name}.path", place):
            reason = "is an adapter, and vLLM is given whole models"
            raise UserError(f"models.{name}.path", str(place), reason, "merge it first")
        self.model, self.place, self.chat, self.settings = name, str(place), chat, settings
        self._most = min(context, settings.max_length or context)
        self._config = AutoConfig.from_pretrained(place).get_text_config()
        self._overrides: dict[str, Any] = {}
        if context != context_of(self._config):
            self._overrides["max_position_embeddings"] = context
        if rope_theta:
            self._overrides["rope_parameters"] = {**self._config.rope_parameters, "rope_theta": rope_theta}
        self._copies: list[Copy] = []
        self._length = 0  # tokens of a row that the copies were loaded for
        self._numbers = count()
        self._end = weakref.finalize(self, end, self._copies)

    # ------------------------------------------------------------------------------------------ generating

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        """One completion for each request, as they end.

        Raises:
            RunFailed: vLLM cannot load the model, or a process of it is lost.
            UserError: a prompt and what may follow it are longer than the model reads or the settings allow.
        """
        flying: dict[int, _Row] = {}
        waiting = iter(requests)
        request = next(waiting, None)
        try:
            while request is not None or flying:
                request = self._hand_out(request, waiting, sampling, runaway is not None, flying)
                for number, ids, logprobs, finish in self._hear():
                    row = flying.get(number)
                    if row is None:  # it was given up
                        continue
                    row.ids += ids
                    row.logprobs += logprobs
                    if runaway and row.runs_away(runaway, finish is not None):
                        if finish is None:
                            self._send(row.copy, ("drop", [number]))
                        finish = "abort"
                    if finish is not None:
                        del flying[number]
                        row.copy.rows -= 1
                        yield completion_of(
                            self.model, self.chat, row.request, row.ids, row.logprobs, finish,
                            self.policy_version or 0,
                        )  # fmt: skip
        finally:
            self._give_up(flying)

    def _hand_out(
        self,
        request: Request | None,
        waiting: Iterator[Request],
        sampling: Sampling,
        asked: bool,
        flying: dict[int, _Row],
    ) -> Request | None:
        """Send requests while there is room, each problem's to one copy; returns the first that has to wait."""
        batches: dict[Copy, list[Any]] = {}
        copy, problem = None, None
        while request is not None:
            length = len(request.prompt_ids) + sampling.max_tokens
            if length > self._length and flying:
                break  # loaded again for longer rows once these have ended
            if length > self._length or not self._copies:
                self._start(length)
            if len(flying) >= sum(one.places for one in self._copies) + _WAITING * len(self._copies):
                break
            if copy is None or request.problem_id != problem:
                copy, problem = min(self._copies, key=lambda one: one.rows), request.problem_id
            number = next(self._numbers)
            flying[number] = _Row(request, copy)
            copy.rows += 1
            drawn = drawing(request, sampling, self.chat, ASK_EVERY if asked else _AT_THE_END)
            batches.setdefault(copy, []).append((number, request.prompt_ids, drawn))
            request = next(waiting, None)
        for copy, batch in batches.items():
            self._send(copy, ("add", batch))
        return request

    def _give_up(self, flying: dict[int, _Row]) -> None:
        """Whoever asked wants no more: let the copies drop what they still work on."""
        for copy in {id(row.copy): row.copy for row in flying.values()}.values():
            numbers = [number for number, row in flying.items() if row.copy is copy]
            copy.rows -= len(numbers)
            if copy in self._copies:  # else it is gone
                self._send(copy, ("drop", numbers))

    # ------------------------------------------------------------------------------------------ processes

    def close(self) -> None:
        """End the processes and free what they hold; a later request starts them again."""
        end(self._copies)
        self._length = 0

    def _start(self, needed: int) -> None:
        """Load the copies (again) for rows of so many tokens.

        Raises:
            RunFailed, UserError: see `generate`.
        """
        if needed > self._most:
            reason = f"a prompt and its completion may take {needed} tokens"
            remedy = "lower sampling.max_tokens, or leave the longest problems out"
            raise UserError("engine.max_length", self._most, reason, remedy)
        self.close()
        length = min(self._most, needed + _PROMPT_ROOM)
        _say(f"vLLM loads {self.model} for rows of {length} tokens")
        gpus, split = self._gpus(), self.settings.tensor_parallel
        for number in range(self.settings.data_parallel):
            mine = gpus[number * split : (number + 1) * split]
            copy = launch(environment(mine, self.settings.data_parallel))
            self._copies.append(copy)
            settings = self._shape(length, bool(mine))
            if mine:
                settings |= {
                    "tensor_parallel_size": split,
                    "gpu_memory_utilization": self.settings.memory,
                }
            self._send(copy, settings)
        for copy in self._copies:
            _, copy.places = self._receive(copy)
        self._length = length

    def _gpus(self) -> list[str]:
        return gpus_here()

    def _shape(self, length: int, on_gpu: bool) -> dict[str, Any]:
        """Settings of ``vllm.LLM`` but for the GPUs."""
        settings = llm_settings(self.place, self._config, length, on_gpu)
        return settings | {"hf_overrides": self._overrides}

    def _hear(self) -> list[tuple[int, list[int], list[float], str | None]]:
        """What the copies have to say of their rows, once any has."""
        told = []
        ready = wait([copy.channel for copy in self._copies])
        for copy in [copy for copy in self._copies if copy.channel in ready]:
            told += self._receive(copy)[1]
        return told

    def _send(self, copy: Copy, message: Any) -> None:
        try:
            copy.channel.send(message)
        except OSError:
            self._lost(copy, "")

    def _receive(self, copy: Copy) -> tuple[str, Any]:
        try:
            what, told = copy.channel.recv()
        except (EOFError, OSError):
            self._lost(copy, "")
        if what == "failed":
            self._lost(copy, told)
        return what, told

    def _lost(self, copy: Copy, reason: str) -> NoReturn:
        """Tell what ended a copy, keep its log, and end the others."""
        log = copy.log.with_suffix(".kept.log")
        copy.log.replace(log)
        loaded, self._length = bool(copy.places), 0
        end(self._copies)
        code = copy.process.returncode
        line = _cause(reason)
        if not line:
            line = (
                "it was killed (is there memory enough?)" if code == -signal.SIGKILL else f"exit code {code}"
            )
        short = any(word in line.lower() for word in ("memory", "kv cache"))
        told = f"vLLM {'is lost' if loaded else 'cannot load ' + self.model}: {line}\n  its own words: {log}"
        if short:
            raise RunFailed(told, then=f"Remedy: {_REMEDY}.")
        if not loaded:
            raise RunFailed(told, then="Remedy: what vLLM asks for; the same command goes on from there.")
        raise RunFailed(told)


def drawing(
    request: Request, sampling: Sampling, chat: ChatFormat, portion: int = _AT_THE_END
) -> dict[str, Any]:
    """A request's sampling as vLLM names it. It tells ids in portions: one, then so many at a time."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": request.seed,
        "stop_token_ids": sorted(chat.stop_ids),
        "stream_interval": portion,
    }


def completion_of(
    model: str,
    chat: ChatFormat,
    request: Request,
    ids: list[int],
    logprobs: list[float],
    finish: str,
    version: int = 0,
) -> Completion:
    """What has become of a request to a model, or to this version of a policy.

    Raises:
        RunFailed: a log-probability is no number.
    """
    if not all(map(math.isfinite, logprobs)):
        raise RunFailed(f"{model} gives probabilities that are no numbers: its weights are broken")
    return Completion(
        problem_id=request.problem_id,
        sample_index=request.sample_index,
        text=chat.decode(ids),
        prefill=request.prefill,
        tokens=len(ids),
        token_ids=ids,
        logprobs=logprobs,
        finish_reason=FinishReason(finish),
        policy_version=version,
    )


def llm_settings(place: str, config: Any, length: int, on_gpu: bool) -> dict[str, Any]:
    """Settings of ``vllm.LLM`` for a model with this config and rows of so many tokens."""
    module = "distill.generate.vllm_logprobs"
    settings = {
        "model": place,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # none of the model's own sampling settings
        "max_model_len": length,
        "logits_processors": [f"{module}:BeforeTemperature", f"{module}:AfterTemperature"],
        "logprobs_mode": "processed_logits",
        "enable_prefix_caching": True,
        "seed": 0,
    }
    if on_gpu:
        return settings | {"dtype": "bfloat16"}
    cache = max(_CPU_CACHE, 2 * length * _bytes_a_token(config))
    return settings | {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": cache}


def _bytes_a_token(config: Any) -> int:
    """Keys and values of one token in float32, over all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * 4)


def _cause(reason: str) -> str:
    """The first line of an error, of its longest sentence where pydantic wraps it."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    wrapped = [line for line in lines if line.startswith("Value error, ")]
    return (wrapped or lines or [""])[0].removeprefix("Value error, ")[:400]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
