"""The charts of several models, the tables beside them and the words above them: right places, nothing lost."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_run
from hypothesis import given
from hypothesis import strategies as st

from distill.report import summarise, write_report
from distill.report.breakdowns import breakdown_figures, difficulty_figures, tag_figures
from distill.report.charts import (
    Line,
    Spot,
    curves_over_k,
    histograms,
    outcome_bars,
    rate_against_rate,
    spread,
    trade_off,
)
from distill.report.excerpts import choose_answers
from distill.report.figures import standalone
from distill.report.gather import RunReport, gather
from distill.report.markdown import render_markdown
from distill.report.page import render_page
from distill.report.tables import Cell, details_table, published_table, results_table
from distill.report.words import at_a_glance, p_value, published_protocol, statements, title_line, told


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunReport:
    """A made-up run with everything that a comparison may hold."""
    path = tmp_path_factory.mktemp("charts") / "run"
    comparison = report_run.make_run(path, traces=40, problems=20)
    return gather(path, report_run.make_recipe(), comparison)


def numbers(svg: str, pattern: str) -> list[float]:
    """Every number that the pattern's one group matches."""
    return [float(found) for found in re.findall(pattern, svg)]


# ---------------------------------------------------------------------------------------------- charts


def test_curves_stand_over_powers_of_two_at_equal_steps_and_a_share_of_one_is_at_the_top() -> None:
    svg = curves_over_k("t", [Line("a", "teacher", [(1, 0.0), (2, 0.5), (4, 1.0)])])
    points = re.search(r'class="curve" d="M([^"]+)"', svg)
    assert points is not None
    (x1, y1), (x2, y2), (x4, y4) = (map(float, point.split()) for point in points[1].split("L"))
    assert x2 - x1 == pytest.approx(x4 - x2, abs=0.2) and y1 - y2 == pytest.approx(y2 - y4, abs=0.2)
    assert y1 == 170 and y4 == 10


def test_a_trade_off_is_logarithmic_only_where_costs_are_far_apart() -> None:
    def places(*costs: float) -> list[float]:
        spots = [Spot(f"m{cost}", "teacher", cost, 0.5, 0.4, 0.6) for cost in costs]
        return numbers(trade_off("t", spots, "tokens"), r'<rect class="mark" x="([\d.]+)"')

    near, far = places(100, 200, 300), places(10, 100, 1000)
    assert near[1] - near[0] == pytest.approx(near[2] - near[1], abs=0.2)
    assert far[1] - far[0] == pytest.approx(far[2] - far[1], abs=0.2)
    assert ET.fromstring(standalone(trade_off("t", [Spot("a", "base", 7, 0, 0, 0)], "tokens"))) is not None


def test_bars_of_a_histogram_are_as_tall_as_they_are_many_on_one_scale() -> None:
    svg = histograms("t", [("a", "base", [4, *[0] * 8, 8]), ("b", "teacher", [2, *[0] * 9])])
    tall = numbers(svg, r'class="bar"[^>]* height="([\d.]+)"')
    assert tall[0] == tall[9] / 2 == 2 * tall[10] and sum(tall) == tall[0] + tall[9] + tall[10]
    assert "4 under 0.1, 8 over 0.9, of 12" in svg


def test_circles_have_as_much_area_as_problems_and_stand_at_their_rates() -> None:
    svg = rate_against_rate("t", {(0.0, 0.0): 25, (1.0, 0.5): 100}, ("t", "teacher"), ("s", "student"))
    radii, across, down = (numbers(svg, rf'bubble"[^>]* {name}="([\d.]+)"') for name in ("r", "cx", "cy"))
    assert radii[1] == pytest.approx(2 * radii[0], abs=0.1)
    assert across == [44, 316] and down == [276, 148]


def test_outcomes_fill_the_bar_exactly_and_what_never_was_is_not_named() -> None:
    svg = outcome_bars("t", [("a", {"correct": 3, "wrong": 1, "truncated": 4, "timeout": 0})])
    wide = numbers(svg, r'width="([\d.]+)" height="10"><title>')
    assert sum(wide) == pytest.approx(324) and wide[0] == pytest.approx(324 * 3 / 8, abs=0.1)
    assert "truncated" in svg and "timeout" not in svg


@given(st.lists(st.floats(0, 200), min_size=1, max_size=9))
def test_labels_keep_apart_keep_their_order_and_move_only_down(heights: list[float]) -> None:
    moved = spread(heights, 13)
    assert all(new >= old for new, old in zip(moved, heights, strict=True))
    ordered = [moved[place] for place in sorted(range(len(heights)), key=heights.__getitem__)]
    assert all(after - before >= 13 - 1e-9 for before, after in itertools.pairwise(ordered))


def test_every_chart_of_a_whole_run_is_there_and_is_an_svg(run: RunReport) -> None:
    drawn = {figure.file: figure.svg for figure in breakdown_figures(run)}
    for suite in ("chains", "functions"):
        for name in (
            "outcomes", "pass-at-k", "cons-at-k", "against-tokens", "against-parameters", "by-subject", "by-level",
            "solve-rates", "rates-student-teacher",
        ):  # fmt: skip
            ET.fromstring(standalone(drawn.pop(f"{name}-{suite}")))
    assert drawn == {}


def test_levels_stand_in_their_order_and_say_how_many_problems_they_hold(run: RunReport) -> None:
    by_ten = {str(level): {"n": level, "pass@1": 0.5, "ci95": [0.4, 0.6]} for level in (10, 2, 1)}
    first = run.models[0]
    suites = {"chains": {**first.suites["chains"], "by": {"level": by_ten}}}
    figure = tag_figures(replace(run, models=[replace(first, suites=suites)], suites=["chains"]))[0]
    assert re.findall(r">(level \d+|\d+ problems?)<", figure.svg) == [
        "level 1", "1 problem", "level 2", "2 problems", "level 10", "10 problems",
    ]  # fmt: skip


def test_rates_of_student_and_teacher_are_of_the_same_problems(run: RunReport) -> None:
    rates = {"chains": {"teacher": {"p": 1.0, "q": 0.5, "only": 1.0}, "student": {"p": 0.5, "q": 0.5}}}
    svg = difficulty_figures(replace(run, rates=rates, suites=["chains"]))[-1].svg
    told_of = re.findall(r"<title>(\d+ problems: [^<]+)</title>", svg)
    assert told_of == [
        "1 problems: teacher 0.50, student 0.50",
        "1 problems: teacher 1.00, student 0.50",
    ]


# ---------------------------------------------------------------------------------------------- tables and words


def test_published_numbers_stand_in_the_headline_table_as_fractions(run: RunReport) -> None:
    rows = {row[0].main: row[1:] for row in results_table(run).rows if isinstance(row[0], Cell)}
    assert rows["Example-1.5B"] == ["0.890", "0.880", "\u2013"]
    table = published_table(run)
    assert [row[4] for row in table.rows] == [
        Cell("inside", ""),
        Cell("below", ""),
        Cell("inside", ""),
        Cell("not comparable", "published at temperature 0.6, measured at 1.0"),
    ]
    assert table.rows[0][3] == Cell("0.880", "student, 0.840 to 0.915")
    assert table.rows[0][0] == Cell("Example-1.5B", "an invented paper, table 5, v1")


def test_a_published_rating_is_no_fraction(run: RunReport) -> None:
    row = run.published[0] | {"metric": "rating", "value": 1189, "unit": "rating", "measured": 1205.4}
    shown = published_table(replace(run, published=[row | {"ci95": [1100.2, None]}])).rows[0]
    assert shown[2:4] == ["1,189", Cell("1,205", "student, 1,100 to \u2013")]


def test_a_published_protocol_says_what_its_source_leaves_open(run: RunReport) -> None:
    said = {
        "k": None,
        "temperature": 0.6,
        "top_p": None,
        "max_tokens": 32768,
        "window": ["2024-08", "2025-01"],
    }
    assert published_protocol({"protocol": said}) == (
        "k not stated, temperature 0.6, at most 32,768 tokens, problems of 2024-08 to 2025-01"
    )
    shown = published_table(run).rows[0][-1]
    assert shown == Cell("", "k = 64, temperature 0.6, top-p 0.95, at most 32,768 tokens")


def test_a_judged_suite_names_its_judge_and_a_rated_one_its_percentile(run: RunReport) -> None:
    suites = {
        "chains": run.models[0].suites["chains"]
        | {
            "win_rate": {
                "value": 0.31,
                "ci95": [0.28, 0.34],
                "length_controlled": 0.35,
                "note": "ours",
                "judge": "j",
            },
            "rating": {"value": 1205.4, "ci95": [1100.0, 1310.0], "percentile": 0.55},
        }
    }
    table = details_table(replace(run, models=[replace(run.models[0], suites=suites)]), "chains")
    shown = dict(zip(table.columns, table.rows[0], strict=True))
    assert shown["rating"] == Cell("1,205", "1,100 to 1,310; percentile 0.550")
    assert shown["win rate"] == Cell("0.310", "0.280 to 0.340; length-controlled (ours) 0.350; judge j; ours")
    assert shown["language"] == "0.997"


def test_what_the_data_could_not_tell_is_said_once_for_all_pairs_it_holds_for(run: RunReport) -> None:
    said = statements(run)
    assert said[0].startswith("On chains, student and teacher: 20 problems at k = 4 cannot tell")
    assert said[1].startswith(
        "On functions, student and teacher; rl-only and teacher; student and rl-only: 20"
    )
    assert len(said) == 2


def test_at_a_glance_holds_the_first_pair_and_its_costs(run: RunReport) -> None:
    assert title_line(run) == (
        "student solves more problems than rl-only on chains; the two cannot be told apart on functions."
    )
    assert [figure.value for figure in at_a_glance(run)] == ["+0.180", "+0.010", "2.05 M", "2.05 M"]
    assert at_a_glance(run)[2].aside == "generated and trained\n5.16 M with its teacher"
    assert [figure.role for figure in at_a_glance(run)] == ["student", "", "student", "baseline"]
    turned = [row | {"difference": -0.2, "distinguishable": True} for row in run.comparisons]
    assert title_line(replace(run, comparisons=turned)) == (
        "student solves fewer problems than rl-only on chains and functions."
    )


@pytest.mark.parametrize(
    ("value", "words"), [(None, "\u2013"), (0.0004, "< 0.001"), (0.0449, "0.045"), (1.0, "1.000")]
)
def test_a_p_value_is_never_zero(value: float | None, words: str) -> None:
    assert p_value(value) == words


def test_findings_of_the_comparison_reach_programs_the_page_and_markdown(run: RunReport) -> None:
    assert summarise(run)["findings"] == told(run) and "by a share of 0.18 on chains" in told(run)[0]
    given_ = replace(run, findings=["student is better <b>.", "It is the dearer one."])
    assert summarise(given_)["findings"] == ["student is better <b>.", "It is the dearer one."]
    assert "<li>student is better &lt;b&gt;.</li><li>It is the dearer one.</li>" in render_page(given_)
    assert "student is better &lt;b&gt;." in render_markdown(given_)
    assert len(summarise(run)["published"]) == 4


def test_an_older_result_has_none_of_it_and_its_report_leaves_the_parts_out(tmp_path: Path) -> None:
    comparison: dict[str, Any] = report_run.make_run(tmp_path, traces=20, problems=4)
    new = ("pass@k_curve", "cons@k_curve", "outcomes", "solve_rates", "language", "by")
    for model in comparison["models"].values():
        for found in model["suites"].values():
            for key in new:
                del found[key]
    for row in comparison["comparisons"]:
        for key in ("p", "detectable", "statement"):
            del row[key]
    del comparison["published"]
    for file in tmp_path.glob("results/*/*/summary.json"):
        file.unlink()
    write_report(tmp_path, report_run.make_recipe(), comparison)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'<section id="([\w-]+)"', page))
    assert {"published", "groups", "difficulty"} & ids == set() and {
        "results",
        "trade-offs",
        "answers",
    } <= ids
    assert "is not there" not in page and '<section id="trade-offs"' in page and "pass@k:" not in page
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["published"] == []


def test_counts_of_a_problem_are_of_all_its_samples_not_of_those_shown() -> None:
    rows = [
        {"id": "p", "sample_index": n, "problem": "?", "completion": "x", "tokens": 1,
         "verdict": "correct" if n % 3 else "wrong"}
        for n in range(16)
    ]  # fmt: skip
    problem = choose_answers({"teacher": rows}, report_run.make_recipe()).problems[0]
    assert problem["counts"] == {"teacher": [10, 16]} and len(problem["answers"]["teacher"]) == 4
