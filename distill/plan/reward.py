"""What training a reward model needs, and what reward models add to a GRPO stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.errors import UserError
from distill.plan.memory import Training, training_parts
from distill.plan.sizes import count_judged
from distill.plan.work import PROMPT, compute_seconds, training_flops
from distill.recipe import GrpoStage
from distill.recipe_rewards import RewardStage

if TYPE_CHECKING:
    from distill.plan.stage_plan import StagePlan
    from distill.plan.stages import Planner


def plan_reward(planner: Planner, stage: RewardStage, plan: StagePlan) -> None:
    """Fill in a reward stage's plan: the body's training on one GPU, as such a stage runs."""
    shape = planner.shape(stage.model)
    answers = 2 if stage.objective == "pairwise" else 1
    longest = min(stage.max_length, planner.recipe.models[planner.recipe.source_model(stage.model)].max_length
                  or shape.context)  # fmt: skip
    row = min(stage.micro_batch_tokens, stage.batch_size * answers * longest)
    memory = stage.memory
    training = Training(
        shape, row, 1, planner.device, activations=memory.activations, moments=memory.moments,
    )  # fmt: skip
    plan.parameters = plan.trainable = shape.parameters
    plan.memory = training_parts(training) | {"head": 0.0}  # one score in place of a vocabulary
    plan.needs = sum(plan.memory.values())
    counted = count_judged(f"stages.{stage.name}.pairs", stage.pairs, planner.assumed)
    planner.tell(counted.told)
    length = min(longest, planner.assumed.tokens_per_trace + PROMPT)
    rows = counted.rows * (1 - stage.held_out)
    plan.trained_tokens = rows * stage.epochs * answers * length
    plan.flops = training_flops(training, plan.trained_tokens, length)
    plan.hours = compute_seconds(plan.flops, planner.gpu, 1, planner.assumed.mfu) / 3600
    plan.notes.append(
        "attention goes by transformers' own kernels over padded rows: padding is not in this plan"
    )
    if planner.gpus > 1:
        plan.notes.append("a reward model trains in one process, on one GPU")


def add_judges(planner: Planner, stage: GrpoStage, plan: StagePlan) -> None:
    """Reward models stay on the GPU throughout, in bf16 (float32 on a CPU)."""
    for name, judge in stage.rewards.models.items():
        try:
            shape = planner.shape(judge.model)
        except UserError:
            plan.notes.append(
                f"the reward model `{name}` is not here: its memory and time are not in this plan"
            )
            continue
        plan.memory[f"reward model {name}"] = shape.parameters * (2.0 if planner.device == "cuda" else 4.0)
        plan.needs += plan.memory[f"reward model {name}"]
        plan.notes.append(f"the time of the reward model `{name}` is not in this plan")
