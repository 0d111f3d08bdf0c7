"""Fine-tuning on traces: useful tokens a second and memory, TRL's SFTTrainer beside us, float32 on two CPU threads.

    python tests/benchmarks/sft.py [--quick] [--json] [--work lognormal|real]

Useful tokens are those of prompts and responses, no padding. Both sides start from the same weights and take the same
traces in the same order, as many for each update, with the same AdamW; the loss is the mean over the responses' tokens.
Loading and tokenizing come before the clock on both sides, and so does TRL's packing. Each of TRL's settings is tried;
those that keep our batches must show our losses to 1e-3 at each update. TRL names FlashAttention as what padding-free
batches need, which no CPU has; they and packed rows do run without it, on a mask of all pairs, so they are tried too.

`lognormal`: traces of skewed lengths and random tokens for a Qwen2 of 0.85 M parameters with the built-in world's
tokenizer. `real`: stored responses to GSM8K and MATH in Qwen2.5's vocabulary of 151,665.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import random
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from beside import data, imports_are_done, main, timed

THREADS = 2
CONTEXT = 2048
LEARNING_RATE = 1e-3
TOLERANCE = 1e-3
#: The fewest that hold every trace: on a CPU, larger rows only fall out of the caches.
MICRO_BATCH_TOKENS = CONTEXT

#: `lognormal`: tokens of a whole trace, prompt included.
TRACES, MEDIAN, SIGMA, SHORTEST = 1500, 120, 0.9, 16
WORLD_TOKENS = 400  # of the 438 in its vocabulary
#: `real`: responses of each of the two files, and the ways they are named in the folder of outputs.
RESPONSES, FILES = 128, ("gsm8k_openai_6b_175b", "math_cot_100x8_qwen25math")


class Task(NamedTuple):
    """A model's folder and source, its examples in the order of training, and traces an update."""

    folder: Path
    source: Any
    examples: list[Any]
    batch: int


def task(work: str, quick: bool, folder: Path) -> Task:
    """Build the model in ``folder`` and make the examples; the same on both sides."""
    from distill.models import build_folder
    from distill.recipe_parts import Architecture, ModelSource

    shape = {"layers": 4, "max_length": CONTEXT}
    if work == "lognormal":
        build = Architecture(**shape, hidden=128, heads=4, kv_heads=2, intermediate=384)
        source = ModelSource(build=build, tokenizer="world")
    else:
        build = Architecture(**shape, hidden=64, heads=2, kv_heads=1)
        source = ModelSource(build=build, tokenizer=str(data() / "tokenizers" / "qwen2.5-rebuilt"))
    build_folder("bench", source, folder, seed=0)
    if work == "lognormal":
        return Task(folder, source, lognormal(96 if quick else TRACES), batch=32)
    return Task(folder, source, real(folder, source, 16 if quick else RESPONSES), batch=16)


def lognormal(count: int) -> list[Any]:
    """Random tokens, low ids far likelier than high ones so that there is something to learn."""
    from distill.chat import Example

    rng = random.Random(0)
    examples = []
    for _ in range(count):
        length = min(CONTEXT, max(SHORTEST, round(MEDIAN * rng.lognormvariate(0, SIGMA))))
        ids = [int(WORLD_TOKENS * rng.random() ** 3) for _ in range(length)]
        examples.append(Example(ids, prompt_length=rng.randint(8, max(8, min(48, length // 2)))))
    return examples


def real(folder: Path, source: Any, each: int) -> list[Any]:
    """The first responses of both files that fit the context, in a seeded order."""
    from distill.chat import ChatFormat
    from distill.models import load_tokenizer, tags_of

    tokenizer = load_tokenizer("bench", source.model_copy(update={"tokenizer": str(folder)}))
    chat = ChatFormat("bench", tokenizer, tags_of(source.think))
    examples = []
    for name in FILES:
        lines = (data() / "outputs" / f"{name}.jsonl").read_text().splitlines()
        made = (chat.example(row["question"], row["response"]) for row in map(json.loads, lines))
        fitting = (one for one in made if len(one.ids) <= CONTEXT)
        examples += [one for one, _ in zip(fitting, range(each), strict=False)]
    random.Random(0).shuffle(examples)
    return examples


def report(losses: list[float], examples: list[Any], seconds: float, same_batches: bool) -> dict[str, Any]:
    """Useful tokens and seconds; ``same`` are the losses, where the batches were those of the task."""
    lengths = sorted(len(one.ids) for one in examples)
    return {
        "count": sum(lengths),
        "seconds": seconds,
        "same": losses if same_batches else None,
        "losses": losses,
        "examples": len(lengths),
        "lengths": [lengths[0], lengths[len(lengths) // 2], lengths[-1]],
        "trained": sum(len(one.ids) - one.prompt_length for one in examples),
    }


def ours(quick: bool, work: str) -> dict[str, Any]:
    """`distill.student.sft.fine_tune`, as a stage of a recipe runs it."""
    import torch

    from distill.device import Device
    from distill.models import load
    from distill.recipe import SftStage
    from distill.runs import MetricsLog
    from distill.student.mixture import Mixture
    from distill.student.sft import fine_tune

    torch.set_num_threads(THREADS)
    imports_are_done()
    with tempfile.TemporaryDirectory() as folder:
        given = task(work, quick, Path(folder, "model"))
        stage = SftStage.model_validate(
            {
                "name": "bench", "kind": "sft", "model": "m", "traces": {"a": 1}, "makes": "s", "epochs": 1,
                "learning_rate": LEARNING_RATE, "schedule": {"kind": "constant"}, "batch_size": given.batch,
                "max_length": CONTEXT, "micro_batch_tokens": MICRO_BATCH_TOKENS, "checkpoint_every": 10**6,
            }
        )  # fmt: skip
        cpu = Device("cpu", "cpu", False)
        loaded = load("bench", given.folder, given.source, cpu, dtype=torch.float32)
        mixture = Mixture(given.examples, [], list(range(len(given.examples))), {})
        where = {"folder": Path(folder), "fingerprint": "", "seed": 0, "saved": lambda: None}
        _, seconds = timed(lambda: fine_tune(stage, loaded, cpu, mixture, **where))
        losses = [row["loss"] for row in MetricsLog.read(Path(folder, "metrics.jsonl"))]
    return report(losses, given.examples, seconds, True)


class Setting(NamedTuple):
    """How SFTTrainer runs: options of SFTConfig, traces (or packed rows) at a time, and whether batches stay ours."""

    options: dict[str, Any]
    at_a_time: int
    same_batches: bool = True


GROUPED = {"train_sampling_strategy": "group_by_length"}
SETTINGS = {
    "padded, 4 at a time": Setting({}, 4),
    "one trace at a time": Setting({}, 1),
    "padded, grouped by length, 4 at a time": Setting(GROUPED, 4, False),
    "packed, a row at a time": Setting({"packing": True, "packing_strategy": "bfd"}, 1, False),
    "padding-free, 2 at a time": Setting({"padding_free": True, "max_length": None}, 2),
}


def peer(quick: bool, work: str, *, setting: Setting) -> dict[str, Any]:
    """`trl.SFTTrainer` without gradient checkpointing, saving or reporting; it logs each update, as we do."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    import distill.models  # noqa: F401  it makes the task, and counts as import on both sides

    torch.set_num_threads(THREADS)
    imports_are_done()
    with tempfile.TemporaryDirectory() as folder:
        given = task(work, quick, Path(folder, "model"))
        examples = given.examples
        per_update = given.batch
        if "packing" in setting.options:  # as many rows as hold about the tokens of one of our batches
            tokens = sum(len(one.ids) for one in examples)
            per_update = max(1, round(given.batch * tokens / len(examples) / CONTEXT))
        at_a_time = setting.at_a_time or per_update
        options = {
            "output_dir": folder, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
            "num_train_epochs": 1, "per_device_train_batch_size": at_a_time,
            "gradient_accumulation_steps": per_update // at_a_time, "max_length": CONTEXT,
            "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "optim": "adamw_torch_fused",
            "adam_beta1": 0.9, "adam_beta2": 0.95, "weight_decay": 0.0, "max_grad_norm": 1.0,
            "train_sampling_strategy": "sequential", "logging_steps": 1, "report_to": "none",
            "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 0,
        }  # fmt: skip
        rows = {
            "input_ids": [one.ids for one in examples],
            "labels": [[-100] * one.prompt_length + one.ids[one.prompt_length :] for one in examples],
        }
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(given.folder, dtype=torch.float32),
            args=SFTConfig(**options | setting.options),
            train_dataset=Dataset.from_dict(rows),
            processing_class=AutoTokenizer.from_pretrained(given.folder),
        )
        _, seconds = timed(trainer.train)
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return report(losses, examples, seconds, setting.same_batches)


def agree(left: dict[str, Any], right: dict[str, Any]) -> None:
    """The same tokens, and at each update the same loss where the batches are the same."""
    for key in ("count", "trained", "examples"):
        assert left[key] == right[key], (key, left[key], right[key])
    if left["same"] and right["same"]:
        gaps = [abs(mine - theirs) for mine, theirs in zip(left["same"], right["same"], strict=True)]
        assert max(gaps) <= TOLERANCE, (
            f"losses differ by {max(gaps):.2g} at update {gaps.index(max(gaps)) + 1}"
        )


def tell(left: dict[str, Any], right: dict[str, Any]) -> None:
    """The work, and how far the losses agree."""
    shortest, middle, longest = left["lengths"]
    print(
        f"{left['examples']} traces of {shortest} to {longest} tokens, median {middle}; {left['count']:,} tokens, "
        f"{left['trained']:,} of them trained; {len(left['losses'])} updates, loss {left['losses'][0]:.3f} to "
        f"{left['losses'][-1]:.3f}"
    )
    if left["same"] and right["same"]:
        gap = max(abs(mine - theirs) for mine, theirs in zip(left["same"], right["same"], strict=True))
        print(f"largest difference of the losses of an update: {gap:.2g}")


if __name__ == "__main__":
    peers = {name: functools.partial(peer, setting=setting) for name, setting in SETTINGS.items()}
    version = importlib.metadata.version("trl")
    main(
        "sft", ours, peers, f"trl {version}", "useful tokens/s", agree=agree, threads=THREADS, tell=tell,
        works=("lognormal", "real"),
    )  # fmt: skip
