"""Recorded rows that files hold by mistake or by chance: refused first, or read as they are meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_recorded import _elsewhere, responses, result, row, score  # noqa: F401  (the fixture: each test has a folder)

HALF = "m\ud800"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"model": HALF}, "--map model"), ({"suite": HALF}, "--map suite"), ({"subject": HALF}, "--map subject"),
        ({"reference": HALF}, "--map reference"), ({"instruction": HALF}, "--map instruction"),
        ({"model": "\x1b[31mred"}, "cannot be printed"), ({"suite": "a\nb"}, "cannot be printed"),
        ({"temperature": [0.6]}, "is no number"), ({"max_tokens": float("inf")}, "is no number"),
        ({"top_p": True}, "is no number"), ({"instruction": {"a": 1}}, "is no text"),
    ],
)  # fmt: skip
def test_names_and_protocols_that_no_result_can_hold_are_refused_first(more, said, capsys):
    assert score([row(1, 2, **more)]) == 2
    assert said in capsys.readouterr().err and not Path("out").exists()


def test_the_protocol_is_in_numbers_however_the_file_writes_it(capsys):
    missing = {"top_p": float("nan")}
    rows = [row(n, n, temperature="0.6", max_tokens=100.0, **missing) for n in (1, 2)]
    assert score(rows) == 0
    asked = result()["protocol"]
    assert (asked["temperature"], asked["top_p"], asked["max_tokens"]) == (0.6, None, 100)
    assert asked["not_stated"] == ["top_p", "instruction"]


def test_names_longer_than_a_file_system_takes_and_levels_longer_than_numbers():
    assert (
        score([row(1, 2, model="\u6a21" * 100, level="9" * 5000), row(2, 3, model="\u6a21" * 100, level=1)])
        == 0
    )
    assert len(list(Path("out/results").iterdir())) == 1
    [summary] = [json.loads(path.read_text()) for path in Path("out").rglob("summary.json")]
    assert list(summary["by"]["level"]) == ["1", "9" * 5000]


def test_problems_of_one_text_are_told_apart_by_their_ids(capsys):
    rows = [{"id": name, "problem": "What is it?", "reference": at} for at, name in enumerate("ab")]
    Path("sums.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    told = ["--suite", "sums", "--set", "suites.sums.path=sums.jsonl"]
    said = [{"problem_id": name, "problem": "What is it?", "response": "\\boxed{1}"} for name in "ab"]
    assert score(said, *told) == 0
    assert [(r["id"], r["verdict"]) for r in responses(suite="sums")] == [("a", "wrong"), ("b", "correct")]
    assert score([{"problem": "What is it?", "response": "1"}], *told, out="other") == 2


def test_a_choice_asked_with_its_letters_elsewhere_is_not_judged_by_the_suites_letters(capsys):
    ours = {"id": "q", "problem": "Which?", "choices": ["no", "yes"], "reference": "B"}
    Path("picks.jsonl").write_text(json.dumps(ours) + "\n")
    told = ["--suite", "picks", "--set", "suites.picks={path: picks.jsonl, kind: choice}"]
    said = {"problem_id": "q", "response": "ANSWER: A"}
    assert score([said | {"problem": "Which?\n\nA. yes\nB. no"}], *told) == 2
    assert "with a choice's letters" in capsys.readouterr().err
    for at, text in enumerate([{}, {"problem": "Think.\n\nWhich?\n\nA. no\nB. yes\n\nEnd with ANSWER."}]):
        assert score([said | text], *told, out=f"out{at}") == 0
        assert result(suite="picks", out=f"out{at}")["pass@1"] == 0.0
