"""The report of a run: `report/index.html` (self-contained), `report.md`, `summary.json` and the figures as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.recipe import Recipe
from distill.report.breakdowns import breakdown_figures
from distill.report.course import training_figures
from distill.report.drawings import all_figures
from distill.report.figures import standalone
from distill.report.gather import RunReport, gather
from distill.report.markdown import render_markdown
from distill.report.page import render_page
from distill.report.words import told
from distill.runs import write_json_atomic, write_text_atomic


def write_report(run_path: Path, recipe: Recipe, comparison: dict[str, Any]) -> Path:
    """Write the report of whatever a run folder holds so far, and return the path of its page.

    Args:
        run_path: the run folder (DESIGN section 4). Any part of it may be missing; the report says which.
        recipe: the recipe it runs.
        comparison: what `eval.compare.compare` returned; `{}` when nothing was compared.
    """
    run = gather(run_path, recipe, comparison)
    folder = run_path / "report"
    training = [figure for stage in run.stages for figure in training_figures(run, stage)]
    figures = {
        f"{figure.file}.svg": standalone(figure.svg)
        for figure in [*all_figures(run), *training, *breakdown_figures(run)]
    }
    for name, svg in figures.items():
        write_text_atomic(folder / "figures" / name, svg)
    for old in (folder / "figures").glob("*.svg"):
        if old.name not in figures:
            old.unlink()
    write_json_atomic(folder / "summary.json", summarise(run))
    write_text_atomic(folder / "report.md", render_markdown(run))
    write_text_atomic(folder / "index.html", render_page(run))
    return folder / "index.html"


def summarise(run: RunReport) -> dict[str, Any]:
    """What programs read. All of it but keys that begin with `seconds` is the same for the same recipe and seed."""
    return {
        "recipe": run.recipe.name,
        "seed": run.recipe.seed,
        "models": {
            model.name: {
                "role": model.role,
                "params": model.params,
                "origin": model.origin,
                "made_by": model.made_by,
                "suites": model.suites,
                "cost": model.cost,
            }
            for model in run.models
        },
        "comparisons": run.comparisons,
        "gap_closed": run.gap_closed,
        "published": run.published,
        "findings": told(run),
        "traces": {
            name: {key: funnel[key] for key in ("input", "steps", "kept")}
            for name, funnel in run.funnels.items()
        },
        "stages": {
            stage.name: {
                "kind": stage.kind,
                "seconds": stage.seconds,
                "tokens": stage.generated_tokens + stage.trained_tokens,
                "generated_tokens": stage.generated_tokens,
                "trained_tokens": stage.trained_tokens,
            }
            for stage in run.stages
        },
    }
