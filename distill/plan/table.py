"""A plan as text: aligned columns, what does not fit told loudly, assumptions last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill.plan.hardware import GIB

#: In the order of their columns; a plan shows those that it has, and what else there is (reward models) behind them.
PARTS = (
    "weights", "gradients", "moments", "copies", "reference", "activations", "head", "rollout", "cache", "drawing",
    "overhead",
)  # fmt: skip


def as_lines(plan: dict[str, Any]) -> list[str]:
    """The lines to print."""
    machine, total = plan["hardware"], plan["total"]
    price = "" if machine["hourly"] is None else f", {machine['hourly']:g} an hour each"
    usable, whole = machine["usable"] / GIB, machine["memory"] / GIB
    lines = [
        f"{plan['recipe']} on {machine['gpus']} x {machine['gpu']} "
        f"({usable:.1f} of {whole:.1f} GiB usable each{price})",
        "",
        *_work(plan["stages"], total),
    ]
    lines += ["", "memory of each GPU, GiB", *_memory(plan["stages"])]
    wrong = [text for stage in plan["stages"] for text in _verdict(stage)]
    if wrong:
        lines += ["", *wrong]
    notes = [f"  {stage['name']}: {note}" for stage in plan["stages"] for note in stage["notes"]]
    if notes:
        lines += ["", "notes", *notes]
    return [*lines, "", "assumed", *(f"  {text}" for text in plan["assumptions"])]


def _work(stages: Sequence[dict[str, Any]], total: dict[str, Any]) -> list[str]:
    head = ["stage", "kind", "of", "parameters", "generated", "trained", "FLOPs", "hours", "money"]
    rows = [
        [
            stage["name"],
            stage["kind"],
            stage["about"],
            _short(stage["parameters"]),
            *_costs(stage),
        ]
        for stage in stages
    ]
    return _aligned([head, *rows, ["total", "", "", "", *_costs(total)]], left=3)


def _costs(row: dict[str, Any]) -> list[str]:
    return [
        _short(row["generated_tokens"]),
        _short(row["trained_tokens"]),
        f"{row['flops']:.1e}" if row["flops"] else "-",
        f"{row['hours']:,.2f}" if row["hours"] else "-",
        "-" if row["money"] is None or not row["hours"] else f"{row['money']:,.0f}",
    ]


def _memory(stages: Sequence[dict[str, Any]]) -> list[str]:
    used = [stage for stage in stages if stage["memory"]]
    there = dict.fromkeys(part for stage in used for part in stage["memory"])
    parts = [*(part for part in PARTS if part in there), *(part for part in there if part not in PARTS)]
    rows = [["stage", *parts, "needs", "fits", "largest that fits"]]
    for stage in used:
        numbers = [_gib(stage["memory"].get(part)) for part in parts]
        limits = ", ".join(f"{key} {value}" for key, value in stage["largest"].items())
        fits = "yes" if stage["fits"] else "NO"
        rows.append([stage["name"], *numbers, _gib(stage["needs"]), fits, limits])
    lines = _aligned(rows, left=1)
    for stage in used:
        if stage["host"]:
            lines.append(f"{stage['name']}: and {_gib(stage['host'])} of the host's for each GPU")
    return lines


def _verdict(stage: dict[str, Any]) -> list[str]:
    if stage["fits"]:
        return []
    short = f"DOES NOT FIT: stage {stage['name']} needs {_gib(stage['needs'])} of {_gib(stage['usable'])} GiB"
    if stage["nearest"] is None:
        return [f"{short}; no change of its settings is enough, so lower its lengths"]
    lines = [f"{short}; the nearest change that fits: {_change(stage['nearest'])}"]
    if stage["on_this_machine"]:
        lines.append(f"    on this machine: {_change(stage['on_this_machine'])}")
    return lines


def _change(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in settings.items())


def _gib(size: float | None) -> str:
    return "-" if size is None else f"{size / GIB:.1f}"


def _short(number: float) -> str:
    """123 k, 4.56 G: three digits and a unit."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}" if number else "-"


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns of one width each, numbers flush right; the first ``left`` and what is no number flush left."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if place < left or not _number_like(rows, place) else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _number_like(rows: Sequence[Sequence[str]], place: int) -> bool:
    return all(row[place][:1].isdigit() or row[place] in ("", "-") for row in rows[1:])
