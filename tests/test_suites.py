"""Known suites read their public data as it is; a recipe's entries change them as told and no further."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.errors import UserError
from distill.recipe_parts import Sampling, SuiteSource, WorldProblems
from distill.records import Verdict
from distill.suites import KNOWN, find_suite, load_solutions, load_suite
from distill.suites.code_rows import humaneval
from distill.suites.record import read_record
from distill.verify import Response, check_many


@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("gsm8k", "problems/gsm8k_test.jsonl", 1319),
        ("math500", "problems/math500.jsonl", 500),
        ("aime24", "problems/aime24.jsonl", 30),
        ("aime25", "problems/aime25.jsonl", 30),
        ("humaneval", "code/humaneval.jsonl", 164),
        ("mbpp", "code/mbpp_sanitized.jsonl", 427),
        ("amc23", "problems/amc23.jsonl", 40),
        ("minerva", "problems/minerva_math.jsonl", 272),
        ("olympiadbench", "problems/olympiadbench.jsonl", 675),
        ("mmlu", "problems/mmlu_dev.jsonl", 285),
        ("ifeval", "chat/ifeval_prompts.jsonl", 541),
        ("codeforces", "code/codeforces_stdin.jsonl", 408),
        ("alpaca_eval2", "chat/alpaca_eval_gpt4_1106_preview.jsonl", 805),
    ],
)
def test_the_real_files_load_with_no_more_than_a_path(
    name: str, file: str, count: int, shared_data: Path
) -> None:
    suite = find_suite(name, {name: SuiteSource(path=str(shared_data / file))})
    problems = load_suite(suite, seed=0)
    assert len(problems) == count
    assert all(problem.reference or problem.tests for problem in problems)
    assert suite.kind == "open" or all("#" not in str(problem.reference) for problem in problems)
    assert "{problem}" in (suite.instruction or "{problem}")
    assert (suite.instruction is None) == (name in ("ifeval", "alpaca_eval2"))


@pytest.mark.parametrize("name", ["amc23", "minerva", "olympiadbench"])
def test_references_are_right_by_their_own_suite(name: str, shared_data: Path) -> None:
    """Each reference in a box is CORRECT, and where several values are wanted, their order does not matter."""
    file = {"amc23": "amc23", "minerva": "minerva_math", "olympiadbench": "olympiadbench"}[name]
    source = SuiteSource(path=str(shared_data / "problems" / f"{file}.jsonl"))
    problems = load_suite(find_suite(name, {name: source}), seed=0)
    responses = []
    for problem in problems:
        values = [problem.reference] if isinstance(problem.reference, str) else problem.reference["all"]
        for order in {1, -1} if len(values) > 1 else {1}:
            responses.append(Response(problem, f"It is \\boxed{{{', '.join(values[::order])}}}.", None))
    wrong = [
        (response.text, found.reason)
        for response, found in zip(responses, check_many(responses), strict=True)
        if found.verdict is not Verdict.CORRECT
    ]
    assert len(responses) == {"amc23": 40, "minerva": 272, "olympiadbench": 767}[name] and not wrong


@pytest.mark.parametrize(("name", "kind"), [("chains", "math"), ("functions", "code")])
def test_built_in_suites_are_held_out_and_large_enough(name: str, kind: str) -> None:
    suite = find_suite(name, {})
    problems = load_suite(suite, seed=0)
    assert len({problem.id for problem in problems}) == 250
    assert {problem.kind for problem in problems} == {kind} == {suite.kind}
    assert suite.source.world is not None and suite.source.world.split == "test"


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean `aime24`"):
        find_suite("aime2024", {})
    with pytest.raises(UserError, match="did you mean `my-exam`"):
        find_suite("my-exams", {"my-exam": SuiteSource(path="exam.jsonl")})


def test_a_local_copy_keeps_the_protocol() -> None:
    suite = find_suite("math500", {"math500": SuiteSource(path="copy.jsonl")})
    known = KNOWN["math500"]
    assert suite.source.path == "copy.jsonl"
    assert (suite.samples, suite.sampling, suite.instruction, suite.source.fields) == (
        known.samples,
        known.sampling,
        known.instruction,
        known.source.fields,
    )


def test_a_copy_with_own_fields_is_read_by_them_alone(tmp_path: Path) -> None:
    tests = {"type": "python", "code": "assert f(1) == 1"}
    row = {
        "task_id": "x",
        "prompt": "def f(",
        "entry_point": "f",
        "test": "",
        "text": "Write f.",
        "own": tests,
    }
    (tmp_path / "copy.jsonl").write_text(json.dumps(row) + "\n")
    own = SuiteSource(path=str(tmp_path / "copy.jsonl"), fields={"problem": "text", "tests": "own"})
    [problem] = load_suite(find_suite("humaneval", {"humaneval": own}), seed=0)
    assert (problem.problem, problem.tests) == ("Write f.", tests)


def test_a_resolved_entry_says_the_same_as_the_short_one() -> None:
    short = SuiteSource(limit=5)
    resolved = SuiteSource.model_validate(short.model_dump(mode="json"))  # with every default written out
    assert find_suite("aime24", {"aime24": resolved}) == find_suite("aime24", {"aime24": short})
    suite = find_suite("aime24", {"aime24": short})
    assert (suite.source.limit, suite.source.split) == (5, KNOWN["aime24"].source.split)


def test_an_own_suite_needs_data_of_one_kind() -> None:
    world = WorldProblems(families=["chains"], split="test", count=3)
    assert len(load_suite(find_suite("tiny", {"tiny": SuiteSource(world=world)}), seed=0)) == 3
    for wrong in (SuiteSource(), SuiteSource(path="a.jsonl", world=world)):
        with pytest.raises(UserError, match=r"suites\.tiny"):
            find_suite("tiny", {"tiny": wrong})
    with pytest.raises(UserError, match=r"suites\.gsm8k\.split"):
        find_suite("gsm8k", {"gsm8k": SuiteSource(split="train")})


def test_errors_name_the_suite() -> None:
    suite = find_suite("gsm8k", {"gsm8k": SuiteSource(path="none.jsonl")})
    with pytest.raises(UserError, match=r"suites\.gsm8k\.path"):
        load_suite(suite, seed=0)


def test_with_protocol_replaces_what_is_given() -> None:
    suite, sampling = KNOWN["gsm8k"], Sampling(temperature=0.0)
    assert suite.with_protocol(None, None) == suite
    changed = suite.with_protocol(2, sampling)
    assert (changed.samples, changed.sampling, changed.source) == (2, sampling, suite.source)


def test_humaneval_helpers_reach_the_tests() -> None:
    prompt = "def helper(x):\n    return x\n\ndef f(x):\n    '''Undo helper.'''\n"
    row = {
        "task_id": "HumanEval/0",
        "prompt": prompt,
        "entry_point": "f",
        "test": "def check(candidate): ...",
    }
    adapted = humaneval(row)
    assert adapted["tests"]["code"].startswith("def helper(x):\n    return x\n\ndef check(")
    assert adapted["tests"]["entry_point"] == "f"
    assert "Undo helper" in adapted["problem"]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("gpqa", {"Question": None, "Correct Answer": "1", **{f"Incorrect Answer {n}": "2" for n in (1, 2, 3)}}),
        ("ifeval", {"prompt": "Write.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": []}),
        ("humaneval", {"task_id": "h/1", "prompt": None, "entry_point": "f", "test": ""}),
        ("mbpp", {"task_id": 1, "prompt": "Write.", "test_list": None, "test_imports": []}),
        ("codeforces", {"id": "1/A", "description": "d", "official_tests": [{"input": "1"}]}),
        ("livecodebench", {"question_id": "q7", "question_content": "c", "public_test_cases": "[]",
            "private_test_cases": "AAAA", "contest_date": "2024-09-01"}),
    ],
)  # fmt: skip
def test_a_row_that_is_not_as_its_suites_are_is_named(
    name: str, row: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "copy.jsonl").write_text(json.dumps(row) + "\n")
    suite = find_suite(name, {name: SuiteSource(path=str(tmp_path / "copy.jsonl"))})
    for load in (lambda: load_suite(suite, seed=0), lambda: load_solutions(suite)):
        if load.__code__.co_names[0] == "load_solutions":
            (tmp_path / "copy.jsonl").write_text(json.dumps(row | {suite.solution: "s"}) + "\n")
        with pytest.raises(UserError, match="is not as this suite's are"):
            load()


@pytest.mark.parametrize("day", ["08/15/2024", "2024-9-1", 1722470400])
def test_a_date_that_is_no_day_is_refused_and_not_held_to_be_out_of_the_window(
    day: object, tmp_path: Path
) -> None:
    row = {"problem": "p", "tests": {"type": "python", "code": "1"}, "contest_date": day}
    (tmp_path / "copy.jsonl").write_text(json.dumps(row) + "\n")
    suite = find_suite("livecodebench", {"livecodebench": SuiteSource(path=str(tmp_path / "copy.jsonl"))})
    with pytest.raises(UserError, match="which is no day"):
        load_suite(suite, seed=0)


@pytest.mark.parametrize(
    "text", ["since: 2024-02-30\n", f"a: {'[' * 5000}\n", f"k: {'9' * 6000}\n", "about: a\nabout: b\n"]
)
def test_a_record_that_is_no_yaml_or_says_a_key_twice_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError, match=r"no YAML|cannot be read"):
        read_record(tmp_path / "own.yaml")
