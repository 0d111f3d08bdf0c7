"""A person's decisions on a trace set: the sheet, what comes back of it, and what is refused with its row."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.cli import main
from distill.errors import UserError
from distill.recipe_file import parse_recipe
from distill.recipe_filters import Filters
from distill.records import FinishReason, Problem, Trace, Verdict
from distill.shards import read_parquet, read_rows
from distill.traces import read_made_traces
from teacher.measures import measure
from teacher.refilter import refilter, settings_of
from teacher.review import COLUMNS, read_sheet, reviewed, write_sheet
from teacher.trace_set import write_trace_set

#: Thoughts that sheets have trouble with: a formula, lines, quotes and separators, an apostrophe, another script.
THOUGHTS = [
    "=1+2, as HYPERLINK(1)",
    '\nfirst;\r\nsecond, "third"\n',
    "'quoted' and '=so",
    "'=so",
    "我们想一想\u2028 然后",
    "-5 is below 0",
]


@pytest.fixture
def a_set(tmp_path: Path) -> Path:
    """Six kept traces of as many problems, and a wrong one of the first."""
    rows = []
    for number, thought in enumerate([*THOUGHTS, "wrong"]):
        problem = Problem(id=f"p{number % 6}", kind="math", problem=f"{number}+1, and?", reference="5")
        right = number < len(THOUGHTS)
        verdict = Verdict.CORRECT if right else Verdict.WRONG
        text = f"<think>{thought}</think>\nIt is \\boxed{{{5 if right else 6}}}"
        rows.append(
            Trace.of(
                problem, number // 6, completion=text, tokens=7, finish_reason=FinishReason.STOP, teacher="zero",
                verdict=verdict, measures=measure(text, None) | {"well_formed": 1.0},
            )
        )  # fmt: skip
    folder = tmp_path / "raw"
    folder.mkdir()
    write_trace_set(folder, rows, Filters(), 2, {"teacher": "zero"})
    return folder


Change = Callable[[list[dict[str, str]]], None]


@pytest.fixture(params=["csv", "jsonl"])
def filled(request: pytest.FixtureRequest, a_set: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """Write the sheet, change its rows, and save it as a spreadsheet would."""
    numbers = iter(range(100))

    def fill(change: Change) -> Path:
        sheet = tmp_path / f"sheet{next(numbers)}.{request.param}"
        write_sheet(a_set, sheet)
        rows = read_csv(sheet) if request.param == "csv" else list(read_rows(sheet))
        change(rows)
        if request.param == "jsonl":
            sheet.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
            return sheet
        with sheet.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(COLUMNS), delimiter=";", lineterminator="\r\n")
            writer.writeheader()
            writer.writerows(rows)
        return sheet

    return fill


def read_csv(sheet: Path) -> list[dict[str, str]]:
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def back(a_set: Path, sheet: Path, out: Path) -> dict[str, Any]:
    filters, cap = settings_of(a_set)
    return reviewed(a_set, sheet, out, filters, cap, None)


def test_the_sheet_has_what_is_kept_and_no_formula(a_set: Path, tmp_path: Path) -> None:
    told = write_sheet(a_set, tmp_path / "sheet.csv")
    rows = read_csv(tmp_path / "sheet.csv")
    assert told["traces"] == len(rows) == 6 and tuple(rows[0]) == COLUMNS
    assert [row["id"] for row in rows] == [f"p{n}#0" for n in range(6)]
    assert rows[0]["problem"] == "0+1, and?" and rows[0]["answer"] == "\nIt is \\boxed{5}"
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    assert {row["decision"] + row["note"] for row in rows} == {""}
    read = read_sheet_of(tmp_path / "sheet.csv")
    assert [thought.replace("\r\n", "\n") for thought in read] == [
        one.replace("\r\n", "\n") for one in THOUGHTS
    ]
    assert write_sheet(a_set, tmp_path / "two.jsonl", limit=2)["traces"] == 2


def read_sheet_of(sheet: Path) -> list[str]:
    """The thoughts as they come back, once somebody has decided."""
    text = sheet.read_text(encoding="utf-8-sig")
    rows = read_csv(sheet)
    assert text
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerows(row | {"decision": "keep"} for row in rows)
    return [entry.thought for entry in read_sheet(sheet).values()]


def test_kept_edited_and_dropped(a_set: Path, filled: Callable[[Change], Path], tmp_path: Path) -> None:
    def decide(rows: list[dict[str, str]]) -> None:
        for row, decision in zip(rows, ["keep", " EDIT", "edit", "drop", "", "keep"], strict=True):
            row["decision"] = decision
        rows[1]["thought"] = "First the first,\nthen the second."
        rows[2]["answer"] = "It is \\boxed{7}"  # which loses what was right
        rows[3]["note"] = "rambles"

    out = tmp_path / "clean"
    funnel = back(a_set, filled(decide), out)
    rows = {row.id: row for row in read_parquet(out / "traces.parquet")}
    assert {name: row.reason for name, row in rows.items()} == {
        "p0#0": "", "p1#0": "", "p2#0": "verified", "p3#0": "reviewed", "p4#0": "reviewed", "p5#0": "",
        "p0#1": "verified",
    }  # fmt: skip
    assert (
        rows["p1#0"].completion == "<think>\nFirst the first,\nthen the second.\n</think>\nIt is \\boxed{5}"
    )
    assert (rows["p2#0"].verdict, rows["p2#0"].extracted) == (Verdict.WRONG, "7")
    before = {row.id: row for row in read_parquet(a_set / "traces.parquet")}
    assert rows["p0#0"].completion == before["p0#0"].completion
    assert [rows[f"p{n}#0"].measures.get("reviewed") for n in range(6)] == [1, 1, 1, 0, None, 1]
    assert funnel["review"] == {"keep": 2, "edit": 2, "drop": 1, "undecided": 1}
    assert funnel["steps"][-1] | {"removed": 2} == funnel["steps"][-1], (
        "dropped and undecided ones are counted"
    )
    assert list(read_rows(out / "review.jsonl"))[3] == {"id": "p3#0", "decision": "drop", "note": "rambles"}
    assert len(read_made_traces(out)) == 3
    # Other thresholds later leave the decisions as they are, and so does a second look at a part.
    assert refilter(out, None, *settings_of(out), None)["kept"]["traces"] == 3
    again = tmp_path / "again.jsonl"
    write_sheet(out, again)
    kept = [row | {"decision": "drop" if row["id"] == "p5#0" else ""} for row in read_rows(again)]
    again.write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    assert back(out, again, tmp_path / "second")["kept"]["traces"] == 2


def test_malformed_rows_are_named_and_nothing_is_written(
    a_set: Path, filled: Callable[[Change], Path], tmp_path: Path
) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        rows[0]["decision"] = "maybe"
        rows[1]["id"] = ""
        rows[3]["id"] = rows[2]["id"]

    def contradict(rows: list[dict[str, str]]) -> None:
        for row, decision in zip(rows, ["keep", "edit", "", "keep", "edit", "keep"], strict=True):
            row["decision"] = decision
        rows[0]["thought"] = rows[2]["answer"] = "another"
        rows[3]["id"] = "p0#1"
        rows[4]["thought"] = rows[4]["answer"] = " "
        rows[5]["id"] = "nobody"

    sheet = filled(spoil)
    first = 2 if sheet.suffix == ".csv" else 1  # a heading is a row too
    with pytest.raises(UserError) as caught:
        back(a_set, sheet, tmp_path / "out")
    for number, said in ((0, "says `maybe`"), (1, "has no id"), (3, f"has the id of row {first + 2}")):
        assert f"row {first + number} {said}" in caught.value.reason
    with pytest.raises(UserError) as caught:
        back(a_set, filled(contradict), tmp_path / "out")
    for number, said in enumerate(
        (
            "has changed texts, and says keep", "says edit, and its texts are unchanged",
            "has changed texts, and no decision", "is of a rejected trace (verified)", "says edit, and leaves no text",
            "is of no trace of the set (`nobody`)",
        )
    ):  # fmt: skip
        assert f"row {first + number} {said}" in caught.value.reason
    with pytest.raises(UserError, match="decides on nothing"):
        back(a_set, filled(lambda rows: None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cell_that_a_spreadsheet_cut_can_be_kept_but_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = Problem(id="long", kind="math", problem="2+3", reference="5")
    text = f"<think>{'so on and on ' * 4000}</think>\\boxed{{5}}"
    trace = Trace.of(
        problem,
        0,
        completion=text,
        tokens=7,
        finish_reason=FinishReason.STOP,
        teacher="zero",
        verdict="correct",
    )
    (tmp_path / "raw").mkdir()
    write_trace_set(tmp_path / "raw", [trace], Filters(), None, {})
    sheet = tmp_path / "sheet.csv"
    assert write_sheet(tmp_path / "raw", sheet)["cut"] == 1 and "32,767" in capsys.readouterr().err
    (row,) = read_csv(sheet)
    cut = row | {"thought": row["thought"][:32_767], "decision": "keep"}
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerow(cut)
    back(tmp_path / "raw", sheet, tmp_path / "out")
    (found,) = read_made_traces(tmp_path / "out")
    assert found.completion == text


def test_the_commands(a_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.csv"
    assert main(["traces", "sheet", str(a_set), "--to", str(sheet)]) == 0
    assert main(["traces", "sheet", str(a_set), "--to", str(sheet)]) == 2, "decisions are not written over"
    assert "perhaps with somebody's decisions" in capsys.readouterr().err
    sheet.write_text(sheet.read_text(encoding="utf-8-sig").replace(",,\n", ",keep,\n", 1), encoding="utf-8")
    out = tmp_path / "clean"
    assert main(["traces", "reviewed", str(a_set), str(sheet), "--out", str(out)]) == 0
    assert "a person's decisions: keep 1, edit 0, drop 0, undecided 5" in capsys.readouterr().out
    sheet.write_text("id,decision\np0#0,keep\n")
    assert main(["traces", "reviewed", str(a_set), str(sheet), "--out", str(tmp_path / "x")]) == 2
    assert "has no column thought, answer" in capsys.readouterr().err
    for unusable in ("nowhere.csv", "nowhere.xlsx"):
        assert main(["traces", "reviewed", str(a_set), unusable, "--out", str(tmp_path / "x")]) == 2
    assert main(["traces", "sheet", str(a_set), "--to", str(tmp_path / "sheet.xlsx")]) == 2


def test_a_stage_cannot_ask_for_a_review(tiny_recipe_module: Any) -> None:
    raw = json.loads(json.dumps(tiny_recipe_module.RAW))
    next(stage for stage in raw["stages"] if stage["kind"] == "sample")["filters"]["reviewed"] = True
    with pytest.raises(UserError, match="nobody can have looked"):
        parse_recipe(raw)
