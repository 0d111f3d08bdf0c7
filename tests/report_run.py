"""A made-up but lifelike run folder for the report's tests: what the stages of a quickstart leave behind."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from report_numbers import problem_rows, published, statement, suite_numbers

from distill.recipe import Recipe
from distill.records import Trace
from distill.runs import write_json_atomic
from distill.shards import append_rows, write_parquet

SUITES = ("chains", "functions")
MODELS = {
    "base": "base",
    "teacher": "teacher",
    "student-base": "base",
    "student": "student",
    "rl-only": "baseline",
}
SKILL = {
    "chains": {"base": 0.44, "teacher": 0.9, "student-base": 0.41, "student": 0.88, "rl-only": 0.7},
    "functions": {"base": 0.5, "teacher": 0.86, "student-base": 0.48, "student": 0.87, "rl-only": 0.86},
}
HOSTILE = (
    "<think>\n</script><script>document.title = 'owned'</script></textarea>&lt;b&gt; \u2028 \u2029 \U0001f600 \ud83d "
    "<!-- <img src=x onerror=\"document.title = 'owned'\">\n</think>\nThe answer is <b>4</b> ${title} \\u003c"
)


def make_recipe() -> Recipe:
    """Base by SFT on unreliable traces, GRPO teacher, harvest, student, a baseline by GRPO alone, eval, compare."""
    build = {"architecture": "qwen2", "hidden": 64, "layers": 2, "heads": 2}
    flawed = {"world": {"count": 1000, "wrong_steps": 0.12, "missing_tags": 0.3}}
    sft = {"kind": "sft", "traces": {"unreliable": 1}}
    grpo = {"kind": "grpo", "problems": "train", "steps": 120}
    return Recipe.model_validate(
        {
            "name": "quickstart",
            "seed": 0,
            "models": {name: {"build": build, "tokenizer": "world"} for name in ("random", "small-random")},
            "problems": {"train": {"world": {"count": 1000}}},
            "traces": {"unreliable": flawed},
            "stages": [
                {"name": "pretrain", **sft, "model": "random", "makes": "base", "role": "base"},
                {"name": "zero", **grpo, "model": "base", "makes": "teacher", "role": "teacher"},
                {
                    "name": "harvest",
                    "kind": "sample",
                    "model": "teacher",
                    "problems": "train",
                    "makes": "harvested",
                },
                {
                    "name": "pretrain-small",
                    **sft,
                    "model": "small-random",
                    "makes": "student-base",
                    "role": "base",
                },
                {
                    "name": "distil",
                    **sft,
                    "model": "student-base",
                    "traces": {"harvested": 1},
                    "makes": "student",
                },
                {"name": "rl", **grpo, "model": "student-base", "makes": "rl-only", "role": "baseline"},
                {"name": "exam", "kind": "eval", "models": list(MODELS), "suites": list(SUITES)},
                {"name": "report", "kind": "compare", "results": "exam"},
            ],
        }
    )


def make_run(path: Path, traces: int = 600, problems: int = 80) -> dict[str, Any]:
    """Write the run folder and return the comparison that belongs to it."""
    lots = random.Random(0)
    recipe = make_recipe()
    versions = {"distill": "0.1.0", "torch": "2.13.0", "transformers": "5.19.0"}
    write_json_atomic(
        path / "manifest.json",
        {"device": "cpu", "precision": "float32", "seed": 0, "python": "3.11", "versions": versions},
    )
    for number, stage in enumerate(recipe.stages[:-1], start=1):
        folder = path / "stages" / f"{number:02}-{stage.name}"
        counts = {
            "generated_tokens": 150_000 if stage.kind in ("grpo", "sample") else 0,
            "trained_tokens": 90_000,
        }
        write_json_atomic(
            folder / "finished.json", {"fingerprint": "f", "seconds": 41.5 * number, "counts": counts}
        )
        if stage.kind in ("sft", "grpo"):
            append_rows(
                folder / "metrics.jsonl", [_metrics(stage.kind, step, lots) for step in range(1, 121)]
            )
        if stage.kind == "grpo":
            append_rows(
                folder / "followed.jsonl",
                [_followed(n, step) for step in range(0, 121, 12) for n in range(3)],
            )
    _write_traces(path / "traces" / "harvested", traces, lots)
    comparison = _comparison(problems)
    for suite in SUITES:
        for model in MODELS:
            rows = _responses(suite, model, problems, lots)
            folder = path / "results" / model / suite
            append_rows(folder / "responses.jsonl", rows)
            found = comparison["models"][model]["suites"][suite]
            found |= suite_numbers(SKILL[suite][model], rows, samples=4)
            write_json_atomic(folder / "summary.json", {**found, "problems": problem_rows(rows)})
    return json.loads(json.dumps(comparison))


def _metrics(kind: str, step: int, lots: random.Random) -> dict[str, Any]:
    rise = 1 - math.exp(-step / 35)
    noise = lots.gauss(0, 0.03)
    if kind == "sft":
        return {
            "step": step,
            "epoch": step / 60,
            "loss": 2.4 * (1 - rise) + 0.25 + noise,
            "trained_tokens": step * 750,
        }
    return {
        "step": step,
        "reward": 1.1 + 0.75 * rise + noise,
        "reward_accuracy": 0.43 + 0.45 * rise + noise,
        "reward_format": min(1.0, 0.7 + 0.3 * rise + noise / 3),
        "entropy": 0.5 - 0.3 * rise + noise / 3,
        "kl": 0.002 * step * (1 + noise),
        "completion_tokens": 60 + 22 * rise + 40 * noise,
        "completion_tokens_correct": None if step == 3 else 58 + 20 * rise,
        "completion_tokens_wrong": 66 + 30 * rise + 90 * noise,
        "truncated": 0.2 * (1 - rise),
        "reflective": 2 + 10 * rise + 9 * noise,
        "loops": 0.05 * (1 - rise),
        "language": min(1.0, 0.7 + 0.3 * rise + noise),
        "solve_rates": [round(12 * (1 - rise)), 1, 2, 3, 2, 8 + 12 - round(12 * (1 - rise))],
        "sampler_kl": 1e-7,
        "ratio_first_mean": 1.0,
        "clip_fraction": 0.01 * rise,
        "zero_variance_groups": round(12 * rise),
    }


def _followed(number: int, step: int) -> dict[str, Any]:
    """A problem of which the first says something hostile, the second becomes right, the third is open."""
    said = "Wait, let me check that. " * (step // 24)
    text = (
        HOSTILE.replace("\ud83d", "")
        if number == 0
        else f"<think>\n2 + 2 = 4. {said}\n</think>\nIt is {4 + (step < 60)}."
    )
    return {
        "step": step,
        "problem_id": f"p{number}",
        "problem": f"\n<b>What</b> is 2 + {number}?\nSay it.",
        "right": [False, step >= 60, None][number],
        "reward": [0.0, 1.0 + (step >= 60), None][number],
        "finish_reason": "length" if number == 0 else "stop",
        "tokens": 40 + step,
        "text": text if number else HOSTILE.replace("\ud83d", ""),
    }


def _write_traces(folder: Path, total: int, lots: random.Random) -> None:
    rows = []
    for place in range(total):
        lot = lots.random()
        verdict, reason = ("correct", "")
        if lot < 0.02:
            verdict, reason = "truncated", "finished"
        elif lot < 0.3:
            verdict, reason = "wrong", "verified"
        elif lot < 0.35:
            reason = "format"
        a, b = lots.randint(2, 40), lots.randint(2, 40)
        said = a + b + (verdict == "wrong")
        thought = f"<think>\nStart from {a}.\n{a} + {b} = {said}\n"
        text = thought if verdict == "truncated" else f"{thought}</think>\nThe answer is {said}."
        rows.append(
            Trace(
                id=f"t{place}",
                problem_id=f"p{place // 8}",
                kind="math",
                problem=f"What is {a} + {b}?",
                reference=str(a + b),
                completion=HOSTILE.replace("\ud83d", "") if place == 0 else text,  # Parquet is UTF-8
                tokens=len(text),
                finish_reason="length" if verdict == "truncated" else "stop",
                teacher="teacher",
                verdict=verdict,
                extracted=None if verdict == "truncated" else str(said),
                measures={"tokens": float(len(text))},
                kept=not reason,
                reason=reason,
            )
        )
    write_parquet(folder / "traces.parquet", rows)
    left, left_tokens = total, sum(row.tokens for row in rows)
    steps = []
    for name in ("finished", "verified", "format"):
        removed = [row.tokens for row in rows if row.reason == name]
        left, left_tokens = left - len(removed), left_tokens - sum(removed)
        steps.append(
            {
                "filter": name,
                "removed": len(removed),
                "removed_tokens": sum(removed),
                "left": left,
                "left_tokens": left_tokens,
            }
        )
    verdicts = {name: sum(row.verdict == name for row in rows) for name in ("correct", "truncated", "wrong")}
    funnel = {
        "input": {"traces": total, "tokens": sum(row.tokens for row in rows), "problems": (total + 7) // 8},
        "steps": steps,
        "kept": {"traces": left, "tokens": left_tokens, "problems": min(left, (total + 7) // 8)},
        "verdicts": verdicts,
    }
    write_json_atomic(folder / "funnel.json", funnel)


def _responses(suite: str, model: str, problems: int, lots: random.Random) -> list[dict[str, Any]]:
    rows = []
    for place in range(problems):
        for sample in range(4):
            right = lots.random() < SKILL[suite][model]
            steps = "\n".join(f"step {step}: {place} + {step} = {place + step}" for step in range(1, 5))
            said = place + 4 if right else place + lots.randint(5, 9)
            sums = f"$\\sum_{{i=1}}^{{4}} 1 = \\frac{{8}}{{2}}$, and $\\boxed{{{said}}}$"
            text = f"\n{steps}\nAltogether {sums}.\n</think>\nThe answer is {said}."
            rows.append(
                {
                    "id": f"{suite}-{place:03}",
                    "sample_index": sample,
                    "problem": f"Start from $x_0 = {place}$ and add 1 four times. What is $x_4$?",
                    "reference": str(place + 4),
                    "prefill": "<think>",
                    "completion": HOSTILE.removeprefix("<think>") if place == sample == 0 else text,
                    "tokens": len(text),
                    "finish_reason": "stop",
                    "verdict": "correct" if right else "wrong",
                    "extracted": str(said),
                    "reason": "" if right else f"{said} is not {place + 4}",
                }
            )
    return rows


def _comparison(problems: int) -> dict[str, Any]:
    protocol = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 160, "instruction": None, "seed": 0}
    origins = {"teacher": "base", "student": "student-base", "rl-only": "student-base"}
    models = {
        name: {
            "role": role,
            "params": 770_000 if name in ("base", "teacher") else 340_000,
            "origin": origins.get(name),
            "suites": {
                suite: {
                    "pass@1": SKILL[suite][name],
                    "ci95": [SKILL[suite][name] - 0.04, SKILL[suite][name] + 0.035],
                    "standard_error": 0.02,
                    "n": problems,
                    "k": 4,
                    "cons@k": None if suite == "functions" else min(1.0, SKILL[suite][name] + 0.05),
                    "format": 0.99,
                    "truncated": 0.004,
                    "ungraded": 2 if (suite, name) == ("functions", "rl-only") else 0,
                    "mean_tokens": (tokens := 60 + 50 * SKILL[suite][name]),
                    "tokens_per_correct": tokens / SKILL[suite][name],
                    "verdicts": {"correct": 300, "wrong": 20},
                    "protocol": protocol,
                }
                for suite in SUITES
            },
            "cost": {
                "generated_tokens": 0 if role == "base" else 1_234_567,
                "trained_tokens": 812_345,
                "with_teacher": {"generated_tokens": 2_345_678, "trained_tokens": 2_812_345}
                if name == "student"
                else {},
            },
        }
        for name, role in MODELS.items()
    }
    pairs = [
        ("teacher", "base"),
        ("student", "student-base"),
        ("rl-only", "student-base"),
        ("student", "teacher"),
    ]
    comparisons, gaps = [], []
    for suite in SUITES:
        for a, b in [*pairs, ("rl-only", "teacher"), ("student", "rl-only")]:
            difference = SKILL[suite][a] - SKILL[suite][b]
            low, high = difference - 0.045, difference + 0.04
            comparisons.append(
                {
                    "suite": suite,
                    "a": a,
                    "b": b,
                    "difference": difference,
                    "ci95": [low, high],
                    "distinguishable": low > 0 or high < 0,
                    "n": problems,
                    "k": 4,
                    **statement(difference, problems),
                }
            )
        for student in ("student", "rl-only"):
            low = SKILL[suite]["student-base"]
            value = (SKILL[suite][student] - low) / (SKILL[suite]["teacher"] - low)
            gaps.append(
                {
                    "suite": suite,
                    "student": student,
                    "base": "student-base",
                    "teacher": "teacher",
                    "value": value,
                    "ci95": [value - 0.09, value + 0.1],
                    "reason": "",
                }
            )
    measured = {suite: models["student"]["suites"][suite] for suite in SUITES}
    beside = published({suite: (found["pass@1"], found["ci95"]) for suite, found in measured.items()})
    return {"models": models, "comparisons": comparisons, "gap_closed": gaps, "published": beside}
