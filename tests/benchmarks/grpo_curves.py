"""Learning curves of GRPO: ours beside TRL's GRPOTrainer, several seeds each, and a figure of them.

    python tests/benchmarks/grpo_curves.py [--seeds 5] [--steps 40] [--out curves.jsonl] [--figure grpo-curves.svg]

The model, problems, rewards and settings are those of `grpo.py`, which runs one curve after the other; what it told is
added to ``--out``, and what stands there already is not run again. The mean reward of the last tenth of the steps is
compared: difference of the sides' means over seeds, and its standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from grpo import BASE, make_base

SIDES = {"ours": ("#1f6f8b", "ours"), "peer": ("#c2571a", "TRL's GRPOTrainer")}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 420, 56, 48, 44, 16


def run(out: Path, seeds: int, steps: int) -> list[dict[str, Any]]:
    """Every curve that is missing; all of them."""
    found = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    for seed in range(seeds):
        for side in SIDES:
            if any((one["side"], one["seed"], one["steps"]) == (side, seed, steps) for one in found):
                continue
            script = str(Path(__file__).with_name("grpo.py"))
            command = [sys.executable, script, "--curve", side, "--seed", str(seed), "--steps", str(steps)]
            told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found.append({"side": side, "seed": seed, **json.loads(told.splitlines()[-1])})
            with out.open("a") as file:
                file.write(json.dumps(found[-1]) + "\n")
    return [one for one in found if one["steps"] == steps and one["seed"] < seeds]


def last(rewards: list[float]) -> float:
    return statistics.mean(rewards[-max(1, len(rewards) // 10) :])


def compare(curves: list[dict[str, Any]]) -> None:
    ends = {side: [last(one["rewards"]) for one in curves if one["side"] == side] for side in SIDES}
    for side, (_, name) in SIDES.items():
        each = ", ".join(f"{value:.3f}" for value in ends[side])
        print(f"{name:20} reward of the last tenth: {statistics.mean(ends[side]):.3f}   ({each})")
    apart = statistics.mean(ends["ours"]) - statistics.mean(ends["peer"])
    error = sum(statistics.variance(told) / len(told) for told in ends.values()) ** 0.5
    print(f"difference, ours minus peer: {apart:+.3f}, standard error {error:.3f}")


def figure(curves: list[dict[str, Any]]) -> str:
    """An SVG: every seed a thin line, each side's mean a thick one."""
    steps = curves[0]["steps"]
    low = min(min(one["rewards"]) for one in curves)
    high = max(max(one["rewards"]) for one in curves)
    low, high = int(low * 10) / 10, -int(-high * 10 // 1) / 10

    def points(rewards: list[float]) -> str:
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return " ".join(
            f"{LEFT + width * step / (steps - 1):.1f},{TOP + height * (high - reward) / (high - low):.1f}"
            for step, reward in enumerate(rewards)
        )

    def line(rewards: list[float], colour: str, width: float, opacity: float) -> str:
        drawn = f'fill="none" stroke="{colour}" stroke-width="{width}" opacity="{opacity}"'
        return f'<polyline points="{points(rewards)}" {drawn}/>'

    drawn = []
    for share in range(5):
        value = low + (high - low) * share / 4
        y = points([value]).split(",")[1]
        drawn.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        drawn.append(f'<text x="{LEFT - 8}" y="{y}" dy="4" text-anchor="end">{value:.2f}</text>')
    for step in range(0, steps, max(1, steps // 8)):
        x = points([low] * (step + 1)).split()[-1].split(",")[0]
        drawn.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step + 1}</text>')
    for place, (side, (colour, name)) in enumerate(SIDES.items()):
        mine = [one["rewards"] for one in curves if one["side"] == side]
        drawn += [line(rewards, colour, 1, 0.35) for rewards in mine]
        drawn.append(line([statistics.mean(step) for step in zip(*mine, strict=True)], colour, 3, 1))
        x = LEFT + 230 * place
        drawn.append(f'<line x1="{x}" x2="{x + 24}" y1="22" y2="22" stroke="{colour}" stroke-width="3"/>')
        drawn.append(f'<text x="{x + 30}" y="26">{name}, {len(mine)} seeds and their mean</text>')
    drawn.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 10}" text-anchor="middle">step</text>')
    drawn.append(
        f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">mean reward of a step</text>'
    )
    shape = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {shape}>'
    return (
        "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *drawn, "</svg>"]) + "\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("curves.jsonl"))
    parser.add_argument("--figure", type=Path, default=Path("grpo-curves.svg"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        if BASE not in os.environ:
            os.environ[BASE] = made
            make_base(Path(made))
        told = run(options.out, options.seeds, options.steps)
    compare(told)
    options.figure.write_text(figure(told))
