"""Log-probabilities of the trained tokens of a packed row: the one place where logits are made.

Legend: T tokens of a packed row, N trained tokens of it, C of them at a time, V vocabulary, B of it at a time, H hidden
size.

A row's logits (N x V) would be the largest thing in memory by far: 16k tokens of a vocabulary of 128k take 8 GB in
float32. So the head works on C tokens at a time and keeps one number for each; the backward pass makes their logits
again, which costs one matrix product more of the four that the head takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

from distill.training.packing import PackedRow
from distill.training.products import by_onednn

#: Bytes of float32 logits made at a time, by kind of device. Matrix products of a GPU want more rows at once.
CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 512 << 20}
#: A CPU is bound by its memory: few tokens at a time would read the whole head for each few. So it takes the vocabulary
#: in blocks too; a block's logits and its part of the head (2 MB, and 4 KB for each unit of H) stay in the caches.
CPU_ROWS, CPU_VOCABULARY_BLOCK = 512, 1024
VOCABULARY_BLOCK = 16384  # rows of the head's gradient made at a time in half precision


def token_logprobs(model: Any, row: PackedRow, temperature: float = 1.0) -> torch.Tensor:
    """log softmax(logits / temperature) of the N target tokens, in float32.

    The temperature must be the one that sampled the tokens: else a policy's own samples are judged under another.
    Memory grows with N, not with N x V.
    """
    with _head_gives_logprobs(model, row.targets_N, temperature):
        found: torch.Tensor = model(
            input_ids=row.ids_T[None],
            position_ids=row.positions_T[None],
            packed=row,
            logits_to_keep=row.trained_N,
            use_cache=False,
        ).logits[0]
    return found


@contextmanager
def _head_gives_logprobs(model: Any, targets_N: torch.Tensor, temperature: float) -> Iterator[None]:
    """Let the model's head answer with log-probabilities instead of logits.

    It has to happen inside the model's own ``forward``: there autocast is on, and sharded weights are whole.
    """
    head = getattr(model, "module", model).get_output_embeddings()
    plain = head.forward

    def forward(hidden_1NH: torch.Tensor) -> torch.Tensor:
        hidden_NH = hidden_1NH[0]
        rows = max(1, CHUNK_BYTES[hidden_NH.device.type] // (4 * head.weight.shape[0]))
        if len(targets_N) <= rows:
            return _row(_of_logits(plain(hidden_NH), targets_N, temperature))
        if isinstance(head, torch.nn.Linear) and head.bias is None and head.weight.is_floating_point():
            block = len(head.weight)
            if hidden_NH.device.type == "cpu":
                rows, block = CPU_ROWS, CPU_VOCABULARY_BLOCK
            return _row(_Chunked.apply(hidden_NH, head.weight, targets_N, temperature, rows, block))
        # An adapter on the head, or one of another kind: autograd's way of the same.
        parts = [
            checkpoint(lambda h, t: _of_logits(plain(h), t, temperature), h, t, use_reentrant=False)
            for h, t in zip(hidden_NH.split(rows), targets_N.split(rows), strict=True)
        ]
        return _row(torch.cat(parts))

    head.forward = forward
    try:
        yield
    finally:
        del head.forward  # the class's own shows again


def _row(logprobs_N: torch.Tensor) -> torch.Tensor:
    """As a batch of one, and no view: sharded models hang their gathering of weights on what they return."""
    return torch.stack([logprobs_N])


def _of_logits(logits_CV: torch.Tensor, targets_C: torch.Tensor, temperature: float) -> torch.Tensor:
    logits_CV = logits_CV.float() if temperature == 1.0 else logits_CV.float() / temperature
    return -cross_entropy(logits_CV, targets_C, reduction="none")


class _Chunked(torch.autograd.Function):
    """`_of_logits` of ``hidden @ weight.T``, ``rows`` tokens and ``block`` of the vocabulary at a time, both ways."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        targets_N: torch.Tensor,
        temperature: float,
        rows: int,
        block: int,
    ) -> torch.Tensor:
        kind = hidden_NH.device.type
        ctx.dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_NH.dtype
        ctx.temperature, ctx.rows, ctx.block = temperature, rows, block
        weight = weight_VH.to(ctx.dtype)
        target_N = torch.zeros(len(hidden_NH), device=hidden_NH.device)
        normaliser_N = torch.full_like(target_N, -torch.inf)
        with torch.autocast(kind, enabled=False), by_onednn():
            for here, part in _blocks(len(hidden_NH), rows, len(weight), block):
                logits_CB = linear(hidden_NH[here].to(ctx.dtype), weight[part]).float().div_(temperature)
                place_C, inside_C = _place_in(targets_N[here], part)
                target_N[here] += torch.where(inside_C, logits_CB.gather(-1, place_C[:, None])[:, 0], 0)
                normaliser_N[here] = torch.logaddexp(normaliser_N[here], logits_CB.logsumexp(-1))
        ctx.save_for_backward(hidden_NH, weight_VH, targets_N, normaliser_N)
        return target_N - normaliser_N

    @staticmethod
    def backward(ctx: Any, grad_N: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """d logprob / d logit = [token is the target] - softmax, over the temperature."""
        hidden_NH, weight_VH, targets_N, normaliser_N = ctx.saved_tensors
        weight = weight_VH.to(ctx.dtype)
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        whole = ctx.block >= len(weight)
        # Summed over blocks in float32; a single block needs no sum.
        sums = hidden_NH.dtype if whole else torch.float32
        grad_hidden_NH = torch.zeros_like(hidden_NH, dtype=sums) if to_hidden else None
        grad_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if to_weight else None
        with by_onednn():
            for here, part in _blocks(len(hidden_NH), ctx.rows, len(weight), ctx.block):
                hidden = hidden_NH[here].to(ctx.dtype)
                grad_CB = linear(hidden, weight[part]).float().div_(ctx.temperature)
                grad_CB.sub_(normaliser_N[here, None]).exp_()
                place_C, inside_C = _place_in(targets_N[here], part)
                grad_CB.scatter_add_(-1, place_C[:, None], -inside_C[:, None].float())
                grad = grad_CB.mul_(-grad_N[here, None] / ctx.temperature).to(ctx.dtype)
                if grad_hidden_NH is not None:
                    grad_hidden_NH[here] += grad @ weight[part]
                if grad_weight_VH is not None:
                    _add_product(grad_weight_VH[part], grad.T, hidden)
        if grad_hidden_NH is not None:
            grad_hidden_NH = grad_hidden_NH.to(hidden_NH.dtype)
        if grad_weight_VH is not None:
            grad_weight_VH = grad_weight_VH.to(weight_VH.dtype)
        return grad_hidden_NH, grad_weight_VH, None, None, None, None


def _blocks(tokens: int, rows: int, vocabulary: int, block: int) -> Iterator[tuple[slice, slice]]:
    """Every pair of some tokens and some of the vocabulary."""
    for at in range(0, tokens, rows):
        for first in range(0, vocabulary, block):
            yield slice(at, at + rows), slice(first, min(first + block, vocabulary))


def _place_in(targets_C: torch.Tensor, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Each target's place in a part of the vocabulary (0 outside of it), and whether it is in there."""
    inside_C = (targets_C >= part.start) & (targets_C < part.stop)
    return torch.where(inside_C, targets_C - part.start, 0), inside_C


def _add_product(sum_VH: torch.Tensor, left_VC: torch.Tensor, right_CH: torch.Tensor) -> None:
    """Add a product to a float32 sum without a second matrix of its size."""
    if left_VC.dtype == torch.float32:
        sum_VH.addmm_(left_VC, right_CH)
        return
    for at in range(0, len(sum_VH), VOCABULARY_BLOCK):
        here = slice(at, at + VOCABULARY_BLOCK)
        sum_VH[here] += left_VC[here] @ right_CH
