"""Attention over packed rows and over a decoding cache, through transformers' attention interface.

Legend: T tokens of a packed row, S segments of a bucket, L longest of them, H query heads, D head size, B rows,
K cached tokens.

Qwen2, Qwen3 and Llama call whatever function their config's `_attn_implementation` names and hand it the keyword
arguments of `forward`. Ours gets `packed=` (training: each segment attends causally to itself alone) or `seen_BQK=`
(decoding: which cached keys each query may see), or neither (plain causal attention).

On a GPU, in half precision, a packed row goes to FlashAttention's kernel for segments of any length as it is. Elsewhere
segments are gathered into buckets of similar length. Padding sits at a segment's end, where a causal query never
looks, so no mask is needed and what is computed for padding is thrown away.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from distill.training.packing import Bucket, PackedRow

NAME = "distill"
#: Segments of at most so many tokens are attended by `_short` on a CPU.
SHORT = 80
_KERNEL_TAKES = inspect.signature(varlen_attn).parameters.keys()
#: Torch 2.10's has no causal windows by this name.
_KERNEL_FITS = {"window_size", "scale"} <= _KERNEL_TAKES
#: Since 2.12 grouped heads must be asked for. In 2.11 nothing asks, and the kernel below has always taken them.
_GROUPS_ARE_ASKED_FOR = "enable_gqa" in _KERNEL_TAKES


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed: PackedRow | None = None,
    seen_BQK: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention; query is (B, H, T, D), key and value may have fewer heads; returns (B, T, H, D)."""
    assert attention_mask is None, "this attention takes packed= or seen_BQK=, never a padding mask"
    assert sliding_window is None, "models with sliding windows are refused when they are loaded"
    shared = {"scale": scaling, "dropout_p": dropout, "enable_gqa": key.shape[1] != query.shape[1]}
    if packed is None:
        assert seen_BQK is not None or query.shape[2] == key.shape[2], "keys of a cache need seen_BQK="
        if seen_BQK is not None and query.shape[2] == 1:
            # The heads of a group look at the same keys: as so many queries of one head they share their reading.
            grouped = query.unflatten(1, (key.shape[1], -1)).squeeze(3)
            if _by_products(query):
                out = _one_query(grouped, key, value, seen_BQK, scaling)
            else:
                out = scaled_dot_product_attention(
                    grouped, key, value, attn_mask=seen_BQK[:, None], scale=scaling, dropout_p=dropout
                )
            return out.flatten(1, 2)[:, None].contiguous(), None
        mask = None if seen_BQK is None else seen_BQK[:, None]
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, **shared
        )
        return out.transpose(1, 2).contiguous(), None
    assert query.shape[0] == 1, "a packed micro-batch is one row"
    q_THD, k_THD, v_THD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if packed.whole is not None:
        q_THD, k_THD, v_THD = (tensor.index_select(0, packed.whole) for tensor in (q_THD, k_THD, v_THD))
    if _by_kernel(query, dropout):
        out_THD = _in_one_call(q_THD, k_THD, v_THD, packed, scaling)
    else:
        out_THD = _by_buckets(q_THD, k_THD, v_THD, packed, shared)
    if packed.first_T is not None:
        out_THD = out_THD.index_select(0, packed.first_T)
    return out_THD[None], None


def _by_buckets(
    q_THD: torch.Tensor,
    k_THD: torch.Tensor,
    v_THD: torch.Tensor,
    packed: PackedRow,
    shared: dict[str, Any],
) -> torch.Tensor:
    parts_THD, at = [], 0
    for bucket in packed.buckets:
        tokens = slice(at, at := at + len(bucket.place_T))
        q, k, v = (_Padded.apply(part[tokens], bucket).transpose(1, 2) for part in (q_THD, k_THD, v_THD))
        if bucket.longest <= SHORT and _by_products(q) and not shared["dropout_p"]:
            out = _short(q, k, v, shared["scale"])
        else:
            out = scaled_dot_product_attention(q, k, v, is_causal=True, **shared)
        parts_THD.append(_Flat.apply(out.transpose(1, 2), bucket))
    return torch.cat(parts_THD)


def _short(
    q_SHLD: torch.Tensor, k_SHLD: torch.Tensor, v_SHLD: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Causal attention over whole short segments in batched products, faster on a CPU than its fused kernel's blocks.

    Its weights are kept for the backward pass: 4 H `SHORT` bytes a token at most, which no plan counts.
    """
    segments, heads, length, size = k_SHLD.shape
    group = q_SHLD.shape[1] // heads
    queries = q_SHLD.reshape(segments * heads, group * length, size)
    keys, values = (tensor.reshape(segments * heads, length, size) for tensor in (k_SHLD, v_SHLD))
    mask_LL = torch.full((length, length), -torch.inf, dtype=queries.dtype).triu(1)
    scale = size**-0.5 if scaling is None else scaling
    scores = torch.baddbmm(mask_LL.repeat(group, 1), queries, keys.transpose(1, 2), alpha=scale)
    return torch.bmm(scores.softmax(-1), values).view(q_SHLD.shape)


def _one_query(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen_B1K: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Softmax attention in two batched products, which a CPU does in half the time of its fused kernel.

    The kernel's blocks are of many queries; with one each it makes two small products for every row and head.
    """
    rows, heads, queries, size = query.shape
    scaled = query * (size**-0.5 if scaling is None else scaling)
    scores = torch.bmm(scaled.flatten(0, 1), key.flatten(0, 1).transpose(1, 2)).view(rows, heads, queries, -1)
    scores += torch.zeros_like(seen_B1K, dtype=scores.dtype).masked_fill_(~seen_B1K, -torch.inf)[:, None]
    return torch.bmm(scores.softmax(-1).flatten(0, 1), value.flatten(0, 1)).view(query.shape)


class _Padded(torch.autograd.Function):
    """A bucket's tokens (T, H, D) as (S, L, H, D), zero where there is none; `_Flat` is the way back, and each other's
    gradient: every token has one place, so nothing is summed, which is what autograd's own way would do."""

    @staticmethod
    def forward(ctx: Any, tokens_THD: torch.Tensor, bucket: Bucket) -> torch.Tensor:
        ctx.bucket = bucket
        return _padded(tokens_THD, bucket)

    @staticmethod
    def backward(ctx: Any, grad_SLHD: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _flat(grad_SLHD, ctx.bucket), None


class _Flat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, padded_SLHD: torch.Tensor, bucket: Bucket) -> torch.Tensor:
        ctx.bucket = bucket
        return _flat(padded_SLHD, bucket)

    @staticmethod
    def backward(ctx: Any, grad_THD: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _padded(grad_THD, ctx.bucket), None


def _padded(tokens_THD: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    places = bucket.segments * bucket.longest
    made = tokens_THD.new_zeros(places, tokens_THD[0].numel())
    made.index_copy_(0, bucket.place_T, tokens_THD.flatten(1))
    return made.view(bucket.segments, bucket.longest, *tokens_THD.shape[1:])


def _flat(padded_SLHD: torch.Tensor, bucket: Bucket) -> torch.Tensor:
    found = padded_SLHD.flatten(2).flatten(0, 1).index_select(0, bucket.place_T)
    return found.view(-1, *padded_SLHD.shape[2:])


def _by_products(query: torch.Tensor) -> bool:
    """On a CPU in full precision; in half of it products would round the scores, which the fused kernel does not."""
    halved = torch.is_autocast_enabled("cpu") or query.dtype in (torch.bfloat16, torch.float16)
    return query.device.type == "cpu" and not halved


def _by_kernel(query: torch.Tensor, dropout: float) -> bool:
    halved = torch.is_autocast_enabled(query.device.type) or query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and halved and dropout == 0.0 and _KERNEL_FITS


def _in_one_call(
    q_THD: torch.Tensor, k_THD: torch.Tensor, v_THD: torch.Tensor, packed: PackedRow, scaling: float | None
) -> torch.Tensor:
    """The kernel on the whole row; it is none of the operations that autocast casts for."""
    kind = q_THD.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else q_THD.dtype
    q_THD, k_THD, v_THD = (tensor.to(dtype) for tensor in (q_THD, k_THD, v_THD))
    grouped = {"enable_gqa": q_THD.shape[1] != k_THD.shape[1]} if _GROUPS_ARE_ASKED_FOR else {}
    out_THD: torch.Tensor = varlen_attn(
        q_THD, k_THD, v_THD, packed.borders, packed.borders, packed.longest, packed.longest,
        scale=scaling, window_size=(-1, 0), **grouped,
    )  # fmt: skip
    return out_THD


AttentionInterface.register(NAME, attend)
