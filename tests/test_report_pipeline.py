"""The table of a pipeline's models, stage by stage: which stand in it, in what order, with which figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.recipe_file import find_recipe, load_recipe
from distill.report.gather import RunReport, gather
from distill.report.markdown import render_markdown
from distill.report.page import render_page
from distill.report.tables import Cell, pipeline_table
from distill.report.words import findings, first_pair

PAPER = ["base", "zero", "dev1", "dev2", "dev3", "r1"]


def measured(**figures: Any) -> dict[str, Any]:
    plain = {"pass@1": 0.5, "ci95": [0.48, 0.52], "format": 0.9, "thought_language": 0.6, "n": 100, "k": 1}
    return plain | {"mean_tokens": 40.0} | figures


def report_on(recipe_name: str, found: dict[str, dict[str, Any]]) -> RunReport:
    recipe = load_recipe(find_recipe(recipe_name))
    models = {name: {"role": recipe.role(name), "suites": {"chains": row}} for name, row in found.items()}
    return gather(Path("nowhere"), recipe, {"models": models})


def test_the_models_stand_in_the_order_in_which_they_are_made() -> None:
    found = {name: measured(**{"pass@1": 0.4 + 0.1 * at}) for at, name in enumerate(PAPER)}
    shuffled = {name: found[name] for name in reversed(PAPER)}
    table = pipeline_table(report_on("quickstart-r1", shuffled))
    names = [row[0].main for row in table.rows if isinstance(row[0], Cell)]
    assert names == PAPER and table.roles == ["base", *["teacher"] * 5]
    assert table.columns == ["model*", "chains: pass@1", "format", "language"]
    scores = [row[1].main for row in table.rows if isinstance(row[1], Cell)]
    assert scores == ["0.400", "0.500", "0.600", "0.700", "0.800", "0.900"]


def test_each_figure_stands_in_its_own_column_and_what_is_not_known_is_a_dash() -> None:
    found = {name: measured() for name in PAPER}
    found["base"] |= {"format": 0.71, "thought_language": None}
    found["r1"] |= {"format": 0.99, "thought_language": 0.97}
    run = report_on("quickstart-r1", found)
    rows = {row[0].main: row[1:] for row in pipeline_table(run).rows if isinstance(row[0], Cell)}
    assert rows["base"] == [Cell("0.500", "0.480 to 0.520"), "0.710", "\u2013"]
    assert rows["r1"][1:] == ["0.990", "0.970"]
    for page in (render_markdown(run), render_page(run)):
        assert page.count("Stage by stage") == 1 and "0.970" in page


def test_the_headline_is_of_what_the_pipeline_led_to() -> None:
    row = {
        "suite": "chains",
        "difference": 0.3,
        "ci95": [0.2, 0.4],
        "distinguishable": True,
        "n": 100,
        "k": 1,
    }
    pairs = [(name, "base") for name in ("dev1", "r1", "zero", "dev3", "dev2")] + [("r1", "zero")]
    recipe = load_recipe(find_recipe("quickstart-r1"))
    models = {name: {"role": recipe.role(name), "suites": {"chains": measured()}} for name in PAPER}
    run = gather(
        Path("nowhere"),
        recipe,
        {"models": models, "comparisons": [{"a": a, "b": b, **row} for a, b in pairs]},
    )
    assert first_pair(run) == ("r1", "base")
    order = [sentence.split()[0] for sentence in findings(run)]
    assert order == ["r1", "dev3", "dev2", "dev1", "zero"]


def test_one_teacher_is_no_pipeline() -> None:
    found = {name: measured() for name in ("base", "teacher", "student")}
    run = report_on("quickstart", found)
    assert pipeline_table(run).rows == []
    assert "Stage by stage" not in render_markdown(run) + render_page(run)


def test_the_flaws_of_the_base_are_told_its_languages_among_them() -> None:
    run = report_on("quickstart-r1", {name: measured() for name in PAPER})
    (base,) = [model for model in run.models if model.name == "base"]
    assert "0.5 of steps in en, 0.5 of steps in zh" in base.made_by and "unreliable" in base.made_by
