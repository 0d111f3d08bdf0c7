"""One optimiser update after another: accumulate gradients, clip, step, schedule.

Denominators are the caller's: a loss handed in is already divided by the count of the *whole* batch, so how the batch
was cut into micro-batches cannot change the gradient.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from distill.device import Device
from distill.errors import RunFailed
from distill.recipe_parts import Memory, Optimiser, Schedule
from distill.training.adamw import LeanAdamW
from distill.training.host_memory import give_back_freed_blocks
from distill.training.products import quicken
from distill.training.world import ALONE, World, gathered, like, local, spread, without_exchange


def learning_rate_at(step: int, steps: int, peak: float, schedule: Schedule) -> float:
    """The rate of update ``step`` (from 0) of ``steps``.

    Linear warm-up to ``peak``, then constant or half a cosine down to ``peak * final``.
    """
    warmup = round(schedule.warmup * steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if schedule.kind == "constant":
        return peak
    along = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, along))))


class Updater:
    """AdamW on the trainable parameters of one model, alone or with other processes (`world`).

    Args:
        model: moved to the device; its trainable parameters are float32, or bfloat16 where ``memory`` says so.
        steps: updates of the whole run, which the schedule spans.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        device: Device,
        learning_rate: float,
        schedule: Schedule,
        optimiser: Optimiser,
        steps: int,
        memory: Memory | None = None,
        world: World = ALONE,
    ) -> None:
        self.bare, self.world, self.device = model, world, device
        if device.bf16:
            model.forward = self.autocast()(model.forward)  # type: ignore[method-assign]
        if device.kind == "cpu":
            quicken(model)
            give_back_freed_blocks()
        self.model = spread(model, world, device)
        self.trainable = {name: p for name, p in self.bare.named_parameters() if p.requires_grad}
        groups = [
            {
                "params": [p for p in self.trainable.values() if p.ndim >= 2],
                "weight_decay": optimiser.weight_decay,
            },
            {"params": [p for p in self.trainable.values() if p.ndim < 2], "weight_decay": 0.0},
        ]
        memory = memory or Memory()
        if memory.moments == "8bit" or memory.weights == "bfloat16":
            eight_bit = memory.moments == "8bit"
            self.adamw: torch.optim.Optimizer = LeanAdamW(groups, learning_rate, optimiser.betas, eight_bit)
        else:
            self.adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=optimiser.betas, fused=True)
        self._peak, self._schedule, self._optimiser, self._steps = learning_rate, schedule, optimiser, steps
        self.done = 0

    def autocast(self) -> torch.autocast:
        """Products in bf16 where the device has them, as the model's own forward takes them."""
        return torch.autocast(self.device.kind, torch.bfloat16, enabled=self.device.bf16)

    def backward(self, loss: torch.Tensor, *, last: bool = True) -> None:
        """Add this part's gradient; ``last`` says whether it is the update's last part in this process.

        Processes take the mean of their gradients. Losses are shares of one sum, so each counts ``size`` times.
        """
        with nullcontext() if last else without_exchange(self.model):
            (loss * self.world.size if self.world.size > 1 else loss).backward()

    def step(self) -> dict[str, float]:
        """Clip, update, and clear; returns the gradient norm before clipping and the learning rate used.

        Raises:
            RunFailed: the gradient is not finite; nothing was updated.
        """
        rate = learning_rate_at(self.done, self._steps, self._peak, self._schedule)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        total = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._optimiser.max_grad_norm)
        norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
        if not math.isfinite(norm):
            raise RunFailed(
                f"the gradient of update {self.done + 1} is not finite: lower the learning rate, "
                "or look at the data of that step"
            )
        self.adamw.step()
        self.adamw.zero_grad()
        self.done += 1
        return {"grad_norm": norm, "learning_rate": rate}

    def skip(self) -> dict[str, float]:
        """Count an update without a gradient (every group was of one reward): weights and moments stay as they are."""
        rate = learning_rate_at(self.done, self._steps, self._peak, self._schedule)
        self.done += 1
        return {"grad_norm": 0.0, "learning_rate": rate}

    def state(self) -> dict[str, Any]:
        """What this process's checkpoint needs: what it holds of trainable weights and moments, count of updates."""
        moments = {
            name: {key: local(value) if torch.is_tensor(value) else value for key, value in kept.items()}
            for name, parameter in self.trainable.items()
            if (kept := self.adamw.state.get(parameter))
        }
        weights = {name: local(parameter.detach()) for name, parameter in self.trainable.items()}
        return {"weights": weights, "moments": moments, "done": self.done}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Back to `state`, bit for bit."""
        unexpected = state["weights"].keys() ^ self.trainable.keys()
        assert not unexpected, f"a checkpoint of another model: {sorted(unexpected)[:3]}"
        for name, parameter in self.trainable.items():
            local(parameter.data).copy_(state["weights"][name])
            # Not by the optimiser's load_state_dict, which casts what it reads to the parameter's dtype.
            self.adamw.state[parameter] = {
                key: self._laid_out(value, parameter) if torch.is_tensor(value) else value
                for key, value in state["moments"].get(name, {}).items()
            }
        self.done = state["done"]

    def _laid_out(self, moment: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        moment = moment.to(local(parameter).device)
        return moment if isinstance(self.adamw, LeanAdamW) else like(moment, parameter)

    def whole(self) -> dict[str, torch.Tensor]:
        """The trainable weights, whole, on the host. Every process must ask; those after the first get none of them."""
        return gathered(self.trainable, self.world)
