"""The local engine: plain torch generation on the device found, for any model that transformers loads.

Legend: B rows generated side by side, U distinct prompts, T tokens of the longest of them, V vocabulary.

``max_rows`` rows run side by side; the place of one that ended is taken at once by the next request, in the order of
their prompts' lengths. Each distinct prompt is read once and its keys and values are copied to its samples. Every row
draws its uniform numbers from its own seed, so a completion does not depend on the rows beside it (but for float
rounding in differently shaped products).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import torch

from distill.device import Device
from distill.errors import RunFailed
from distill.generate.batch import Batch, PromptCache, Row, read_ahead
from distill.generate.engine import ASK_EVERY, Request, Runaway
from distill.models import LoadedModel
from distill.recipe_parts import Sampling
from distill.records import Completion, FinishReason

#: Steps between two hand-overs of what ended; as many uniform numbers are drawn at once for each row.
_BLOCK = 64
#: A call takes so many times ``max_rows`` requests: more keep the batch full for longer, and a kill costs more.
_BATCHES_TOGETHER = 4


class _Ended(NamedTuple):
    request: Request
    ids: list[int]
    logprobs: list[float]
    finish: FinishReason


class LocalEngine:
    """Generates with a model held in this process.

    The model is used as it is at each call: in GRPO, the weights of the last update. ``policy_version`` is written on
    every completion; the trainer raises it.
    """

    name = "local"

    def __init__(self, loaded: LoadedModel, device: Device, max_rows: int) -> None:
        self.loaded, self.device, self.max_rows = loaded, device, max_rows
        self.together = _BATCHES_TOGETHER * max_rows
        self.policy_version = 0

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        """One completion for each request, as they end."""
        if not requests:
            return
        work = _Work(self.loaded, requests, sampling, min(self.max_rows, len(requests)), runaway)
        while not work.done:
            with self._computing():  # but not while whoever takes the completions computes
                ended = work.block()
            yield from map(self._completion, ended)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        model, device = self.loaded.model, self.device
        training = model.training
        model.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(device.kind, device.compute_dtype, enabled=device.bf16),
            ):
                yield
        finally:
            model.train(training)

    def _completion(self, ended: _Ended) -> Completion:
        return Completion(
            problem_id=ended.request.problem_id,
            sample_index=ended.request.sample_index,
            text=self.loaded.chat.decode(ended.ids),
            prefill=ended.request.prefill,
            tokens=len(ended.ids),
            token_ids=ended.ids,
            logprobs=ended.logprobs,
            finish_reason=ended.finish,
            policy_version=self.policy_version,
        )


class _Work:
    """Requests on their way through the batch."""

    def __init__(
        self,
        loaded: LoadedModel,
        requests: Sequence[Request],
        sampling: Sampling,
        max_rows: int,
        runaway: Runaway | None,
    ) -> None:
        self.loaded, self.sampling, self.max_rows, self.runaway = loaded, sampling, max_rows, runaway
        self.device = next(loaded.model.parameters()).device
        longest = max(len(request.prompt_ids) for request in requests)
        self.batch = Batch(max_rows, longest, sampling.max_tokens, _BLOCK, self.device)
        self.waiting = read_ahead(requests, self._read)
        self.logits_BV = torch.empty(0, device=self.device)
        stops, vocabulary = loaded.chat.stop_ids, loaded.model.config.get_text_config().vocab_size
        self.stops_V = torch.tensor([token in stops for token in range(vocabulary)], device=self.device)
        self.step = 0  # a row that was born at step b has step - b tokens
        self.next_look = 0  # no row can end before this step, but for its stop token
        self.done = False

    def block(self) -> list[_Ended]:
        """Steps up to the next multiple of `_BLOCK`; what ended on the way."""
        batch, ended = self.batch, list[_Ended]()
        self._admit()
        for place in range(len(batch.rows)):
            batch.draw_ahead(place, 0)
        while batch.rows:
            uniform_B = batch.uniform_BT[: len(batch.rows), self.step % _BLOCK]
            token_B, logprob_B = draw(self.logits_BV, uniform_B, self.sampling)
            batch.write(token_B, logprob_B)
            self.step += 1
            stop_B = self.stops_V[token_B]
            if self.step == self.next_look or bool(stop_B.any()):
                ended += self._take_ended(stop_B.tolist())
            if batch.rows:
                position_B = batch.position_B[: len(batch.rows)]
                self.logits_BV = self._forward(
                    batch.last_B[:, None], position_B[:, None], batch.seen_BQK, batch
                )
                position_B += 1
            if self.step % _BLOCK == 0:
                break
            self._admit()
        else:
            self.done = True
        return ended

    def _take_ended(self, stopped: list[bool]) -> list[_Ended]:
        """Take the rows that end here out of the batch."""
        batch, ended, places = self.batch, list[_Ended](), list[int]()
        self.next_look = -1
        for place, row in enumerate(batch.rows):
            tokens = self.step - row.born
            if stopped[place]:
                finish = FinishReason.STOP
            elif tokens == self.sampling.max_tokens:
                finish = FinishReason.LENGTH
            elif self.runaway and tokens % ASK_EVERY == 0 and self.runaway(batch.ids(place)):
                finish = FinishReason.ABORT
            else:
                self._look_at(row)
                continue
            logprobs = batch.logprobs(place)
            if not all(map(math.isfinite, logprobs)):
                reason = "gives probabilities that are no numbers: its weights are broken"
                raise RunFailed(f"{self.loaded.name} {reason}")
            ended.append(_Ended(row.request, batch.ids(place), logprobs, finish))
            places.append(place)
        batch.drop(places)
        return ended

    def _look_at(self, row: Row) -> None:
        """See to it that a row is looked at when it has all its tokens, or is to be asked about."""
        tokens = self.step - row.born
        left = self.sampling.max_tokens - tokens
        if self.runaway:
            left = min(left, ASK_EVERY - tokens % ASK_EVERY)
        self.next_look = (
            min(self.next_look, self.step + left) if self.next_look > self.step else self.step + left
        )

    def _admit(self) -> None:
        """Fill the batch with prompts that wait."""
        batch, column = self.batch, self.step % _BLOCK
        came = list(islice(self.waiting, self.max_rows - len(batch.rows)))
        if not came:
            return
        logits = [self.logits_BV] if batch.rows else []
        rows = [Row(r.request, torch.Generator().manual_seed(r.request.seed), born=self.step) for r in came]
        batch.admit(list(zip(came, rows, strict=True)))
        for place, row in enumerate(rows, start=len(batch.rows) - len(rows)):
            if column:  # else the block begins here, and draws for all
                batch.draw_ahead(place, column)
            self._look_at(row)
        self.logits_BV = torch.cat([*logits, torch.stack([read.logits_V for read in came])])

    def _read(self, prompts: list[tuple[int, ...]]) -> tuple[PromptCache, torch.Tensor]:
        """Read prompts, padded on the left: their keys and values, and the logits_UV of their next tokens."""
        longest, pad = max(map(len, prompts)), self.loaded.chat.eos_id
        ids_UT = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=self.device)
        padding_U = torch.tensor([longest - len(prompt) for prompt in prompts], device=self.device)
        place_T = torch.arange(longest, device=self.device)
        real_UT = place_T >= padding_U[:, None]
        position_UT = (place_T - padding_U[:, None]).clamp(min=0)
        causal_TT = place_T[:, None] >= place_T
        # A padding query sees itself: with nothing to see it would be NaN and poison the keys it leaves behind.
        seen_UTT = causal_TT & real_UT[:, None, :] | torch.eye(longest, dtype=torch.bool, device=self.device)
        cache = PromptCache()
        return cache, self._forward(ids_UT, position_UT, seen_UTT, cache)

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """Next-token logits (B, V) after ids (B, T), which join the cache."""
        out = self.loaded.model(
            input_ids=ids,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            seen_BQK=seen,
            logits_to_keep=1,
        )
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits


def draw(
    logits_BV: torch.Tensor, uniform_B: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens by inverse transform from one uniform number a row, and their log-probabilities.

    The log-probability is that of the tempered distribution before the nucleus is cut (top-p, Holtzman et al. 2019):
    the policy's own, comparable with a trainer's. Temperature 0 takes the most likely token and tells log-probabilities
    at temperature 1.

    Returns:
        token_B and logprob_B.
    """
    logprobs_BV = torch.log_softmax(logits_BV / (sampling.temperature or 1.0), dim=-1)
    if sampling.temperature == 0:
        token_B = logits_BV.argmax(-1)
    else:
        probs_BV = logprobs_BV.exp()
        if sampling.top_p < 1:
            sorted_BV, order_BV = probs_BV.sort(-1, descending=True)
            before_BV = sorted_BV.cumsum(-1) - sorted_BV
            probs_BV = torch.zeros_like(probs_BV).scatter(
                -1, order_BV, sorted_BV * (before_BV < sampling.top_p)
            )
        below_BV = probs_BV.cumsum(-1, dtype=torch.float64)
        threshold_B = uniform_B.double() * below_BV[:, -1]
        token_B = torch.searchsorted(below_BV, threshold_B[:, None], right=True)[:, 0]
        token_B = token_B.clamp(max=logits_BV.shape[-1] - 1)
    return token_B, logprobs_BV.gather(-1, token_B[:, None])[:, 0]
