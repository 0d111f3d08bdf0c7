"""Rows that are generated side by side: their key-value cache, and the prompts that wait to join them.

Legend: B rows of the batch, C columns of the cache, K columns that are looked at, U distinct prompts read together,
T tokens of the longest of them or draws of a block, D head size, V vocabulary.

All rows end at one column, whatever their lengths: a step writes one column for all of them, and a row's tokens are the
columns from its ``start`` on. Keys carry their true positions already, so they may stand in any column. A row that has
ended makes room at once: the last row takes its place, and a prompt that waits is copied behind the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from distill.generate.engine import Request

#: Columns added at least when there is no more room.
_SPARE = 64
#: Distinct prompts read in one forward pass, and their tokens at most, padding included.
_PROMPTS_AT_ONCE, _TOKENS_AT_ONCE = 32, 16384


class PromptCache:
    """What a forward pass over whole prompts leaves: keys and values of each layer, (U, heads, T, D)."""

    def __init__(self) -> None:
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by each of transformers' layers, in their order."""
        assert layer == len(self.keys), f"layer {layer} after {len(self.keys)} others"
        self.keys.append(key)
        self.values.append(value)
        return key, value


@dataclass(frozen=True, slots=True)
class Read:
    """A request whose prompt was read: row ``number`` of ``cache``; ``logits_V`` are those of its first token."""

    request: Request
    cache: PromptCache
    number: int
    logits_V: torch.Tensor


def read_ahead(
    requests: Sequence[Request], read: Callable[[list[tuple[int, ...]]], tuple[PromptCache, torch.Tensor]]
) -> Iterator[Read]:
    """The requests by the lengths of their prompts, which are read some at a time, equal neighbours once.

    Args:
        requests: all of them.
        read: reads distinct prompts, the shorter padded on the left; returns their cache and next logits_UV.
    """
    number_of: dict[tuple[int, ...], int] = {}
    waiting: list[tuple[Request, int]] = []

    def flush() -> Iterator[Read]:
        cache, logits_UV = read(list(number_of))
        yield from (Read(request, cache, number, logits_UV[number]) for request, number in waiting)

    for request in sorted(requests, key=lambda request: len(request.prompt_ids)):
        prompt = tuple(request.prompt_ids)
        distinct = len(number_of)
        full = distinct == _PROMPTS_AT_ONCE or (distinct + 1) * len(prompt) > _TOKENS_AT_ONCE
        if distinct and full and prompt not in number_of:
            yield from flush()
            number_of, waiting = {}, []
        waiting.append((request, number_of.setdefault(prompt, len(number_of))))
    if waiting:
        yield from flush()


@dataclass(slots=True)
class Row:
    """One completion under way; ``born`` is the step before its first token, ``start`` its prompt's first column."""

    request: Request
    generator: torch.Generator
    born: int
    start: int = 0


class Batch:
    """The running rows. Transformers' layers call `update`; the engine calls the rest between two forward passes.

    Args:
        rows: how many there can be.
        longest_prompt: no prompt that joins has more tokens.
        max_tokens: no row gets more.
        block: uniform numbers drawn at once for each row.
    """

    def __init__(
        self, rows: int, longest_prompt: int, max_tokens: int, block: int, device: torch.device
    ) -> None:
        self.rows: list[Row] = []
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._longest_prompt = longest_prompt
        self._most = longest_prompt + max_tokens + _SPARE  # the columns of one row, and spare ones
        self.capacity = min(self._most, 2 * longest_prompt + _SPARE)
        self.low = self.end = longest_prompt  # nobody looks at columns before low, or from end on
        self.seen_BC = torch.zeros(rows, self.capacity, dtype=torch.bool, device=device)
        self.ids_BC = torch.zeros(rows, self.capacity, dtype=torch.long, device=device)
        self.logprobs_BC = torch.zeros(rows, self.capacity, device=device)
        self.position_B = torch.zeros(rows, dtype=torch.long, device=device)
        self.uniform_BT = torch.zeros(rows, block, device=device)

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one layer's last column, and return what the rows look at, that column included."""
        keys, values, rows = self.keys[layer], self.values[layer], key.shape[0]
        keys[:rows, :, self.end - 1] = key[:, :, 0]
        values[:rows, :, self.end - 1] = value[:, :, 0]
        return keys[:rows, :, self.low : self.end], values[:rows, :, self.low : self.end]

    @property
    def seen_BQK(self) -> torch.Tensor:
        """Which of the columns looked at are a row's own, for the one query of each."""
        return self.seen_BC[: len(self.rows), None, self.low : self.end]

    @property
    def last_B(self) -> torch.Tensor:
        """The token that each row got last."""
        return self.ids_BC[: len(self.rows), self.end - 1]

    def ids(self, place: int) -> list[int]:
        """What a row has generated so far."""
        ids: list[int] = self.ids_BC[place, self._columns(place)].tolist()
        return ids

    def logprobs(self, place: int) -> list[float]:
        """The log-probability of each of these ids."""
        logprobs: list[float] = self.logprobs_BC[place, self._columns(place)].tolist()
        return logprobs

    def _columns(self, place: int) -> slice:
        row = self.rows[place]
        return slice(row.start + len(row.request.prompt_ids), self.end)

    def admit(self, came: Sequence[tuple[Read, Row]]) -> None:
        """Add rows with their prompts copied behind the others."""
        if not self.keys:
            # Zeros: what nobody looks at has weight 0, and 0 times what memory happens to hold may be no number.
            first = came[0][0].cache
            for kept, layers in ((self.keys, first.keys), (self.values, first.values)):
                for new in layers:
                    kept.append(new.new_zeros(len(self.seen_BC), new.shape[1], self.capacity, new.shape[3]))
        place = len(self.rows)
        for _, together in groupby((read for read, _ in came), key=lambda read: id(read.cache)):
            place += self._copy_prompts(list(together), place)
        for read, row in came:
            row.start = self.end - len(read.request.prompt_ids)
            self.rows.append(row)
        new, device = slice(len(self.rows) - len(came), len(self.rows)), self.seen_BC.device
        start_B = torch.tensor([row.start for _, row in came], device=device)
        self.seen_BC[new] = torch.arange(self.capacity, device=device) >= start_B[:, None]
        self.position_B[new] = self.end - start_B
        self.low = min(self.low, *(row.start for _, row in came))

    def _copy_prompts(self, reads: Sequence[Read], place: int) -> int:
        """Copy from one cache, padding and all (it is left of where a row starts, so nobody looks at it); how many."""
        cache = reads[0].cache
        number_B = torch.tensor([read.number for read in reads], device=self.seen_BC.device)
        new = slice(place, place + len(reads))
        for kept, layers in ((self.keys, cache.keys), (self.values, cache.values)):
            for layer, prompts in zip(kept, layers, strict=True):
                layer[new, :, self.end - prompts.shape[2] : self.end] = prompts[number_B]
        return len(reads)

    def draw_ahead(self, place: int, column: int) -> None:
        """Draw a row's uniform numbers of this block from ``column`` on."""
        numbers = torch.rand(self.uniform_BT.shape[1] - column, generator=self.rows[place].generator)
        self.uniform_BT[place, column:] = numbers

    def write(self, token_B: torch.Tensor, logprob_B: torch.Tensor) -> None:
        """Give every row its next token; the next forward pass writes its keys into the same column."""
        if self.end == self.capacity:
            self._make_room()
        rows = len(self.rows)
        self.ids_BC[:rows, self.end] = token_B
        self.logprobs_BC[:rows, self.end] = logprob_B
        self.end += 1

    def drop(self, places: Sequence[int]) -> None:
        """Let rows go; the last ones take their places."""
        left = len(self.rows) - len(places)
        gaps = [place for place in places if place < left]
        movers = sorted({*range(left, len(self.rows))}.difference(places))
        if gaps:
            window, device = slice(self.low, self.end), self.seen_BC.device
            to, of = (torch.tensor(numbers, device=device) for numbers in (gaps, movers))
            for kept in (*self.keys, *self.values):
                kept[to, :, window] = kept[of, :, window]
            for kept in (self.seen_BC, self.ids_BC, self.logprobs_BC, self.position_B, self.uniform_BT):
                kept[to] = kept[of]
            for gap, mover in zip(gaps, movers, strict=True):
                self.rows[gap] = self.rows[mover]
        del self.rows[left:]
        self.low = min((row.start for row in self.rows), default=self.end)

    def _make_room(self) -> None:
        """Squeeze out the columns of rows that have ended, and add columns where that gives too few."""
        width = self.end - self.low
        end = max(width, self._longest_prompt)
        if end + _SPARE > self.capacity:
            self.capacity = min(max(self._most, end + _SPARE), 2 * end + _SPARE)
        for kept in (self.keys, self.values):
            for layer, tensor in enumerate(kept):
                kept[layer] = self._moved(tensor, 2, end - width, width)
        self.ids_BC = self._moved(self.ids_BC, 1, end - width, width)
        self.logprobs_BC = self._moved(self.logprobs_BC, 1, end - width, width)
        for row in self.rows:
            row.start += end - self.end
        self.low, self.end = end - width, end
        starts_B = torch.tensor([row.start for row in self.rows], device=self.seen_BC.device)
        self.seen_BC = self.seen_BC.new_zeros(len(self.seen_BC), self.capacity)
        columns_C = torch.arange(self.capacity, device=starts_B.device)
        self.seen_BC[: len(self.rows)] = columns_C >= starts_B[:, None]

    def _moved(self, old: torch.Tensor, dimension: int, to: int, width: int) -> torch.Tensor:
        """A tensor of the new capacity, the window's columns (of that dimension) at ``to``."""
        shape = list(old.shape)
        shape[dimension] = self.capacity
        new = old.new_zeros(shape)
        rows = len(self.rows)
        window = old.narrow(0, 0, rows).narrow(dimension, self.low, width)
        new.narrow(0, 0, rows).narrow(dimension, to, width).copy_(window)
        return new
