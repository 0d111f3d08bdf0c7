"""The report on training: every logged number has its panel; histograms over time; followed problems, escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_run

from distill.recipe import Recipe
from distill.report import write_report
from distill.report.charts import MOST_BARS, shares_over_time
from distill.report.course import training_figures, training_groups
from distill.report.figures import Curve, line_chart, standalone
from distill.report.followed import CHARACTERS_SHOWN, LOOKS_SHOWN, choose_followed, followed_facts
from distill.report.gather import RunReport, StageReport, gather
from distill.report.markdown import render_markdown
from distill.report.page import render_page
from distill.report.training import training_section
from distill.shards import append_rows


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training") / "run"
    report_run.make_run(path, traces=8, problems=4)
    return path


@pytest.fixture(scope="module")
def run(path: Path) -> RunReport:
    return gather(path, report_run.make_recipe(), {})


def stage_of(run: RunReport, name: str) -> StageReport:
    return next(stage for stage in run.stages if stage.name == name)


def titles(run: RunReport, stage: StageReport) -> dict[str, list[str]]:
    return {group.heading: [one.title for one in group.figures] for group in training_groups(run, stage)}


def row(step: int, name: str = "p", **changes: Any) -> dict[str, Any]:
    plain = {"step": step, "problem_id": name, "problem": "2 + 2?", "right": True, "reward": 1.0}
    return plain | {"finish_reason": "stop", "tokens": 5, "text": "Wait, no.\n4"} | changes


# ---------------------------------------------------------------------------------------------- curves


def test_a_grpo_stage_is_told_by_its_logged_numbers_each_reward_by_its_name(run: RunReport) -> None:
    zero = stage_of(run, "zero")
    metrics = [{**one, "reward_stories:vivid": 0.5, "reward_helpful": None} for one in zero.metrics]
    found = titles(run, replace(zero, metrics=metrics))
    assert list(found) == ["", "Each reward by its name", "What the texts show", "Health of the training"]
    assert found[""] == ["Reward", "Problems by the share of right answers", "Completion length, tokens"]
    assert found["Each reward by its name"] == ["accuracy", "format", "stories:vivid"], (
        "a judge that was silent has none"
    )
    assert len(found["What the texts show"]) == 3 and len(found["Health of the training"]) == 6
    files = [one.file for one in training_figures(run, replace(zero, metrics=metrics))]
    assert len(set(files)) == len(files) and "training-zero-reward_stories-vivid" in files
    for one in training_figures(run, zero):
        assert ET.fromstring(standalone(one.svg)) is not None


def test_panels_that_were_never_measured_are_left_out(run: RunReport) -> None:
    zero = stage_of(run, "zero")
    old = [{"step": step, "reward": 1.0, "kl": None, "solve_rates": [0] * 6} for step in (1, 2)]
    assert titles(run, replace(zero, metrics=old)) == {"": ["Reward"]}
    assert training_groups(run, replace(zero, metrics=[])) == []


def test_the_curves_stand_in_the_page_folded_and_in_the_folder_as_files(path: Path, run: RunReport) -> None:
    page, markdown = render_page(run), render_markdown(run)
    write_report(path, report_run.make_recipe(), {})
    for name in ("reward_accuracy", "reflective", "language", "truncated", "solve_rates", "clip_fraction"):
        assert (path / "report" / "figures" / f"training-zero-{name}.svg").is_file()
        assert f"figures/training-zero-{name}.svg" in markdown
    section = page[page.index('<section id="training">') : page.index('<section id="traces">')]
    unfolded = re.sub(r'<details class="fold">.*?</details>', "", section, flags=re.DOTALL)
    assert section.count("<h3>") == 3 and section.count("Reflective words in a thousand</figcaption>") == 2
    assert unfolded.count("<figure>") == 2 * 3 + 3


def test_a_reward_stage_has_its_curves_trained_on_and_held_out(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "judging",
            "models": {"m": {"build": {"hidden": 16, "layers": 1, "heads": 2}, "tokenizer": "world"}},
            "stages": [
                {
                    "name": "judge",
                    "kind": "reward",
                    "model": "m",
                    "pairs": {"path": "p.jsonl"},
                    "makes": "helpful",
                }
            ],
        }
    )
    held_out = {"held_out_loss": 0.6, "held_out_accuracy": 0.7}
    rows = [{"step": n, "loss": 0.7 - n / 10, "accuracy": 0.5 + n / 10, "margin": n / 2} for n in range(1, 4)]
    append_rows(tmp_path / "stages" / "01-judge" / "metrics.jsonl", [*rows[:2], rows[2] | held_out])
    run = gather(tmp_path, recipe, {})
    figures = training_figures(run, run.stages[0])
    assert [one.file.removeprefix("training-judge-") for one in figures] == ["loss", "accuracy", "margin"]
    assert "held out" in figures[0].svg and "held out" in figures[1].svg and "tone-good" in figures[1].svg
    section = training_section(run)
    assert "judge <small>reward model, makes helpful</small>" in section and section.count("<figure>") == 3
    assert "Training: judge (reward)" in render_markdown(run)


def test_long_tick_labels_have_room() -> None:
    svg = line_chart("t", [Curve("a", "role-teacher", [1, 2], [1e-7, 2e-7])], "update")
    left = float(re.findall(r'<line class="grid" x1="([\d.]+)"', svg)[0])
    labels = re.findall(r'text-anchor="end">([^<]+)</text>', svg)
    assert "2e\u22127" in labels and all(7 * len(label) <= left for label in labels[:-1])


# ---------------------------------------------------------------------------------------------- histograms over time


def columns(svg: str, kind: int) -> list[tuple[float, float]]:
    """(top, height) of each part of one kind."""
    path = re.search(rf'<path class="solved-{kind}" d="([^"]*)"', svg)
    assert path is not None
    return [(float(y), float(tall)) for y, tall in re.findall(r"M[\d.]+ ([\d.]+)h[\d.]+v([\d.]+)", path[1])]


def test_a_histogram_over_time_stacks_the_shares_of_each_step_to_one() -> None:
    svg = shares_over_time("t", [1, 2], [[4, 0, 0, 0, 0, 4], [0, 2, 0, 0, 0, 6]], "teacher", "update")
    whole = 150 - 24
    assert columns(svg, 0) == [(24, whole / 2)] and columns(svg, 1) == [(24, whole / 4)]
    assert columns(svg, 5) == [(24 + whole / 2, whole / 2), (24 + whole / 4, 3 * whole / 4)]
    assert columns(svg, 3) == [] and "solved never: 4 of 8 at first, 0 of 8 at last" in svg
    assert "solved in 0 to 0.25 of its answers: 0 of 8 at first, 2 of 8 at last" in svg


def test_many_steps_are_means_of_stretches_and_no_problem_is_lost() -> None:
    counts = [[step % 3, 1, 0, 0, 0, 2] for step in range(1000)]
    svg = shares_over_time("t", list(range(1000)), counts, "teacher", "update")
    assert len(columns(svg, 1)) == len(columns(svg, 5)) == MOST_BARS - 3  # 72 stretches of up to 14
    for parts in zip(columns(svg, 0), columns(svg, 1), columns(svg, 5), strict=True):
        assert sum(tall for _, tall in parts) == pytest.approx(150 - 24, abs=0.05)


# ---------------------------------------------------------------------------------------------- followed problems


def test_few_looks_are_shown_spread_over_the_stage_with_its_first_and_last() -> None:
    rows = [row(step, name) for step in range(0, 101, 5) for name in ("a", "b")]
    one, other = choose_followed(rows)
    assert (one.id, other.id, one.taken) == ("a", "b", 21)
    steps = [look.step for look in one.looks]
    assert len(steps) == LOOKS_SHOWN and steps[0] == 0 and steps[-1] == 100 and steps == sorted(set(steps))
    assert [look.step for look in choose_followed(rows[:6])[0].looks] == [0, 5, 10]
    assert choose_followed([]) == []


def test_a_long_text_loses_its_middle_but_none_of_its_reflective_words_is_uncounted() -> None:
    (one,) = choose_followed([row(0, text="wait " * CHARACTERS_SHOWN), row(1)])
    first, second = one.looks
    assert first.reflective == CHARACTERS_SHOWN and len(first.text) < CHARACTERS_SHOWN + 100
    assert "characters left out" in first.text and second.text == "Wait, no.\n4"


def test_a_look_is_told_in_words() -> None:
    (one,) = choose_followed(
        [
            row(1),
            row(2, right=None, reward=None, finish_reason="length", tokens=1200, text="x"),
            row(3, right=False),
        ]
    )
    told = [followed_facts(look) for look in one.looks]
    assert told[0] == "after 1 update \u00b7 right \u00b7 reward 1 \u00b7 5 tokens \u00b7 1 reflective word"
    assert told[1] == "after 2 updates \u00b7 not judged by rules \u00b7 1,200 tokens, cut at the limit"
    assert "wrong" in told[2]


def test_followed_texts_stand_in_the_page_escaped_with_reflective_words_marked(run: RunReport) -> None:
    section = training_section(run)
    assert section.count('<details class="followed">') == 2 * 3 and "8 of 11 looks" in section
    assert section.count("<mark>Wait</mark>") == section.count("<mark>check</mark>") > 0
    assert "<script" not in section and "&lt;/script&gt;" in section and "<b>" not in section
    assert re.search(r'<span class="wrong">\u2717</span>( <span class="(wrong|right)">.</span>)+', section)
    looks = re.findall(r'<p class="meta"><span class="(\w+)">', section)
    assert looks.count("quiet") == 2 * LOOKS_SHOWN and 0 < looks.count("right") < 2 * LOOKS_SHOWN


def test_half_of_a_surrogate_pair_does_not_stop_the_report(path: Path, run: RunReport) -> None:
    odd = choose_followed([row(0, text="\ud83d wait", problem="\udc00?")])
    stages = [replace(stage, followed=odd) if stage.name == "zero" else stage for stage in run.stages]
    assert "? <mark>wait</mark>" in render_page(replace(run, stages=stages)).encode("utf-8").decode("utf-8")


def test_a_followed_log_that_is_spoilt_or_missing_is_told(path: Path, tmp_path: Path) -> None:
    for name in ("02-zero", "06-rl"):
        (tmp_path / "stages" / name).mkdir(parents=True)
    (tmp_path / "stages" / "02-zero" / "followed.jsonl").write_text("{\n{}\n")
    run = gather(tmp_path, report_run.make_recipe(), {})
    assert any("zero has no readable followed answers" in line for line in run.absent)
    assert "Stage rl has no followed answers." in run.absent


def test_a_short_problem_is_said_once_and_a_long_or_longer_one_whole(run: RunReport) -> None:
    rows = [row(0, "a", problem="2 + 2?"), row(0, "b", problem="x" * 60), row(0, "c", problem="one\ntwo")]
    stages = [replace(one, followed=choose_followed(rows)) for one in run.stages if one.name == "zero"]
    section = training_section(replace(run, stages=stages))
    assert [section.count(text) for text in ("2 + 2?", "x" * 60, "one\ntwo")] == [1, 2, 1]
