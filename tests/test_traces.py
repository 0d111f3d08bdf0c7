"""Loading traces of every origin, and importing somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.chat import ThoughtTags, tags_in
from distill.errors import UserError
from distill.recipe_parts import Filters, TraceSource, WorldTraces
from distill.records import Trace, Verdict
from distill.shards import read_parquet, write_parquet
from distill.traces import load_traces, read_made_traces
from teacher.importing import import_traces

MAPPED = {"problem": "question", "response": "said", "reference": "gold"}
RIGHT = "<think>one more</think>\\boxed{2}"


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(said: str = RIGHT, **more: Any) -> dict[str, Any]:
    return {"question": "1+1", "gold": "2", "said": said} | more


def foreign(path: Path, **fields: str) -> TraceSource:
    return TraceSource(path=str(path), fields=MAPPED | fields)


def ours(sample: int, kept: bool) -> Trace:
    return Trace(
        id=f"p#{sample}", problem_id="p", kind="code", problem="f", tests={"type": "python", "code": "assert f(1)"},
        completion=RIGHT, tokens=3, finish_reason="stop", teacher="t", sample_index=sample, measures={"well_formed": 1},
        verdict=Verdict.CORRECT if kept else Verdict.WRONG, kept=kept, reason="" if kept else "verified",
    )  # fmt: skip


# ------------------------------------------------------------------------------------ loading


def test_traces_of_the_world() -> None:
    source = TraceSource(world=WorldTraces(count=6, wrong_steps=0.5, missing_tags=0))
    traces = load_traces("flawed", source, seed=1)
    assert len(traces) == 6 and {trace.kind for trace in traces} == {"math", "code"}
    assert load_traces("flawed", source, seed=2) != traces


@pytest.mark.parametrize("form", ["folder", "parquet", "jsonl"])
def test_our_own_sets_give_what_was_kept(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = [ours(0, True), ours(1, False), ours(2, True)]
    if form == "jsonl":
        path = jsonl(tmp_path / "rows.jsonl", [trace.model_dump(mode="json") for trace in traces])
    else:
        path = tmp_path / ("traces.parquet" if form == "folder" else "other.parquet")
        write_parquet(path, traces)
        path = tmp_path if form == "folder" else path
    assert load_traces("t", TraceSource(path=str(path)), seed=0) == [traces[0], traces[2]]
    assert "left out 1 rejected traces of 3" in capsys.readouterr().err


def test_a_made_set_without_a_kept_trace_or_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no traces\.parquet"):
        read_made_traces(tmp_path)
    write_parquet(tmp_path / "traces.parquet", [ours(0, False)])
    with pytest.raises(UserError, match="all 1 traces in it are rejected"):
        read_made_traces(tmp_path)


def test_a_broken_row_of_ours_is_named(tmp_path: Path) -> None:
    good = ours(0, True).model_dump(mode="json")
    path = jsonl(tmp_path / "t.jsonl", [good, good | {"tokens": "many"}])
    with pytest.raises(UserError, match="row 2 is no trace of ours: tokens"):
        load_traces("t", TraceSource(path=str(path)), seed=0)


def test_foreign_rows_become_samples_of_their_problems(tmp_path: Path) -> None:
    more = {"kind": "math", "finish_reason": "length", "tokens": 12, "teacher": "R1"}
    path = jsonl(tmp_path / "t.jsonl", [row(), row(question="2+2", gold="4"), row("<think>..", **more)])
    traces = load_traces("t", foreign(path), seed=0)
    first, other, second = traces
    assert first.problem_id == second.problem_id != other.problem_id
    assert [trace.sample_index for trace in traces] == [0, 0, 1]
    assert second.id == f"{first.problem_id}#1" and first.problem_id.startswith("t:")
    assert (first.problem, first.reference, first.completion) == ("1+1", "2", RIGHT)
    assert (first.finish_reason, first.tokens, first.teacher) == (None, 0, "t")
    assert (second.finish_reason, second.tokens, second.teacher) == ("length", 12, "R1")
    assert first.verdict is Verdict.UNVERIFIED and first.kept


def test_traces_to_learn_from_need_no_reference(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"question": "1+1", "said": RIGHT}])
    source = TraceSource(path=str(path), fields={"problem": "question", "response": "said"})
    assert load_traces("t", source, seed=0)[0].reference is None


def test_an_answer_can_be_taken_out_of_a_solution(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [row(gold="so it is\n#### 2")])
    source = TraceSource(path=str(path), fields=MAPPED | {"reference": {"from": "gold", "extract": "hash"}})
    assert load_traces("t", source, seed=0)[0].reference == "2"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row(""), "row 2: has no response"),
        (row(question=" "), "row 2: has no problem"),
        (row(said=None), "row 2: has no response"),
        (row("half \ud83d"), "row 2: its character 5 is half a surrogate"),
        (row(kind="maths"), "row 2: is no kind of problem"),
        (row(finish_reason="eos"), "row 2: is unknown"),
        (row(tokens="12"), "row 2: is no count of tokens"),
        ({"question": "1+1", "gold": "2", "sad": "x"}, "did you mean `sad`"),
    ],
)
def test_a_foreign_row_that_cannot_be_used_is_named(tmp_path: Path, bad: dict[str, Any], words: str) -> None:
    path = jsonl(tmp_path / "t.jsonl", [row(), bad])
    with pytest.raises(UserError) as caught:
        load_traces("t", foreign(path), seed=0)
    assert words in str(caught.value) and "remedy" in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_or_missing_file_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "t.jsonl"
    with pytest.raises(UserError, match="no such file"):
        load_traces("t", foreign(path), seed=0)
    path.write_text(content)
    with pytest.raises(UserError, match="holds no rows"):
        load_traces("t", foreign(path), seed=0)


# ------------------------------------------------------------------------------------ importing


def bring(path: Path, out: Path, filters: Filters | None = None, **more: Any) -> dict[str, Any]:
    return import_traces(foreign(path), out, filters=filters or Filters(), **more)


def test_an_import_verifies_filters_and_keeps_the_texts(tmp_path: Path) -> None:
    texts = [
        RIGHT,
        "<|begin_of_thought|>a<|end_of_thought|>\\boxed{2}",
        RIGHT,
        "<think>a</think>\\boxed{3}",
        "<think>on",
        "\\boxed{2}",
    ]
    path = jsonl(tmp_path / "t.jsonl", [row(text) for text in texts])
    funnel = bring(path, tmp_path / "out")
    rows = list(read_parquet(tmp_path / "out" / "traces.parquet"))
    assert [trace.completion for trace in rows] == texts
    assert [trace.reason for trace in rows] == ["", "", "duplicates", "verified", "finished", "format"]
    assert [trace.verdict for trace in rows[2:5]] == ["correct", "wrong", "truncated"]
    assert json.loads((tmp_path / "out" / "funnel.json").read_text()) == funnel
    assert funnel["kept"] == {"traces": 2, "tokens": 0, "problems": 1, "unverified": 0}
    assert tags_in(rows[1].completion) == ThoughtTags("<|begin_of_thought|>", "<|end_of_thought|>")
    loaded = load_traces("brought", TraceSource(path=str(tmp_path / "out")), seed=0)
    assert loaded == rows[:2] == read_made_traces(tmp_path / "out")


def test_filters_and_limit_are_the_callers(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [row("\\boxed{2}"), row("\\boxed{3}"), row("\\boxed{4}")])
    funnel = bring(path, tmp_path / "out", Filters(format=False), limit=2)
    assert (funnel["input"]["traces"], funnel["kept"]["traces"]) == (2, 1)


def test_programs_are_run(tmp_path: Path) -> None:
    tests = {"type": "python", "code": "assert f(2) == 4"}
    path = jsonl(
        tmp_path / "t.jsonl",
        [
            {"question": "double", "tests": tests, "said": f"<think>a</think>```python\n{program}\n```"}
            for program in ("def f(x): return x * 2", "def f(x): return x")
        ],
    )
    fields = {"problem": "question", "response": "said"}
    funnel = import_traces(
        TraceSource(path=str(path), fields=fields), tmp_path / "out", kind="code", filters=Filters()
    )
    assert funnel["verdicts"] == {"correct": 1, "wrong": 1}


@pytest.mark.parametrize(
    ("rows", "filters", "words"),
    [
        ([row(), {"question": "1+1", "said": RIGHT}], Filters(), "row 2"),
        ([row(), row(gold="")], Filters(), "row 2: has no reference"),
        ([], Filters(), "holds no rows"),
        ([row()], Filters(tokens={"max": 9}), "do not count their tokens"),
    ],
)
def test_a_refused_import_leaves_nothing(
    tmp_path: Path, rows: list[Any], filters: Filters, words: str
) -> None:
    path = jsonl(tmp_path / "t.jsonl", rows)
    with pytest.raises(UserError, match=words):
        bring(path, tmp_path / "out", filters)
    assert not (tmp_path / "out").exists()


def test_a_typo_in_the_names_is_told_first(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [row()])
    fields: Any = {"problem": "question", "respons": "said", "reference": "gold"}
    with pytest.raises(UserError, match="there is no field `respons`") as caught:
        import_traces(TraceSource(path=str(path), fields=fields), tmp_path / "set", filters=Filters())
    assert (caught.value.key, caught.value.value) == ("--map", "respons=said")
    with pytest.raises(UserError, match="there is no field `respons`"):
        load_traces("given", TraceSource(path=str(path), fields=fields), 0)


def test_an_import_that_breaks_leaves_no_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsafe(*_: Any, **__: Any) -> None:
        raise UserError("sandbox", None, "cannot isolate", "use another machine")

    monkeypatch.setattr("teacher.importing.check_many", unsafe)
    path = jsonl(tmp_path / "rows.jsonl", [row()])
    with pytest.raises(UserError, match="cannot isolate"):
        import_traces(foreign(path), tmp_path / "new" / "set", filters=Filters())
    assert not (tmp_path / "new").exists()


def test_an_import_overwrites_nothing(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [row()])
    bring(path, tmp_path / "out")
    with pytest.raises(UserError, match="holds traces already"):
        bring(path, tmp_path / "out")


def test_the_set_loads_as_its_card_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    bring(jsonl(tmp_path / "t.jsonl", [row(), row("<think>a</think>\\boxed{3}")]), tmp_path / "out")
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["traces"]) == 2 and names["kept"]["completion"] == [RIGHT]


def test_real_outputs_of_a_32b_teacher(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "outputs" / "qwen25_32b_prompted_long_cot.jsonl"
    fields = {
        "problem": "question",
        "response": "response",
        "reference": "gold",
        "tokens": "completion_tokens",
    }
    funnel = import_traces(
        TraceSource(path=str(path), fields=fields), tmp_path / "out", filters=Filters(), limit=60
    )
    labels = [json.loads(line)["label"] for line in path.read_text().splitlines()[:60]]
    rows = list(read_parquet(tmp_path / "out" / "traces.parquet"))
    assert funnel["input"]["traces"] == 60 and funnel["kept"]["traces"] >= 30
    # The label is an automatic grader's, which is wrong now and then; a filter that is off would differ far more.
    differ = sum(
        (trace.verdict is Verdict.CORRECT) != label for trace, label in zip(rows, labels, strict=True)
    )
    assert differ <= 3
    assert {tags_in(trace.completion).open for trace in rows if trace.kept} == {"<|begin_of_thought|>"}
