"""Rows of every kind of source become problems, or one error that names the row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.errors import UserError
from distill.problems import after_hashes, load_problems, read_rows
from distill.recipe_parts import Fields, ProblemSource, WorldProblems
from distill.records import Problem, row_id


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def load(path: Path | str, kind: str = "math", fields: Fields | None = None, **more: Any) -> list[Problem]:
    source = {"path": str(path), "kind": kind, "fields": fields or {}, **more}
    return load_problems("mine", ProblemSource.model_validate(source), seed=0)


def error(*arguments: Any, **keywords: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        load(*arguments, **keywords)
    return caught.value


def test_fields_are_mapped_and_every_other_name_becomes_a_tag(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"q": "1+1?", "a": 2, "n": 7, "topic": "sums", "unused": 1}])
    fields: Fields = {"problem": "q", "reference": "a", "id": "n", "subject": "topic"}
    [problem] = load(path, fields=fields)
    assert problem == Problem(
        id="7", kind="math", problem="1+1?", reference="2", source="mine", tags={"subject": "sums"}
    )


def test_a_row_without_id_is_named_by_its_text(tmp_path: Path) -> None:
    [problem] = load(write(tmp_path / "p.jsonl", [{"problem": "1+1?", "reference": "2"}]))
    assert problem.id == row_id("mine", "1+1?")


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        (27.0, "27"),
        (0.5, "0.5"),
        (" 3 ", "3"),
        (["4"], "4"),
        ({"any": ["1/2", 0.5]}, {"any": ["1/2", "0.5"]}),
        ({"any": ["1"], "all": None}, {"any": ["1"]}),
    ],
)
def test_references_may_be_numbers_or_several(tmp_path: Path, value: Any, reference: Any) -> None:
    [problem] = load(write(tmp_path / "p.jsonl", [{"problem": "?", "reference": value}]))
    assert problem.reference == reference


@pytest.mark.parametrize("value", [None, "", "  ", [], {"some": ["1"]}, ["1", "2"], {"any": []}])
def test_a_row_without_a_usable_reference_is_named(tmp_path: Path, value: Any) -> None:
    rows = [{"problem": "a", "reference": "1"}, {"problem": "b", "reference": value}]
    wrong = error(write(tmp_path / "p.jsonl", rows))
    assert wrong.key == "problems.mine.fields.reference"
    assert wrong.reason.startswith("row 2")


def test_a_missing_mapped_field_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"problem": "a", "answer": "1"}])
    wrong = error(path, fields={"reference": "anser"})
    assert (wrong.key, wrong.value) == ("problems.mine.fields.reference", "anser")
    assert "did you mean `answer`?" in wrong.remedy


def test_a_name_that_is_almost_ours_is_told_before_what_its_row_lacks(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"q": "1+1", "a": "2", "subject": "sums"}\n')
    fields: Fields = {"problm": "q", "reference": "a"}
    with pytest.raises(UserError, match="there is no field `problm`") as caught:
        load_problems("p", ProblemSource(path=str(tmp_path / "p.jsonl"), fields=fields), 0)
    assert caught.value.key == "problems.p.fields" and "did you mean `problem`?" in caught.value.remedy
    tagged: Fields = {"problem": "q", "reference": "a", "subject": "subject", "problems": "q"}
    (problem,) = load_problems("p", ProblemSource(path=str(tmp_path / "p.jsonl"), fields=tagged), 0)
    assert problem.tags == {"subject": "sums", "problems": "1+1"}, "beside the real one it may be a tag"


def test_a_row_without_its_problem_lists_what_it_has(tmp_path: Path) -> None:
    wrong = error(write(tmp_path / "p.jsonl", [{"question": "a", "reference": "1"}]))
    assert wrong.key == "problems.mine.fields.problem"
    assert "question, reference" in wrong.remedy


def test_kind_open_needs_no_reference(tmp_path: Path) -> None:
    [problem] = load(write(tmp_path / "p.jsonl", [{"problem": "Write a poem."}]), kind="open")
    assert problem.reference is None


def test_repeated_rows_are_dropped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": text, "reference": answer} for text, answer in [("a", "1"), ("b", "2")] * 2]
    rows.append({"problem": "a", "reference": "3"})
    problems = load(write(tmp_path / "p.jsonl", rows))
    assert [problem.reference for problem in problems] == ["1", "2"]
    told = capsys.readouterr()
    assert "dropped 3 rows" in told.err and "1 of them with another reference" in told.err
    assert told.out == ""


def test_one_id_for_two_texts_is_an_error(tmp_path: Path) -> None:
    rows = [{"id": 1, "problem": text, "reference": "1"} for text in "ab"]
    wrong = error(write(tmp_path / "p.jsonl", rows))
    assert (wrong.key, wrong.value) == ("problems.mine.fields.id", "1")
    assert wrong.reason.startswith("row 2")


def test_limit_keeps_the_first_problems_and_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"problem": text, "reference": "1"} for text in "aabc"])
    path.write_text(path.read_text() + "no JSON\n")
    assert [problem.problem for problem in load(path, limit=2)] == ["a", "b"]


def test_an_instruction_must_say_where_the_problem_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"problem": "a", "reference": "1"}])
    assert error(path, instruction="Think.").key == "problems.mine.instruction"


# ------------------------------------------------------------------------------------ sources


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    separator = chr(0x2028)
    text = json.dumps({"problem": f"a{separator}b"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n\n" + text.encode())
    assert list(read_rows(str(path), "train")) == [{"problem": f"a{separator}b"}] * 2


@pytest.mark.parametrize("line", [b"{broken", b"[1]", b'{"a": "\xff"}'])
def test_a_broken_line_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"problem": "a", "reference": "1"}\n' + line + b"\n")
    assert error(path).key == f"{path}:2"


def test_missing_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    assert "no such file" in error(tmp_path / "none.jsonl").reason
    assert "no such file" in error(tmp_path / "folder").reason
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "no rows" in error(tmp_path / "empty.jsonl").reason
    (tmp_path / "p.csv").write_text("a,b\n")
    wrong = error(tmp_path / "p.csv")
    assert wrong.key == "problems.mine.path" and ".parquet" in wrong.remedy
    (tmp_path / "p.parquet").write_text("no Parquet")
    assert "Parquet" in error(tmp_path / "p.parquet").reason


def test_parquet_gives_the_same_problems_as_jsonl(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"problem": "a", "tests": {"type": "python", "code": "assert f(1) == 1", "entry_point": "f"}},
        {"problem": "b", "tests": {"type": "stdio", "cases": [{"input": "1", "output": "1"}]}},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")  # unites the structs, gaps become null
    from_jsonl = load(write(tmp_path / "p.jsonl", rows), kind="code")
    assert load(tmp_path / "p.parquet", kind="code") == from_jsonl
    assert [problem.tests for problem in from_jsonl] == [row["tests"] for row in rows]


def test_a_datasets_folder_loads_both_as_saved_and_as_files(tmp_path: Path, monkeypatch: Any) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"problem": "a", "reference": "1"}]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"dev": datasets.Dataset.from_list(rows)}).save_to_disk(str(tmp_path / "split"))
    (tmp_path / "files").mkdir()
    write(tmp_path / "files" / "train.jsonl", rows)
    assert list(read_rows(str(tmp_path / "saved"), "train")) == rows
    assert list(read_rows(str(tmp_path / "split"), "dev")) == rows
    assert list(read_rows(str(tmp_path / "files"), "train")) == rows
    wrong = error(tmp_path / "split", split="test")
    assert wrong.key == "problems.mine.path" and "`test`" in wrong.reason


def test_the_built_in_world_needs_no_file() -> None:
    source = ProblemSource(world=WorldProblems(families=["chains"], count=5))
    assert load_problems("w", source, seed=1) == load_problems("w", source, seed=1)
    assert len(load_problems("w", source, seed=1)) == 5


# ------------------------------------------------------------------------------------ code and choice


@pytest.mark.parametrize(
    "tests",
    [
        None,
        {},
        [],
        "assert",
        {"code": "assert True"},
        {"type": "python"},
        {"type": "python", "code": " "},
        {"type": "stdio", "cases": []},
        {"type": "stdio", "cases": [{"input": "1"}]},
    ],
)
def test_code_without_usable_tests_is_refused(tmp_path: Path, tests: Any) -> None:
    wrong = error(write(tmp_path / "p.jsonl", [{"problem": "a", "tests": tests}]), kind="code")
    assert wrong.key == "problems.mine.fields.tests" and wrong.reason.startswith("row 1")


def test_tests_may_be_json_text(tmp_path: Path) -> None:
    tests = {"type": "python", "code": "assert f(1) == 1"}
    [problem] = load(write(tmp_path / "p.jsonl", [{"problem": "a", "tests": json.dumps(tests)}]), kind="code")
    assert problem.tests == tests


@pytest.mark.parametrize("answer", ["B", 1])
def test_choices_are_listed_below_the_question(tmp_path: Path, answer: Any) -> None:
    row = {"problem": "Which?", "choices": ["red", "blue"], "reference": answer}
    [problem] = load(write(tmp_path / "p.jsonl", [row]), kind="choice")
    assert problem.problem == "Which?\n\nA. red\nB. blue"
    assert problem.reference == "B"


@pytest.mark.parametrize(("choices", "answer"), [(["red", "blue"], "C"), (["red", "blue"], 2), (None, "A")])
def test_a_choice_outside_the_choices_is_refused(tmp_path: Path, choices: Any, answer: Any) -> None:
    row = {"problem": "Which?", "choices": choices, "reference": answer}
    error(write(tmp_path / "p.jsonl", [row]), kind="choice")


# ------------------------------------------------------------------------------------ references in solutions


def test_the_last_box_of_a_solution_is_its_reference(tmp_path: Path) -> None:
    row = {"problem": "a", "solution": r"first \boxed{1}, then \boxed{\frac{1}{2}}."}
    source = ProblemSource.model_validate(
        {"path": "?", "fields": {"reference": {"from": "solution", "extract": "boxed"}}}
    )
    [problem] = load(write(tmp_path / "p.jsonl", [row]), fields=source.fields)
    assert problem.reference == r"\frac{1}{2}"


@pytest.mark.parametrize(
    ("text", "taken"), [("x\n#### 1,234", "1234"), ("x\n#### 7\nmore", "7"), ("x", None), ("#### ", None)]
)
def test_after_hashes(text: str, taken: str | None) -> None:
    assert after_hashes(text) == taken


def test_a_solution_without_its_answer_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"problem": "a", "solution": "so it is 7"}])
    wrong = error(path, fields={"reference": {"from": "solution", "extract": "boxed"}})  # type: ignore[dict-item]
    assert wrong.value == "solution" and "\\boxed{}" in wrong.reason


def test_a_hub_name_may_say_configuration_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(name: str, config: str | None, *, split: str, revision: str | None) -> list[dict[str, str]]:
        asked.append((name, config, split, revision))
        return [{"problem": "1 + 1?", "reference": "2"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    for path in ("a/b", "a/b:c", "a/b@0123abc", "a/b:c@refs/pr/1"):
        assert load_problems("p", ProblemSource(path=path), 0)[0].reference == "2"
    assert asked == [
        ("a/b", None, "train", None),
        ("a/b", "c", "train", None),
        ("a/b", None, "train", "0123abc"),
        ("a/b", "c", "train", "refs/pr/1"),
    ]


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("math", "id", "so \ud83d"),
        ("math", "problem", "so \ud83d"),
        ("math", "reference", "so \ud83d"),
        ("math", "reference", {"any": ["2", "so \ud83d"]}),
        ("choice", "choices", ["a", "so \ud83d"]),
    ],
)
def test_half_a_surrogate_pair_is_refused_before_hours_of_work(
    tmp_path: Path, kind: Any, field: str, value: Any
) -> None:
    row = {"id": "a", "problem": "1+1?", "reference": "A", field: value}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="row 1: its character 3 is half a surrogate pair") as refused:
        load_problems("mine", ProblemSource(path=str(tmp_path / "p.jsonl"), kind=kind), seed=0)
    assert refused.value.key.endswith(f"fields.{field}")


@pytest.mark.parametrize("value", [float("nan"), {"any": "12"}, {"all": 5}])
def test_a_reference_that_is_no_number_or_no_list_is_refused(tmp_path: Path, value: Any) -> None:
    path = write(tmp_path / "p.jsonl", [{"problem": "1+1?", "reference": value}])
    assert "has no reference" in str(error(path)) or "several references" in str(error(path))


@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
def test_lists_within_lists_without_end_are_no_json(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[" * 100_000 if name == "p.json" else '{"problem": ' + "[" * 100_000)
    assert "is no JSON" in str(error(tmp_path / name))
