"""Which device and precision this machine offers: found, not assumed, and told in the manifest.

bf16 is chosen only where the hardware multiplies it natively: a CPU without AMX or AVX512-BF16 emulates it at a
hundredth of float32's speed. And on a CPU only for models wide enough that the products outweigh the casts around them:
the built-in world's models (hidden size 64 and 96) train faster in float32 even where bf16 is native.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: On a CPU, models narrower than this compute in float32. Measured on two cores with AVX512-BF16, three Qwen2 layers,
#: forward and backward of 400 tokens: bf16 takes 1.4 times as long at width 64, as long at 256, 0.9 times at 384.
NARROWEST_BF16_ON_CPU = 384


@dataclass(frozen=True, slots=True)
class Device:
    """Where to compute and in which precision products are taken (weights of a model in training stay float32)."""

    name: str
    kind: str
    bf16: bool

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of matrix products."""
        return torch.bfloat16 if self.bf16 else torch.float32

    def describe(self) -> dict[str, str]:
        """For the manifest."""
        return {"device": self.name, "precision": "bf16" if self.bf16 else "float32"}


def find_device(width: int) -> Device:
    """CUDA when there is one, else the CPU.

    Args:
        width: hidden size of the widest model that will run.
    """
    if torch.cuda.is_available():
        return Device(
            torch.cuda.get_device_name(), "cuda", torch.cuda.is_bf16_supported(including_emulation=False)
        )
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    bf16 = native and width >= NARROWEST_BF16_ON_CPU
    return Device(f"cpu, {torch.get_num_threads()} threads", "cpu", bf16)
