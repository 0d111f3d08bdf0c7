"""The course of a training stage over its updates: which panels it has, under which headings, drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from distill.report.charts import shares_over_time
from distill.report.drawings import Figure
from distill.report.figures import Curve, line_chart
from distill.report.gather import RunReport, StageReport


class Line(NamedTuple):
    """A metric with its name in the panel; ``style`` is the class of its line, "" for the role's colour."""

    metric: str
    label: str
    style: str = ""


class Panel(NamedTuple):
    """Curves in one drawing; its file is named after the first metric."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Figures of one stage that are shown together; those with a heading are folded under it."""

    heading: str
    figures: list[Figure]


def _one(metric: str, title: str) -> Panel:
    return Panel(title, (Line(metric, title),))


REWARD = _one("reward", "Reward")
LENGTH = Panel(
    "Completion length, tokens",
    (
        Line("completion_tokens", "all"),
        Line("completion_tokens_correct", "correct", "tone-good"),
        Line("completion_tokens_wrong", "wrong", "tone-bad"),
    ),
)
TEXTS = (
    _one("reflective", "Reflective words in a thousand"),
    _one("language", "Thoughts in the target language"),
    Panel(
        "Completions that did not end",
        (Line("truncated", "cut at the limit", "tone-bad"), Line("loops", "in a loop")),
    ),
)
HEALTH = (
    _one("entropy", "Entropy, nats per token"),
    _one("kl", "KL to the reference, nats per token"),
    _one("sampler_kl", "KL of the sampler to the trainer"),
    _one("ratio_first_mean", "Trainer over sampler, mean ratio"),
    _one("clip_fraction", "Share of tokens clipped"),
    _one("zero_variance_groups", "Groups that teach nothing"),
)
JUDGE = (
    Panel(
        "Loss, nats per judgement",
        (Line("loss", "trained on"), Line("held_out_loss", "held out", "tone-good")),
    ),
    Panel("Accuracy", (Line("accuracy", "trained on"), Line("held_out_accuracy", "held out", "tone-good"))),
    _one("margin", "Margin of the scores"),
)


def training_groups(run: RunReport, stage: StageReport) -> list[Group]:
    """A training stage's curves in groups; panels whose metrics were never measured, and empty groups, are left out."""
    match stage.kind:
        case "grpo":
            rewards = [
                _one(metric, metric.removeprefix("reward_"))
                for metric in dict.fromkeys(key for row in stage.metrics for key in row)
                if metric.startswith("reward_")
            ]
            rates = _solve_rates(run, stage)
            groups = [
                Group("", [*_drawn(run, stage, [REWARD]), *rates, *_drawn(run, stage, [LENGTH])]),
                Group("Each reward by its name", _drawn(run, stage, rewards)),
                Group("What the texts show", _drawn(run, stage, TEXTS)),
                Group("Health of the training", _drawn(run, stage, HEALTH)),
            ]
        case "reward":
            groups = [Group("", _drawn(run, stage, JUDGE))]
        case _:  # one panel alone, so it is named after its stage
            groups = [Group("", _drawn(run, stage, [_one("loss", f"{stage.name}, makes {stage.makes}")]))]
    return [group for group in groups if group.figures]


def training_figures(run: RunReport, stage: StageReport) -> list[Figure]:
    """The figures of all groups."""
    return [figure for group in training_groups(run, stage) for figure in group.figures]


def _drawn(run: RunReport, stage: StageReport, panels: Sequence[Panel]) -> list[Figure]:
    role = f"role-{run.role(stage.makes or '')}"
    steps = [float(row["step"]) for row in stage.metrics]
    drawn = []
    for panel in panels:
        curves = [
            Curve(line.label, line.style or role, steps, values)
            for line in panel.lines
            if any(map(_is_number, values := [row.get(line.metric) for row in stage.metrics]))
        ]
        if curves:
            title = f"{panel.title}, stage {stage.name}"
            file = f"training-{stage.name}-{panel.lines[0].metric}".replace(":", "-")
            drawn.append(Figure(file, panel.title, line_chart(title, curves, "update")))
    return drawn


def _solve_rates(run: RunReport, stage: StageReport) -> list[Figure]:
    rows = [row for row in stage.metrics if sum(row.get("solve_rates") or [])]
    if not rows:
        return []
    title = "Problems by the share of right answers"
    steps, counts = [row["step"] for row in rows], [row["solve_rates"] for row in rows]
    svg = shares_over_time(
        f"{title}, stage {stage.name}", steps, counts, run.role(stage.makes or ""), "update"
    )
    return [Figure(f"training-{stage.name}-solve_rates", title, svg)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
