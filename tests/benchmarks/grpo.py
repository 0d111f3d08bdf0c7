"""GRPO steps: ours beside TRL's GRPOTrainer, the same tiny model, problems, rewards and group size, two CPU threads.

    python tests/benchmarks/grpo.py [--quick] [--json]
    python tests/benchmarks/grpo_curves.py            learning curves of five seeds each, and a figure

The model is the quickstart's base: fine-tuned on flawed traces of the built-in world until it is right about half the
time (made once, a minute and a half). Both sides draw 24 problems of one set a step, 8 samples each at temperature 1
and at most 96 tokens, take accuracy + format from this project's verifier, and make one update with the same AdamW,
rate and clip, no KL, in float32. Tokens a second are those generated; a step is of 192 completions on both sides. What
the sides draw differs, as their random numbers do. Loading comes before the clock. Beside our phases stands what each
cannot beat (`grpo_bounds.py`). With one update a rollout the sampler's weights are the trainer's, so there is no phase
of log-probabilities before the update.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from beside import imports_are_done, main, timed

THREADS = 2
PROBLEMS, SAMPLES, TOKENS, RATE = 24, 8, 96, 4e-4
#: Tokens of our rows; of TRL's the fastest of its batches counts. More leave the processor's caches.
ROW = 2560
STEPS, QUICK_STEPS = 20, 3
#: Where the base lies, once it is made: told to the sides by the environment.
BASE = "DISTILL_BENCH_BASE"
#: How far the sides' generated tokens may differ, as their samples do.
APART = 0.15


def make_base(folder: Path) -> None:
    """The base of the quickstart, by its own stages."""
    from distill.chain import run_recipe
    from distill.recipe_file import find_recipe, load_recipe

    recipe = load_recipe(find_recipe("quickstart"), [])
    run_recipe(recipe, folder, [recipe.stage("pretrain-base")])


def base() -> Path:
    return Path(os.environ[BASE]) / "models" / "base"


def problems() -> list[Any]:
    """The practice problems of the quickstart."""
    from distill.problems import load_problems
    from distill.recipe_file import find_recipe, load_recipe

    recipe = load_recipe(find_recipe("quickstart"), [])
    return load_problems("practice", recipe.problems["practice"], recipe.seed)


def loaded() -> Any:
    import torch

    from distill.device import Device
    from distill.models import load
    from distill.recipe_parts import ModelSource

    cpu = Device("cpu", "cpu", False)
    return load("base", base(), ModelSource(path=str(base())), cpu, dtype=torch.float32), cpu


def report(rows: list[dict[str, Any]], tokens: int, seconds: float) -> dict[str, Any]:
    """Tokens generated and seconds; rewards of each step; seconds of each phase where the side tells them."""
    phases = ("seconds_sample", "seconds_verify", "seconds_update")
    return {
        "count": tokens,
        "seconds": seconds,
        "rewards": [row["reward"] for row in rows],
        "steps": len(rows),
        "phases": {name: sum(row[name] for row in rows) / len(rows) for name in phases if name in rows[0]},
    }


def stage_of(steps: int) -> Any:
    """Our stage: the same work as the peer's settings ask for."""
    from distill.recipe import GrpoStage

    return GrpoStage.model_validate(
        {
            "name": "bench", "kind": "grpo", "model": "base", "problems": "practice", "makes": "teacher",
            "steps": steps, "learning_rate": RATE, "problems_per_step": PROBLEMS,
            "samples_per_problem": SAMPLES, "max_tokens": TOKENS, "kl": {"coefficient": 0},
            "engine": {"max_rows": 512}, "checkpoint_every": 10**6, "micro_batch_tokens": ROW,
        }
    )  # fmt: skip


def lower_bounds() -> dict[str, float]:
    """`grpo_bounds.bounds` of the base's first rollout."""
    from grpo_bounds import bounds

    from distill.generate.policy import policy_engine
    from teacher.rollout import Deck, Sampler

    (model, cpu), stage = loaded(), stage_of(1)
    with policy_engine(stage, model, cpu) as engine:
        rollout = Sampler(stage, engine, model.chat, None, {}, 0).roll_out(Deck(problems(), 0), 0)
    return bounds(model.model, rollout, ROW)


def ours(quick: bool, *, steps: int = STEPS, seed: int = 0) -> dict[str, Any]:
    """`teacher.grpo.train`, as a stage of a recipe runs it."""
    import torch

    from distill.runs import MetricsLog
    from teacher.grpo import train

    torch.set_num_threads(THREADS)
    imports_are_done()
    model, cpu = loaded()
    stage = stage_of(QUICK_STEPS if quick else steps)
    with tempfile.TemporaryDirectory() as folder:
        where = {"folder": Path(folder), "fingerprint": "", "seed": seed, "saved": lambda: None}
        asked = problems()
        counts, seconds = timed(lambda: train(stage, model, cpu, asked, None, **where))
        rows = MetricsLog.read(Path(folder, "metrics.jsonl"))
    return report(rows, counts["generated_tokens"], seconds) | {"bounds": lower_bounds()}


def peer(quick: bool, *, at_a_time: int, steps: int = STEPS, seed: int = 0) -> dict[str, Any]:
    """`trl.GRPOTrainer` without checkpoints or reports; its rewards are our verifier's, as a function."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from distill.chat import KNOWN_TAGS, is_well_formed
    from distill.records import FinishReason, Verdict
    from distill.verify import Response, check_many

    torch.set_num_threads(THREADS)
    imports_are_done()
    model, _ = loaded()
    chat, asked = model.chat, problems()
    spent = {"tokens": 0, "verify": 0.0}

    def reward(completion_ids: list[list[int]], number: list[int], **_: Any) -> list[float]:
        began = time.monotonic()
        spent["tokens"] += sum(map(len, completion_ids))
        texts = []
        for ids in completion_ids:
            ended = bool(ids) and ids[-1] in chat.stop_ids
            texts.append((chat.prompt("?").prefill + chat.decode(ids), ended))
        responses = [
            Response(asked[place], text, FinishReason.STOP if ended else FinishReason.LENGTH)
            for place, (text, ended) in zip(number, texts, strict=True)
        ]
        judged = check_many(responses, tags=(chat.tags, *KNOWN_TAGS))
        spent["verify"] += time.monotonic() - began
        return [
            float(one.verdict is Verdict.CORRECT) + float(is_well_formed(text, chat.tags))
            for one, (text, _) in zip(judged, texts, strict=True)
        ]

    whole, steps = PROBLEMS * SAMPLES, QUICK_STEPS if quick else steps
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "output_dir": folder, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
            "max_steps": steps, "per_device_train_batch_size": at_a_time,
            "gradient_accumulation_steps": whole // at_a_time, "num_generations": SAMPLES,
            "max_completion_length": TOKENS, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "beta": 0.0,
            "epsilon": 0.2, "loss_type": "grpo", "scale_rewards": "group", "learning_rate": RATE,
            "lr_scheduler_type": "constant", "optim": "adamw_torch_fused", "adam_beta1": 0.9, "adam_beta2": 0.95,
            "weight_decay": 0.0, "max_grad_norm": 1.0, "logging_steps": 1, "report_to": "none",
            "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False, "seed": seed,
        }  # fmt: skip
        rows = {
            "prompt": [chat.tokenizer.decode(chat.prompt(one.problem).ids) for one in asked],
            "number": list(range(len(asked))),
        }
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(base(), dtype=torch.float32),
            reward_funcs=reward,
            args=GRPOConfig(**options),
            train_dataset=Dataset.from_dict(rows),
            processing_class=AutoTokenizer.from_pretrained(base()),
        )
        _, seconds = timed(trainer.train)
        history = [row for row in trainer.state.log_history if "reward" in row]
    return report(history, spent["tokens"], seconds) | {"verify": spent["verify"] / steps}


def agree(left: dict[str, Any], right: dict[str, Any]) -> None:
    """As many steps, about as many tokens, and a first reward that is the same model's."""
    assert left["steps"] == right["steps"], (left["steps"], right["steps"])
    assert abs(left["count"] / right["count"] - 1) < APART, (left["count"], right["count"])
    assert abs(left["rewards"][0] - right["rewards"][0]) < 0.35, (left["rewards"][0], right["rewards"][0])


def tell(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Seconds of a step, by phase on our side, and the rewards."""
    for name, told in (("ours", left), ("peer", right)):
        phases = told["phases"] or {"seconds_verify": told["verify"]}
        parts = ", ".join(f"{key.removeprefix('seconds_')} {value:.3f}" for key, value in phases.items())
        each, first, last = told["seconds"] / told["steps"], told["rewards"][0], told["rewards"][-1]
        tokens = f"{told['count']:,} tokens, reward {first:.2f} to {last:.2f}"
        print(f"{name:6} {each:.3f} s a step ({parts}), {tokens}")
    bounds = left["bounds"] | {"seconds_verify": left["phases"]["seconds_verify"]}
    parts = ", ".join(f"{key.removeprefix('seconds_')} {value:.3f}" for key, value in bounds.items())
    ratio = left["seconds"] / left["steps"] / sum(bounds.values())
    print(f"bounds {sum(bounds.values()):.3f} s a step ({parts}: as it is), ours over them: {ratio:.2f}")
    per_token = (left["seconds"] / left["count"]) / (right["seconds"] / right["count"])
    print(f"seconds of a step at equal tokens, ours over peer: {per_token:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--curve", choices=("ours", "peer"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    options, _ = parser.parse_known_args()
    peers = {f"{size} completions at a time": functools.partial(peer, at_a_time=size) for size in (192, 48)}
    if options.curve:
        run = ours if options.curve == "ours" else functools.partial(peer, at_a_time=192)
        print(json.dumps(run(False, steps=options.steps, seed=options.seed)))
        sys.exit()
    with tempfile.TemporaryDirectory() as made:
        if BASE not in os.environ:
            os.environ[BASE] = made
            make_base(Path(made))
        version = importlib.metadata.version("trl")
        main("grpo", ours, peers, f"trl {version}", "tokens/s", agree=agree, threads=THREADS, tell=tell)
