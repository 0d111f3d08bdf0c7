"""Attention over packed rows and over a decoding cache, through transformers' attention interface.

Legend: T tokens of a packed row, S segments of a bucket, L longest of them, H query heads, D head size, B rows,
K cached tokens.

Qwen2, Qwen3 and Llama call whatever function their config's `_attn_implementation` names and hand it the keyword
arguments of `forward`. Ours gets `packed=` (training: each segment attends causally to itself alone) or `seen_BQK=`
(decoding: which cached keys each query may see), or neither (plain causal attention).

Segments are gathered into buckets of similar length. Padding sits at a segment's end, where a causal query never looks,
so no mask is needed and what is computed for padding is thrown away.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from distill.training.packing import Bucket

NAME = "distill"


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed: list[Bucket] | None = None,
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
        mask = None if seen_BQK is None else seen_BQK[:, None]
        out = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, **shared
        )
        return out.transpose(1, 2).contiguous(), None
    assert query.shape[0] == 1, "a packed micro-batch is one row"
    parts_THD = []
    for bucket in packed:
        q, k, v = (
            tensor[0].transpose(0, 1)[bucket.index_SL].transpose(1, 2) for tensor in (query, key, value)
        )
        out_SLHD = scaled_dot_product_attention(q, k, v, is_causal=True, **shared).transpose(1, 2)
        parts_THD.append(out_SLHD[bucket.real_SL])
    return torch.cat(parts_THD)[None], None


AttentionInterface.register(NAME, attend)
