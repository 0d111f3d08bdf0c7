"""Which stages a run does, whether what they stand on has been made, and whether this machine can."""

from __future__ import annotations

import os
from collections.abc import Sequence

from distill.crew import launched
from distill.errors import UserError
from distill.inputs import Inputs
from distill.recipe import CompareStage, EvalStage, GrpoStage, Recipe, SampleStage, SftStage, Stage, Trains
from distill.recipe_checks import check_together, samples_apart
from distill.recipe_parts import ServerEngine, VllmEngine


def check_order(recipe: Recipe, due: Sequence[Stage], done: set[str], stale: set[str]) -> None:
    """Chosen stages may stand on others that were never run: refuse, before anything is written.

    A stage that is itself due counts as run for those after it.
    """
    ready = set(done)
    for stage in due:
        for name in upstream(recipe, stage):
            if name not in ready:
                state = (
                    "out of date: its section or what it reads has changed"
                    if name in stale
                    else "not finished"
                )
                reason = f"stands on stage `{name}`, which is {state}"
                remedy = f"run it first (--only {name}), or the whole recipe"
                raise UserError(f"stages.{stage.name}", None, reason, remedy)
        ready.add(stage.name)


def check_machine(recipe: Recipe, due: Sequence[Stage]) -> None:
    """Refuse what this machine has no GPUs, vLLM or key for, or a training on nodes that nobody started it on.

    A machine without any GPU is no reason: a recipe for eight may be tried on a CPU, in one process.

    Raises:
        UserError.
    """
    for stage in due:
        if not isinstance(stage, GrpoStage | SampleStage | EvalStage):
            continue
        key = f"stages.{stage.name}.engine"
        if isinstance(stage, GrpoStage) and launched():
            check_together(stage, "this command was started in several processes")
        if isinstance(stage.engine, VllmEngine):
            from distill.generate import vllm_engine

            others = int(isinstance(stage, GrpoStage) and samples_apart(stage))
            vllm_engine.check_vllm(key, stage.engine, others)
        elif isinstance(stage.engine, ServerEngine):
            from distill.generate import server

            server.check_server(key, stage.engine)
    hardware = recipe.hardware
    if hardware is None or launched() or not any(isinstance(stage, SftStage | GrpoStage) for stage in due):
        return
    if hardware.nodes > 1:
        reason = "a process cannot start others on another machine"
        remedy = "start the same command on all: srun, or torchrun --nnodes ... --no-python distill ..."
        raise UserError("hardware.nodes", hardware.nodes, reason, remedy)
    if hardware.gpu == "cpu" and hardware.gpus > (most := max(2, len(os.sched_getaffinity(0)))):
        reason = f"would be as many processes on this machine's {most} cores"
        raise UserError("hardware.gpus", hardware.gpus, reason, f"use at most {most}")
    if hardware.gpus > 1 and hardware.gpu != "cpu":
        import torch

        here = torch.cuda.device_count()
        if 0 < here < hardware.gpus:
            remedy = f"--set hardware.gpus={here}, and see with `distill plan` what then fits"
            raise UserError("hardware.gpus", hardware.gpus, f"this machine has {here}", remedy)


def upstream(recipe: Recipe, stage: Stage) -> list[str]:
    """The stages that make what this one reads."""
    makers = [maker.name for name in Inputs.read_by(stage) if (maker := recipe.maker(name))]
    return [*makers, stage.results] if isinstance(stage, CompareStage) else makers


def stages_towards(recipe: Recipe, role: str) -> list[Stage]:
    """The stages that make the models of a role, and those that make what these start from, in order.

    Of students the training stages alone, as their traces may have been made elsewhere; of teachers, whose traces are
    stages of one pipeline (DeepSeek-R1's), the harvests too.
    """
    wanted: set[str] = set()
    for stage in recipe.stages:
        if isinstance(stage, SftStage | GrpoStage) and stage.role == role:
            wanted |= _ancestors(recipe, stage, harvests=role == "teacher")
    if not wanted:
        raise UserError(
            "RECIPE",
            recipe.name,
            f"no stage makes a model of role {role}",
            f"write `role: {role}` on a sft or grpo stage",
        )
    return [stage for stage in recipe.stages if stage.name in wanted]


def _ancestors(recipe: Recipe, stage: Stage, *, harvests: bool) -> set[str]:
    """A stage, and those that make the model it starts from, its reward models and, if wanted, its traces."""
    found = {stage.name}
    for name in upstream(recipe, stage):
        maker = recipe.stage(name)
        if harvests or isinstance(maker, Trains):
            found |= _ancestors(recipe, maker, harvests=harvests)
    return found


def ancestry(recipe: Recipe, model: str) -> tuple[set[str], set[str]]:
    """The stages between a model's base and the model, and those that made its traces and reward models."""
    own: set[str] = set()
    teachers: set[str] = set()
    maker = recipe.maker(model)
    while isinstance(maker, SftStage | GrpoStage) and recipe.role(maker.makes) != "base":
        own.add(maker.name)
        for name in maker.traces if isinstance(maker, SftStage) else ():
            for harvest in recipe.harvests(name):
                teachers |= {harvest.name}.union(*ancestry(recipe, harvest.model))
        for judge in maker.rewards.models.values() if isinstance(maker, GrpoStage) else ():
            if (trained := recipe.maker(judge.model)) is not None:
                teachers |= {trained.name}.union(*ancestry(recipe, trained.model))
        maker = recipe.maker(maker.model)
    return own, teachers
