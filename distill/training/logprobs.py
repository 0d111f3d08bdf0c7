"""Log-probabilities of the trained tokens of a packed row: the one place where logits are made.

Legend: T tokens of a packed row, N trained tokens of it, V vocabulary.
"""

from __future__ import annotations

import torch

from distill.training.packing import PackedRow


def token_logprobs(model: torch.nn.Module, row: PackedRow, temperature: float = 1.0) -> torch.Tensor:
    """log softmax(logits / temperature) of the N target tokens, in float32.

    The temperature must be the one that sampled the tokens: else a policy's own samples are judged under another.
    Logits are made for the N trained positions only, all N at once: memory grows with N x V.
    """
    logits_NV = model(
        input_ids=row.ids_T[None],
        position_ids=row.positions_T[None],
        packed=row.buckets,
        logits_to_keep=row.trained_N,
        use_cache=False,
    ).logits[0]
    return -torch.nn.functional.cross_entropy(
        logits_NV.float() / temperature, row.targets_N, reduction="none"
    )
