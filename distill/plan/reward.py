"""What training a reward model needs, and what reward models add to a GRPO stage.

Legend: h hidden size, q and k widths of queries and keys, f intermediate size, T tokens that are read at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distill.errors import UserError
from distill.plan.architectures import Shape
from distill.plan.fit import Settings, largest, nearest_change
from distill.plan.memory import Parts, Training, host_bytes, training_parts
from distill.plan.sizes import count_judged, count_problems
from distill.plan.work import PROMPT, compute_seconds, forward_flops, training_flops
from distill.recipe import GrpoStage
from distill.recipe_parts import LocalEngine
from distill.recipe_rewards import RewardModel, RewardStage

if TYPE_CHECKING:
    from distill.plan.stage_plan import StagePlan
    from distill.plan.stages import Planner

#: Tokens that a reward model reads at once, as `distill.models.classifiers` has it (importing that would load torch).
READ_AT_ONCE = 32768


def plan_reward(planner: Planner, stage: RewardStage, plan: StagePlan) -> None:
    """Fill in a reward stage's plan: the body's training on one GPU, as such a stage runs, and its measurements."""
    shape = planner.shape(stage.model)
    answers = 2 if stage.objective == "pairwise" else 1
    longest = min(stage.max_length, _reads(planner, stage.model, shape))
    whole_batch = stage.batch_size * answers * longest
    now: Settings = {
        "micro_batch_tokens": stage.micro_batch_tokens,
        "memory.activations": stage.memory.activations,
        "memory.moments": stage.memory.moments,
    }

    def training(settings: Settings) -> Training:
        values: dict[str, Any] = {key.rpartition(".")[2]: value for key, value in settings.items()}
        row = min(values.pop("micro_batch_tokens"), whole_batch)
        return Training(shape, row, 1, planner.device, **values)

    def parts(settings: Settings) -> Parts:
        return training_parts(training(settings)) | {"head": 0.0}  # one score in place of a vocabulary

    def fits(settings: Settings) -> bool:
        return sum(parts(settings).values()) <= planner.usable

    as_is = training(now)
    plan.parameters = plan.trainable = shape.parameters
    plan.memory, plan.host = parts(now), host_bytes(as_is)
    plan.needs = sum(plan.memory.values())
    plan.largest = {
        "micro_batch_tokens": largest(lambda row: fits({**now, "micro_batch_tokens": row}), whole_batch)
    }
    if plan.needs > planner.usable:
        kept = ["keep", "recompute", "offload"]
        plan.nearest = nearest_change(
            now,
            [
                ("micro_batch_tokens", [answers * longest] if answers * longest < as_is.row else []),
                ("memory.activations", kept[kept.index(stage.memory.activations) + 1 :]),
                ("memory.moments", ["8bit"] if planner.device == "cuda" else []),
            ],
            fits,
        )
    _reward_work(
        planner, stage, plan, as_is, answers * min(longest, planner.assumed.tokens_per_trace + PROMPT)
    )


def _reward_work(planner: Planner, stage: RewardStage, plan: StagePlan, training: Training, row: int) -> None:
    """Each row is read ``epochs`` times; held-out ones at each checkpoint, and twice at the end."""
    counted = count_judged(f"stages.{stage.name}.pairs", stage.pairs, planner.assumed)
    planner.tell(counted.told)
    answer = row / (2 if stage.objective == "pairwise" else 1)
    rows = counted.rows * (1 - stage.held_out)
    plan.trained_tokens = rows * stage.epochs * row
    updates = max(1, round(rows * stage.epochs / stage.batch_size))
    measured = (updates - 1) // stage.checkpoint_every + 2
    plan.flops = training_flops(training, plan.trained_tokens, answer)
    plan.flops += forward_flops(training.shape, measured * counted.rows * stage.held_out * row, answer)
    plan.hours = compute_seconds(plan.flops, planner.gpu, 1, planner.assumed.mfu) / 3600
    plan.notes.append(
        "attention goes by transformers' own kernels over padded rows: padding is not in this plan"
    )
    if planner.gpus > 1:
        plan.notes.append("a reward model trains in one process, on one GPU")


def judge_parts(planner: Planner, stage: GrpoStage, plan: StagePlan) -> Parts:
    """Bytes of a GRPO stage's reward models, which stay on the GPU throughout in bf16 (float32 on a CPU).

    `reading` is what the widest of them keeps of the texts it reads: T (2h + q + 2k + 3f) numbers, no gradient being
    taken. What is not here is told.
    """
    number = 2.0 if planner.device == "cuda" else 4.0
    parts: Parts = {}
    for name, judge in stage.rewards.models.items():
        shape = _shape(planner, judge)
        if shape is None:
            plan.notes.append(
                f"the reward model `{name}` is not here: its memory and time are not in this plan"
            )
            continue
        parts[f"reward model {name}"] = number * shape.parameters
        wide = 2 * shape.hidden + shape.query_width + 2 * shape.key_width + 3 * shape.intermediate
        parts["reading"] = max(parts.get("reading", 0.0), number * READ_AT_ONCE * wide)
    return parts


def with_judges(planned: tuple[Parts, float], judges: Parts, stage: GrpoStage) -> tuple[Parts, float]:
    """Parts and sum of a GRPO stage, as `grpo_parts` has them, with its reward models.

    Reading takes its turn behind the rollout, whose memory vLLM holds until the answers are judged; asynchronously it
    falls together with an update. A sampler apart takes none of this GPU.
    """
    if not judges:
        return planned
    parts, needs = planned
    weights = sum(size for part, size in judges.items() if part != "reading")
    if stage.asynchronous:
        return parts | judges, weights + needs + judges["reading"]
    rollout = parts.get("rollout", 0.0)
    update = sum(parts[part] for part in ("gradients", "copies", "activations", "head"))
    always = sum(parts.values()) - update - rollout
    held = 0.0 if isinstance(stage.engine, LocalEngine) else rollout
    return parts | judges, weights + max(needs, always + held + judges["reading"])


def add_judges_work(planner: Planner, stage: GrpoStage, plan: StagePlan, answer: int, gpus: int) -> None:
    """Operations and hours of the reward models: each reads its answers once, a share on each GPU that trains."""
    length = min(planner.assumed.tokens_per_trace, answer) + PROMPT
    samples = stage.problems_per_step * stage.steps_per_rollout * stage.samples_per_problem
    for judge in stage.rewards.models.values():
        shape = _shape(planner, judge)
        if shape is None or not judge.weight:
            continue
        first = -(-judge.from_step // stage.steps_per_rollout)
        rollouts = max(0, stage.steps // stage.steps_per_rollout - first)
        read = min(length, _reads(planner, judge.model, shape))
        tokens = rollouts * samples * _judged_share(planner, stage, judge) * read
        flops = forward_flops(shape, tokens, read)
        plan.flops += flops
        plan.hours += compute_seconds(flops, planner.gpu, gpus, planner.assumed.mfu) / 3600
        if judge.on == "answer":
            told = "reward models read answers without their thoughts: here as if they were read whole"
            plan.notes += [told] if told not in plan.notes else []


def _judged_share(planner: Planner, stage: GrpoStage, judge: RewardModel) -> float:
    """The share of the problems whose answers a reward model reads."""
    if judge.problems == "all":
        return 1.0
    counts = [
        (part.kind, count_problems("problems", stage.problems, part, planner.assumed).rows)
        for part in planner.recipe.parts(stage.problems)
    ]
    return sum(rows for kind, rows in counts if kind == "open") / max(1, sum(rows for _, rows in counts))


def _shape(planner: Planner, judge: RewardModel) -> Shape | None:
    try:
        return planner.shape(judge.model)
    except UserError:
        return None


def _reads(planner: Planner, model: str, shape: Shape) -> int:
    """Tokens that a model reads."""
    return planner.recipe.models[planner.recipe.source_model(model)].max_length or shape.context
