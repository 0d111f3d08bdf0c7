"""Whether a sampler computes what the trainer computes: log-probabilities of completions that it has just drawn.

    D = mean |log p_sampler - log p_trainer|  over the tokens of completions of a fixed prompt

It tells what no look at weights does: positions, temperature, kernels, keys and values of older weights, the head.
"""

from __future__ import annotations

from typing import Protocol

import torch

from distill.chat import ChatFormat, Example, Prompt
from distill.device import Device
from distill.errors import RunFailed
from distill.generate.engine import Engine, Request, in_order
from distill.models import LoadedModel
from distill.recipe_parts import Sampling
from distill.training.logprobs import token_logprobs
from distill.training.packing import pack_row

#: The probe's prompt in so many terms, the first that fits: the prefix cache keeps whole blocks (of 128 tokens on
#: a CPU), and would give none of a shorter prompt.
PROBE, PROBE_TERMS = "17+25-8", (24, 1)
PROBE_ROWS, PROBE_TOKENS = 8, 32
#: Bounds of D. In float32 it is rounding alone: 6e-7 to 7e-7 in the tests, some hundred times that with other kernels
#: or deeper models. In bf16 each product rounds by 2^-9: 0.05 in the tests, where the trainer alone rounds so, with
#: random weights whose logits are far larger than a trained model's. What it has to find is off by 0.1 to more than 1.
PROBE_FLOAT32, PROBE_BF16 = 1e-3, 0.1


class Versioned(Engine, Protocol):
    """An engine whose weights are a policy's of some update."""

    policy_version: int | None


def probe_prompt(chat: ChatFormat, length: int) -> Prompt:
    """The longest of the probe's prompts that leaves room in rows of ``length`` tokens."""
    prompts = [chat.prompt("+".join([PROBE] * terms)) for terms in PROBE_TERMS]
    fit = [prompt for prompt in prompts if len(prompt.ids) + PROBE_TOKENS <= length]
    return (fit or prompts[-1:])[0]


@torch.no_grad()
def probe(engine: Versioned, loaded: LoadedModel, device: Device, temperature: float, length: int) -> float:
    """D of the head.

    Args:
        engine: draws rows of at most ``length`` tokens.
        loaded: the policy as the trainer holds it.

    Raises:
        RunFailed: it is above the tolerance.
    """
    prompt = probe_prompt(loaded.chat, length)
    requests = [Request("probe", n, prompt.ids, prompt.prefill, seed=n) for n in range(PROBE_ROWS)]
    tokens = max(1, min(PROBE_TOKENS, length - len(prompt.ids)))
    sampling = Sampling(temperature=temperature, top_p=1, max_tokens=tokens)
    drawn = in_order(requests, engine.generate(requests, sampling))
    examples = [Example(prompt.ids + one.token_ids, len(prompt.ids)) for one in drawn]
    row = pack_row(examples, list(range(PROBE_ROWS)), device.kind)
    with torch.autocast(device.kind, device.compute_dtype, enabled=device.bf16):
        ours_N = token_logprobs(loaded.model, row, temperature).cpu()
    laid_out = [drawn[number] for number in dict.fromkeys(row.example_N.tolist())]
    theirs_N = torch.tensor([value for one in laid_out for value in one.logprobs])
    difference = float((ours_N - theirs_N).abs().mean())
    tolerance = PROBE_BF16 if device.bf16 else PROBE_FLOAT32
    if not difference <= tolerance:
        reason = f"vLLM and the trainer disagree on the weights of update {engine.policy_version}"
        told = f"log-probabilities of the same {len(ours_N)} tokens differ by {difference:.2g} on average"
        raise RunFailed(f"{reason}: {told}, more than {tolerance:g}")
    return difference
