"""Which device and precision this machine offers: found, not assumed, and told in the manifest.

bf16 is chosen only where the hardware multiplies it natively: a CPU without AMX or AVX512-BF16 emulates it at a
hundredth of float32's speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


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


def find_device() -> Device:
    """CUDA when there is one, else the CPU."""
    if torch.cuda.is_available():
        return Device(
            torch.cuda.get_device_name(), "cuda", torch.cuda.is_bf16_supported(including_emulation=False)
        )
    bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return Device(f"cpu, {torch.get_num_threads()} threads", "cpu", bf16)
