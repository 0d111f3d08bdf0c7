"""Memory of a GRPO stage: an update and a rollout take turns, and a reference may stand beside both."""

from __future__ import annotations

from typing import Literal

from distill.plan.architectures import Shape
from distill.plan.memory import Parts, Training, generation_parts, training_parts
from distill.recipe import GrpoStage
from distill.recipe_parts import LocalEngine, Lora, PolicyVllm


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
    gives no room back. What samples asynchronously does so during updates, by a copy of what is trained. A sampler apart
    takes other GPUs.
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
