"""Products and seconds: what a stage computes, and how long a machine takes for it.

Legend: N weights multiplied, T tokens, s tokens of a trace, h hidden size, q width of queries, V vocabulary, L layers.
A product of a token with a weight counts as 2 floating-point operations (Kaplan et al. 2020, section 2.1).
"""

from __future__ import annotations

from typing import NamedTuple

from distill.plan.architectures import Shape
from distill.plan.hardware import Gpu
from distill.plan.memory import Training

#: Share of the bandwidth that decoding reaches: assumed.
BANDWIDTH_USE = 0.6
#: Tokens of a prompt: assumed.
PROMPT = 200
#: Seconds of one core for a verdict: maths answers and programs as measured (`tests/benchmarks/RESULTS.md`), and 10 ms
#: assumed for what a program and its tests do.
VERDICT_SECONDS = {
    "math": 0.25e-3,
    "choice": 0.25e-3,
    "instruction": 1e-3,
    "open": 0.25e-3,
    "code": 0.8e-3 + 10e-3,
}


def forward_flops(shape: Shape, tokens: float, length: float) -> float:
    """2 N T for the layers and the head, 2 L q s T for causal attention (a token meets s/2 others, in two products)."""
    return tokens * (2 * shape.matrices + 2 * shape.embedding + _attention(shape, length))


def _attention(shape: Shape, length: float) -> float:
    return 2 * shape.layers * shape.query_width * length


def training_flops(training: Training, tokens: float, length: float) -> float:
    """6 N T for the layers, 8 V h T for the head, 6 L q s T for attention.

    Recomputed layers cost their forward pass again, 2 N T + 2 L q s T. The head always makes its logits twice, hence 8.
    Frozen weights need no gradient: 4 N T for the layers and 6 V h T for the head, and the adapters 6 of theirs.
    """
    shape = training.shape
    full = training.method == "full"
    again = 0 if training.activations == "keep" else 1
    layers = (6 if full else 4) + 2 * again
    head = 8 if full else 6
    adapters = 0 if full else (6 + 2 * again) * training.trainable
    attention = (3 + again) * _attention(shape, length)
    return tokens * (layers * shape.matrices + head * shape.embedding + adapters + attention)


def compute_seconds(flops: float, gpu: Gpu, gpus: int, mfu: float) -> float:
    """flops / (GPUs * peak * MFU), the model FLOPs utilisation (Chowdhery et al. 2022) being assumed.

    Recomputed products are in ``flops``, so this is the share of the peak that the hardware really does.
    """
    return flops / (gpus * gpu.flops * mfu)


class Generation(NamedTuple):
    """What generating costs: operations, and seconds on the machine."""

    flops: float
    seconds: float


def generate(
    shape: Shape,
    gpu: Gpu,
    *,
    prompts: int,
    answers: int,
    length: float,
    rows: int,
    copies: int,
    split: int,
    mfu: float,
) -> Generation:
    """Prefill and decoding of ``answers`` of ``length`` tokens to ``prompts`` distinct prompts.

    prefill: the forward pass of each prompt. A step of decoding, one token of each row, takes the longer of
      reading: (weights + rows * cache of the mean context) / (bandwidth * 0.6 * split)
      computing: rows * forward pass of a token / (peak * MFU * split)
    and there are ceil(answers / (rows * copies)) waves of ``length`` steps.

    Args:
        rows: side by side in one copy of the model.
        copies: of the model, each on ``split`` GPUs.
    """
    number = 2 if gpu.cuda else 4
    context = PROMPT + length / 2
    prefill = forward_flops(shape, prompts * PROMPT, PROMPT)
    token = (
        2 * shape.matrices + 2 * shape.embedding + 2 * _attention(shape, context)
    )  # it sees the whole context
    side_by_side = min(rows, -(-answers // copies))
    waves = -(-answers // (side_by_side * copies))
    read = number * (shape.matrices + shape.embedding + side_by_side * context * shape.cache)
    step = max(
        read / (gpu.bandwidth * BANDWIDTH_USE * split), side_by_side * token / (gpu.flops * mfu * split)
    )
    seconds = compute_seconds(prefill, gpu, copies * split, mfu) + waves * length * step
    return Generation(prefill + answers * length * token, seconds)
