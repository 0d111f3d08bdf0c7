"""Log-probabilities of vLLM as the toolkit defines them: after temperature, before the nucleus is cut.

vLLM tells those before temperature (``raw``) or those after the cut, which sum to one over the nucleus alone
(``processed``). But it also tells processed *logits*. These two processors turn logits into log-probabilities, so the
logit of a sampled token is its log-probability. A constant taken from a row changes neither its order nor its softmax.

Loaded by vLLM's own processes, by name; imports vLLM at its top.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor


class _LogSoftmax(LogitsProcessor):
    """Legend of `apply`: B rows, V vocabulary."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        pass

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """logits_BV to logprobs_BV."""
        return logits.log_softmax(dim=-1)

    def update_state(self, batch_update: Any) -> None:
        """It has none."""


class BeforeTemperature(_LogSoftmax):
    """All that a greedy row passes: vLLM then takes its most likely token, at temperature 1 like the local engine."""

    def is_argmax_invariant(self) -> bool:
        """It is, but vLLM skips those that say so where every row is greedy."""
        return False


class AfterTemperature(_LogSoftmax):
    """What the rows that are drawn pass next."""

    def is_argmax_invariant(self) -> bool:
        """Such processors come after temperature and before top-p."""
        return True
