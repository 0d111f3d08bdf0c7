"""One optimiser update after another: accumulate gradients, clip, step, schedule.

Denominators are the caller's: a loss handed in is already divided by the count of the *whole* batch, so how the batch
was cut into micro-batches cannot change the gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from distill.device import Device
from distill.errors import RunFailed
from distill.recipe_parts import Optimiser, Schedule


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
    """AdamW on the trainable parameters of one model, through accelerate.

    Args:
        model: moved to the device; its trainable parameters must be float32.
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
    ) -> None:
        # accelerate keeps the precision once per process and refuses a second one; each run of updates has its own.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(
            mixed_precision="bf16" if device.bf16 else "no", cpu=device.kind == "cpu"
        )
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        decayed = [parameter for parameter in trainable if parameter.ndim >= 2]
        plain = [parameter for parameter in trainable if parameter.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": optimiser.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=optimiser.betas, fused=True)
        self.model, self.adamw = self.accelerator.prepare(model, adamw)
        self._peak, self._schedule, self._optimiser, self._steps = learning_rate, schedule, optimiser, steps
        self.done = 0

    def backward(self, loss: torch.Tensor) -> None:
        """Add this part's gradient."""
        self.accelerator.backward(loss)

    def step(self) -> dict[str, float]:
        """Clip, update, and clear; returns the gradient norm before clipping and the learning rate used.

        Raises:
            RunFailed: the gradient is not finite; nothing was updated.
        """
        rate = learning_rate_at(self.done, self._steps, self._peak, self._schedule)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self._optimiser.max_grad_norm))
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
        """What a checkpoint needs: trainable weights, optimiser, count of updates."""
        model = self.accelerator.unwrap_model(self.model)
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        weights = {name: tensor for name, tensor in model.state_dict().items() if name in names}
        return {"weights": weights, "adamw": self.adamw.state_dict(), "done": self.done}

    def restore(self, state: dict[str, Any]) -> None:
        """Back to `state`, bit for bit."""
        model = self.accelerator.unwrap_model(self.model)
        unexpected = model.load_state_dict(state["weights"], strict=False).unexpected_keys
        assert not unexpected, f"a checkpoint of another model: {unexpected[:3]}"
        self.adamw.load_state_dict(state["adamw"])
        self.done = state["done"]
