"""The report: model text stays text, nothing leaves the page, numbers are told honestly, missing pieces are named."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from distill.report import write_report
from distill.report.gather import gather
from distill.report.markdown import render_markdown
from distill.report.page import render_page, script_json
from distill.report.words import headline
from distill.shards import append_rows

_spec = importlib.util.spec_from_file_location("report_run", Path(__file__).with_name("report_run.py"))
assert _spec is not None and _spec.loader is not None
lifelike = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(lifelike)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A made-up run and its comparison; tests that change it copy it first."""
    path = tmp_path_factory.mktemp("report") / "run"
    comparison = lifelike.make_run(path, traces=80, problems=20)
    write_report(path, lifelike.make_recipe(), comparison)
    return path, comparison


class Elements(HTMLParser):
    """What a browser would find: every element with its attributes, and the contents of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.raw.append((self.cdata_elem, data))
        else:
            self.text += data


def read_page(run: Path) -> Elements:
    return Elements((run / "report" / "index.html").read_text(encoding="utf-8"))


def read_data(page: Elements) -> dict[str, Any]:
    return json.loads(next(text for tag, text in page.raw if tag == "script"))


# ---------------------------------------------------------------------------------------------- text stays text


@pytest.mark.parametrize(
    "text",
    [
        "</script><script>alert(1)</script>",
        "</textarea>",
        '<img src=x onerror="x()">',
        "\u2028\u2029",
        "\ud83d",
        "<!--",
        "\0&amp;]]>",
    ],
)
def test_any_text_survives_the_data_block_and_never_ends_it(text: str) -> None:
    block = script_json({"text": text})
    assert not set(block) & set("<>&\u2028\u2029") and block.isascii()
    assert json.loads(block) == {"text": text}


def test_hostile_text_reads_back_whole_and_makes_no_element(finished: tuple[Path, dict[str, Any]]) -> None:
    page = read_page(finished[0])
    data = read_data(page)
    first = data["answers"]["chains"][0]
    assert "".join(first["answers"]["base"][0]["parts"]) == lifelike.HOSTILE
    trace = next(row for row in data["traces"]["harvested"] if row["id"] == "t0")
    assert "".join(trace["parts"]) == lifelike.HOSTILE.replace("\ud83d", "")
    assert trace["parts"][0].endswith("</think>") and trace["parts"][1].startswith("\nThe answer")
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 2 and not {"img", "textarea", "iframe", "object", "embed"} & set(tags)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_names_and_reasons_are_escaped_outside_the_data_block(
    tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    funnel = tmp_path / "run" / "traces" / "harvested" / "funnel.json"
    funnel.write_text(funnel.read_text().replace('"verified"', '"<img src=x>|`"'))
    run = gather(tmp_path / "run", lifelike.make_recipe(), finished[1])
    assert "img" not in [tag for tag, _ in Elements(render_page(run)).tags]
    markdown = render_markdown(run)
    assert "&lt;img src=x&gt;\\|\\`" in markdown and "<img" not in markdown


# ---------------------------------------------------------------------------------------------- nothing leaves the page


def test_page_asks_for_nothing_and_its_policy_forbids_asking(finished: tuple[Path, dict[str, Any]]) -> None:
    page = read_page(finished[0])
    links = [
        value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert links and all(link and link.startswith("#") for link in links)
    assert "link" not in [tag for tag, _ in page.tags]
    for tag, text in page.raw[:1] + page.raw[2:]:
        named = text.replace("http://www.w3.org/1998/Math/MathML", "")  # a name, which nobody asks for
        assert tag in ("style", "script")
        assert not re.search(r"http|url\(|@import|fetch|innerHTML|outerHTML|insertAdjacent|eval\(", named)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy
    for tag, text in (page.raw[0], page.raw[2]):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_anchor_leads_somewhere(finished: tuple[Path, dict[str, Any]]) -> None:
    page = read_page(finished[0])
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {str(a["href"]).removeprefix("#") for tag, a in page.tags if tag == "a"} <= ids


def test_figures_are_files_of_their_own(finished: tuple[Path, dict[str, Any]]) -> None:
    folder = finished[0] / "report"
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {
        "results-chains.svg",
        "differences-functions.svg",
        "gap-chains.svg",
        "funnel-harvested.svg",
    } <= names
    assert {"training-zero-kl.svg", "training-distil-loss.svg"} <= names
    for name in names:
        assert ET.parse(folder / "figures" / name).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    linked = set(re.findall(r"\(figures/(.+?)\)", (folder / "report.md").read_text(encoding="utf-8")))
    assert linked == names


# ---------------------------------------------------------------------------------------------- honest words


def test_headline_asks_first_whether_distilling_beats_rl_alone(finished: tuple[Path, dict[str, Any]]) -> None:
    run = gather(finished[0], lifelike.make_recipe(), finished[1])
    assert headline(run).startswith("student solves more problems than rl-only, by a share of 0.18 on chains")
    assert "the two cannot be told apart on functions" in headline(run)


def test_the_stand_in_for_pretraining_is_labelled_and_the_protocol_printed(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    flaws = "unreliable: 0.12 of steps wrong, 0.3 without tags"
    label = f"SFT on deliberately unreliable traces ({flaws}), standing in for pre-training"
    for text in (
        read_page(finished[0]).text,
        (finished[0] / "report" / "report.md").read_text(encoding="utf-8"),
    ):
        assert label in text
        assert "temperature 1.0, top-p 1.0, at most 160 tokens, seed 0" in text and "20 \u00d7 4" in text
        assert "One run, seed 0" in text and "2 answers could not be graded" in text


# ---------------------------------------------------------------------------------------------- numbers for programs


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(inner) for key, inner in value.items() if not key.startswith("seconds")}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def test_summary_is_the_same_wherever_and_however_fast_the_run_was(
    tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(finished[0], other)
    for marker in other.glob("stages/*/finished.json"):
        row = json.loads(marker.read_text())
        marker.write_text(json.dumps({**row, "seconds": row["seconds"] * 3, "finished_at": "another day"}))
    write_report(other, lifelike.make_recipe(), finished[1])
    first, second = (
        json.loads((path / "report" / "summary.json").read_text()) for path in (finished[0], other)
    )
    assert first != second and without_seconds(first) == without_seconds(second)
    assert str(finished[0]) not in json.dumps(first)
    assert first["models"]["student"]["suites"]["chains"]["pass@1"] == 0.88
    assert first["stages"]["zero"]["tokens"] == 240_000 and first["stages"]["report"]["seconds"] is None


def test_the_page_too_is_the_same_when_written_again(finished: tuple[Path, dict[str, Any]]) -> None:
    run = [gather(finished[0], lifelike.make_recipe(), finished[1]) for _ in range(2)]
    assert render_page(run[0]) == render_page(run[1])


def test_funnel_sums_to_its_input_and_says_when_it_does_not(tmp_path: Path) -> None:
    comparison = lifelike.make_run(tmp_path, traces=200, problems=2)
    write_report(tmp_path, lifelike.make_recipe(), comparison)
    assert re.search(r"\d+ kept \+ \d+ removed = 200 sampled\.", read_page(tmp_path).text)
    svg = (tmp_path / "report" / "figures" / "funnel-harvested.svg").read_text(encoding="utf-8")
    widths = {
        style: [float(w) for w in re.findall(f'class="{style}"[^>]*width="([\\d.]+)"', svg)]
        for style in ("removed", "kept", "track")
    }
    assert sum(widths["removed"]) + widths["kept"][0] == pytest.approx(widths["track"][0], abs=0.3)
    funnel = tmp_path / "traces" / "harvested" / "funnel.json"
    row = json.loads(funnel.read_text())
    row["steps"][0]["removed"] += 1
    funnel.write_text(json.dumps(row))
    write_report(tmp_path, lifelike.make_recipe(), comparison)
    assert "THE FUNNEL DOES NOT ADD UP" in read_page(tmp_path).text


# ---------------------------------------------------------------------------------------------- what is missing


def test_an_empty_run_still_reports_and_says_what_is_absent(tmp_path: Path) -> None:
    write_report(tmp_path, lifelike.make_recipe(), {})
    page = read_page(tmp_path)
    assert "This run has no results yet." in page.text and "Stage zero has no metrics." in page.text
    assert "manifest.json is not there" in page.text and "Trace set harvested has no rows" in page.text
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["models"] == {}


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("manifest.json", "manifest.json is not there"),
        ("traces/harvested/funnel.json", "traces/harvested/funnel.json is not there"),
        ("stages/02-zero/metrics.jsonl", "Stage zero has no metrics."),
        ("stages/02-zero/finished.json", "stages/02-zero/finished.json is not there"),
        ("results/teacher/chains/responses.jsonl", "The answers of teacher on chains are not on disk."),
    ],
)
def test_each_missing_piece_is_named(
    tmp_path: Path, finished: tuple[Path, dict[str, Any]], lost: str, told: str
) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / lost).unlink()
    page = Elements(render_page(gather(tmp_path / "run", lifelike.make_recipe(), finished[1])))
    assert told in page.text and told not in read_page(finished[0]).text


def test_shards_of_a_run_that_was_killed_are_read_up_to_the_torn_line(
    tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    folder = tmp_path / "run" / "traces" / "harvested"
    (folder / "traces.parquet").unlink()
    row = {
        "id": "t",
        "problem": "?",
        "completion": "x",
        "tokens": 1,
        "teacher": "teacher",
        "verdict": "wrong",
        "kept": False,
        "reason": "verified",
    }
    append_rows(folder / "shard-000.jsonl", [row])
    with (folder / "shard-000.jsonl").open("a") as file:
        file.write('{"id": "torn')
    page = Elements(render_page(gather(tmp_path / "run", lifelike.make_recipe(), finished[1])))
    assert "1 of 1 traces to read" in page.text and "was read in part (shard-000.jsonl, line 2" in page.text
    assert str(tmp_path) not in page.text


def test_a_gap_that_cannot_be_given_is_told_with_its_reason(finished: tuple[Path, dict[str, Any]]) -> None:
    comparison = json.loads(json.dumps(finished[1]))
    comparison["gap_closed"][0] |= {
        "value": None,
        "ci95": None,
        "reason": "the teacher does not beat the base",
    }
    page = Elements(render_page(gather(finished[0], lifelike.make_recipe(), comparison)))
    assert "nothing that can be told on chains (the teacher does not beat the base)" in page.text
