"""The local engine: plain torch generation on the device found, for any model that transformers loads.

Legend: B rows generated side by side, K cached tokens, U distinct prompts, T tokens of a prompt, V vocabulary.

Requests are served in waves of rows with similar prompt lengths. Each distinct prompt is read once and its keys and
values are copied to its samples. Rows that ended leave the batch. Every row draws its uniform numbers from its own
seed, so a completion does not depend on the rows beside it (but for float rounding in differently shaped products).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from distill.device import Device
from distill.errors import RunFailed
from distill.generate.engine import Request, Runaway
from distill.models import LoadedModel
from distill.recipe_parts import Sampling
from distill.records import Completion, FinishReason

_DRAWN_AT_ONCE = 64
_CACHE_GROWTH = 64
_KEEP_UNTIL = 0.8  # rows are dropped from the batch when fewer than this share are still running


class KeyValueCache:
    """Keys and values of each layer, (B, heads, K, D); transformers' layers call `update` and nothing else."""

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.length = 0

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append new positions of one layer and return all seen so far, the new ones included."""
        end = self.length + key.shape[2]
        for kept, new in ((self.keys, key), (self.values, value)):
            if layer == len(kept):
                kept.append(new.new_empty(0))
            if kept[layer].ndim != 4 or kept[layer].shape[2] < end:
                grown = new.new_empty(*new.shape[:2], end + _CACHE_GROWTH, new.shape[3])
                if self.length:
                    grown[:, :, : self.length] = kept[layer][:, :, : self.length]
                kept[layer] = grown
            kept[layer][:, :, self.length : end] = new
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def select(self, rows: torch.Tensor) -> None:
        """Keep (or repeat) these rows, in this order."""
        for kept in (self.keys, self.values):
            for layer, tensor in enumerate(kept):
                kept[layer] = tensor.index_select(0, rows)


@dataclass(slots=True)
class _Row:
    """One completion under way."""

    request: Request
    generator: torch.Generator
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: FinishReason = FinishReason.LENGTH


class LocalEngine:
    """Generates with a model held in this process.

    The model is used as it is at each call: in GRPO, the weights of the last update. ``policy_version`` is written on
    every completion; the trainer raises it.
    """

    name = "local"

    def __init__(self, loaded: LoadedModel, device: Device, max_rows: int) -> None:
        self.loaded, self.device, self.max_rows = loaded, device, max_rows
        self.together = max_rows
        self.policy_version = 0

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        """One completion for each request, as waves of them end."""
        by_length = sorted(requests, key=lambda request: len(request.prompt_ids))
        for start in range(0, len(by_length), self.max_rows):
            rows = self._generating(by_length[start : start + self.max_rows], sampling)
            yield from map(self._completion, rows)

    @torch.no_grad()
    def _generating(self, requests: list[Request], sampling: Sampling) -> list[_Row]:
        training = self.loaded.model.training
        self.loaded.model.eval()
        try:
            with self._precision():
                return self._wave(requests, sampling)
        finally:
            self.loaded.model.train(training)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.kind, self.device.compute_dtype, enabled=self.device.bf16)

    def _completion(self, row: _Row) -> Completion:
        return Completion(
            problem_id=row.request.problem_id,
            sample_index=row.request.sample_index,
            text=self.loaded.chat.decode(row.ids),
            prefill=row.request.prefill,
            tokens=len(row.ids),
            token_ids=row.ids,
            logprobs=row.logprobs,
            finish_reason=row.finish,
            policy_version=self.policy_version,
        )

    def _wave(self, requests: list[Request], sampling: Sampling) -> list[_Row]:
        """Generate these requests side by side until each has ended."""
        rows = [_Row(request, torch.Generator().manual_seed(request.seed)) for request in requests]
        cache, logits_BV, seen_BK, position_B = self._read_prompts(requests)
        running, uniform_BT = rows, torch.empty(0)
        for step in range(sampling.max_tokens):
            column = step % _DRAWN_AT_ONCE
            if column == 0:
                draws = [torch.rand(_DRAWN_AT_ONCE, generator=row.generator) for row in running]
                uniform_BT = torch.stack(draws).to(logits_BV.device)
            token_B, logprob_B = draw(logits_BV, uniform_BT[:, column], sampling)
            if not bool(torch.isfinite(logprob_B).all()):
                raise RunFailed(
                    f"{self.loaded.name} gives probabilities that are no numbers: its weights are broken"
                )
            going = []
            pairs = zip(running, token_B.tolist(), logprob_B.tolist(), strict=True)
            for number, (row, token, logprob) in enumerate(pairs):
                if row.finish is FinishReason.STOP:
                    continue
                row.ids.append(token)
                row.logprobs.append(logprob)
                if token in self.loaded.chat.stop_ids:
                    row.finish = FinishReason.STOP
                else:
                    going.append(number)
            if not going or step == sampling.max_tokens - 1:
                break
            if len(going) <= _KEEP_UNTIL * len(running):
                keep = torch.tensor(going, device=logits_BV.device)
                running = [running[number] for number in going]
                cache.select(keep)
                token_B, seen_BK, position_B, uniform_BT = (
                    tensor[keep] for tensor in (token_B, seen_BK, position_B, uniform_BT)
                )
            seen_BK = torch.cat([seen_BK, seen_BK.new_ones(len(running), 1)], dim=1)
            logits_BV = self._forward(token_B[:, None], position_B[:, None], seen_BK[:, None], cache)
            position_B = position_B + 1
        return rows

    def _read_prompts(
        self, requests: list[Request]
    ) -> tuple[KeyValueCache, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read each distinct prompt once, padded on the left, and spread the result over its requests.

        Returns:
            The cache, next-token logits_BV, which cached keys are real (B, K), and each row's next position.
        """
        number_of: dict[tuple[int, ...], int] = {}
        spread = [number_of.setdefault(tuple(request.prompt_ids), len(number_of)) for request in requests]
        prompts = list(number_of)
        longest = max(len(prompt) for prompt in prompts)
        device = next(self.loaded.model.parameters()).device
        pad = self.loaded.chat.eos_id
        ids_UT = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=device)
        padding_U = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
        place_T = torch.arange(longest, device=device)
        real_UT = place_T >= padding_U[:, None]
        position_UT = (place_T - padding_U[:, None]).clamp(min=0)
        causal_TT = place_T[:, None] >= place_T
        # A padding query sees itself: with nothing to see it would be NaN and poison the keys it leaves behind.
        seen_UTT = causal_TT & real_UT[:, None, :] | torch.eye(longest, dtype=torch.bool, device=device)
        cache = KeyValueCache()
        logits_UV = self._forward(ids_UT, position_UT, seen_UTT, cache)
        rows = torch.tensor(spread, device=device)
        cache.select(rows)
        return cache, logits_UV[rows], real_UT[rows], (longest - padding_U)[rows]

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, seen: torch.Tensor, cache: KeyValueCache
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
        cache.length += ids.shape[1]
        return out.logits[:, -1].float()


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
