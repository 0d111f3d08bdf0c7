"""The grader: the table of maths answers, choices, which program counts, cut texts, and agreement with real data."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.records import FinishReason, Problem, Verdict
from distill.verify import Response, check, check_many
from distill.verify.choice import extract_choice
from distill.verify.marks import find_boxes
from distill.verify.maths.extraction import extract_answer
from distill.verify.maths.reading import split_list
from distill.verify.maths.spelling import tidy
from distill.verify.programs import extract_program

CASES = [
    json.loads(line) for line in (Path(__file__).parent / "cases" / "math.jsonl").read_text().splitlines()
]
DATA = Path(os.environ.get("DISTILL_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA} (set DISTILL_DATA)")


def math(reference: str | dict[str, list[str]] | None) -> Problem:
    return Problem(id="m", kind="math", problem="?", reference=reference)


def code(tests: dict | None) -> Problem:
    return Problem(id="c", kind="code", problem="?", tests=tests)


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


@pytest.mark.parametrize(
    "row",
    [
        json.loads(line)
        for line in (Path(__file__).parent / "cases" / "reviewed_extractions.jsonl").read_text().splitlines()
    ],
    ids=lambda row: row["text"][:60],
)
def test_texts_of_which_a_review_saw_the_wrong_part_taken(row):
    extract = extract_answer if row["kind"] == "math" else extract_choice
    assert extract(row["text"]) == row["extracted"]


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case['source'][:40]}" for n, case in enumerate(CASES)])
def test_table_of_maths_answers(case):
    judged = check(math(case["reference"]), case["text"])
    assert judged.verdict == case["expected"], judged
    assert (judged.reason == "") == (judged.verdict is Verdict.CORRECT)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{(C)}}", "C"),
        ("ANSWER: D", "D"),
        ("Answer: A\nno,\n**Answer: B**", "B"),
        ("A is tempting. So the answer is (C).", "C"),
        ("The correct option is D because I say so", "D"),
        ("<answer>B) Paris</answer>", "B"),
        ("Reasoning about A.\n\n(A)", "A"),
        ("<think>ANSWER: A</think>ANSWER: B", "B"),
        ("The answer is A triangle, hmm.\nSo the answer is (C).", "C"),
        ("**Final Answer:** B", "B"),
        ("The correct answer is **D**.", "D"),
        ("I choose option C", "C"),
        ("Therefore, option B is correct.", "B"),
        ("B. Paris is the capital", "B"),
        (r"$\boxed{\textbf{(C)}\ 5}$", "C"),
        ("\u7b54\u6848\u662fB", "B"),
        (r"The answer is: $\mathbf{A}$", "A"),
        ("The answer is C, because A and B fail.", "C"),
        ("So the correct letter is:\n\nB", "B"),
        ("(A) and (B) fail, leaving (C).", None),
        ("A man walks. He is tall.", None),
        ("I think so.", None),
        ("It's not A because it doesn't make sense.", None),
        ("I cannot tell.", None),
        ("Answer: Because", None),
    ],
)
def test_choice_takes_the_letter_after_the_thought(text, letter):
    judged = check(Problem(id="q", kind="choice", problem="?", reference="B"), text)
    assert judged.extracted == letter
    expected = Verdict.NO_ANSWER if letter is None else Verdict.CORRECT if letter == "B" else Verdict.WRONG
    assert judged.verdict is expected


@pytest.mark.parametrize(
    ("answer", "program", "complete"),
    [
        ("x = 1", "x = 1", False),
        ("Here:\n```python\nx = 1\n```\nbetter:\n```py\nx = 2\n```\ndone", "x = 2\n", True),
        ("```\nx = 1\n", "x = 1\n", False),
        ("```python\nx = 1\n```\n```python\nx = 2", "x = 2", False),
        ("<answer>x = 3</answer> so", "x = 3", True),
        ("```\nx = 1\n```\n<answer>\n```python\nx = 3\n```\n</answer>", "x = 3\n", True),
        ("````md\n```\nx\n```\n````", "```\nx\n```\n", True),
        ("```python\n\n```", None, True),
        (" \n", None, False),
    ],
)
def test_the_last_fenced_block_is_the_program(answer, program, complete):
    assert extract_program(answer) == (program, complete)


DOUBLE = code({"type": "python", "code": "assert f(3) == 6", "entry_point": "f"})
RIGHT = "def f(x):\n    return 2 * x\n"


@pytest.mark.parametrize(
    ("problem", "text", "finish", "verdict"),
    [
        (math("5"), "<think>hm", FinishReason.LENGTH, Verdict.TRUNCATED),
        (math("5"), "<think>hm", FinishReason.ABORT, Verdict.TRUNCATED),
        (math("5"), "<think>hm", None, Verdict.TRUNCATED),
        (math("5"), "<think>hm", FinishReason.STOP, Verdict.NO_ANSWER),
        (math("5"), r"<think>\boxed{5}", FinishReason.STOP, Verdict.NO_ANSWER),
        (math("5"), "<think>hm</think>It is", FinishReason.LENGTH, Verdict.TRUNCATED),
        (math("5"), "<think>hm</think>It is", FinishReason.STOP, Verdict.NO_ANSWER),
        (math("5"), "<think>hm</think>It is", None, Verdict.NO_ANSWER),
        (math("5"), r"<think>hm</think>\boxed{5} and", FinishReason.LENGTH, Verdict.CORRECT),
        (DOUBLE, f"```python\n{RIGHT}```\nThis", FinishReason.LENGTH, Verdict.CORRECT),
        (DOUBLE, f"```python\n{RIGHT}", FinishReason.LENGTH, Verdict.TRUNCATED),
        (DOUBLE, f"```python\n{RIGHT}", FinishReason.STOP, Verdict.CORRECT),
        (DOUBLE, RIGHT, FinishReason.LENGTH, Verdict.TRUNCATED),
        (DOUBLE, RIGHT, None, Verdict.CORRECT),
        (DOUBLE, "", None, Verdict.NO_ANSWER),
        (code(None), RIGHT, None, Verdict.BAD_REFERENCE),
        (math(None), r"\boxed{5}", None, Verdict.BAD_REFERENCE),
        (Problem(id="o", kind="open", problem="?"), "A poem.", None, Verdict.UNVERIFIED),
    ],
)
def test_cut_and_unfinished_texts(problem, text, finish, verdict):
    assert check(problem, text, finish_reason=finish).verdict is verdict


@pytest.mark.parametrize(
    "tests",
    [
        {"type": "python", "code": ""},
        {"type": "python", "code": "assert ("},
        {"type": "python", "code": "assert 1", "time_limit": -1},
        {"type": "python", "code": "assert 1", "time_limit": True},
        {"type": "stdio", "cases": []},
        {"type": "stdio", "cases": [{"input": "1"}]},
        {"type": "java", "code": "x"},
    ],
)
def test_tests_that_cannot_decide_are_a_bad_reference(tests):
    judged = check(code(tests), RIGHT)
    assert judged.verdict is Verdict.BAD_REFERENCE and judged.reason


def test_check_many_keeps_the_order_and_counts():
    responses = [
        Response(DOUBLE, RIGHT if n % 3 else RIGHT.replace("2", str(n + 5)), None) for n in range(30)
    ]
    responses.insert(7, Response(math("5"), r"\boxed{5}", None))
    counted: list[int] = []
    judged = check_many(responses, on_done=counted.append)
    expected = [Verdict.CORRECT if n % 3 else Verdict.WRONG for n in range(30)]
    expected.insert(7, Verdict.CORRECT)
    assert [one.verdict for one in judged] == expected
    assert counted == list(range(1, 32))
    assert judged[7].extracted == "5"


def test_equal_programs_run_once():
    slow = code({"type": "python", "code": "import time; time.sleep(0.3); assert f(1) == 2"})
    judged = check_many([Response(slow, RIGHT, None)] * 50)
    assert {one.verdict for one in judged} == {Verdict.CORRECT}
    assert len({one.seconds for one in judged}) == 1


def test_many_threads_may_ask():
    wanted = {n: check(math(f"{n}"), rf"\boxed{{\sqrt{{{n * n}}}}}").verdict for n in (2, 3)}
    assert set(wanted.values()) == {Verdict.CORRECT}
    seen: list[Verdict] = []

    def ask(n: int) -> None:
        seen.append(check(math(f"{n}"), rf"\boxed{{\sqrt{{{n * n}}}}}").verdict)
        seen.append(check(DOUBLE, RIGHT).verdict)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [Verdict.CORRECT] * 16
    assert check(DOUBLE, RIGHT).verdict is Verdict.CORRECT  # the server outlives the threads that used it


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.characters(), max_size=40),
    st.sampled_from(["", "\\boxed{", "####", "answer: ", "<answer>"]),
)
def test_extraction_never_raises(text, mark):
    for whole in (mark + text, text + mark + text + "}", mark * 3 + text):
        assert extract_answer(whole) != ""
        find_boxes(whole)
        split_list(tidy(whole))
        extract_program(whole)


PIECES = [
    "\\boxed{", "<answer>", "</answer>", "\n", " ", "answer is ", "answer:\n", "####\n", "```\n", "{", "}", "1,", "is ", "<think>",
    "</think>", "\\frac{1}{2}", "$", "**A**", "(B)", "\x00", "\ud800", "10^{10^{10}}", "\\text{", "\\left(", "&", "\\\\", "-", "x",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("kind", ["math", "choice"])
def test_a_megabyte_of_anything_takes_no_time(piece, kind):
    problem = Problem(id="h", kind=kind, problem="?", reference="B")
    many = 1_000_000 // len(piece)
    for text in (piece * many, "answer:" + piece * many, "answer" + " " * 30_000 + piece * 3_000):
        started = time.perf_counter()  # the wall's: part of the work is another process's
        assert check(problem, text).verdict in set(Verdict)
        extract_program(text)
        assert time.perf_counter() - started < 5.0


@given(
    st.lists(
        st.tuples(st.sampled_from(PIECES) | st.text(max_size=20), st.sampled_from([1, 1, 2, 400, 10_000])),
        max_size=12,
    )
)
@settings(max_examples=60, deadline=5000)
def test_soup_of_any_length_gets_a_verdict(parts):
    text = "".join(piece * times for piece, times in parts)[:1_000_000]
    for problem in (math("5"), Problem(id="c", kind="choice", problem="?", reference="B")):
        for finish_reason in (None, FinishReason.LENGTH):
            assert check(problem, text, finish_reason=finish_reason).verdict in set(Verdict)


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=20), max_size=12).map("".join))
@settings(max_examples=60, deadline=20_000)
def test_any_program_gets_a_verdict(program):
    assert check(code({"type": "python", "code": "f(1)"}), program).verdict in set(Verdict)


@needs_data
@pytest.mark.parametrize("name", ["humaneval", pytest.param("mbpp_sanitized", marks=pytest.mark.slow)])
def test_reference_solutions_of_code_suites_are_correct(name):
    responses = []
    for row in rows(f"code/{name}.jsonl"):
        if name == "humaneval":
            program = row["prompt"] + row["canonical_solution"]
            tests = {"type": "python", "code": row["test"], "entry_point": row["entry_point"]}
        else:
            program = row["code"]
            tests = {"type": "python", "code": "\n".join([*row["test_imports"], *row["test_list"]])}
        responses.append(Response(code(tests), f"```python\n{program}\n```", None))
    failed = [
        (one.verdict, one.reason) for one in check_many(responses) if one.verdict is not Verdict.CORRECT
    ]
    assert not failed
