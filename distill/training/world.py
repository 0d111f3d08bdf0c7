"""The processes that train one model together, and how its weights lie among them.

Alone; replicated (DistributedDataParallel: every process holds the whole model); or sharded (FSDP2: parameters,
gradients and moments are cut among the processes, and each layer is whole only while it computes). Torch's own
wrappers, not accelerate's: that one ignores an FSDP plugin on CPU processes without a word and replicates.

What this does not do: cut one sequence among processes (context parallelism).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from distill.device import Device

#: Others wait this long for a process that does something alone: writes a checkpoint, or a whole harvest before this.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class World:
    """This process's place among ``size``; ``sharded`` says how they hold the model."""

    rank: int = 0
    size: int = 1
    sharded: bool = False

    def sum(self, value: float) -> float:
        """The sum of a number over all processes."""
        return self.sums([value])[0]

    def sums(self, values: Sequence[float]) -> list[float]:
        """The sums of several numbers, each over all processes."""
        if self.size == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(totals)
        return list(map(float, totals))

    def gather(self, part: Any) -> list[Any]:
        """What each process has, in their order, given to all; it is pickled on the way."""
        if self.size == 1:
            return [part]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, part)
        return parts

    def wait(self) -> None:
        """Until all processes are here."""
        self.sum(0.0)

    def share(self, rows: Sequence[Any], sizes: Sequence[int]) -> list[Any | None]:
        """This process's rows of an update, heaviest first to whoever has least; None where others still work.

        All processes get equally many, for each takes part in the others' gathering of weights.
        """
        if self.size == 1:
            return list(rows)
        mine: list[list[Any | None]] = [[] for _ in range(self.size)]
        load = [0] * self.size
        for number in sorted(range(len(rows)), key=lambda n: (-sizes[n], n)):
            least = min(range(self.size), key=lambda rank: (load[rank], rank))
            mine[least].append(rows[number])
            load[least] += sizes[number]
        longest = max(map(len, mine))
        return mine[self.rank] + [None] * (longest - len(mine[self.rank]))


ALONE = World()


def join(sharded: bool) -> World:
    """Meet the processes that torchrun's variables name; `ALONE` where there are none."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    on_gpus = torch.cuda.is_available()
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=PATIENCE)
    return World(dist.get_rank(), dist.get_world_size(), sharded)


def told(name: str | None = None) -> str | None:
    """What the first process says to all: a name, or None for the end."""
    said = [name]
    dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
    return said[0]


def part() -> None:
    """Leave the others, when all are ready to."""
    if dist.is_initialized():
        World(dist.get_rank(), dist.get_world_size()).wait()
        dist.destroy_process_group()


def spread(model: Any, world: World, device: Device) -> Any:
    """The model as the processes hold it; sharded, the first process's weights go to all, whose own may be empty."""
    if world.size == 1:
        return model
    if not world.sharded:
        return DistributedDataParallel(model, gradient_as_bucket_view=True)
    whole = model.state_dict() if world.rank == 0 else {}
    buffers = {name: buffer.to(device.kind) for name, buffer in model.named_buffers()}
    model.to("meta")  # so that no process ever holds more than its shards and one layer on the device
    model.tie_weights()
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if device.bf16 else None, reduce_dtype=torch.float32
    )
    mesh = init_device_mesh(device.kind, (world.size,))
    for module in list(model.modules()):
        if type(module).__name__.endswith("DecoderLayer"):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model.to_empty(device=device.kind)
    model.tie_weights()
    for name, buffer in buffers.items():
        home, _, last = name.rpartition(".")
        model.get_submodule(home)._buffers[last] = buffer
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, whole, options=options)
    return model


@contextmanager
def whole(model: torch.nn.Module) -> Iterator[None]:
    """Within the block every process holds all of a sharded model, as it computes with it, and needs no other.

    Nothing may change the weights in there. All processes enter and leave together; a model that is not in shards
    stays as it is.
    """
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        cut_again(model)
        for part in parts:  # the outermost stays whole between forward and backward pass: FSDP2's default
            part.set_reshard_after_forward(part is not model, recurse=False)


def cut_again(model: torch.nn.Module) -> None:
    """Drop what is whole of a sharded model: a pass without gradient leaves its outermost weights so."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gathered(weights: Mapping[str, torch.Tensor], world: World) -> dict[str, torch.Tensor]:
    """The weights, whole, on the host. Every process must ask; those after the first get none of them."""
    found = {}
    for name, value in weights.items():
        value = value.detach()
        value = value.full_tensor() if isinstance(value, DTensor) else value
        if world.rank == 0:
            found[name] = value.cpu()
    return found


def without_exchange(model: torch.nn.Module) -> AbstractContextManager[None]:
    """Keep gradients at home for now. Shards are exchanged each time all the same: whole gradients would not fit."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A local tensor laid out as a parameter is."""
    if not isinstance(parameter, DTensor) or values.ndim == 0:
        return values
    return DTensor.from_local(
        values,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
