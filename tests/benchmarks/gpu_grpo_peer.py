"""The part `trl-grpo-1.5b` of `gpu.py`: what `grpo-1.5b` learns from, learnt by TRL's GRPOTrainer.

TRL's trainer runs as it is: its batches, padding, loss, backward passes, clipping and optimiser step. Only its sampling
is replaced, by one method that hands over our rollout; the clock starts there and stops after the optimiser's step.
Both sides recompute their layers and train float32 weights in bf16, with the same advantages, clip and AdamW, no KL.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from gpu_grpo import Work, learner_of, learnt, lengths_of, rollout_of, stage_of, work_of
from gpu_parts import Found, device_of, wait
from gpu_peer import _tokenizer
from gpu_training import _clean, _memory, model_of, shape_of

TARGET = 1.3  # our tokens a second over TRL's
SHORT = 16  # tokens of an answer in the peer's warm-up update
#: Two float32 sums of a few thousand terms in other orders; a wrong denominator or a shifted token is off by all of it.
GRADIENT_GAP = 1e-4


def trl(place: Any) -> Iterator[Found]:
    """First that both make the same gradient; then TRL's fastest batch, on a few problems; then all of the rollout."""
    for needed in ("trl", "datasets"):
        if importlib.util.find_spec(needed) is None:
            yield {"skipped": {"all": f"{needed} is absent"}}
            return
    gap = gradient_gap(place)
    yield {"gradient_gap": gap, "checks": {"the same gradient": gap < GRADIENT_GAP}}
    shape, work = shape_of("Qwen/Qwen2.5-1.5B", place.tiny), work_of(place.tiny)
    few = work._replace(problems=2)
    fastest: Found = {}
    for size in (4, 2) if place.tiny else (8, 4, 2):
        told = _trained(place, shape, few, size, mixed=False)
        yield {"runs": {f"trl, {few.problems} problems, {size} at a time": told}}
        if told.get("tokens_per_second", 0.0) > fastest.get("tokens_per_second", 0.0):
            fastest = told
    if not fastest:
        yield {"checks": {"trl": False}}
        return
    size = fastest["at_a_time"]
    ours = learnt(place, shape, few)
    yield from _beside("ratio_few", f"{few.problems} problems", ours, fastest)
    ours, told = learnt(place, shape, few, mixed=True), _trained(place, shape, few, size, mixed=True)
    yield from _beside("ratio_mixed", f"{few.problems} problems of mixed lengths", ours, told)
    ours, told = learnt(place, shape, work), _trained(place, shape, work, size, mixed=False)
    for found in _beside("ratio", "all", ours, told):
        yield found | (
            {"target_ratio": TARGET, "reached": found["ratio"] >= TARGET} if "ratio" in found else {}
        )


def _beside(key: str, name: str, ours: Found, theirs: Found) -> Iterator[Found]:
    """Both sides of one rollout, and under ``key`` our tokens a second over theirs."""
    right = {f"ours, {name}": ours.get("right", False), f"trl, {name}": "failed" not in theirs}
    yield {"runs": {f"ours, {name}": ours, f"trl, {name}": theirs}, "checks": right}
    if all(right.values()):
        yield {key: ours["tokens_per_second"] / theirs["tokens_per_second"]}


def gradient_gap(place: Any) -> float:
    """The distance of the clipped gradients of a small model's update, in float32, over their norm."""
    from distill.device import Device

    shape, work = shape_of("Qwen/Qwen2.5-1.5B", True), work_of(True)
    lengths = lengths_of(work, True)
    found: list[dict[str, torch.Tensor]] = [{}, {}]
    learner = learner_of(place, shape, stage_of(work), Device("the device, in float32", place.kind, False))  # type: ignore[arg-type]
    named = learner.updater.trainable
    learner.updater.adamw.register_step_pre_hook(lambda *_: _copy_gradients(named, found[0]))
    list(learner.learn(rollout_of(work, shape.vocabulary, lengths)))
    _updated(place, shape, [(work, lengths)], 2, False, lambda named: _copy_gradients(named, found[1]))
    assert found[0].keys() == found[1].keys(), found[0].keys() ^ found[1].keys()
    ours, theirs = (torch.cat([part[name].double().flatten() for name in sorted(found[0])]) for part in found)
    return float((ours - theirs).norm() / theirs.norm())


def _copy_gradients(named: Any, into: dict[str, torch.Tensor]) -> None:
    into |= {name: one.grad.clone() for name, one in dict(named).items() if one.grad is not None}


def _trained(place: Any, shape: Any, work: Work, size: int, mixed: bool) -> Found:
    """TRL's second update, the first being of short answers."""
    lengths = lengths_of(work, mixed)
    try:
        _clean(place.kind)
        rounds = [(work, [min(SHORT, length) for length in lengths]), (work, lengths)]
        seconds = _updated(place, shape, rounds, size, device_of(place.kind).bf16)[-1]
    except torch.OutOfMemoryError as error:
        return {"failed": f"out of memory: {str(error).splitlines()[0][:200]}"} | _memory(place.kind)
    except Exception as error:  # another version of TRL: what was found before still stands
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    told = {"tokens_per_second": sum(lengths) / seconds, "seconds_an_update": seconds, "at_a_time": size}
    return told | _memory(place.kind)


def _updated(
    place: Any, shape: Any, rounds: list[tuple[Work, list[int]]], size: int, bf16: bool, before: Any = None
) -> list[float]:
    """Seconds of TRL's update on each of these rollouts; ``before`` sees the weights ahead of each optimiser step."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    begins: list[float] = []
    ends: list[float] = []

    class Supplied(GRPOTrainer):  # type: ignore[misc]
        """TRL's trainer with rollouts that are there already."""

        def _generate_and_score_completions(self, _: Any) -> Any:
            work, lengths = rounds[len(begins)]
            inputs = _padded(work, rollout_of(work, shape.vocabulary, lengths), place.kind)
            wait(place.kind)
            begins.append(time.perf_counter())
            return inputs

    class Clock(TrainerCallback):
        """When each update was done."""

        def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
            if before:
                before(model.named_parameters())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(place.kind)
            ends.append(time.perf_counter())

    work = rounds[0][0]
    flash = bf16 and importlib.util.find_spec("flash_attn") is not None
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, use_cpu=place.kind == "cpu", bf16=bf16, gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": False}, max_steps=len(rounds),
            per_device_train_batch_size=size, gradient_accumulation_steps=work.problems * work.answers // size,
            num_generations=work.answers, max_completion_length=work.longest, temperature=1.0, beta=0.0,
            epsilon=10.0, epsilon_high=10.0, loss_type="grpo", learning_rate=3e-6, lr_scheduler_type="constant",
            optim="adamw_torch_fused", adam_beta1=0.9, adam_beta2=0.95, weight_decay=0.0, max_grad_norm=1.0,
            report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=0,
            dataloader_pin_memory=place.kind == "cuda",
        )  # fmt: skip
        Supplied(
            model=model_of(shape, torch.float32, place.kind, "flash_attention_2" if flash else "sdpa"),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_dict({"prompt": ["?"] * work.problems * len(rounds)}),
            processing_class=_tokenizer(),
            callbacks=[Clock()],
        ).train()
    return [end - begin for begin, end in zip(begins, ends, strict=True)]


def _padded(work: Work, rollout: Any, device: str) -> dict[str, torch.Tensor]:
    """The rollout as TRL's trainer lays it out: answers padded to the longest; advantages are ours."""
    from teacher.advantages import group_advantages

    longest = max(completion.tokens for completion in rollout.sampled)
    answers = [completion.token_ids for completion in rollout.sampled]
    stage, scores = stage_of(work), rollout.scores
    advantages_PG = group_advantages(
        scores.rewards_PG, stage.advantage.scale, scores.graded_PG, stage.advantage.baseline
    )
    prompts_BT = torch.tensor([one.ids[: one.prompt_length] for one in rollout.examples], device=device)
    completions_BT = torch.tensor([ids + [0] * (longest - len(ids)) for ids in answers], device=device)
    mask_BT = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in answers], device=device)
    return {
        "prompt_ids": prompts_BT,
        "prompt_mask": torch.ones_like(prompts_BT),
        "completion_ids": completions_BT,
        "completion_mask": mask_BT,
        "advantages": advantages_PG.flatten().float().to(device),
        "num_items_in_batch": mask_BT.sum(),
    }
