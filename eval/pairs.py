"""Two models on one suite: the difference, how sure it is, and what it means in words.

Axis letter: P problems, those for which every model has a graded sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.statistics import Difference, Values, paired_difference

Summary = Mapping[str, Any]


def compared_pair(suite: str, a: Summary, b: Summary) -> dict[str, Any] | None:
    """One row of a comparison; None where the two have no problem that both could be graded on.

    ``difference`` is a - b over ``n`` problems with ``k`` samples each; ``left_out`` are those that one of the two has
    no graded sample of. ``scores`` are both models' pass@1 on these ``n`` (their own figures may be over more),
    ``ci95`` is the difference's interval, ``p`` of the two-sided paired test (`eval.statistics.paired_difference`),
    ``detectable`` the difference that would be seen four times in five; ``statement`` says all of it.
    """
    a_P, b_P = paired_values([a, b])
    if not len(a_P):
        return None  # which their own figures show
    found = paired_difference(a_P, b_P, a["k"])
    return {
        "suite": suite,
        "a": a["model"],
        "b": b["model"],
        "scores": [float(a_P.mean()), float(b_P.mean())],
        "difference": found.value,
        "ci95": list(found.interval),
        "p": found.p,
        "distinguishable": found.distinguishable,
        "detectable": found.detectable,
        "n": len(a_P),
        "left_out": len(a["problems"]) - len(a_P),
        "k": a["k"],
        "statement": statement(a["model"], b["model"], found, len(a_P), a["k"]),
    }


def statement(a: str, b: str, found: Difference, problems: int, k: int) -> str:
    """What so many problems with k samples each say of two models, in one sentence."""
    asked = f"{problems} problem{'s' if problems > 1 else ''} at k = {k}"
    low, high = found.interval
    if found.distinguishable:
        ahead = a if found.value > 0 else b
        ends = sorted((abs(low), abs(high)))
        chance = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
        return f"{asked} tell these two apart ({chance}): {ahead} is ahead by {ends[0]:.3f} to {ends[1]:.3f}"
    cannot = f"{asked} cannot tell these two apart"
    if found.detectable is None:
        return f"{cannot}: no difference would be seen four times in five"
    return f"{cannot}: a difference under {found.detectable:.2f} would be seen less than four times in five"


def paired_values(summaries: Sequence[Summary]) -> list[Values]:
    """Each model's means over samples, in one order, of the problems for which all have a graded sample."""
    means = [
        {row["id"]: row["correct"] / row["samples"] for row in summary["problems"] if row["samples"]}
        for summary in summaries
    ]
    shared = [row["id"] for row in summaries[0]["problems"] if all(row["id"] in values for values in means)]
    return [np.array([values[problem] for problem in shared]) for values in means]
