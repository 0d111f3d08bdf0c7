"""Memory of a training on the CPU: what is freed goes back to the system."""

from __future__ import annotations

import ctypes

#: glibc's own number for the setting, and the bytes from which a block goes back as it is freed.
M_MMAP_THRESHOLD, GIVEN_BACK = -3, 4 << 20


def give_back_freed_blocks() -> None:
    """Have the C library return freed blocks of 4 MiB and more to the system, in this process, from here on.

    Left to itself, glibc raises that limit to 32 MiB as blocks of such sizes are freed. Then it hoards the layers'
    intermediate results, a fifth to a third of a training's peak, and `distill plan` could not foretell it. The price
    is 5 to 10 % of the time of models wide enough to have such blocks. Elsewhere than under glibc nothing is done.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    set_option(M_MMAP_THRESHOLD, GIVEN_BACK)
