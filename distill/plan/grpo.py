"""A GRPO stage: an update and a rollout take turns, and a reference may stand beside both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distill.plan.architectures import Shape, check_lora
from distill.plan.engines import MOST_ROWS
from distill.plan.fit import Settings, largest, nearest_change
from distill.plan.memory import Parts, Training, generation_parts, training_parts
from distill.plan.reward import add_judges_work, judge_parts, with_judges
from distill.plan.stage_plan import FEW_TRACES, LONGEST_ROW, StagePlan
from distill.plan.work import PROMPT, compute_seconds, forward_flops, generate, training_flops
from distill.recipe import GrpoStage
from distill.recipe_checks import samples_apart
from distill.recipe_parts import LocalEngine, Lora, PolicyVllm
from distill.recipe_rl import looks, most_tokens

if TYPE_CHECKING:
    from distill.plan.stages import Planner


def grpo_training(
    shape: Shape, stage: GrpoStage, row: int, gpus: int, device: Literal["cpu", "cuda"]
) -> Training:
    """The stage's update, with rows of so many tokens on so many GPUs."""
    memory = stage.memory
    return Training(
        shape, row, gpus, device, stage.method, stage.lora or Lora(),
        memory.activations, memory.weights, memory.moments,
    )  # fmt: skip


def grpo_parts(training: Training, stage: GrpoStage, rows: int, length: int) -> tuple[Parts, float]:
    """Parts of an update and of a rollout, and the sum of what is there at once: the two take turns.

    The reference is sharded as the policy is; adapters need none. For a rollout on several GPUs each holds a
    sharded policy whole in bf16 besides its shards. vLLM has weights of its own; on a CPU, where it does not sleep, it
    gives no room back. What samples asynchronously does so during updates, by a copy of what is trained. A sampler
    apart takes other GPUs.
    """
    parts = training_parts(training)
    if stage.kl.coefficient and stage.method == "full":
        each = 4 if training.weights == "float32" else 2
        parts["reference"] = each * training.shape.parameters / training.gpus
    generating = generation_parts(training.shape, rows, length, 1, training.device)
    local = isinstance(stage.engine, LocalEngine)
    has_it = local and (training.gpus == 1 or training.method == "qlora")  # which is not sharded
    if isinstance(stage.engine, PolicyVllm) and stage.engine.apart:
        return parts, sum(parts.values())
    parts["rollout"] = generating["cache"] + generating["drawing"]
    parts["rollout"] += parts["copies"] if has_it else generating["weights"]
    if stage.asynchronous:
        whole = 2 if training.weights == "bfloat16" and training.device == "cuda" else 4
        parts["rollout"] += (whole if training.method == "full" else 4) * training.trainable
        return parts, sum(parts.values())
    update = sum(parts[part] for part in ("gradients", "copies", "activations", "head"))
    if not local and training.device == "cpu":
        return parts, sum(parts.values())
    return parts, sum(parts.values()) - min(update, parts["rollout"])


def plan_grpo(planner: Planner, stage: GrpoStage) -> StagePlan:
    """A GRPO stage's plan: its memory with the nearest change that fits, its tokens and hours."""
    shape = planner.shape(stage.model)
    check_lora(f"stages.{stage.name}.lora", stage.lora, shape)
    told = stage.model if stage.method == "full" else f"{stage.model}, {stage.method}"
    trainable = grpo_training(shape, stage, stage.micro_batch_tokens, 1, planner.device).trainable
    plan = StagePlan(stage.name, stage.kind, told, shape.parameters, trainable)
    answer = planner.room(plan, [stage.model], most_tokens(stage.max_tokens), PROMPT)
    gpus = 1 if samples_apart(stage) else planner.gpus  # that train together
    per_rollout = stage.problems_per_step * stage.steps_per_rollout
    now: Settings = {
        "micro_batch_tokens": max(stage.micro_batch_tokens, PROMPT + answer),
        "engine.max_rows": min(
            stage.engine.max_rows if isinstance(stage.engine, LocalEngine) else MOST_ROWS,
            -(-per_rollout // gpus) * stage.samples_per_problem,  # groups stay whole
        ),
        "hardware.gpus": gpus,
    }

    judges = judge_parts(planner, stage, plan)

    def parts(settings: Settings) -> tuple[Parts, float]:
        row, rows, together = (int(str(settings[key])) for key in now)
        training = grpo_training(shape, stage, row, together, planner.device)
        without = grpo_parts(training, stage, rows, PROMPT + answer)
        return with_judges(without, judges, stage)

    def fits(settings: Settings) -> bool:
        return parts(settings)[1] <= planner.usable

    keys = ["micro_batch_tokens", "engine.max_rows"]
    if not isinstance(stage.engine, LocalEngine):  # it takes as many rows as it has room for
        most = int(str(now[keys.pop()]))
        now["engine.max_rows"] = max(1, largest(lambda rows: fits({**now, "engine.max_rows": rows}), most))
    plan.memory, plan.needs = parts(now)
    for key in keys:
        plan.largest[key] = largest(lambda value, key=key: fits({**now, key: value}), LONGEST_ROW)  # type: ignore[misc]
    if plan.needs > planner.usable:
        rows = int(str(now["engine.max_rows"]))
        fewer = [rows >> times for times in range(1, rows.bit_length())]
        shorter = [PROMPT + answer] if PROMPT + answer < int(str(now["micro_batch_tokens"])) else []
        more = planner.more_gpus() if isinstance(stage.engine, LocalEngine) else []  # vLLM's policy has one
        steps = [
            ("micro_batch_tokens", shorter),
            ("engine.max_rows", fewer),
            ("hardware.gpus", more),
        ]
        plan.nearest = nearest_change(now, steps, fits)
    _work(planner, plan, stage, answer, int(str(now["engine.max_rows"])), gpus)
    add_judges_work(planner, stage, plan, answer, gpus)
    return plan


def _work(planner: Planner, plan: StagePlan, stage: GrpoStage, answer: int, rows: int, gpus: int) -> None:
    """Tokens, operations and hours, where so many ``gpus`` train together and each samples ``rows`` side by side."""
    apart = stage.engine.data_parallel if isinstance(stage.engine, PolicyVllm) and stage.engine.apart else 0
    shape, length = planner.shape(stage.model), min(planner.assumed.tokens_per_trace, answer)
    rollouts = stage.steps // stage.steps_per_rollout
    prompts = stage.problems_per_step * stage.steps_per_rollout
    answers = prompts * stage.samples_per_problem
    rolled = generate(
        shape, planner.gpu, prompts=prompts, answers=answers, length=length, rows=rows, copies=apart or gpus, split=1,
        mfu=planner.assumed.mfu,
    )  # fmt: skip
    tokens = rollouts * answers * (PROMPT + length)
    forwards = (stage.steps_per_rollout > 1) + bool(stage.kl.coefficient)
    training = grpo_training(shape, stage, stage.micro_batch_tokens, gpus, planner.device)
    learnt = training_flops(training, tokens, PROMPT + length)
    learnt += forwards * forward_flops(shape, tokens, PROMPT + length)
    plan.generated_tokens = rollouts * answers * length
    plan.trained_tokens = tokens
    plan.flops = rollouts * rolled.flops + learnt
    if gpus > 1 and prompts < FEW_TRACES * gpus:
        each = prompts / gpus
        plan.notes.append(
            f"a rollout has {each:g} problems for each GPU: who waits for others costs no time here"
        )
    if stage.refill:
        most = f"up to {stage.refill + 1} times the samples of a rollout"
        plan.notes.append(f"refill may draw {most}; what it does draw depends on the model: not counted")
    if apart:
        told = f"one GPU trains and vLLM takes {apart} more, whose memory is not in this plan"
        paid = f"; money counts {planner.gpus} in all" if planner.hardware.hourly is not None else ""
        plan.notes.append(told + paid)
    if stage.asynchronous:
        plan.notes.append("rollouts and updates overlap, and are counted one after the other")
    slowest = max(planner.verdicts(part.kind, answers) for part in planner.recipe.parts(stage.problems))
    seconds = rollouts * (rolled.seconds + slowest)
    if followed := stage.follow.problems:
        times = len(looks(stage.follow.every, stage.steps, stage.steps_per_rollout))
        asked = generate(
            shape, planner.gpu, prompts=followed, answers=followed, length=length, rows=followed, copies=1, split=1,
            mfu=planner.assumed.mfu,
        )  # fmt: skip
        plan.flops, seconds = plan.flops + times * asked.flops, seconds + times * asked.seconds
    plan.hours = (seconds + compute_seconds(learnt, planner.gpu, gpus, planner.assumed.mfu)) / 3600
