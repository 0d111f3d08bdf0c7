"""What overlaps a suite: copies and near copies are found, other numbers and common wording are left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.recipe_parts import SuiteSource
from distill.records import Problem
from distill.suites import find_suite
from teacher.contamination import Passage, Suites, indexed

QUESTION = (
    "A farmer has $17$ hens and buys $\\frac{1}{2}$ as many ducks. If each hen lays 4 eggs a day, how many eggs do "
    "all of the hens lay in the $7$ days of one week?"
)
SOLUTION = (
    "Each of the hens lays 4 eggs, so that in 7 days one hen lays 28 and all of them together lay 476 eggs."
)
OTHER = (
    "Find the number of ways in which a committee of three people can be chosen from nine friends, when Ann and Bob "
    "would never sit together, Cleo only comes with Dan, and nobody else minds."
)
SUITES = Suites(
    [
        Passage("exam", "1", "question", QUESTION),
        Passage("exam", "1", "solution", SOLUTION),
        Passage("exam", "2", "question", "What is $2^{10} - 24$?"),
        Passage("exam", "3", "question", OTHER),
    ]
)


def found(text: str, question: bool = True) -> list[tuple[str, str, str]]:
    return [(match.suite, match.problem_id, match.part) for match in SUITES.matches(text, question=question)]


COPIES = [
    QUESTION,
    QUESTION.upper(),
    QUESTION.replace("$", "").replace(".", " ").replace(" ", "\n  "),
    QUESTION.replace("\\frac", "\\dfrac").replace("$17$", "$ \\left. 17 \\, \\right. $"),
    "Solve this with care, please. " + QUESTION + " Explain your answer in one sentence.",
    QUESTION.replace("A farmer", "Old MacDonald").replace("lays", "produces"),
    QUESTION[: len(QUESTION) * 2 // 3],
    QUESTION.replace("how many eggs do", "and none of them is ever ill, tell me how many eggs do"),
]


@pytest.mark.parametrize("text", COPIES)
def test_copies_and_near_copies_are_found(text: str) -> None:
    assert found(text) == [("exam", "1", "question")]


@pytest.mark.parametrize(
    "text",
    [
        QUESTION.replace("17", "23"),
        QUESTION.replace("4 eggs", "5 eggs"),
        QUESTION.replace("$7$ days of one week", "$30$ days of one month"),
        QUESTION.replace("{1}{2}", "{1}{3}"),
        SOLUTION.replace("476", "504").replace("28", "30"),
    ],
)
def test_translated_numbers_are_left_alone(text: str) -> None:
    assert found(text) == []
    assert found(f"<think>{text}</think>", question=False) == []


def test_a_question_or_solution_inside_a_long_thought_is_found() -> None:
    filler = "We count them one after the other and add 3 and 12 and 90 to what there was before. " * 40
    assert found(f"<think>{filler}{QUESTION}{filler}</think>5", question=False) == [("exam", "1", "question")]
    assert found(f"<think>{filler}{SOLUTION}{filler}</think>5", question=False) == [("exam", "1", "solution")]
    assert found(f"<think>{filler}</think>5", question=False) == []


@pytest.mark.parametrize("text", ["What is $2^{10} - 24$?", "Compute $2 ^ { 10 }-24$.", "evaluate 2^10-24"])
def test_short_questions_must_be_the_same(text: str) -> None:
    expected = [] if "{" not in text else [("exam", "2", "question")]
    assert found(text) == (expected or [("exam", "2", "question")])


@pytest.mark.parametrize(
    "text", ["What is $2^{10} + 24$?", "What is $2^{10} - 25$?", "What is $2^{10} - 24 + 1$?"]
)
def test_short_questions_with_another_sign_or_number_are_others(text: str) -> None:
    assert found(text) == []


def test_short_questions_are_not_looked_for_in_completions() -> None:
    assert found("What is $2^{10} - 24$?", question=False) == []


def test_ten_words_alone_do_not_convict() -> None:
    shared = "Find the number of ways in which a committee of three"
    assert (
        found(shared + " colours can be painted on the sides of a cube that is turned freely in all of space")
        == []
    )


def test_the_wording_of_a_suite_makes_no_suspect() -> None:
    said = "Express your answer to the following as one common fraction in its lowest terms: what part of the {} is {}"
    things = ["cake blue", "road wet", "sea deep", "wall white"]
    common = Suites(Passage("exam", thing, "question", said.format(*thing.split())) for thing in things)
    assert common.matches(said.format("moon", "dark"), question=True) == []
    assert len(common.matches(said.format("cake", "blue"), question=True)) == 1  # a copy has other runs too


def test_a_match_says_what_is_shared() -> None:
    (match,) = SUITES.matches(QUESTION, question=True)
    assert match.words == "a farmer has 17 hens and buys frac 1 2" and match.share == 1.0


def test_the_identity_follows_the_texts() -> None:
    same = Suites([Passage("a", "1", "question", "x"), Passage("b", "1", "question", "y")])
    other = Suites([Passage("a", "1", "question", "x"), Passage("b", "1", "question", "z")])
    assert same.identity["a"] == other.identity["a"] and same.identity["b"] != other.identity["b"]


def test_a_suites_solutions_are_read_where_they_are(tmp_path: Path) -> None:
    rows = [
        {"question": "How many?", "answer": SOLUTION + "\n#### 476"},
        {"question": OTHER, "answer": "Nine people in three places are 84 ways.\n#### 84"},
    ]
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = find_suite("gsm8k", {"gsm8k": SuiteSource(path=str(path), limit=1)})
    suites = indexed([suite], seed=0)
    assert [passage.part for passage in suites.passages] == ["question", "solution"] * 2
    assert suites.matches(SOLUTION, question=False)[0].part == "solution"


def test_chains_of_the_world_are_told_apart() -> None:
    from distill.problems import load_problems
    from distill.recipe_parts import ProblemSource, WorldProblems

    suites = indexed([find_suite("chains", {})], seed=0)
    world = WorldProblems(families=["chains"], count=300)
    problems: list[Problem] = load_problems("p", ProblemSource(world=world), 0)
    assert not [one.id for one in problems if suites.matches(one.problem, question=True)]


def test_math_500_against_the_training_set_of_math(shared_data: Path) -> None:
    known = [json.loads(line) for line in (shared_data / "problems" / "math500.jsonl").open()]
    training = [json.loads(line) for line in (shared_data / "problems" / "math_train_answers.jsonl").open()]
    source = SuiteSource(path=str(shared_data / "problems" / "math500.jsonl"))
    suites = indexed([find_suite("math500", {"math500": source})], seed=0)
    assert len(suites.passages) == 2 * len(known)
    themselves = [
        row["unique_id"] in [match.problem_id for match in suites.matches(row["problem"], question=True)]
        for row in known
    ]
    assert all(themselves)
    flagged = {row["problem"]: suites.matches(row["problem"], question=True) for row in training}
    flagged = {problem: matches for problem, matches in flagged.items() if matches}
    assert len(flagged) == 52  # of 7,474; 349 share ten words with a question
    same = next(problem for problem in flagged if "PQ = QR = 34" in problem)
    assert [match.problem_id for match in flagged[same]] == ["test/geometry/221.json"]
    assert not [problem for problem in flagged if "The Fibonacci sequence is the sequence 1, 1" in problem]
