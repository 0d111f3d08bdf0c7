r"""AdamW (Loshchilov and Hutter 2019, algorithm 2) for weights in bfloat16 and moments in eight bits.

    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    w = w (1 - lr decay) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

computed in float32, one parameter at a time. Weights in bfloat16 have eight bits of mantissa: an update of less than
1/256 of a weight would be rounded away every time, so they are rounded up or down at random, with the odds that make
the mean right (Gupta et al. 2015). Eight-bit moments are bitsandbytes' blockwise dynamic quantisation (Dettmers et al.
2022), in blocks of 256; parameters of fewer than 4,096 elements keep float32 moments, as there.

Where weights and moments are float32, `torch.optim.AdamW` does the same faster.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch

from distill.training.world import local

BLOCK = 256
SMALLEST_IN_8_BIT = 4096  # elements


class LeanAdamW(torch.optim.Optimizer):
    """AdamW with stochastic rounding where a parameter is bfloat16, and eight-bit moments where asked for."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eight_bit: bool,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.eight_bit = eight_bit

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(local(parameter), local(parameter.grad), self.state[parameter], group)

    def _update(
        self, weight: torch.Tensor, grad: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        state["step"] = step = state.get("step", 0) + 1
        first, second = group["betas"]
        grad = grad.float()
        m, v = (_moment(state, name, weight) for name in ("m", "v"))
        m.lerp_(grad, 1 - first)
        v.mul_(second).addcmul_(grad, grad, value=1 - second)
        denominator = (v / (1 - second**step)).sqrt_().add_(group["eps"])
        updated = weight.float() * (1 - group["lr"] * group["weight_decay"])
        updated.addcdiv_(m, denominator, value=-group["lr"] / (1 - first**step))
        weight.copy_(round_at_random(updated) if weight.dtype == torch.bfloat16 else updated)
        for name, moment in (("m", m), ("v", v)):
            if self.eight_bit and weight.numel() >= SMALLEST_IN_8_BIT:
                state[name], state[f"{name}_scale"] = _in_8_bit(moment, _code(name, weight.device))
            else:
                state[name] = moment


def round_at_random(values: torch.Tensor) -> torch.Tensor:
    """Float32 values as bfloat16, up or down so that the mean over many roundings is the value itself."""
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device)
    rounded = bits.add(noise).bitwise_and_(-(1 << 16)).view(torch.float32)
    return torch.where(values.isfinite(), rounded, values).to(torch.bfloat16)


def _moment(state: dict[str, Any], name: str, weight: torch.Tensor) -> torch.Tensor:
    """A moment in float32, zero before the first step."""
    if name not in state:
        return torch.zeros_like(weight, dtype=torch.float32)
    kept: torch.Tensor = state[name]
    if kept.dtype != torch.uint8:
        return kept
    from bitsandbytes.functional import dequantize_blockwise

    code = _code(name, kept.device)
    found: torch.Tensor = dequantize_blockwise(
        kept, absmax=state[f"{name}_scale"], code=code, blocksize=BLOCK
    )
    return found.view(weight.shape)


def _in_8_bit(moment: torch.Tensor, code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places in the code, and the largest magnitude of each block."""
    from bitsandbytes.functional import quantize_blockwise

    values, state = quantize_blockwise(moment, code=code, blocksize=BLOCK)
    return values, state.absmax


@cache
def _code(name: str, device: torch.device) -> torch.Tensor:
    """The 256 values of dynamic quantisation: with a sign for m, without for v, which is never negative."""
    from bitsandbytes.functional import create_dynamic_map

    code: torch.Tensor = create_dynamic_map(signed=name == "m").to(device)
    return code
