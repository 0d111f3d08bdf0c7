"""Maps: lists become rows, conversations are taken apart, tags rewritten; public data sets, built here as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from distill.chat import is_well_formed, tags_in
from distill.cli import main
from distill.errors import UserError
from distill.recipe_file import find_recipe, load_recipe
from distill.recipe_parts import TraceSource
from distill.shards import read_parquet
from distill.trace_rows import with_known_map
from distill.traces import load_traces

COMMIT = "e4e141ec9dea9f8326f4d347be56105859b2bd68"
THOUGHT = "<think>\none and one\n</think>\n\n"


def openr1(folder: Path) -> Path:
    """A local copy in the shape of OpenR1-Math-220k: its columns of lists, and those that nobody asked for."""
    rows = [
        {
            "problem": "1+1", "solution": "It is $2$.", "answer": "2", "source": "olympiads", "uuid": "a",
            "generations": [THOUGHT + end for end in ("\\boxed{2}", "\\boxed{3}", "<think>", "two: \\boxed{2}")],
            "is_reasoning_complete": [True, True, False, True],
            "correctness_math_verify": [True, False, True, True],
            "correctness_llama": None, "finish_reasons": None,
            "messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}],
        },
        {
            "problem": "2+2", "solution": "It is $4$.", "answer": "4", "source": "amc", "uuid": "b",
            "generations": [f"{THOUGHT}\\boxed{{4}}"], "is_reasoning_complete": [True],
            "correctness_math_verify": None, "correctness_llama": [True], "finish_reasons": ["stop"],
            "messages": [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}],
        },
    ]  # fmt: skip
    place = folder / "OpenR1-Math-220k" / "data"
    place.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), place / "train-00000-of-00001.parquet")
    return place.parent


def openthoughts(folder: Path) -> Path:
    """The same of OpenThoughts-114k: a system text, and a conversation whose thought has tags of its own."""
    said = (
        "<|begin_of_thought|>\n\none and one\n\n<|end_of_thought|>\n\n"
        "<|begin_of_solution|>\n\n$\\boxed{2}$\n\n<|end_of_solution|>"
    )
    talk = [{"from": "user", "value": "1+1"}, {"from": "assistant", "value": said}]
    rows = [
        {"system": "Think long.", "conversations": talk},
        {"system": "Think long.", "conversations": talk + talk},
    ]
    place = folder / "OpenThoughts-114k" / "data"
    place.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), place / "train-00000-of-00001.parquet")
    return place.parent


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("recipe", ["r1-distill-qwen-1.5b", "r1-distill-llama-70b", None])
def test_lists_become_traces_by_the_recipes_map_and_by_the_data_sets_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str | None
) -> None:
    place = str(openr1(tmp_path))
    source = TraceSource(path=place)
    if recipe:
        given = load_recipe(find_recipe(recipe)).traces["openr1"]
        assert given.path == f"open-r1/OpenR1-Math-220k@{COMMIT}"
        assert with_known_map(TraceSource(path=given.path)).model_dump(exclude={"path"}) == given.model_dump(
            exclude={"path"}
        ), "the name alone would do"
        source = given.model_copy(update={"path": place})
    traces = load_traces("openr1", source, seed=0)
    assert [(one.problem, one.reference, one.sample_index) for one in traces] == [
        ("1+1", "2", 0),
        ("1+1", "2", 1),
    ]
    assert [one.completion for one in traces] == [f"{THOUGHT}\\boxed{{2}}", f"{THOUGHT}two: \\boxed{{2}}"]
    told = capsys.readouterr().err
    assert "left out 2 responses: correctness_math_verify is not true" in told
    assert "left out 1 responses: is_reasoning_complete is not true" in told


def test_all_six_recipes_start_from_the_public_data_set_itself() -> None:
    names = [
        f"r1-distill-{size}"
        for size in ("qwen-1.5b", "qwen-7b", "qwen-14b", "qwen-32b", "llama-8b", "llama-70b")
    ]
    sources = [load_recipe(find_recipe(name)).traces for name in names]
    assert all(source == sources[0] for source in sources) and list(sources[0]) == ["openr1"]


def test_a_conversations_thought_is_rewritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trace,) = load_traces("thoughts", TraceSource(path=str(openthoughts(tmp_path))), seed=0)
    assert trace.problem == "1+1"
    assert trace.completion == "<think>\n\none and one\n\n</think>\n\n$\\boxed{2}$"
    tags = tags_in(trace.completion)
    assert tags is not None and is_well_formed(trace.completion, tags)
    assert "left out 1 responses: conversation of more than one exchange" in capsys.readouterr().err


def test_imports_of_public_data_sets_need_no_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["traces", "import", str(openr1(tmp_path)), "--out", str(tmp_path / "a"), "--json"]) == 0
    funnel = json.loads(capsys.readouterr().out)
    assert funnel["verdicts"] == {"correct": 2} and funnel["kept"]["traces"] == 2
    assert funnel["facts"]["a response for each of"].startswith("generations")
    assert "correctness_math_verify is not true: 2" in funnel["facts"]["left out before"]
    assert (
        main(["traces", "import", str(openthoughts(tmp_path)), "--out", str(tmp_path / "b"), "--json"]) == 0
    )
    funnel = json.loads(capsys.readouterr().out)
    assert funnel["verdicts"] == {"unverified": 1} and funnel["kept"] == {
        "traces": 1, "tokens": 0, "problems": 1, "unverified": 1
    }  # fmt: skip


def test_the_flags_of_an_import_say_what_a_recipe_says(tmp_path: Path) -> None:
    row = {
        "q": "1+1",
        "said": ["<a>x</a>\\boxed{2}", "<a>y</a>\\boxed{2}"],
        "good": [1, 0],
        "gold": "2",
        "n": "k",
    }
    file = jsonl(tmp_path / "rows.jsonl", [row, row | {"n": "other"}])
    flags = [
        "--map",
        "problem=q,response=said,reference=gold",
        "--each",
        "said,good",
        "--where",
        "good=1,n=k",
    ]
    flags += ["--rewrite", "<a>=<think>", "--rewrite", "</a>=</think>"]
    assert main(["traces", "import", str(file), "--out", str(tmp_path / "out"), *flags]) == 0
    (trace,) = read_parquet(tmp_path / "out" / "traces.parquet")
    assert trace.completion == "<think>x</think>\\boxed{2}" and trace.kept


def test_a_table_of_conversations_alone_needs_no_map(tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    file = jsonl(tmp_path / "rows.jsonl", [{"messages": talk, "reference": "1"}])
    (trace,) = load_traces("t", TraceSource(path=str(file)), seed=0)
    assert (trace.problem, trace.completion, trace.reference) == ("q", "a", "1")


def test_a_row_whose_lists_are_empty_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"q": "1+1", "said": []}, {"q": "2+2", "said": ["4"]}, {"q": "3+3", "said": None}]
    source = {"path": "", "each": ["said"], "fields": {"problem": "q", "response": "said"}}
    source["path"] = str(jsonl(tmp_path / "rows.jsonl", rows))
    assert len(load_traces("t", TraceSource.model_validate(source), seed=0)) == 1
    assert "left out 2 responses: row whose lists are empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"each": ["said", "god"]}, "traces.t.each", "did you mean `good`?"),
        ({"each": ["q"]}, "traces.t.each", "row 1: holds no list"),
        ({"each": ["said", "odd"]}, "traces.t.each", "of different lengths: {'said': 2, 'odd': 1}"),
        ({"each": ["said"], "where": {"nn": 1}}, "traces.t.where", "row 1: has no such field"),
        ({"each": ["said"], "where": {"q": "x"}}, "traces.t.path", "no response is left: q is not x 2"),
        ({"each": ["said"], "rewrite": {"a": ""}}, "traces.t.fields.response", "row 1: has no response"),
    ],
)
def test_a_map_that_does_not_fit_is_told(tmp_path: Path, changes: Any, key: str, words: str) -> None:
    file = jsonl(tmp_path / "rows.jsonl", [{"q": "1+1", "said": ["a", "b"], "good": [1, 0], "odd": [1]}])
    source = TraceSource.model_validate(
        {"path": str(file), "fields": {"problem": "q", "response": "said"}, **changes}
    )
    with pytest.raises(UserError) as caught:
        load_traces("t", source, seed=0)
    assert caught.value.key == key and words in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rewrite", "x"], "is no THEIRS=OURS"),
        (["--where", "x"], "is no KEY=VALUE"),
        (["--where", "x=[1]"], "where.x"),
    ],
)
def test_mistakes_in_the_flags_are_told(tmp_path: Path, capsys: Any, flags: list[str], words: str) -> None:
    file = jsonl(tmp_path / "rows.jsonl", [{"problem": "1+1", "response": "a", "reference": "2"}])
    assert main(["traces", "import", str(file), "--out", str(tmp_path / "out"), *flags]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_worlds_traces_take_no_map(tmp_path: Path) -> None:
    raw = yaml.safe_load(find_recipe("quickstart").read_text())
    name = next(iter(raw["traces"]))
    raw["traces"][name]["each"] = ["generations"]
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match="has no effect with `world`"):
        load_recipe(file)


def test_a_folder_that_breaks_in_its_midst_is_told(tmp_path: Path) -> None:
    place = openr1(tmp_path)
    (place / "data" / "train-00001-of-00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="datasets cannot load its split `train`"):
        load_traces("openr1", TraceSource(path=str(place)), seed=0)
