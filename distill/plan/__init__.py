"""What a recipe needs before any of it is spent: memory on each GPU, tokens, hours, money. No torch, no network.

The formulas stand in `memory.py` (bytes) and `work.py` (operations, seconds); docs/planning.md tells them in one page,
with what they leave out.
"""

from __future__ import annotations

from typing import Any

from distill.plan.hardware import USABLE
from distill.plan.sizes import Assumptions, assumptions
from distill.plan.stage_plan import StagePlan
from distill.plan.stages import Planner
from distill.plan.work import BANDWIDTH_USE, PROMPT, VERDICT_SECONDS
from distill.recipe import Recipe

__all__ = ["Assumptions", "StagePlan", "assumptions", "make_plan"]


def make_plan(recipe: Recipe, assumed: Assumptions | None = None) -> dict[str, Any]:
    """Every stage's needs and their totals, as plain data.

    Raises:
        UserError: a machine, a model's shape or a suite is not known.
    """
    assumed = assumed or Assumptions()
    planner = Planner(recipe, assumed)
    stages = [planner.stage(stage) for stage in recipe.stages]
    hourly = planner.hardware.hourly
    return {
        "recipe": recipe.name,
        "hardware": {
            "gpu": planner.gpu.name,
            "gpus": planner.gpus,
            "memory": planner.gpu.memory,
            "usable": planner.usable,
            "peak_flops": planner.gpu.flops,
            "bandwidth": planner.gpu.bandwidth,
            "hourly": hourly,
            "assumed": recipe.hardware is None,
        },
        "models": {name: _model(planner, name) for name in planner.computed},
        "stages": [_plain(stage) for stage in stages],
        "total": {
            "fits": all(stage.fits for stage in stages),
            "generated_tokens": sum(stage.generated_tokens for stage in stages),
            "trained_tokens": sum(stage.trained_tokens for stage in stages),
            "flops": sum(stage.flops for stage in stages),
            "hours": sum(stage.hours for stage in stages),
            "gpu_hours": sum(stage.hours for stage in stages) * planner.gpus,
            "money": None if hourly is None else sum(stage.money or 0 for stage in stages),
        },
        "assumptions": _assumptions(planner),
    }


def _model(planner: Planner, name: str) -> dict[str, Any]:
    shape = planner.shapes(name)
    context = planner.recipe.models[name].max_length or shape.context
    return {"name": shape.name, "parameters": shape.parameters, "context": context, "licence": shape.licence}


#: What is told of a stage, in this order.
_TOLD = (
    "name", "kind", "about", "parameters", "trainable", "fits", "needs", "usable", "memory", "host", "nearest",
    "on_this_machine", "largest", "generated_tokens", "trained_tokens", "flops", "hours", "money", "notes",
)  # fmt: skip


def _plain(stage: StagePlan) -> dict[str, Any]:
    return {name: getattr(stage, name) for name in _TOLD}


def _assumptions(planner: Planner) -> list[str]:
    assumed, gpu = planner.assumed, planner.gpu
    lines = [
        *planner.told,
        f"tokens: {assumed.tokens_per_trace} a response, or its limit where that is lower (--tokens-per-trace), "
        f"and {PROMPT} a prompt",
        f"speed: {assumed.mfu:.0%} of {gpu.flops / 1e12:g} TFLOP/s (--mfu); decoding reads at {BANDWIDTH_USE:.0%} of "
        f"{gpu.bandwidth / 1e12:g} TB/s or computes, whichever takes longer",
        f"memory: {USABLE:.0%} of each GPU's may be planned for; caches as if every answer ran to its limit",
        "several GPUs: training is fully sharded (qlora: replicated) and spread evenly, generation has a copy of the "
        "model on each; their traffic costs no time",
        f"verdicts: {VERDICT_SECONDS['math'] * 1e3:g} ms of a core for maths, {VERDICT_SECONDS['code'] * 1e3:g} ms for "
        f"a program and its run, {gpu.cores} cores a GPU",
    ]
    if planner.hardware.hourly is not None:
        lines.append(f"money: {planner.hardware.hourly:g} an hour for each GPU, all of them held throughout")
    return lines
