"""Logs of other tools, written here by hand in the shapes that those tools write."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.cli import main

DATE = "2025-06-01T10-20-30.123456"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_QUIET", "1")


def score(path: Path, format: str, *options: str, out: str = "out") -> int:
    return main(["eval", "--responses", str(path), "--format", format, "--out", out, *options])


def result(model: str, suite: str, out: str = "out") -> tuple[dict[str, Any], list[dict[str, Any]]]:
    folder = Path(out, "results", model, suite)
    rows = [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]
    return json.loads((folder / "summary.json").read_text()), rows


# ------------------------------------------------------------------------------------ lm-evaluation-harness


def lm_eval_row(
    doc_id: int, answers: list[str], chosen: str | None = "strict-match", **more: Any
) -> dict[str, Any]:
    arguments = {"until": ["</s>"], "do_sample": True, "temperature": 0.6, "max_gen_toks": 512}
    row = {
        "doc_id": doc_id,
        "doc": {"question": f"Q{doc_id}?", "answer": f"First.\n#### {doc_id}"},
        "target": f"First.\n#### {doc_id}",
        "arguments": {"gen_args_0": {"arg_0": f"Shots.\nQ: Q{doc_id}?\nA:", "arg_1": arguments}},
        "resps": [answers],
        "filtered_resps": ["[invalid]"],
        "doc_hash": "a", "prompt_hash": "b", "target_hash": "c",
        "exact_match": 1.0,
    }  # fmt: skip
    return row | ({"filter": chosen, "metrics": ["exact_match"]} if chosen else {}) | more


def lm_eval_file(rows: list[dict[str, Any]], name: str = f"samples_gsm8k_{DATE}.jsonl") -> Path:
    path = Path("org__model", name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lm_eval_rows_of_several_filters_are_one_response(capsys):
    rows = [
        lm_eval_row(n, [f"so\n#### {n}"], chosen, exact_match=float(chosen == "flexible-extract"))
        for chosen in ("strict-match", "flexible-extract")
        for n in (3, 4)
    ]
    assert score(lm_eval_file(rows), "lm-eval", "--label", "exact_match") == 0
    summary, found = result("org__model", "gsm8k")
    assert (summary["n"], summary["k"], summary["pass@1"]) == (2, 1, 1.0)
    assert [(r["id"], r["problem"], r["reference"], r["label"]) for r in found] == [
        ("3", "Q3?", "3", False), ("4", "Q4?", "4", False),
    ]  # fmt: skip
    assert (summary["protocol"]["temperature"], summary["protocol"]["max_tokens"]) == (0.6, 512)
    assert summary["protocol"]["not_stated"] == ["top_p", "instruction"]


def test_lm_eval_repeats_are_samples_and_a_score_of_them_all_labels_none(capsys):
    path = lm_eval_file([lm_eval_row(1, ["\\boxed{1}", "\\boxed{2}", "\\boxed{1}"])])
    assert score(path, "lm-eval") == 0
    summary, _ = result("org__model", "gsm8k")
    assert (summary["k"], summary["problems"]) == (
        3,
        [{"id": "1", "correct": 2, "samples": 3, "tokens": None}],
    )
    assert score(path, "lm-eval", "--label", "exact_match", out="labelled") == 2
    assert "a log labels a problem once, not each of several samples" in capsys.readouterr().err


def test_older_lm_eval_rows_have_lists_of_arguments_and_no_filter():
    row = lm_eval_row(1, ["\\boxed{1}"], None)
    row["arguments"] = [["Q: one?", {"until": [], "do_sample": False}]]
    row["doc"], row["target"] = {"anything": 1}, "\\boxed{1}"
    assert (
        score(lm_eval_file([row, row | {"exact_match": 0.0}]), "lm-eval") == 0
    )  # two filters that have no name
    summary, found = result("org__model", "gsm8k")
    assert [(r["problem"], r["verdict"]) for r in found] == [("Q: one?", "correct")]
    assert summary["protocol"]["temperature"] == 0.0


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [lm_eval_row(1, [], arguments={"gen_args_0": {"arg_0": "Q", "arg_1": " yes"}})],
            "holds log-likelihoods",
        ),
        ([lm_eval_row(1, ["x"], doc={"prompt": "def f():", "entry_point": "f"})], "is of a code task"),
        ([{"id": 1, "response": "2"}], "has no doc_id, doc, target, arguments, resps"),
        ([lm_eval_row(1, ["1"], None), lm_eval_row(1, ["2"], None)], "doc_id 1 comes twice"),
        ([lm_eval_row(1, ["1"], "a"), lm_eval_row(1, ["2"], "b")], "doc_id 1 comes twice"),
        ([lm_eval_row(1, ["1"], "a"), lm_eval_row(1, ["1"], "a")], "doc_id 1 comes twice"),
        ([], "holds no rows"),
    ],
)
def test_lm_eval_files_that_cannot_be_judged(rows, said, capsys):
    assert score(lm_eval_file(rows), "lm-eval") == 2
    assert said in capsys.readouterr().err and not Path("out").exists()


# ------------------------------------------------------------------------------------ lighteval


def lighteval_file(rows: list[dict[str, Any]], results: object = None) -> Path:
    path = Path("evals/details/org/model", DATE, f"details_lighteval|aime24|0_{DATE}.parquet")
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    if results is not None:
        place = Path("evals/results/org/model", f"results_{DATE}.json")
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(results))
    return path


def lighteval_row(n: int, texts: list[str], **more: Any) -> dict[str, Any]:
    doc = {"query": f"Q{n}?", "choices": [str(n)], "gold_index": [0], "id": str(n), "task_name": "aime24"}
    answer = {
        "text": texts,
        "output_tokens": [[1] * (5 + place) for place in range(len(texts))],
        "logprobs": [],
    }
    return {"doc": doc, "model_response": answer, "metric": {"extractive_match": 1, "other": None}} | more


def test_lighteval_details_with_what_was_sampled_how():
    general = {"model_name": "org/model", "generation_parameters": {"temperature": 0.6, "max_new_tokens": 99}}
    rows = [lighteval_row(1, ["\\boxed{1}", "\\boxed{7}"]), lighteval_row(2, ["\\boxed{2}", "\\boxed{2}"])]
    assert score(lighteval_file(rows, {"config_general": general}), "lighteval") == 0
    summary, found = result("org-model", "lighteval-aime24-0")
    assert (summary["n"], summary["k"], summary["pass@1"], summary["mean_tokens"]) == (2, 2, 0.75, 5.5)
    assert summary["model"] == "org/model" and [r["tokens"] for r in found] == [5, 6, 5, 6]
    assert (summary["protocol"]["temperature"], summary["protocol"]["max_tokens"]) == (0.6, 99)
    assert summary["protocol"]["not_stated"] == ["top_p", "instruction"]


def test_lighteval_scores_are_labels_and_the_model_is_read_from_the_place():
    path = lighteval_file([lighteval_row(1, ["\\boxed{2}"]), lighteval_row(3, ["\\boxed{3}"])])
    assert score(path, "lighteval", "--label", "extractive_match") == 0
    summary, _ = result("org-model", "lighteval-aime24-0")
    assert (summary["agreement"]["rows"], summary["agreement"]["agree"]) == (2, 1)
    assert summary["protocol"]["temperature"] is None


def test_older_lighteval_details_also_with_lists_written_as_text():
    old = {"example": "Q1?", "full_prompt": "Shots. Q1?", "gold": ["1"], "predictions": ["\\boxed{1}"]}
    texts = {
        "example": "Q2?",
        "full_prompt": "Q2?",
        "gold": "['2']",
        "predictions": "['\\\\boxed{3}', '\\\\boxed{2}']",
    }
    for at, rows in enumerate(([old | {"metrics": {"qem": 1.0}}], [texts])):
        path = Path(f"details_math_{DATE}-{at}.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
        assert score(path, "lighteval", "--model", "m", out=f"out{at}") == 0
    assert [r["verdict"] for r in result("m", "math", "out0")[1]] == ["correct"]
    assert [r["verdict"] for r in result("m", "math", "out1")[1]] == ["wrong", "correct"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Q"}, "is no row of lighteval's details: it has question"),
        (
            lighteval_row(1, []) | {"model_response": {"text": [], "logprobs": [-1.5]}},
            "no row holds a response",
        ),
    ],
)
def test_lighteval_files_that_cannot_be_judged(row, said, capsys):
    assert score(lighteval_file([row]), "lighteval") == 2
    assert said in capsys.readouterr().err and not Path("out").exists()


# ------------------------------------------------------------------------------------ inspect_ai


def sample(n: int, content: Any, epoch: int = 1, **more: Any) -> dict[str, Any]:
    choice = {
        "message": {"role": "assistant", "content": content, "source": "generate"},
        "stop_reason": "stop",
    }
    return {
        "id": n,
        "epoch": epoch,
        "input": f"Q{n}?",
        "target": str(n),
        "messages": [],
        "output": {
            "model": "openai/m",
            "choices": [choice],
            "usage": {"input_tokens": 9, "output_tokens": 20 + epoch},
        },
        "scores": {"match": {"value": "C", "answer": "1"}},
        "metadata": {"level": 3},
        "attachments": {},
    } | more


HEAD = {
    "version": 2,
    "status": "success",
    "eval": {
        "task": "inspect_evals/sums",
        "model": "openai/m",
        "model_generate_config": {"temperature": 0.5},
    },
    "plan": {"steps": [], "config": {"max_tokens": 256, "temperature": None}},
}


def inspect_file(samples: list[dict[str, Any]], head: object = HEAD, name: str = "log.eval") -> Path:
    path = Path(name)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", json.dumps(head))
        for one in samples:
            archive.writestr(f"samples/{one['id']}_epoch_{one['epoch']}.json", json.dumps(one))
        archive.writestr("header.json", json.dumps(head))
    return path


def test_inspect_epochs_are_samples_and_both_of_its_forms_are_read_alike():
    samples = [sample(n, f"\\boxed{{{n if epoch == 1 else 9}}}", epoch) for epoch in (1, 2) for n in (1, 2)]
    assert score(inspect_file(samples), "inspect", out="a") == 0
    Path("log.json").write_text(json.dumps(HEAD | {"samples": samples}))
    assert score(Path("log.json"), "inspect", out="b") == 0
    first, rows = result("openai-m", "inspect_evals-sums", "a")
    second, others = result("openai-m", "inspect_evals-sums", "b")
    assert rows == others and first["problems"] == second["problems"]
    assert (first["n"], first["k"], first["pass@1"], first["mean_tokens"]) == (2, 2, 0.5, 21.5)
    assert (first["protocol"]["temperature"], first["protocol"]["max_tokens"]) == (0.5, 256)
    assert first["truncated"] == 0 and {r["tags"]["level"] for r in rows} == {"3"}


def test_inspect_thoughts_apart_choices_limits_and_errors():
    thought = [{"type": "reasoning", "reasoning": "\\boxed{7}?"}, {"type": "text", "text": "\\boxed{1}"}]
    endless = sample(2, [{"type": "reasoning", "reasoning": "\\boxed{2}"}])
    endless["output"]["choices"][0]["stop_reason"] = "max_tokens"
    failed = sample(3, "", error={"message": "rate limit", "traceback": ""})
    turns = [{"role": "user", "content": "Shot"}, {"role": "assistant", "content": "4"}]
    asked = sample(4, "ANSWER: B", input=[*turns, {"role": "user", "content": "attachment://x"}])
    asked |= {"attachments": {"x": "Which?"}, "choices": ["one", "two"], "target": ["B"]}
    other = sample(5, [{"type": "text", "text": "\\boxed{6}"}], target=["5", "6"])
    path = inspect_file([sample(1, thought), endless, failed, asked, other])
    assert score(path, "inspect", "--label", "match") == 0
    summary, rows = result("openai-m", "inspect_evals-sums")
    found = {r["id"]: r for r in rows}
    assert {n: r["verdict"] for n, r in found.items()} == {
        "1": "correct", "2": "truncated", "3": "error", "4": "correct", "5": "correct",
    }  # fmt: skip
    assert found["1"]["completion"] == "<think>\n\\boxed{7}?\n</think>\n\n\\boxed{1}"
    assert found["2"]["completion"] == "<think>\n\\boxed{2}"
    assert found["3"]["reason"] == "the tool failed: rate limit"
    assert found["4"]["problem"] == "Which?\n\nA. one\nB. two"
    assert summary["agreement"]["rows"] == 4 and summary["agreement"]["agree"] == 3


def test_a_sample_that_inspect_wrote_again_counts_once_as_it_was_written_last():
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = inspect_file([sample(1, "\\boxed{8}"), sample(1, "\\boxed{1}")])
    assert score(path, "inspect") == 0
    assert [r["verdict"] for r in result("openai-m", "inspect_evals-sums")[1]] == ["correct"]


def test_files_that_are_no_log_of_inspect(capsys):
    Path("rows.json").write_text('{"a": 1}')
    Path("text.eval").write_text("hello")
    Path("cut.eval").write_bytes(inspect_file([sample(1, "1")]).read_bytes()[:300])
    for name, said in (
        ("rows.json", "it has no `eval`"),
        ("text.eval", "is neither a zip nor one JSON object"),
        ("cut.eval", "is a damaged zip"),
    ):
        assert score(Path(name), "inspect") == 2
        assert said in capsys.readouterr().err
    assert score(inspect_file([{"id": 1, "epoch": 1}]), "inspect") == 2
    assert "a sample has no id, epoch, input and target" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_log_is_compared_with_another_on_the_same_problems(capsys):
    for model, said in (("a", 1), ("b", 9)):
        samples = [sample(n, f"\\boxed{{{n * said}}}") for n in range(1, 31)]
        assert score(inspect_file(samples, name=f"{model}.eval"), "inspect", "--model", model) == 0
    capsys.readouterr()
    assert main(["compare", "out", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)["comparisons"]
    assert (found["difference"], found["n"]) == (1.0, 30)
    assert found["not_stated"] == ["instruction", "top_p"]


def test_no_response_of_a_log_is_left_out(capsys):
    assert score(lm_eval_file([lm_eval_row(1, ["\\boxed{1}", None, "\\boxed{2}"])]), "lm-eval", out="a") == 0
    assert [r["verdict"] for r in result("org__model", "gsm8k", "a")[1]] == ["correct", "error", "wrong"]
    old = {"example": "Q1?", "gold": ["1"], "predictions": [["\\boxed{1}", "\\boxed{2}"]]}
    path = Path(f"details_math_{DATE}.parquet")
    pq.write_table(pa.Table.from_pylist([old]), path)
    assert score(path, "lighteval", "--model", "m", out="b") == 0
    assert [r["verdict"] for r in result("m", "math", "b")[1]] == ["correct", "wrong"]
    several = [sample(1, "\\boxed{1}", epoch) for epoch in (1, 2)]
    for one in several:
        other = {"message": {"role": "assistant", "content": "\\boxed{7}"}, "stop_reason": "stop"}
        one["output"]["choices"].append(other)
    assert score(inspect_file(several), "inspect", out="c") == 0
    rows = result("openai-m", "inspect_evals-sums", "c")[1]
    assert [(r["sample_index"], r["verdict"], r["tokens"]) for r in rows] == [
        (0, "correct", None), (1, "wrong", None), (2, "correct", None), (3, "wrong", None),
    ]  # fmt: skip


def test_a_log_that_its_tool_would_not_write_is_refused_by_name(capsys):
    spoilt = inspect_file([sample(1, "\\boxed{1}" * 200)], name="spoilt.eval")
    data = bytearray(spoilt.read_bytes())
    at = data.find(b"samples/1_epoch_1.json") + 40
    data[at : at + 8] = b"\xff" * 8
    spoilt.write_bytes(bytes(data))
    files = [
        (spoilt, "inspect"),
        (inspect_file([sample(1, "1") | {"epoch": "one"}], name="epoch.eval"), "inspect"),
        (inspect_file([sample(1, "1", scores={"match": 1})], name="scores.eval"), "inspect"),
        (inspect_file([sample(1, "1")], HEAD | {"eval": {"model_generate_config": 5}}, "h.eval"), "inspect"),
        (inspect_file([sample(1, "1")], HEAD | {"eval": {"model": 5}}, "five.eval"), "inspect"),
        (inspect_file([sample(1, "1")], HEAD | {"eval": {"task": "\x1b[2J"}}, "escape.eval"), "inspect"),
        (lm_eval_file([lm_eval_row(1, ["1"], arguments=5)]), "lm-eval"),
    ]
    for path, format in files:
        assert score(path, format) == 2, path
        assert f"is not as {format} writes it" in capsys.readouterr().err or path is spoilt
    assert not Path("out").exists()
