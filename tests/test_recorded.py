"""Responses recorded elsewhere: what rows are read as, what is refused, a kill, and agreement with stored labels."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.chat import ThoughtTags
from distill.cli import main
from distill.recipe_parts import SuiteSource
from distill.records import Completion, FinishReason, Problem
from distill.runs import fingerprint
from distill.suites import find_suite, load_suite
from eval.runner import grade
from eval.summary import summarise

CASES = Path(__file__).with_name("cases")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_QUIET", "1")


def row(problem: int, said: object, **more: Any) -> dict[str, Any]:
    return {
        "problem": f"What is {problem} + 1?",
        "reference": problem + 1,
        "response": f"\\boxed{{{said}}}",
    } | more


def score(rows: list[Any], *options: str, file: str = "rows.jsonl", out: str = "out") -> int:
    Path(file).write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return main(["eval", "--responses", file, "--out", out, *options])


def result(model: str = "rows", suite: str = "recorded", out: str = "out") -> dict[str, Any]:
    return json.loads(Path(out, "results", model, suite, "summary.json").read_text())


def responses(model: str = "rows", suite: str = "recorded", out: str = "out") -> list[dict[str, Any]]:
    lines = Path(out, "results", model, suite, "responses.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# ------------------------------------------------------------------------------------ what comes out


def test_samples_of_one_problem_are_grouped_by_its_text_wherever_they_stand():
    assert score([row(1, 2), row(5, 6), row(1, 3), row(5, 6)]) == 0
    found = result()
    assert (found["n"], found["k"], found["pass@1"], found["pass@k"]) == (2, 2, 0.75, 1.0)
    assert [(r["problem"][8], r["sample_index"], r["verdict"], r["row"]) for r in responses()] == [
        ("1", 0, "correct", 1), ("1", 1, "wrong", 3), ("5", 0, "correct", 2), ("5", 1, "correct", 4),
    ]  # fmt: skip


def test_an_id_of_the_problem_groups_too_and_the_map_names_other_fields_and_tags():
    rows = [
        {"qid": 7, "q": "1+1?", "gold": "2", "out": "\\boxed{2}", "n": 30, "end": "eos", "area": "sums"},
        {
            "qid": 7,
            "q": "1+1?",
            "gold": "2",
            "out": "\\boxed{3}",
            "n": 50,
            "end": "max_tokens",
            "area": "sums",
        },
    ]
    fields = "problem_id=qid,problem=q,reference=gold,response=out,tokens=n,finish_reason=end,subject=area"
    assert score(rows, "--map", fields, "--model", "mine") == 0
    found = result("mine")
    assert (found["mean_tokens"], found["truncated"], found["tokens_per_correct"]) == (40, 0.5, 80)
    assert {(r["id"], r["tags"]["subject"], r["finish_reason"]) for r in responses("mine")} == {
        ("7", "sums", "stop"), ("7", "sums", "length"),
    }  # fmt: skip


def test_what_the_rows_do_not_state_is_none_and_told(capsys):
    assert score([row(1, 2), row(2, 3)]) == 0
    found = result()
    assert found["mean_tokens"] is found["tokens_per_correct"] is found["truncated"] is None
    assert found["protocol"]["not_stated"] == ["temperature", "top_p", "max_tokens", "instruction"]
    assert found["protocol"]["temperature"] is None and found["params"] is None
    assert len(found["protocol"]["recorded"]["sha256"]) == 64
    told = capsys.readouterr()
    assert "does not state temperature, top_p, max_tokens, instruction" in told.err
    assert re.search(r"rows +recorded +1\.000 .* -$", told.out, re.MULTILINE)


def test_each_model_and_suite_gets_its_own_result_and_other_protocols_are_refused(capsys):
    rows = [row(1, 2, model="a", set="s"), row(1, 9, model="org/b", set="s"), row(1, 2, model="a", set="t")]
    assert score(rows, "--map", "suite=set") == 0
    scores = {(m, s): result(m, s)["pass@1"] for m, s in (("a", "s"), ("org-b", "s"), ("a", "t"))}
    assert scores == {("a", "s"): 1, ("org-b", "s"): 0, ("a", "t"): 1}
    assert score(rows, "--model", "c", out="other") == 2
    assert "the rows are of 2 models: a, org/b" in capsys.readouterr().err
    mixed = [row(1, 2, temperature=0.6), row(2, 3, temperature=1.0)]
    assert score(mixed, out="mixed") == 2
    assert "row 2 was made with temperature = 1.0, row 1 with 0.6" in capsys.readouterr().err
    assert not Path("mixed").exists() and not Path("other").exists()


def test_uneven_numbers_of_samples_are_told_and_k_is_the_least(capsys):
    assert score([row(1, 2), row(1, 3), row(1, 3), row(2, 3), row(2, 9)]) == 0
    found = result()
    assert found["k"] == 2 and found["cons@k"] is None
    assert found["pass@k"] == pytest.approx(
        (2 / 3 + 1) / 2
    )  # of 3 samples with 1 right, 2 hold it 2 times of 3
    assert "problems have 2 to 3 responses: k = 2" in capsys.readouterr().err


def test_a_row_without_a_response_is_an_error_counted_apart_and_an_empty_one_an_answer_that_is_missing(
    capsys,
):
    assert score([row(1, 2), row(2, 3, response=None), row(3, 4, response="")]) == 0
    assert result()["verdicts"] == {"correct": 1, "error": 1, "no_answer": 1} and result()["ungraded"] == 1
    assert [r["reason"] for r in responses() if r["verdict"] == "error"] == ["the row holds no response"]
    assert "1 samples could not be graded and are left out" in capsys.readouterr().err


def test_a_response_that_the_recording_cut_is_judged_as_it_stands_and_told(capsys):
    rows = [
        row(n, n + 1, short=False) | text
        for n, text in enumerate(({}, {"response": "so far", "short": True}))
    ]
    assert score(rows, "--map", "cut=short") == 0
    assert [(r["verdict"], r["finish_reason"]) for r in responses()] == [
        ("correct", None),
        ("truncated", "abort"),
    ]
    assert result()["truncated"] is None
    assert "1 responses were cut when the file was made" in capsys.readouterr().err


def test_responses_that_repeat_are_told_and_kept(capsys):
    assert score([row(1, 2), row(1, 2), row(2, 3), row(2, 9)]) == 0
    assert "1 responses repeat another of the same problem word for word" in capsys.readouterr().err
    assert result()["problems"][0]["samples"] == 2


def test_a_suites_problems_are_found_by_text_or_id():
    problems = [{"id": f"p{n}", "problem": f"What is {n}  + 1?", "reference": str(n + 1)} for n in range(3)]
    Path("sums.jsonl").write_text("".join(json.dumps(p) + "\n" for p in problems))
    rows = [{"problem": "What is 2 + 1?", "response": "\\boxed{3}"}, {"id": "p0", "response": "\\boxed{9}"}]
    told = ["--suite", "sums", "--set", "suites.sums.path=sums.jsonl"]
    assert score(rows, *told) == 0
    assert {r["id"]: r["verdict"] for r in responses(suite="sums")} == {"p2": "correct", "p0": "wrong"}
    assert score([{"id": f"p{n}", "response": "1"} for n in (2, 0, 1)], *told, out="all") == 0
    source = SuiteSource(path="sums.jsonl")
    asked = [
        problem.model_dump(mode="json") for problem in load_suite(find_suite("sums", {"sums": source}), 0)
    ]
    assert result(suite="sums", out="all")["protocol"]["problems"] == fingerprint(asked)  # as a run has it


def test_a_list_of_responses_is_as_many_samples_with_their_own_labels():
    lists = {"code": ["\\boxed{2}", "\\boxed{5}"], "score": [True, True], "n": [7, 9]}
    rows = [
        {"problem": "1+1?", "reference": 2} | lists,
        {"problem": "2+1?", "reference": 3, "code": [], "n": []},
    ]
    rows[1]["score"] = []
    assert score(rows, "--map", "response=code,tokens=n", "--label", "score") == 0
    found = responses()
    assert [r["verdict"] for r in found] == ["correct", "wrong", "error"]
    assert [(r["row"], r["sample_index"], r["tokens"]) for r in found] == [(1, 0, 7), (1, 1, 9), (2, 0, None)]
    agreement = result()["agreement"]
    assert (agreement["rows"], agreement["agree"], agreement["unlabelled"]) == (2, 1, 1)


def test_half_a_surrogate_pair_is_mended_and_told(capsys):
    assert score([row(1, 2), row(2, "\ud83d 3", ok=True)], "--map", "x=problem") == 0
    assert responses()[1]["completion"] == "\\boxed{\ufffd 3}"
    assert "1 responses held half a surrogate pair" in capsys.readouterr().err


def test_one_text_under_two_ids_is_told(capsys):
    assert score([row(1, 2, id="a"), row(1, 3, id="b")]) == 0
    assert "1 rows hold a problem's text under another id" in capsys.readouterr().err
    assert score([row(1, 2, id="a"), row(1, 3, id="b")], "--map", "problem_id=problem", out="by text") == 0
    assert result(out="by text")["k"] == 2


def test_a_parquet_file_is_read_as_one_of_lines():
    pq.write_table(pa.Table.from_pylist([row(1, 2), row(2, 9)]), "rows.parquet")
    assert main(["eval", "--responses", "rows.parquet", "--out", "out"]) == 0
    assert result()["verdicts"] == {"correct": 1, "wrong": 1}


def test_choice_and_code_rows():
    choice = {
        "problem": "Pick",
        "choices": ["x", "y"],
        "reference": 1,
        "kind": "choice",
        "response": "Answer: B",
    }
    letter = {"problem": "Again", "reference": "A", "kind": "choice", "response": "Answer: B"}
    assert score([choice, letter], "--kind", "math") == 0  # which is of rows that name none
    assert [r["verdict"] for r in responses()] == ["correct", "wrong"]
    tests = {"type": "python", "code": "assert f(1) == 2"}
    code = {"id": "c", "tests": tests, "response": "```python\ndef f(x):\n    return x + 1\n```"}
    assert score([code], "--kind", "code", out="code") == 0
    assert responses(out="code")[0]["verdict"] == "correct" and result(out="code")["cons@k"] is None


def test_the_results_compare_and_say_what_is_not_known(capsys):
    rows = [row(n, n + (m == "a" or n % 2), model=m) for n in range(40) for m in ("a", "b")]
    assert score(rows) == 0
    capsys.readouterr()
    assert main(["compare", "out", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["comparisons"]
    assert (found["difference"], found["n"], found["k"]) == (0.5, 40, 1)
    assert found["not_stated"] == ["instruction", "max_tokens", "temperature", "top_p"]
    assert main(["compare", "out"]) == 0
    out = capsys.readouterr().out
    assert "not known to be asked alike: a recording does not state instruction" in out
    alike = "Whether both were asked alike is not known: not stated are instruction, max_tokens, temperature and top_p."
    assert f"40 problems, k = 1). {alike}\n" in out
    assert (
        score([row(n, n, temperature=t, model=m) for n in (1, 2) for m, t in (("a", 0), ("b", 1))], out="c")
        == 0
    )
    assert main(["compare", "c"]) == 2
    assert "measured with temperature = 0 and 1" in capsys.readouterr().err


def test_a_row_has_what_the_runner_writes_and_its_place():
    problem = Problem(id="p", kind="math", problem="1+1?", reference="2")
    said = Completion(problem_id="p", sample_index=0, text="2", tokens=1, finish_reason=FinishReason.STOP)
    [ours] = grade([problem], [said], SimpleNamespace(tags=ThoughtTags()))  # type: ignore[arg-type]
    assert score([row(1, 2, label=1, x=True)], "--label", "label", "--map", "cut=x") == 0
    assert responses()[0].keys() == ours.keys() | {"row", "label", "cut"}


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([], (), "holds no rows"),
        ([row(1, 2), "{torn"], (), "rows.jsonl:2: line 2 is no JSON"),
        ([row(1, 2, response=None)], (), "no row holds a response"),
        ([row(1, 2, reference=None)], (), "no row holds a reference"),
        ([{"q": "?", "response": "2"}], (), "--map problem: row 1: has no problem"),
        ([row(1, 2)], ("--map", "problem=questoin"), "--map problem = 'questoin': row 1: has no such field"),
        ([row(1, 2)], ("--map", "respnse=out"), "did you mean `response`?"),
        ([row(1, 2)], ("--map", "problem"), "is no KEY=VALUE"),
        ([row(1, 2)], ("--map", "x=problem,x=response"), "is mapped twice, to problem and to response"),
        ([row(1, 2)], ("--label", "label"), "--label = 'label': row 1: has no such field"),
        ([row(1, 2, label="maybe")], ("--label", "label"), "'maybe' is neither true nor false"),
        ([row(1, 2, kind="poem")], (), "is none of math, choice, code"),
        ([row(1, 2, tokens="many")], (), "--map tokens = 'many': row 1: is no whole number"),
        ([row(1, 2, problem_id="p"), row(3, 4, problem_id="p")], (), "another text, reference or tests"),
        ([row(1, 2), row(1, 2, reference=5)], (), "another text, reference or tests"),
        ([row(1, 2, sample_index=0), row(1, 3, sample_index=0)], (), "row 1 is the same sample"),
        ([row(1, 2, sample_index=0), row(1, 3)], (), "some rows have one, some have none"),
        ([row(1, 2, model="a/b"), row(1, 2, model="a b")], (), "shares its folder"),
        ([row(1, 2) | {"response": ["2"], "tokens": [1, 2]}], (), "its lists are of different lengths"),
        ([row(1, 2)], ("--set", "seed=3"), "recorded responses take suites only"),
        ([row(1, 2)], ("--model", "a", "--model", "b"), "is given twice"),
        ([row(1, 2)], ("--format", "lm-eval", "--map", "a=b"), "knows the fields"),
    ],
)
def test_bad_input_is_told_and_writes_nothing(rows, options, said, capsys):
    assert score(rows, *options) == 2
    assert said in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_file_that_is_not_there_and_options_without_one(capsys):
    assert main(["eval", "--responses", "none.jsonl"]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert score([row(1, 2)], out="rows.jsonl") == 2
    assert "rows.jsonl/results/rows/recorded': cannot be written" in capsys.readouterr().err
    assert main(["eval", "quickstart", "--label", "x"]) == 2
    assert "says nothing without --responses" in capsys.readouterr().err
    assert main(["eval", "quickstart", "--responses", "none.jsonl"]) == 2
    assert "needs no RECIPE" in capsys.readouterr().err


def test_rows_outside_the_suite_are_refused(capsys):
    Path("sums.jsonl").write_text(json.dumps({"id": "p", "problem": "1+1?", "reference": "2"}) + "\n")
    told = ["--suite", "sums", "--set", "suites.sums.path=sums.jsonl"]
    assert score([row(1, 2)], *told) == 2
    assert "row 1: is no problem of sums" in capsys.readouterr().err


def test_a_folder_of_other_results_is_left_alone_and_the_same_file_read_otherwise_judged_anew(capsys):
    assert score([row(1, 2)], "--model", "m") == 0
    assert score([row(1, 9)], "--model", "m", file="others.jsonl") == 2
    assert "holds results of another file for m on recorded" in capsys.readouterr().err
    assert result("m")["pass@1"] == 1
    assert score([row(1, 2)], "--model", "m", "--kind", "open") == 0
    assert "judging anew" in capsys.readouterr().err
    assert result("m")["verdicts"] == {"unverified": 1}
    folder = Path("out/results/m/recorded")
    (folder / "protocol.json").write_text(json.dumps({"engine": "vllm"}))
    assert score([row(1, 2)], "--model", "m") == 2
    assert "holds results of an evaluation that was run" in capsys.readouterr().err


# ------------------------------------------------------------------------------------ a kill


def test_a_killed_command_goes_on_and_ends_with_the_same_bytes():
    rows = [row(n % 100, n % 100 + 1 + (n % 3 == 0), note="x" * 50) for n in range(3000)]
    assert score(rows, out="whole") == 0
    whole = Path("whole/results/rows/recorded")
    command = [sys.executable, "-m", "distill.cli", "eval", "--responses", "rows.jsonl", "--out", "out"]
    shard = Path("out/results/rows/recorded/shard-000.jsonl")
    environment = os.environ | {"PYTHONPATH": str(CASES.parents[1])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (shard.exists() and shard.stat().st_size > 100_000):
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert shard.exists() and not shard.with_name("responses.jsonl").exists()
    held = shard.read_bytes()
    with shard.open("ab") as file:  # and the last write torn
        file.write(held.splitlines()[-1][:40])
    assert main(command[3:]) == 0
    for name in ("responses.jsonl", "summary.json"):
        assert (shard.with_name(name)).read_bytes() == (whole / name).read_bytes()
    assert not shard.exists() and 0 < held.count(b"\n") < 3000


def test_the_summary_is_that_of_the_runner():
    """A recording of what an engine said is scored as the run itself was: same figures from the same rows."""
    rows = [row(n, n + 1 + (n % 3 == 0), tokens=10 + n, finish_reason="stop") for n in range(9)]
    assert score(rows) == 0
    own, found = summarise(responses(), 1), result()
    assert {name: found[name] for name in own} == own


def test_a_file_that_hardly_answers_is_doubted(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody may see from a score of 0 alone that the kind, or the column, was the wrong one."""
    assert score([row(n, n + 1) for n in range(4)], "--kind", "choice") == 0
    assert "4 of 4 responses have no answer: is that their kind" in capsys.readouterr().err
    assert score([row(n, n + 1) for n in range(4)], out="other") == 0
    assert "have no answer" not in capsys.readouterr().err
