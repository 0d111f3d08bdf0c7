"""The words of GRPO's objective, each taken away once: what it does to Zero's training of `quickstart-r1`.

    python tests/benchmarks/ablations.py [--base RUN] [--only NAME ...] [--updates 20] [--seed 0] [--json]

Every variant is the shipped recipe with `--set`s, which stand in `VARIANTS`. They share one base, made by the recipe's
first stage (some minutes; ``--base RUN`` takes that of a run which is there), and begin with the same samples, so that
two of them differ by the word and by nothing else. Of each the table tells

    from base    the mean over the tokens of its own finished held-out answers of log p(policy) - log p(base): an
                 estimate of KL(policy || base) in nats a token, whatever reference the training had
    from ref     `kl` of the last update's log: the divergence from the reference that the training had then
    clipped      `clip_fraction`, the mean over the updates (the first of a rollout clips nothing)
    entropy      of the sampler at the last rollout, nats a token
    right, language    pass@1 with its 95% interval, and the share of English in the thoughts, held out
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

RL = "stages.zero-rl"
HELD_OUT = 600
VARIANTS: dict[str, list[str]] = {
    "as is": [],
    "no kl": [f"{RL}.kl.coefficient=0"],
    "kl x 100": [f"{RL}.kl.coefficient=0.1"],
    "no refresh": [f"{RL}.reference.refresh_every=null"],
    "kl x 100, no refresh": [f"{RL}.kl.coefficient=0.1", f"{RL}.reference.refresh_every=null"],
    "no clip": [f"{RL}.clip.kind=none"],
    "10 updates a rollout": [f"{RL}.steps_per_rollout=10"],
    "10 updates a rollout, no clip": [f"{RL}.steps_per_rollout=10", f"{RL}.clip.kind=none"],
}


def recipe_of(changes: list[str], options: argparse.Namespace) -> Any:
    """The shipped recipe with a variant's changes, and an exam of Zero alone."""
    from distill.recipe_file import find_recipe, load_recipe

    always = [
        f"seed={options.seed}",
        f"suites.chains.world.count={HELD_OUT}",
        "stages.exam.models=[zero]",
        "stages.exam.suites=[chains]",
        "stages.exam.sampling={temperature: 1.0, top_p: 1.0, max_tokens: 80}",  # as it was trained
        f"{RL}.steps={options.updates}",
    ]
    return load_recipe(find_recipe("quickstart-r1"), [*always, *changes])


def measure(name: str, options: argparse.Namespace, base: Path, folder: Path) -> dict[str, Any]:
    """Train and examine one variant in a copy of the base's run."""
    from distill.chain import run_recipe
    from distill.runs import MetricsLog

    recipe = recipe_of(VARIANTS[name], options)
    for part in ("models/blank", "models/base", "stages/01-pretrain"):
        shutil.copytree(base / part, folder / part)
    shutil.copyfile(base / "recipe.yaml", folder / "recipe.yaml")
    run_recipe(recipe, folder, [recipe.stage(stage) for stage in ("pretrain", "zero-rl", "exam")])
    rows = list(MetricsLog.read(folder / "stages" / "02-zero-rl" / "metrics.jsonl"))
    results = folder / "results" / "zero" / "chains"
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    divergence, error = from_base(folder, results / "responses.jsonl")
    return {
        "variant": name,
        "from_base": divergence,
        "from_base_error": error,
        "from_reference": rows[-1]["kl"],
        "clipped": sum(row["clip_fraction"] for row in rows) / len(rows),
        "entropy": rows[-1]["entropy"],
        "right": [summary["pass@1"], *summary["ci95"]],
        "language": summary["thought_language"],
    }


def from_base(folder: Path, responses: Path) -> tuple[float, float]:
    """The divergence of Zero from the base over these answers of Zero's, and its standard error over answers."""
    import torch

    from distill.device import Device
    from distill.models import load
    from distill.recipe_parts import ModelSource
    from distill.shards import read_rows
    from distill.training.logprobs import token_logprobs
    from distill.training.packing import pack_row

    cpu, found = Device("cpu", "cpu", False), []
    models = {}
    for name in ("zero", "base"):
        place = folder / "models" / name
        models[name] = load(name, place, ModelSource(path=str(place)), cpu, dtype=torch.float32)
    answers = [row for row in read_rows(responses) if row["finish_reason"] == "stop"]
    chat = models["zero"].chat
    examples = [chat.example(row["problem"], row["prefill"] + row["completion"]) for row in answers]
    with torch.no_grad():
        for first in range(0, len(examples), 100):
            row = pack_row(examples[first : first + 100], range(len(examples[first : first + 100])))
            gap_N = token_logprobs(models["zero"].model, row) - token_logprobs(models["base"].model, row)
            for number in range(int(row.example_N.max()) + 1):
                own_N = gap_N[row.example_N == number]
                found.append((float(own_N.sum()), len(own_N)))
    tokens = sum(count for _, count in found)
    mean = sum(gap for gap, _ in found) / tokens
    spread = sum((gap - mean * count) ** 2 for gap, count in found)
    return mean, math.sqrt(spread) / tokens


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| variant | from base | from ref | clipped | entropy | right | language |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        reference = "none" if row["from_reference"] is None else f"{row['from_reference']:.4f}"
        right, low, high = row["right"]
        lines.append(
            f"| {row['variant']} | {row['from_base']:.4f} ± {1.96 * row['from_base_error']:.4f} | {reference} | "
            f"{row['clipped']:.4f} | {row['entropy']:.3f} | {right:.3f} [{low:.3f}, {high:.3f}]"
            f" | {row['language']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", type=Path, metavar="RUN", help="a run of quickstart-r1 that has its base")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="the rows as one list on the last line")
    options = parser.parse_args()
    from distill.chain import run_recipe

    with tempfile.TemporaryDirectory() as scratch:
        base = options.base or Path(scratch, "base")
        if options.base is None:
            recipe = recipe_of([], options)
            run_recipe(recipe, base, [recipe.stage("pretrain")])
        rows = []
        for number, name in enumerate(options.only):
            rows.append(measure(name, options, base, Path(scratch, str(number))))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
        print(table(rows))
        if options.json:
            print(json.dumps(rows))


if __name__ == "__main__":
    main()
