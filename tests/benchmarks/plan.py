"""The plan's memory against a real update's: peak memory of a fine-tuning on the CPU, three shapes.

    python tests/benchmarks/plan.py [--quick]

Each shape is trained for two updates in a process of its own, each of two synthetic rows as long as its micro-batch
may be: with one row, gradients and activations would never be there at once, and most updates have more. Told are
the peak of resident memory, all of it, and what `distill plan` says that the stage needs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

UPDATES, ROWS = 2, 2

#: Names for people; a model to build; a stage's settings; tokens of each trace.
SHAPES: dict[str, tuple[dict[str, int], dict[str, Any], int]] = {
    "full, all activations kept": (
        {"hidden": 512, "layers": 12, "heads": 8, "kv_heads": 2, "intermediate": 1536, "vocabulary": 32_000},
        {"micro_batch_tokens": 8192},
        1024,
    ),
    "full, activations recomputed": (
        {
            "hidden": 896,
            "layers": 12,
            "heads": 14,
            "kv_heads": 2,
            "intermediate": 3584,
            "vocabulary": 100_000,
        },
        {"micro_batch_tokens": 8192, "memory": {"activations": "recompute"}},
        2048,
    ),
    "adapters on a wider model": (
        {
            "hidden": 1536,
            "layers": 10,
            "heads": 12,
            "kv_heads": 2,
            "intermediate": 6144,
            "vocabulary": 50_000,
        },
        {"micro_batch_tokens": 4096, "method": "lora", "lora": {"rank": 16}},
        512,
    ),
}


def planned(name: str) -> dict[str, float]:
    """The parts of the plan, in bytes."""
    from distill.plan.architectures import Shape
    from distill.plan.memory import Training, training_parts
    from distill.recipe_parts import Lora

    build, settings, _ = SHAPES[name]
    shape = Shape(
        "built", "qwen2", build["hidden"], build["layers"], build["heads"], build["kv_heads"],
        build["hidden"] // build["heads"], build["intermediate"], build["vocabulary"], True, 1 << 15,
    )  # fmt: skip
    return training_parts(
        Training(
            shape, settings["micro_batch_tokens"], 1, "cpu", settings.get("method", "full"),
            Lora(**settings.get("lora", {})), settings.get("memory", {}).get("activations", "keep"),
        )
    )  # fmt: skip


def trained(name: str) -> float:
    """The peak of resident memory of two updates, in bytes."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    import distill.training.attention
    from distill.chat import Example
    from distill.device import Device
    from distill.models import LoadedModel, with_lora
    from distill.recipe import SftStage
    from distill.student.mixture import Mixture
    from distill.student.sft import fine_tune

    build, settings, length = SHAPES[name]
    count = settings["micro_batch_tokens"] // length
    stage = SftStage.model_validate(
        {
            "name": "s",
            "kind": "sft",
            "model": "m",
            "traces": {"t": 1},
            "makes": "x",
            "epochs": 1,
            "batch_size": ROWS * count,
        }
        | settings
    )
    config = Qwen2Config(
        vocab_size=build["vocabulary"], hidden_size=build["hidden"], num_hidden_layers=build["layers"],
        num_attention_heads=build["heads"], num_key_value_heads=build["kv_heads"],
        intermediate_size=build["intermediate"], tie_word_embeddings=True, max_position_embeddings=1 << 15,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=distill.training.attention.NAME)
    loaded = LoadedModel("m", model, chat=None)  # type: ignore[arg-type]
    if stage.method == "lora":
        loaded = with_lora(loaded, stage.lora, 0)
    ids = torch.randint(build["vocabulary"], (UPDATES * ROWS * count, length)).tolist()
    mixture = Mixture([Example(row, 8) for row in ids], [], list(range(UPDATES * ROWS * count)), {})
    with tempfile.TemporaryDirectory() as folder:
        fine_tune(
            stage, loaded, Device("cpu", "cpu", False), mixture, folder=Path(folder), fingerprint="f", seed=0,
            saved=lambda: None,
        )  # fmt: skip
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def main() -> None:
    """Print a line for each shape; with --quick the first alone."""
    parser = argparse.ArgumentParser(prog="plan.py")
    parser.add_argument("--quick", action="store_true", help="the first shape alone")
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.shape:
        print(json.dumps(trained(options.shape)))
        return
    for name in list(SHAPES)[: 1 if options.quick else None]:
        parts = planned(name)
        command = [sys.executable, sys.argv[0], "--shape", name]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        real, plan = float(told.splitlines()[-1]) / 2**30, sum(parts.values()) / 2**30
        print(f"{name:32} planned {plan:6.2f} GiB, measured {real:6.2f} GiB ({plan / real - 1:+.1%})")
        print(" " * 32, ", ".join(f"{part} {size / 2**30:.2f}" for part, size in parts.items() if size))


if __name__ == "__main__":
    main()
