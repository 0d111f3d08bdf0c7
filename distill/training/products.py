"""Matrix products of training on a CPU, in float32, by oneDNN.

Legend: T tokens, I and O features in and out.

PyTorch's CPU build takes float32 products with MKL, which on processors that are not Intel's uses half the width of
their vectors; oneDNN uses all of it and is twice as fast there (on Intel's MKL is as fast, and faster on few tokens).
PyTorch hands it a float32 product only where it may round to bf16 on the way, which oneDNN does where the processor has
a matrix unit for it and nowhere else: so `exact` tries, and where anything is rounded all stays with MKL.

oneDNN compiles a kernel for each shape that it meets (2 ms), and packed rows have any length. So they are cut into
tiles of a few lengths, and what is left of a row, fewer tokens than the smallest tile, goes to MKL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

#: Tokens of a tile, from the largest that fits. Each is more kernels to keep: six sizes took 30 MB more than three.
TILES = (2048, 512, 128)


_one_library = False


@contextmanager
def by_one_library() -> Iterator[None]:
    """No product goes to oneDNN in here: its switch is the whole process's, and turns what other threads multiply."""
    global _one_library
    before, _one_library = _one_library, True
    try:
        yield
    finally:
        _one_library = before


@contextmanager
def by_onednn() -> Iterator[None]:
    """Float32 products in here go to oneDNN, if it takes them exactly."""
    if _one_library or not wanted():
        yield
        return
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def wanted() -> bool:
    """Whether products go to oneDNN here: it is exact, and MKL does not know the processor."""
    return exact() and not _of_intel()


@cache
def _of_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux: oneDNN loses little where it does not win
        return False


@cache
def exact() -> bool:
    """Whether oneDNN, allowed to round to bf16, does not: a product of whole numbers, which bf16 cannot hold, tells."""
    settings = torch.backends.mkldnn.matmul
    if not torch.backends.mkldnn.is_available() or not hasattr(settings, "fp32_precision"):
        return False
    numbers = torch.arange(128 * 128, dtype=torch.float32).reshape(128, 128) % 1021
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        found = numbers @ torch.eye(128)
    finally:
        settings.fp32_precision = before
    return bool((found == numbers).all())


def quicken(model: torch.nn.Module) -> None:
    """Let the linear layers of a model on the CPU train by oneDNN. Weights, names and results stay as they are."""
    if not wanted():
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = TiledLinear  # no wrapper: copies, adapters and checkpoints see the same layer


class TiledLinear(torch.nn.Linear):
    """A linear layer whose products in float32 are cut into tiles while gradients are asked for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x @ weight.T + bias``; any leading axes."""
        plain = x.dtype != torch.float32 or self.weight.dtype != torch.float32
        if plain or not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        made_TO: torch.Tensor = _Product.apply(x.reshape(-1, x.shape[-1]), self.weight, self.bias)
        return made_TO.view(*x.shape[:-1], self.out_features)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x_TI if ctx.needs_input_grad[1] else None, weight_OI)
        made_TO = x_TI.new_empty(len(x_TI), len(weight_OI))
        for here in _tiles(len(x_TI)):
            torch.mm(x_TI[here], weight_OI.T, out=made_TO[here])
        return made_TO if bias_O is None else made_TO.add_(bias_O)

    @staticmethod
    def backward(ctx: Any, grad_TO: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TI, weight_OI = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        grad_TO = grad_TO.contiguous()
        grad_x_TI = grad_TO.new_empty(len(grad_TO), weight_OI.shape[1]) if to_x else None
        grad_weight_OI = torch.zeros_like(weight_OI) if to_weight else None
        for here in _tiles(len(grad_TO)):
            if grad_x_TI is not None:
                torch.mm(grad_TO[here], weight_OI, out=grad_x_TI[here])
            if grad_weight_OI is not None:
                grad_weight_OI.addmm_(grad_TO[here].T, x_TI[here])
        return grad_x_TI, grad_weight_OI, grad_TO.sum(0) if to_bias else None


def _tiles(tokens: int) -> Iterator[slice]:
    """The tiles of so many tokens. While one is worked on products go to oneDNN, for what is left to MKL."""
    at = 0
    with by_onednn():
        for size in TILES:
            while tokens - at >= size:
                yield slice(at, at + size)
                at += size
    if at < tokens:
        yield slice(at, tokens)
