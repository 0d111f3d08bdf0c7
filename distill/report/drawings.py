"""Which figures a run's report has: the run's numbers handed to `figures`, under the names their files get."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distill.report.figures import Interval, dot_plot, funnel_bars
from distill.report.gather import RunReport
from distill.report.words import MINUS, fraction, interval, published_scores, signed


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing with the name of its file (without `.svg`) and the words above it."""

    file: str
    title: str
    svg: str


def result_figures(run: RunReport) -> list[Figure]:
    """For each suite pass@1 of every model with its interval, and below them what others published."""
    drawn = []
    for suite in run.suites:
        rows = [
            Interval(
                model.name,
                model.role,
                found["pass@1"],
                found["ci95"][0],
                found["ci95"][1],
                f"{fraction(found['pass@1'])} [{interval(found['ci95'])}]",
            )
            for model in run.models
            if (found := model.suites.get(suite)) and found["ci95"]
        ]
        rows += [
            Interval(name, "published", value, value, value, f"{fraction(value)} published")
            for (name, _), value in published_scores(run, suite).items()
        ]
        svg = dot_plot(f"pass@1 on {suite} with 95% intervals", rows, (0.0, 1.0))
        drawn.append(Figure(f"results-{suite}", suite, svg))
    return drawn


def difference_figures(run: RunReport) -> list[Figure]:
    """For each suite the paired differences, all on one scale; hollow where the interval holds 0."""
    reach = max((abs(bound) for row in run.comparisons for bound in row["ci95"]), default=0.0)
    reach = max(0.1, math.ceil(reach * 10 - 1e-9) / 10)
    drawn = []
    for suite in dict.fromkeys(row["suite"] for row in run.comparisons):
        rows = [
            Interval(
                f"{row['a']} {MINUS} {row['b']}",
                run.role(row["a"]),
                row["difference"],
                row["ci95"][0],
                row["ci95"][1],
                f"{signed(row['difference'])} [{interval(row['ci95'])}]",
                hollow=not row["distinguishable"],
            )
            for row in run.comparisons
            if row["suite"] == suite
        ]
        captions = ("\u2190 the second is better", "the first is better \u2192")
        svg = dot_plot(f"Paired differences of pass@1 on {suite}", rows, (-reach, reach), captions)
        drawn.append(Figure(f"differences-{suite}", suite, svg))
    return drawn


def gap_figures(run: RunReport) -> list[Figure]:
    """How much of the gap between base and teacher each student closes, for each suite."""
    known = [row for row in run.gap_closed if row["value"] is not None and row["ci95"]]
    # An interval of a ratio can be very wide; beyond this range it is cut off at the figure's edge.
    bounds = [bound for row in known for bound in (row["value"], *row["ci95"])]
    low = max(-1.0, math.floor(min(bounds, default=0) * 2) / 2) if bounds and min(bounds) < 0 else 0.0
    high = min(2.0, max(1.2, math.ceil(max(bounds, default=1) * 5) / 5))
    drawn = []
    for suite in dict.fromkeys(row["suite"] for row in known):
        rows = [
            Interval(
                row["student"],
                run.role(row["student"]),
                row["value"],
                row["ci95"][0],
                row["ci95"][1],
                f"{fraction(row['value'])} [{interval(row['ci95'])}]",
            )
            for row in known
            if row["suite"] == suite
        ]
        captions = ("0: as the base", "1: as the teacher")
        drawn.append(
            Figure(f"gap-{suite}", suite, dot_plot(f"Gap closed on {suite}", rows, (low, high), captions))
        )
    return drawn


def funnel_figure(run: RunReport, name: str) -> Figure:
    """The funnel as bars on the scale of everything sampled."""
    funnel = run.funnels[name]
    steps = [(step["filter"], step["removed"], step["left"]) for step in funnel["steps"]]
    svg = funnel_bars(f"Funnel of {name}", funnel["input"]["traces"], steps, funnel["kept"]["traces"])
    return Figure(f"funnel-{name}", name, svg)


def all_figures(run: RunReport) -> list[Figure]:
    """Every figure of these, for the folder beside the report."""
    funnels = [funnel_figure(run, name) for name in run.funnels]
    return [*result_figures(run), *difference_figures(run), *gap_figures(run), *funnels]
