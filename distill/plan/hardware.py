"""The machines that a plan knows, as numbers."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from distill.errors import UserError
from distill.recipe_parts import Hardware

MIB = 2**20
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator: bytes of memory as nvidia-smi tells them, dense bf16 products a second, bytes read a second.

    ``cores`` are the host's for each of them, which grade answers.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    cores: int = 8

    @property
    def cuda(self) -> bool:
        """Whether products are taken in bf16; on the CPU they are in float32."""
        return self.name != "cpu"


#: Peaks are the makers' data sheets', dense (half of what is told "with sparsity"). ``cpu`` is a small machine of two
#: cores with AVX-512 and 16 GiB, its peak in float32.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("h100-80gb", 81559 * MIB, 989.4e12, 3.35e12),
        Gpu("h200-141gb", 143771 * MIB, 989.4e12, 4.8e12),
        Gpu("a100-80gb", 81920 * MIB, 312e12, 2.039e12),
        Gpu("a100-40gb", 40960 * MIB, 312e12, 1.555e12),
        Gpu("l40s-48gb", 46068 * MIB, 362e12, 0.864e12),
        Gpu("rtx4090-24gb", 24564 * MIB, 165.2e12, 1.008e12),
        Gpu("cpu", 16 * GIB, 0.2e12, 0.02e12, cores=2),
    )
}

#: Of a GPU's memory, the share that may be planned for: the allocator's gaps take the rest.
USABLE = 0.95


def find_gpu(hardware: Hardware) -> Gpu:
    """The table's entry.

    Raises:
        UserError: there is none of that name.
    """
    if hardware.gpu in GPUS:
        return GPUS[hardware.gpu]
    near = difflib.get_close_matches(hardware.gpu, GPUS, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    raise UserError(
        "hardware.gpu", hardware.gpu, "is not in the table of machines", f"{hint}known: {', '.join(GPUS)}"
    )
