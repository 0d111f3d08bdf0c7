"""The part `grpo-1.5b` of `gpu.py`: GRPO's update phase on a rollout that is supplied: speed, MFU, memory.

The rollout is of random tokens: 32 problems x 16 answers of 4,096 tokens, rewards of 0 and 1. `teacher.grpo.Learner`
learns from it as a stage does, one update on all of it, after a warm-up on one problem or two. Nothing is sampled.

    model FLOPs of an update = sum over groups of   6 N (p + sum of r) + 6 V h (sum of r)
                                                    + 6 L q (p^2 + sum of (s^2 - p^2))
    MFU = model FLOPs / seconds / rate of part `machine`

N weights of the layers' matrices, V h the head, L layers, q width of queries; p tokens of a prompt, r of an answer,
s = p + r. A group's prompt is computed once and counted once; the head is asked for the answers' tokens alone.
``mfu_whole`` counts every answer with a prompt of its own and the head at every token, as if each were a trace
(`gpu_training.model_flops`). Neither counts what is computed twice. A reference's pass counts a third more.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from gpu_parts import GIB, Found, device_of, rate_of, wait
from gpu_training import _clean, _memory, _where, model_flops, model_of, shape_of

TARGET = 0.45  # MFU that the update phase is to reach


class Work(NamedTuple):
    """A rollout's size: problems, answers to each, tokens of a prompt, most of an answer, and of a packed row."""

    problems: int
    answers: int
    prompt: int
    longest: int
    row: int


def work_of(tiny: bool) -> Work:
    """The issue's 512 answers of 4k tokens; tiny, as many kinds of things."""
    return Work(4, 4, 12, 48, 256) if tiny else Work(32, 16, 200, 4096, 32768)


def lengths_of(work: Work, mixed: bool) -> list[int]:
    """Tokens of each answer: all the longest; or log-normal about half of it, as answers come."""
    rng, count = random.Random(0), work.problems * work.answers
    if not mixed:
        return [work.longest] * count
    return [
        max(2, min(work.longest, round(work.longest / 2 * rng.lognormvariate(0, 0.6)))) for _ in range(count)
    ]


def rollout_of(work: Work, vocabulary: int, lengths: list[int], seed: int = 0) -> Any:
    """Groups of random tokens, half of each group right; the sampler's log-probabilities are those of equal chances."""
    from distill.chat import Example
    from distill.records import Completion, FinishReason
    from teacher.rewards import Scores
    from teacher.rollout import Rollout

    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    examples, sampled = [], []
    for number, length in enumerate(lengths):
        if number % work.answers == 0:
            prompt = torch.randint(vocabulary, (work.prompt,), generator=generator).tolist()
        ids = torch.randint(vocabulary, (length,), generator=generator).tolist()
        examples.append(Example(prompt + ids, work.prompt))
        sampled.append(
            Completion(
                problem_id=str(number // work.answers),
                sample_index=number % work.answers,
                text="",
                tokens=length,
                token_ids=ids,
                logprobs=[-math.log(vocabulary)] * length,
                finish_reason=FinishReason.STOP,
            )
        )
    half = [float(place < work.answers // 2) for place in range(work.answers)]
    rewards_PG = torch.tensor(
        [rng.sample(half, work.answers) for _ in range(work.problems)], dtype=torch.float64
    )
    scores = Scores(rewards_PG, {"accuracy": rewards_PG}, torch.ones_like(rewards_PG, dtype=torch.bool))
    return Rollout(examples, sampled, scores, work.longest, 0, sum(lengths), {}, 0.0, 0.0)


def stage_of(work: Work, **settings: Any) -> Any:
    """A stage of preset `grpo-r1` whose every rollout is one update; without a KL where nothing else is said."""
    from distill.recipe import GrpoStage

    return GrpoStage.model_validate(
        {
            "name": "bench", "kind": "grpo", "preset": "grpo-r1", "model": "m", "problems": "p", "makes": "t",
            "steps": 100, "steps_per_rollout": 1, "problems_per_step": work.problems,
            "samples_per_problem": work.answers, "max_tokens": work.longest, "micro_batch_tokens": work.row,
            "kl": {"coefficient": 0}, "reference": {"refresh_every": None},
            "memory": {"activations": "recompute"}, "checkpoint_every": 10**6,
        }
        | settings
    )  # fmt: skip


def training_of(shape: Any, stage: Any, kind: str) -> tuple[Any, dict[str, float]]:
    """What the plan thinks of the stage's update: nothing is sampled, so without the part of the rollout."""
    from distill.plan.grpo import grpo_parts, grpo_training

    training = grpo_training(shape, stage, stage.micro_batch_tokens, 1, kind)  # type: ignore[arg-type]
    parts, _ = grpo_parts(training, stage, 1, 1)
    return training, {name: size for name, size in parts.items() if name != "rollout"}


def group_flops(shape: Any, examples: list[Any], answers: int) -> float:
    """Model FLOPs of one update on these answers, group by group; the formula stands above."""
    found = 0.0
    for first in range(0, len(examples), answers):
        prompt = examples[first].prompt_length
        wholes = [len(one.ids) for one in examples[first : first + answers]]
        trained = sum(wholes) - prompt * len(wholes)
        pairs = prompt**2 + sum(whole**2 - prompt**2 for whole in wholes)
        found += 6 * shape.matrices * (prompt + trained) + 6 * shape.embedding * trained
        found += 6 * shape.layers * shape.query_width * pairs
    return found


def learner_of(place: Any, shape: Any, stage: Any, device: Any = None) -> Any:
    """A learner of a random model with float32 weights, as a stage trains all weights."""
    from distill.models import LoadedModel
    from teacher.grpo import Learner

    model = model_of(shape, torch.float32, place.kind)
    return Learner(stage, LoadedModel("m", model, chat=None), device or device_of(place.kind))  # type: ignore[arg-type]


def learnt(
    place: Any, shape: Any, work: Work, *, mixed: bool = False, profile: bool = False, **settings: Any
) -> Found:
    """One update on all of a rollout, after one on as many answers of a problem or two."""
    stage, first = stage_of(work, **settings), work._replace(problems=min(2, work.problems))
    training, parts = training_of(shape, stage, place.kind)
    lengths = lengths_of(work, mixed)
    tokens = sum(lengths)
    told: Found = {"trained_tokens": tokens, "planned_gib": sum(parts.values()) / GIB}
    try:
        _clean(place.kind)
        learner = learner_of(place, shape, stage)
        small = rollout_of(first, shape.vocabulary, lengths[: first.problems * first.answers], 1)
        learner.stage = stage_of(first, **settings)
        list(learner.learn(small))
        rollout = rollout_of(work, shape.vocabulary, lengths)
        learner.stage = stage
        wait(place.kind)
        began = time.perf_counter()
        (measures,) = learner.learn(rollout)
        wait(place.kind)
        seconds = time.perf_counter() - began
    except torch.OutOfMemoryError as error:
        return told | {"failed": f"out of memory: {str(error).splitlines()[0][:200]}"} | _memory(place.kind)
    passes = 4 / 3 if stage.kl.coefficient else 1.0
    rate = rate_of(place) * 1e12
    wholes = [len(one.ids) for one in rollout.examples]
    told |= {
        "tokens_per_second": tokens / seconds,
        "seconds_an_update": seconds,
        "mfu": passes * group_flops(shape, rollout.examples, work.answers) / seconds / rate,
        "mfu_whole": passes * model_flops(training, wholes) / seconds / rate,
        "grad_norm": measures["grad_norm"],
        "kl": measures["kl"],
        "right": measures["tokens"] == tokens
        and measures["zero_variance_groups"] == 0
        and measures["grad_norm"] > 0
        and abs(measures["ratio_mean"] - 1) < 1e-6  # its own policy's, before any update
        and abs(measures["loss"]) < 1e-2,  # advantages of a group add up to zero
        **_memory(place.kind),
        "planned_parts_gib": {name: round(size / GIB, 2) for name, size in parts.items()},
    }
    if profile and place.kind == "cuda":
        learner.stage = stage_of(first, **settings)
        told |= _where(lambda: list(learner.learn(small)))
    return told


def grpo(place: Any) -> Iterator[Found]:
    """All of the rollout without a KL; then a part of it against a reference, and answers of mixed lengths."""
    shape, work = shape_of("Qwen/Qwen2.5-1.5B", place.tiny), work_of(place.tiny)
    less = work._replace(problems=work.problems // 4)
    kl = {"kl": {"coefficient": 0.001}}
    runs: dict[str, tuple[Work, dict[str, Any]]] = {
        f"{work.problems} x {work.answers} answers of {work.longest}": (work, {"profile": True}),
        f"{less.problems} x {less.answers}, against a reference": (less, kl),
        f"{less.problems} x {less.answers} of mixed lengths": (less, {"mixed": True}),
    }
    headline: Found = {}
    for name, (size, settings) in runs.items():
        told = learnt(place, shape, size, **settings)
        if not headline:
            headline = {"mfu": told.get("mfu", 0.0), "target_mfu": TARGET}
            headline["reached"] = headline["mfu"] >= TARGET
        yield {"runs": {name: told}, "checks": {name: told.get("right", False)}, **headline}
