"""The evaluation in a model's card: what the run has measured of these very weights, between two marks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.runs import read_json

BEGIN = "<!-- evaluation: written by distill -->"
END = "<!-- end of evaluation -->"


def evaluation(
    run_path: Path, model: str, fingerprint: str, comparison: Mapping[str, Any] | None = None
) -> str:
    """The section, marks included.

    Args:
        fingerprint: of the stage that made the model. A result says which weights it is of: others are left out.
        comparison: what `eval.compare.compare` found.
    """
    found = _results(run_path, model, fingerprint)
    parts = [_table(found)] if found else ["Not evaluated yet."]
    if comparison and (lines := _differences(model, comparison)):
        parts.append("Differences, paired by problem, with 95% intervals:\n\n" + "\n".join(lines))
    return "\n\n".join([BEGIN, *parts, END])


def _results(run_path: Path, model: str, fingerprint: str) -> list[dict[str, Any]]:
    found = []
    for file in sorted((run_path / "results" / model).glob("*/summary.json")):
        protocol = read_json(file.with_name("protocol.json")) or {}
        if protocol.get("model") == fingerprint:
            found.append(read_json(file) or {})
    return found


def _table(summaries: list[dict[str, Any]]) -> str:
    rows = [
        "pass@1 over n problems with k samples each; 95% intervals over problems.",
        "",
        "| suite | pass@1 | 95% interval | n | k | temperature | top_p | max_tokens | truncated |",
        "|:--|--:|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for row in summaries:
        score = "-" if row["pass@1"] is None else f"{row['pass@1']:.3f}"
        asked = row["protocol"]
        drawn = f"{asked['temperature']:g} | {asked['top_p']:g} | {asked['max_tokens']}"
        rows.append(
            f"| {row['suite']} | {score} | {_interval(row['ci95'])} | {row['n']} | {row['k']} | {drawn} "
            f"| {row['truncated']:.3f} |"
        )
    return "\n".join([*rows, "", "Nothing else was measured."])


def _differences(model: str, comparison: Mapping[str, Any]) -> list[str]:
    return [
        f"- {row['suite']}: `{row['a']}` - `{row['b']}` = {row['difference']:+.3f} {_interval(row['ci95'], '+')} over "
        f"{row['n']} problems x {row['k']}{'' if row['distinguishable'] else ' (cannot be told apart)'}"
        for row in comparison.get("comparisons", [])
        if model in (row["a"], row["b"])
    ]


def _interval(ends: list[float] | None, sign: str = "") -> str:
    return f"[{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]" if ends else "-"
