"""Made-up numbers for the report's tests: what statistics and published tables add to a comparison.

Hand-written or drawn by lot, none of them measured: they only have to look like the real ones.
"""

from __future__ import annotations

import random
from typing import Any

SUBJECTS = ("algebra", "geometry", "number theory")


def suite_numbers(score: float, rows: list[dict[str, Any]], samples: int) -> dict[str, Any]:
    """What a summary holds beside pass@1, its interval and the costs.

    Args:
        score: the accuracy that the model was made up with.
        rows: its responses.
        samples: of each problem.
    """
    sizes = [1, 2, 4]
    right: dict[str, int] = {}
    for row in rows:
        right[row["id"]] = right.get(row["id"], 0) + (row["verdict"] == "correct")
    bins = [0] * 10
    for correct in right.values():
        bins[min(9, int(10 * correct / samples))] += 1
    missed = len(rows) - sum(right.values())
    rest = {
        "no_answer": missed // 6,
        "truncated": missed // 4,
        "timeout": missed // 20,
        "ungraded": missed // 20,
    }
    outcomes = {"correct": sum(right.values()), "wrong": missed - sum(rest.values()), **rest}
    return {
        "pass@k_curve": {str(k): 1 - (1 - score) ** (1 + 0.55 * (k - 1)) for k in sizes},
        "cons@k_curve": {str(k): min(1.0, score + 0.04 * (k - 1) / 3) for k in sizes},
        "outcomes": outcomes,
        "solve_rates": bins,
        "language": 0.997,
        "by": {
            "subject": {name: _share(score - 0.09 * place, 24) for place, name in enumerate(SUBJECTS)},
            "level": {str(level): _share(score + 0.08 - 0.06 * level, 16) for level in range(1, 6)},
        },
    }


def problem_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`problems` of a summary, counted from the responses."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        problem = found.setdefault(row["id"], {"id": row["id"], "correct": 0, "samples": 0, "tokens": 0.0})
        problem["correct"] += row["verdict"] == "correct"
        problem["samples"] += 1
        problem["tokens"] += row["tokens"]
    return [problem | {"tokens": problem["tokens"] / problem["samples"]} for problem in found.values()]


def statement(difference: float, problems: int) -> dict[str, Any]:
    """The statistical fields of a comparison."""
    lots = random.Random(f"{difference}")
    detectable = 1.9 / problems**0.5 * 0.4
    words = (
        f"{problems} problems at k = 4 cannot tell these two apart: a difference under {detectable:.2f} "
        "would be seen less than four times in five"
    )
    apart = abs(difference) > 0.045
    p = 0.0004 if apart else 0.2 + 0.6 * lots.random()
    return {"p": p, "detectable": detectable, "statement": "" if apart else words}


def published(measured: dict[str, tuple[float, list[float]]]) -> list[dict[str, Any]]:
    """Two invented published models beside measured ones, with every verdict.

    Args:
        measured: of each suite the student's pass@1 and interval.
    """
    rows = []
    for suite, (value, bounds) in measured.items():
        for model, shift in (("Example-1.5B", 0.01), ("Example-7B", 0.2)):
            claimed = min(0.97, value + shift)
            verdict = "inside" if bounds[0] <= claimed <= bounds[1] else "below"
            comparable = (suite, model) != ("functions", "Example-7B")
            rows.append(
                {
                    "suite": suite,
                    "metric": "pass@1",
                    "published_model": model,
                    "value": round(100 * claimed, 1),
                    "unit": "percent",
                    "source": "an invented paper, table 5",
                    "version": "v1",
                    "protocol": {"k": 64, "temperature": 0.6, "top_p": 0.95, "max_tokens": 32768, "note": ""},
                    "measured_model": "student",
                    "measured": value,
                    "ci95": bounds,
                    "verdict": verdict if comparable else "not comparable",
                    "why": "" if comparable else "published at temperature 0.6, measured at 1.0",
                }
            )
    return rows


def _share(score: float, n: int) -> dict[str, Any]:
    value = min(max(score, 0.02), 0.98)
    return {"n": n, "pass@1": value, "ci95": [max(0.0, value - 0.11), min(1.0, value + 0.1)]}
