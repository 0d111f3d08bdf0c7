"""Our verdicts beside stored ones: the causes that code can tell, the table, and real files."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill.cli import main
from eval.disagreements import (
    IDENTICAL,
    LESS,
    NEEDS_READING,
    NO_ANSWER,
    NO_BOX,
    SPELLING,
    VALUE,
    reason,
)

CASES = Path(__file__).with_name("cases")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_QUIET", "1")


def judged(**about: Any) -> dict[str, Any]:
    start = {
        "verdict": "correct",
        "extracted": "5",
        "reference": "5",
        "label": False,
        "kind": "math",
        "reason": "",
    }
    return start | {"prefill": "", "completion": "so \\boxed{5}"} | about


@pytest.mark.parametrize(
    ("about", "cause"),
    [
        ({}, IDENTICAL),
        ({"extracted": "10000", "reference": "10{,}000"}, SPELLING),
        ({"extracted": "10080", "reference": "10,\\!080"}, SPELLING),
        ({"extracted": "(1,2)", "reference": "\\left( 1, 2 \\right)"}, SPELLING),
        ({"extracted": "4343", "reference": "4343_6"}, LESS),
        ({"extracted": "0.5", "reference": "\\frac{1}{2}"}, VALUE),
        ({"verdict": "wrong", "label": True, "extracted": "6"}, NEEDS_READING),
        ({"verdict": "wrong", "label": True, "completion": "it is 6", "extracted": "6"}, NO_BOX),
        ({"verdict": "no_answer", "label": True, "completion": "hm", "extracted": None}, NO_ANSWER),
        ({"extracted": "B", "reference": "B", "kind": "choice"}, NEEDS_READING),
    ],
)
def test_causes_that_code_can_tell(about, cause):
    assert reason(judged(**about)) == cause


def test_each_disagreement_stands_in_a_table_that_no_text_can_break(capsys):
    said = [("2", True), ("3", 0), ("9|<b>`x` ![](http://x)", 1), ("5", None), (None, True)]
    rows = [
        {"problem": f"{n}+1?", "reference": n + 1, "response": text and f"\\boxed{{{text}}}", "ok": label}
        for n, (text, label) in enumerate(said, start=1)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["eval", "--responses", "rows.jsonl", "--out", "out", "--label", "ok"]) == 0
    told = json.loads(Path("out/results/rows/recorded/summary.json").read_text())["agreement"]
    assert (told["rows"], told["agree"], told["unlabelled"], told["ungraded"]) == (3, 1, 1, 1)
    assert sum(told["reasons"].values()) == 2
    assert (
        "1 of 3 verdicts agree with `ok` (0.3333), 1 not graded by us, 1 without a label"
        in capsys.readouterr().out
    )
    table = Path("out/disagreements.md").read_text()
    lines = [
        line for line in table.splitlines() if line.startswith("| rows | recorded | ") and "true" in line
    ]
    assert len(lines) == 1 and lines[0].count("|") == 11
    assert lines[0].endswith("| `\\boxed{9\u2223<b>\u02cbx\u02cb ![](http://x)}` |")


REAL = {
    "gsm8k_openai_6b_175b": "problem=question,reference=gold,suite=dataset",
    "math_cot_100x8_qwen25math": "problem=question,reference=gold,suite=dataset",
    "qwen25_32b_prompted_long_cot": "problem=question,reference=gold,suite=dataset,tokens=completion_tokens",
    "sky_t1_14b_long_cot_aime_amc": "problem=question,reference=gold,suite=dataset,cut=cut_here",
}


@pytest.mark.parametrize("name", list(REAL))
def test_real_files_agree_with_their_labels_but_for_the_rows_that_were_read(name, shared_data):
    """Each disagreement was read (`cases/output_disagreements.jsonl`), or its text is not whole in the file."""
    file = shared_data / "outputs" / f"{name}.jsonl"
    started = time.monotonic()
    assert (
        main(["eval", "--responses", str(file), "--map", REAL[name], "--label", "label", "--out", "out"]) == 0
    )
    assert time.monotonic() - started < 60
    found = [
        json.loads(line)
        for path in Path("out").rglob("responses.jsonl")
        for line in path.read_text().splitlines()
    ]
    recorded = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(found) == len(recorded)
    differ = [r for r in found if (r["verdict"] == "correct") != r["label"]]
    table = [json.loads(line) for line in (CASES / "output_disagreements.jsonl").read_text().splitlines()]
    whole = {r["row"] - 1 for r in differ if not r.get("cut")}
    assert whole == {entry["row"] for entry in table if entry["file"] == name}
    causes = Counter(reason(r) for r in differ)
    summaries = [json.loads(path.read_text()) for path in Path("out").rglob("summary.json")]
    told = sum((Counter(summary["agreement"]["reasons"]) for summary in summaries), Counter[str]())
    assert told == causes and NEEDS_READING not in causes
    assert sum(problem["samples"] for summary in summaries for problem in summary["problems"]) == len(
        recorded
    )
