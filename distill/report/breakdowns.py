"""Which charts of several models a report has: curves over k, trade-offs, groups of problems, difficulty, outcomes.

Each is left out where its numbers are not in the results: older ones have none of them.
"""

from __future__ import annotations

from collections import Counter

from distill.report.charts import (
    Line,
    Spot,
    curves_over_k,
    grouped_plot,
    histograms,
    outcome_bars,
    rate_against_rate,
    trade_off,
)
from distill.report.drawings import Figure
from distill.report.figures import Interval
from distill.report.gather import RunReport
from distill.report.words import fraction, interval

#: Names of the curves in a summary, and what they are called.
CURVES = (("pass@k_curve", "pass@k"), ("cons@k_curve", "cons@k"))
#: A group of problems by its tag, and the word for it in a title.
TAGS = (("subject", "by subject"), ("level", "by level"))


def curve_figures(run: RunReport) -> list[Figure]:
    """For each suite pass@k and cons@k of all models over k, where more than one k was measured."""
    drawn = []
    for suite in run.suites:
        for key, words in CURVES:
            lines, seen = [], set()
            for model in run.models:
                found = (model.suites.get(suite) or {}).get(key) or {}
                points = sorted((int(k), share) for k, share in found.items() if share is not None)
                if len(points) > 1:
                    lines.append(Line(model.name, model.role, points, dashed=model.role in seen))
                    seen.add(model.role)
            if lines:
                svg = curves_over_k(f"{words} on {suite}", lines)
                drawn.append(Figure(f"{words.replace('@', '-at-')}-{suite}", f"{words}, {suite}", svg))
    return drawn


def trade_off_figures(run: RunReport) -> list[Figure]:
    """For each suite pass@1 against tokens per response, and against parameters."""
    drawn = []
    for suite in run.suites:
        measured = [
            (model, found)
            for model in run.models
            if (found := model.suites.get(suite)) and found["pass@1"] is not None and found["ci95"]
        ]
        for name, title, label, cost_of in (
            (
                "tokens",
                "tokens per response",
                "tokens per response",
                lambda _, found: found.get("mean_tokens"),
            ),
            ("parameters", "parameters", "parameters", lambda model, _: model.params),
        ):
            spots = [
                Spot(model.name, model.role, cost_of(model, found), found["pass@1"], *found["ci95"])
                for model, found in measured
                if cost_of(model, found)
            ]
            if len(spots) > 1:
                svg = trade_off(f"pass@1 on {suite} against {title}", spots, label)
                drawn.append(Figure(f"against-{name}-{suite}", f"{suite}, against {title}", svg))
    return drawn


def tag_figures(run: RunReport) -> list[Figure]:
    """For each suite whose problems carry them, pass@1 of each subject and of each level."""
    drawn = []
    for suite in run.suites:
        for tag, words in TAGS:
            rows: dict[str, tuple[int, list[Interval]]] = {}
            for model in run.models:
                found = (model.suites.get(suite) or {}).get("by") or {}
                for name, group in (found.get(tag) or {}).items():
                    if group["pass@1"] is None:
                        continue
                    low, high = group["ci95"] or (group["pass@1"], group["pass@1"])
                    text = f"{fraction(group['pass@1'])} [{interval(group['ci95'])}]"
                    row = Interval(model.name, model.role, group["pass@1"], low, high, text)
                    rows.setdefault(f"{tag} {name}" if name.isdecimal() else name, (group["n"], []))[
                        1
                    ].append(row)
            if rows:
                groups = [(name, *rows[name]) for name in sorted(rows, key=_in_order)]
                svg = grouped_plot(f"pass@1 on {suite} {words}", groups)
                drawn.append(Figure(f"by-{tag}-{suite}", f"{suite} {words}", svg))
    return drawn


def difficulty_figures(run: RunReport) -> list[Figure]:
    """For each suite how often each model solves a problem, and each student's rates against each teacher's."""
    drawn = []
    for suite in run.suites:
        rows = [
            (model.name, model.role, bins)
            for model in run.models
            if (bins := (model.suites.get(suite) or {}).get("solve_rates"))
        ]
        if rows:
            svg = histograms(f"Problems of {suite} by the share of samples that are right", rows)
            drawn.append(Figure(f"solve-rates-{suite}", f"{suite}, problems by share right", svg))
        rates = run.rates.get(suite) or {}
        pairs = [
            (teacher, student)
            for teacher in run.models
            for student in run.models
            if (teacher.role, student.role) == ("teacher", "student")
        ]
        for teacher, student in pairs:
            one, other = rates.get(teacher.name) or {}, rates.get(student.name) or {}
            cells = Counter(
                (round(one[problem], 2), round(other[problem], 2)) for problem in one if problem in other
            )
            if cells:
                title = f"{student.name} against {teacher.name} on each problem of {suite}"
                names = ((teacher.name, teacher.role), (student.name, student.role))
                file = f"rates-{student.name.replace('/', '-')}-{teacher.name.replace('/', '-')}-{suite}"
                words = f"{suite}, {student.name} against {teacher.name}"
                drawn.append(Figure(file, words, rate_against_rate(title, cells, *names)))
    return drawn


def outcome_figures(run: RunReport) -> list[Figure]:
    """For each suite what became of every model's samples: truncated and unanswered ones apart from wrong ones."""
    drawn = []
    for suite in run.suites:
        rows = [
            (model.name, counts)
            for model in run.models
            if (counts := (model.suites.get(suite) or {}).get("outcomes"))
        ]
        if rows:
            svg = outcome_bars(f"What became of the samples on {suite}", rows)
            drawn.append(Figure(f"outcomes-{suite}", f"{suite}, every sample", svg))
    return drawn


def breakdown_figures(run: RunReport) -> list[Figure]:
    """All of them, for the folder beside the report."""
    return [
        *outcome_figures(run),
        *curve_figures(run),
        *trade_off_figures(run),
        *tag_figures(run),
        *difficulty_figures(run),
    ]


def _in_order(name: str) -> tuple[int, float, str]:
    """Numbers by size, then words by the alphabet: level 10 does not stand before level 2."""
    last = name.rpartition(" ")[2]
    return (0, float(last), name) if last.isdecimal() else (1, 0.0, name)
