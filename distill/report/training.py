"""The page's section on training: each stage's curves, and below them the problems that were followed."""

from __future__ import annotations

from html import escape

from distill.reflection import reflective_parts
from distill.report.course import training_figures, training_groups
from distill.report.followed import Followed, Look, followed_facts, followed_lead
from distill.report.gather import RunReport, StageReport
from distill.report.pieces import figures_html, fold

SHORT = 30  # characters that the summary shows even on a phone
MARKS = {True: ("right", "\u2713"), False: ("wrong", "\u2717"), None: ("quiet", "\u2013")}


def training_section(run: RunReport) -> str:
    """The section's body; nothing where no stage has metrics."""
    parts = []
    for stage in run.stages:
        if stage.kind in ("grpo", "reward"):
            parts.append(_stage(run, stage))
    # One curve each: side by side under one heading.
    losses = [
        figure for stage in run.stages if stage.kind == "sft" for figure in training_figures(run, stage)
    ]
    if losses:
        heading = "Fine-tuning <small>loss in nats per response token</small>"
        parts.append(f"<h3>{heading}</h3>{figures_html(losses)}")
    lead = '<p class="note">Points are measurements, lines the mean of their neighbours.</p>'
    return lead + "".join(parts) if any(parts) else ""


def _stage(run: RunReport, stage: StageReport) -> str:
    groups = training_groups(run, stage)
    followed = _followed(stage.followed)
    if not groups and not followed:
        return ""
    what = "GRPO" if stage.kind == "grpo" else "reward model"
    parts = [f"<h3>{escape(stage.name)} <small>{what}, makes {escape(stage.makes or '')}</small></h3>"]
    for group in groups:
        drawn = figures_html(group.figures)
        parts.append(fold(f"{group.heading} ({len(group.figures)})", drawn) if group.heading else drawn)
    return "".join(parts) + followed


def _followed(problems: list[Followed]) -> str:
    if not problems:
        return ""
    lead = f'<p class="note">{escape(followed_lead(problems))}</p>'
    return fold(f"The same problems over time ({len(problems)})", lead + "".join(map(_problem, problems)))


def _problem(one: Followed) -> str:
    marks = " ".join(_mark(look) for look in one.looks)
    title = f'<span class="row">{marks} <span>{escape(_first_line(one.problem))}</span></span>'
    looks = "".join(map(_look, one.looks))
    whole = one.problem.strip()  # said once where the summary has room for all of it
    short = whole == _first_line(one.problem) and len(whole) < SHORT
    problem = "" if short else f'<div class="text problem">{escape(whole)}</div>'
    return f'<details class="followed"><summary>{title}</summary>{problem}<ol class="looks">{looks}</ol></details>'


def _look(look: Look) -> str:
    facts = f'<p class="meta">{_mark(look)} {escape(followed_facts(look))}</p>'
    return f'<li>{facts}<div class="text">{_marked(look.text)}</div></li>'


def _mark(look: Look) -> str:
    style, sign = MARKS[look.right]
    return f'<span class="{style}">{sign}</span>'


def _marked(text: str) -> str:
    """The text, escaped, its reflective words marked."""
    return "".join(
        f"<mark>{escape(part)}</mark>" if reflective else escape(part)
        for part, reflective in reflective_parts(text)
    )


def _first_line(problem: str) -> str:
    return next((line for line in problem.splitlines() if line.strip()), problem)
