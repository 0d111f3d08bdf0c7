"""Which part of a rollout and of an update each of several processes does; a process alone does all of it.

Every process draws the same problems, samples and judges its own groups (a group stays whole, for its rewards and
advantages need all of it), and is then given everybody's: all hold the same rollout, and compute the same advantages
and denominators. Of an update's rows each takes some, and gradients are added. A completion's seed knows nothing of
processes, so they draw what one would have drawn, but for rounding.

Legend: N trained tokens of a packed row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from distill.chat import Example
from distill.training.packing import PackedRow, pack_groups, pack_row, tokens_of
from distill.training.world import World


class DealtRow(NamedTuple):
    """A packed row for this process; ``mine`` is False of one that another process counts.

    Who has no row left computes such a one along with no weight, for all take part in gathering the weights.
    """

    row: PackedRow
    mine: bool


def groups_of(world: World, groups: int) -> slice:
    """This process's groups of so many: neighbours, and as many as another's or one more."""
    return slice(groups * world.rank // world.size, groups * (world.rank + 1) // world.size)


def rows_of(
    world: World, examples: Sequence[Example], numbers: Sequence[int], room: int, device: str
) -> list[DealtRow]:
    """This process's rows of the examples with these numbers, equally many in all processes.

    Args:
        room: tokens of a row; or the longest example's, where that is more.
    """
    if not numbers:
        return []
    longest = max(len(examples[number].ids) for number in numbers)
    if world.size > 1:  # no row so long that another process has nothing to do
        room = min(room, math.ceil(tokens_of(examples, numbers) / world.size))
    rows = pack_groups(examples, numbers, max(room, longest))
    mine = world.share(rows, [tokens_of(examples, row) for row in rows])
    return [
        DealtRow(pack_row(examples, row or rows[-1], device, share_prompts=True), row is not None)
        for row in mine
    ]


def of_all(world: World, found: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """What all processes found of their examples, by the examples' numbers."""
    if world.size == 1:
        return dict(found)
    parts = world.gather({number: values_N.cpu() for number, values_N in found.items()})
    return {number: values_N for part in parts for number, values_N in part.items()}
