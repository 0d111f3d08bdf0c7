"""Every suite runs end to end without a network: real local data or rows of the public shape, two engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import suite_rows
from fake_server import FakeServer

from distill import models
from distill.chat import ChatFormat
from distill.cli import main
from distill.problems import LeftOut
from distill.recipe_parts import Architecture, ModelSource, SuiteSource
from distill.records import Problem, Verdict
from distill.suites import KNOWN, code_rows, find_suite, load_solutions, load_suite, rows
from distill.verify import Response, check_many

#: Suites whose data set lies in the folder of real data, each with its file.
LOCAL = {
    "aime24": "problems/aime24.jsonl", "aime25": "problems/aime25.jsonl", "amc23": "problems/amc23.jsonl",
    "math500": "problems/math500.jsonl", "gsm8k": "problems/gsm8k_test.jsonl", "minerva": "problems/minerva_math.jsonl",
    "olympiadbench": "problems/olympiadbench.jsonl", "mmlu": "problems/mmlu_dev.jsonl",
    "ifeval": "chat/ifeval_prompts.jsonl", "humaneval": "code/humaneval.jsonl", "mbpp": "code/mbpp_sanitized.jsonl",
    "codeforces": "code/codeforces_stdin.jsonl", "alpaca_eval2": "chat/alpaca_eval_gpt4_1106_preview.jsonl",
}  # fmt: skip
#: The others, with rows of their shape.
WRITTEN = {
    "gpqa": suite_rows.GPQA,
    "humaneval_plus": suite_rows.HUMANEVAL_PLUS,
    "mbpp_plus": suite_rows.MBPP_PLUS,
    "livecodebench": suite_rows.LIVECODEBENCH,
}
WORLD = ("chains", "functions")
FIRST_CODEFORCES = "for _ in range(int(input())):\n    print(*sorted(map(int, input().split())))"


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_QUIET", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def files(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    written = {name: suite_rows.write(folder / f"{name}.jsonl", rows) for name, rows in WRITTEN.items()}
    return {name: shared_data / file for name, file in LOCAL.items()} | written


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ChatFormat]:
    build = Architecture(hidden=16, layers=1, heads=2, max_length=16384)
    source = ModelSource(build=build, tokenizer="world")
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    models.build_folder("tiny", source, folder, seed=0)
    return str(folder), models.preview("tiny", models.as_made(source, folder), ours=False).chat


def test_the_two_tables_name_every_suite() -> None:
    assert {*LOCAL, *WRITTEN, *WORLD} == set(KNOWN)


def evaluate(files: dict[str, Path], model: str, *settings: str) -> dict[str, dict[str, Any]]:
    """The summaries of a model on all suites, by `distill eval`."""
    words = ["eval", "--json", "--model", model, "--out", "run"]
    for name in KNOWN:
        words += ["--suite", f"{name}={files[name]}" if name in files else name]
    for name in KNOWN:
        words += ["--set", f"suites.{name}.limit=2"]
    for setting in settings:
        words += ["--set", setting]
    assert main(words) == 0
    return {name: json.loads(Path(f"run/results/tiny/{name}/summary.json").read_text()) for name in KNOWN}


def test_every_suite_runs_with_a_local_model(files: dict[str, Path], model: tuple[str, ChatFormat]) -> None:
    sampling = "stages.exam.sampling={temperature: 1.0, top_p: 1.0, max_tokens: 8}"
    found = evaluate(files, model[0], sampling, "stages.exam.samples=2", "stages.exam.engine={max_rows: 4}")
    for name, summary in found.items():
        responses = Path(f"run/results/tiny/{name}/responses.jsonl").read_text().splitlines()
        assert len(responses) == 2 * len(summary["problems"]) == 2 * (1 if name == "mbpp_plus" else 2), name
        assert summary["kind"] == KNOWN[name].kind and 0 < summary["mean_tokens"] <= 8, name
        assert summary["ungraded"] == (4 if name == "alpaca_eval2" else 0), (name, summary["verdicts"])


class Scripted(FakeServer):
    """Answers each prompt by the problem that stands in it."""

    script: dict[str, str]

    def answer(self, text: str, seed: int) -> tuple[str, str]:
        del seed
        found = max((problem for problem in self.script if problem in text), key=len, default="")
        return "Let me see.", self.script.get(found, "What is asked?")


def right_answers(name: str, problems: list[Problem], shared_data: Path) -> list[str]:
    """What a model that knows everything would say."""
    if name == "ifeval":
        body = " ".join(["word"] * 310) + " *one part* *another part* *a third part*"
        return [body, "Thou shalt go to Kyoto and see the temples."]
    if name == "alpaca_eval2":
        return ["Some actors did."] * len(problems)
    if name in WRITTEN and name != "gpqa":
        return [row.right for row in WRITTEN[name] if row.right]
    if name in ("humaneval", "mbpp"):
        given = [json.loads(line) for line in (shared_data / LOCAL[name]).read_text().splitlines()[:2]]
        return [
            suite_rows.program(row.get("code") or row["prompt"] + row["canonical_solution"]) for row in given
        ]
    if name == "codeforces":
        return [suite_rows.program(FIRST_CODEFORCES), suite_rows.program("raise SystemExit")]
    if KNOWN[name].kind == "choice":
        return [f"It is clear.\n\nANSWER: {problem.reference}" for problem in problems]
    if name == "functions":
        return ["no program"] * len(problems)
    return [f"It is $\\boxed{{{reference_of(problem)}}}$." for problem in problems]


def reference_of(problem: Problem) -> str:
    reference = problem.reference
    return reference if isinstance(reference, str) else ", ".join(reference["all"])


def test_every_suite_runs_behind_a_server_and_right_answers_are_right(
    files: dict[str, Path], model: tuple[str, ChatFormat], shared_data: Path
) -> None:
    answers: dict[str, str] = {}
    for name in KNOWN:
        path = str(files[name]) if name in files else None
        problems = load_suite(find_suite(name, {name: SuiteSource(path=path, limit=2)}), seed=0)
        answers |= {
            problem.problem: answer
            for problem, answer in zip(problems, right_answers(name, problems, shared_data), strict=True)
        }
    with Scripted(model[1]) as server:
        server.script = answers
        engine = f"stages.exam.engine={{kind: server, urls: {server.url}, prompts: messages}}"
        sampling = "stages.exam.sampling={temperature: 1.0, top_p: 1.0, max_tokens: 2048}"
        found = evaluate(files, model[0], engine, sampling, "stages.exam.samples=1")
    scores = {name: summary["pass@1"] for name, summary in found.items() if name != "alpaca_eval2"}
    half = {"codeforces": 0.5, "functions": 0.0}  # no right program was written for these
    assert scores == {name: half.get(name, 1.0) for name in scores}
    assert found["alpaca_eval2"]["verdicts"] == {"unverified": 2}


@pytest.mark.parametrize("name", [*WRITTEN, "codeforces"])
def test_written_rows_are_graded_right_and_wrong(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = suite_rows.CODEFORCES if name == "codeforces" else WRITTEN[name]
    path = suite_rows.write(tmp_path / "rows.jsonl", given)
    problems = load_suite(find_suite(name, {name: SuiteSource(path=str(path))}), seed=0)
    if name == "gpqa":
        letters = {problem.id: problem.reference for problem in problems}
        lines = {problem.id: problem.problem.splitlines() for problem in problems}
        for number in range(3):
            assert f"{letters[f'rec{number}']}. {number}" in lines[f"rec{number}"], (
                "the letter is the right answer's"
            )
        again = load_suite(find_suite(name, {name: SuiteSource(path=str(path))}), seed=1)
        assert problems == again and len(set(letters.values())) > 1, "shuffled by the id alone"
        assert problems[0].tags == {"subject": "Physics"}
        return
    used = [row for row in given if row.right]
    assert len(problems) == len(used)
    assert capsys.readouterr().err.count("left out") == len(
        {"livecodebench": 1, "codeforces": 2}.get(name, 0) * [0]
    )
    texts = [
        (problem, text)
        for problem, row in zip(problems, used, strict=True)
        for text in (row.right, row.wrong)
    ]
    found = check_many([Response(problem, text, None) for problem, text in texts])
    assert [one.verdict for one in found] == [Verdict.CORRECT, Verdict.WRONG] * len(used), found


def test_a_window_of_dates_is_the_users_to_change(tmp_path: Path) -> None:
    path = str(suite_rows.write(tmp_path / "rows.jsonl", suite_rows.LIVECODEBENCH))

    def ids(**window: Any) -> list[str]:
        source = SuiteSource(path=path, **window)
        return [
            one.id.partition("/")[2]
            for one in load_suite(find_suite("livecodebench", {"livecodebench": source}), 0)
        ]

    assert ids() == ["abc1", "3001"]
    assert ids(since="any") == ["abc1", "3001", "early"]
    assert ids(since="2025-01-01", until="any") == ["3001", "late"]


def test_a_pickle_that_names_a_function_is_refused() -> None:
    import base64
    import pickle
    import zlib

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("run",)

    row = dict(suite_rows.LIVECODEBENCH[0].row)
    row["private_test_cases"] = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(pickle.UnpicklingError, match="test cases are text"):
        code_rows.livecodebench(row)


def test_hints_are_taken_out_of_codeforces_statements(shared_data: Path) -> None:
    source = SuiteSource(path=str(shared_data / LOCAL["codeforces"]))
    problems = load_suite(find_suite("codeforces", {"codeforces": source}), seed=0)
    assert len(problems) == 408
    assert not any("\nTags:" in problem.problem for problem in problems)
    assert all("Time Limit: " in problem.problem for problem in problems)
    limits = {problem.tests["time_limit"] for problem in problems}
    assert {5.0, 10.0} <= limits and min(problem.tests["memory_mb"] for problem in problems) == 512


def test_what_cannot_be_graded_is_left_out_with_its_reason() -> None:
    for row, reason in zip(suite_rows.CODEFORCES[1:], ("several outputs", "judge"), strict=True):
        with pytest.raises(LeftOut, match=reason):
            code_rows.codeforces(row.row)


@pytest.mark.parametrize("reader", [*rows.__all__, *code_rows.__all__])
def test_rows_of_our_own_names_pass_as_they_are(reader: str) -> None:
    row = {"id": "x", "problem": "?", "reference": "A", "tests": {"type": "python", "code": "assert f()"}}
    found = getattr(rows, reader, None) or getattr(code_rows, reader)
    assert reader == "minerva" or found(row) is row


def test_solutions_are_read_where_a_suite_has_them(files: dict[str, Path]) -> None:
    def solutions(name: str) -> dict[str, str]:
        return load_solutions(find_suite(name, {name: SuiteSource(path=str(files[name]))}))

    assert len(solutions("olympiadbench")) == 675 and len(solutions("minerva")) == 272
    assert len(solutions("humaneval_plus")) == 2 and solutions("mmlu") == {}


# ------------------------------------------------------------------------------------ what a user may do wrong


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in WORLD])
def test_without_a_network_the_error_says_which_file_to_bring(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "--model", "some/model", "--suite", name, "--out", "run"]) == 2
    told = capsys.readouterr().err
    assert f"--suite {name}=FILE" in told and f"suites: {{{name}: {{path: FILE}}}}" in told, told
    assert all(column in told for column in KNOWN[name].record.data.columns) and not Path("run").exists()


@pytest.mark.parametrize(
    ("suites", "reason"),
    [
        (["aime24=none.jsonl"], "no such file"),
        (["none.yaml"], "cannot be read"),
        (["nonesuch"], "no suite of that name"),
        (["nonesuch=rows.jsonl"], "no suite of that name"),
        (["chains", "chains"], "twice"),
        (["broken.yaml"], "did you mean `kind`"),
        (["aime24=rows.jsonl"], "this suite reads problem, answer"),
        (["both.yaml"], "neither"),
        (["reader.yaml"], "known: gpqa, ifeval"),
        (["list.yaml"], "holds no keys"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    suites: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = "protocol: {k: 1}\n"
    Path("rows.jsonl").write_text('{"question": "1 + 1"}\n')
    Path("broken.yaml").write_text("about: x\ndata: {path: rows.jsonl}\nkinds: math\n" + protocol)
    Path("both.yaml").write_text("about: x\ndata: {}\nkind: math\n" + protocol)
    Path("reader.yaml").write_text("about: x\ndata: {path: rows.jsonl}\nrows: eval\nkind: math\n" + protocol)
    Path("list.yaml").write_text("[1, 2]\n")
    words = [word for suite in suites for word in ("--suite", suite)]
    assert main(["eval", "--model", "some/model", *words, "--out", "run"]) == 2
    told = capsys.readouterr().err
    assert reason in told and "Traceback" not in told and not Path("run").exists(), told


@pytest.fixture
def own_suite(tmp_path: Path) -> Iterator[Path]:
    Path("sums.json").write_text(json.dumps([{"q": f"What is {n} + {n}?", "a": 2 * n} for n in range(3)]))
    record = tmp_path / "sums.yaml"
    record.write_text(
        "about: sums\ndata: {path: sums.json}\nfields: {problem: q, reference: a}\nkind: math\n"
        "protocol: {k: 2, temperature: 1.0, max_tokens: 8}\n"
    )
    yield record


def test_a_users_own_suite_is_a_file_of_the_same_shape(
    own_suite: Path, model: tuple[str, ChatFormat]
) -> None:
    words = ["eval", "--model", model[0], "--suite", str(own_suite), "--out", "run"]
    assert main(words) == 0
    summary = json.loads(Path("run/results/tiny/sums/summary.json").read_text())
    assert (summary["n"], summary["k"], summary["protocol"]["temperature"]) == (3, 2, 1.0)
    Path("sums.json").write_text(json.dumps([{"q": "What is 7 + 7?", "a": 14}]))
    assert main(words) == 0, "data that changed are measured anew"
    assert json.loads(Path("run/results/tiny/sums/summary.json").read_text())["n"] == 1


def test_distill_suites_lists_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suites"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:]} == set(KNOWN)
    assert next(line for line in lines if line.startswith("gpqa")).split()[:5] == [
        "gpqa",
        "choice",
        "198",
        "64",
        "paper",
    ]
    assert main(["suites", "livecodebench"]) == 0
    assert "since: 2024-08-01" in capsys.readouterr().out
    assert main(["suites", "aime2024"]) == 2 and "did you mean `aime24`" in capsys.readouterr().err
    assert main(["suites", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ifeval"]["kind"] == "instruction"


def test_what_distill_suites_prints_is_an_own_suite(capsys: pytest.CaptureFixture[str]) -> None:
    for name, suite in KNOWN.items():
        assert main(["suites", name]) == 0
        Path(f"my_{name}.yaml").write_text(capsys.readouterr().out)
        own = find_suite(f"my_{name}", {f"my_{name}": SuiteSource(record=f"my_{name}.yaml")})
        assert own.record == suite.record and own.source == suite.source
