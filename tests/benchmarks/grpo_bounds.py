"""What the phases of a GRPO step cannot beat on this machine: their matrix products and attention, and nothing else.

The kernels of one real rollout are run again with numbers that do not matter, in the shapes that the method asks for:
no element-wise work, no copies, no sampling, no Python of a model. A faster kernel would beat a bound; another order of
the same products would not.

Legend: T tokens, B rows under way, K columns looked at, H heads, D head size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from distill.training.packing import PackedRow, pack_groups, pack_row
from teacher.advantages import group_advantages
from teacher.rollout import Rollout


def bounds(model: Any, rollout: Rollout, row_tokens: int) -> dict[str, float]:
    """Seconds that sampling and updating on this rollout take at least; the median of five."""
    config = model.config
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    head = model.get_output_embeddings()
    body = [one.weight.detach() for one in linears if one is not head]
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    kv_heads, size = config.num_key_value_heads, config.hidden_size // heads
    advantages = group_advantages(
        rollout.scores.rewards_PG, "group_std", rollout.scores.graded_PG, "group_mean"
    )
    active = [number for number, value in enumerate(advantages.flatten().tolist()) if value]
    rows = [
        pack_row(rollout.examples, numbers, share_prompts=True)
        for numbers in pack_groups(rollout.examples, active, row_tokens)
    ]
    head_weight = head.weight.detach()

    def sample() -> None:
        for alive, columns in _decoding(rollout):
            for weight in (*body, head_weight):
                _product(given[: alive * weight.shape[1]].view(alive, -1), weight.T, made)
            for _ in range(layers):
                query = given[: alive * heads * size].view(alive * kv_heads, -1, size)
                keys = cache[: alive * kv_heads, :columns]
                torch.bmm(torch.bmm(query, keys.transpose(1, 2)), keys)

    def update() -> None:
        for row in rows:
            for weight in body:
                _both_ways(given, made, len(row.ids_T), weight)
            _both_ways(given, made, len(row.trained_N), head_weight)
            for _ in range(layers):
                _attention(row, heads, size)

    most = max(columns for _, columns in _decoding(rollout))
    widest = max(max(weight.shape) for weight in (*body, head_weight))
    given, made = torch.ones(2, max(row_tokens, len(rollout.sampled)) * widest)
    cache = torch.ones(len(rollout.sampled) * kv_heads, most, size)
    with torch.no_grad():
        found = {"seconds_sample": _median(sample)}
    return found | {"seconds_update": _median(update)}


def _decoding(rollout: Rollout) -> Iterable[tuple[int, int]]:
    """Rows under way and columns of their cache, of each step that makes a token."""
    lengths = [completion.tokens for completion in rollout.sampled]
    prompt = max(example.prompt_length for example in rollout.examples)
    for step in range(max(lengths)):
        yield sum(length > step for length in lengths), prompt + step


def _product(left: torch.Tensor, right: torch.Tensor, room: torch.Tensor) -> None:
    rows, columns = len(left), right.shape[1]
    torch.mm(left, right, out=room[: rows * columns].view(rows, columns))


def _both_ways(given: torch.Tensor, made: torch.Tensor, tokens: int, weight: torch.Tensor) -> None:
    outs, ins = weight.shape
    x, gradient = given[: tokens * ins].view(tokens, ins), given[: tokens * outs].view(tokens, outs)
    _product(x, weight.T, made)
    _product(gradient, weight, made)
    _product(gradient.T, x, made)


def _attention(row: PackedRow, heads: int, size: int) -> None:
    for bucket in row.buckets:
        shape = (bucket.segments, heads, bucket.longest, size)
        q, k, v = (torch.ones(shape, requires_grad=True) for _ in range(3))
        out = scaled_dot_product_attention(q, k, v, is_causal=True)
        torch.autograd.grad(out, (q, k, v), torch.ones_like(out))


def _median(work: Callable[[], None], times: int = 5) -> float:
    work()
    seconds = []
    for _ in range(times):
        began = time.monotonic()
        work()
        seconds.append(time.monotonic() - began)
    return sorted(seconds)[times // 2]
