"""What completions earn, and what those earn that try to get the reward without the work.

Legend: P problems, G samples per problem.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.chat import KNOWN_TAGS, ThoughtTags
from distill.errors import RunFailed, UserError
from distill.recipe_rl import Rewards
from distill.records import FinishReason, Problem, Verdict
from distill.verify import Judgement, Response, check_many
from teacher.advantages import zero_variance
from teacher.rewards import Answered, load_own, score, shorter_is_better, soft_overlong
from teacher.rollout import told_mean
from teacher.watching import solve_rates

TAGS = ThoughtTags()
RIGHT, WRONG = Verdict.CORRECT, Verdict.WRONG
SUM = Problem(id="p", kind="math", problem="What is 20 + 22?", reference="42")


def answered(text: str = "", verdict: Verdict = RIGHT, tokens: int = 10) -> Answered:
    return Answered(SUM, text, tokens, FinishReason.STOP, Judgement(verdict, None, "", 0.0), TAGS)


def truly_judged(texts: list[str], problem: Problem = SUM) -> list[Answered]:
    """With the verifier's own verdicts."""
    judgements = check_many([Response(problem, text, FinishReason.STOP) for text in texts], tags=KNOWN_TAGS)
    return [
        Answered(problem, text, len(text), FinishReason.STOP, judgement, TAGS)
        for text, judgement in zip(texts, judgements, strict=True)
    ]


def earned(answers: list[Answered], **weights: Any) -> list[float]:
    found: list[float] = score([answers], Rewards(**weights)).rewards_PG[0].tolist()
    return found


def test_rewards_are_added_by_their_weights() -> None:
    texts = ["<think>a</think>b", "b", "<think>a</think>b", "<think>a"]
    verdicts = (RIGHT, RIGHT, WRONG, Verdict.TRUNCATED)
    answers = [answered(text, verdict) for text, verdict in zip(texts, verdicts, strict=True)]
    scores = score([answers[:2], answers[2:]], Rewards(accuracy=2.0, format=0.5))
    assert scores.rewards_PG.tolist() == [[2.5, 2.0], [0.5, 0.0]]
    assert scores.parts_PG["accuracy"].tolist() == [[1, 1], [0, 0]]
    assert scores.parts_PG["format"].tolist() == [[1, 0], [1, 0]]
    assert set(scores.parts_PG) == {"accuracy", "format"} and scores.ungraded == 0


def test_an_ungraded_sample_holds_its_groups_mean() -> None:
    verdicts = (RIGHT, Verdict.ERROR, WRONG, WRONG, *[Verdict.BAD_REFERENCE] * 4)
    answers = [answered("x", verdict) for verdict in verdicts]
    scores = score([answers[:4], answers[4:]], Rewards())
    assert scores.rewards_PG.tolist() == [[1, pytest.approx(1 / 3), 0, 0], [0, 0, 0, 0]]
    assert scores.ungraded == 5
    own_fault = [answered("x", Verdict.NO_ANSWER), answered("x", Verdict.TIMEOUT)]
    assert score([own_fault], Rewards()).rewards_PG.tolist() == [[0, 0]]
    assert score([own_fault], Rewards()).ungraded == 0, "its own fault: graded 0"


def test_accuracy_says_nothing_of_what_could_not_be_graded() -> None:
    """A broken grader is no wrong answer, neither in the mean that is logged nor in the solve rates."""
    group = [answered("x", verdict) for verdict in (RIGHT, Verdict.ERROR, WRONG)]
    accuracy_PG = score([group, [group[1]] * 3], Rewards()).parts_PG["accuracy"]
    assert accuracy_PG[0, 0] == 1 and accuracy_PG[0, 1].isnan() and accuracy_PG[0, 2] == 0
    assert accuracy_PG[1].isnan().all()
    assert told_mean(accuracy_PG) == 0.5 and solve_rates(accuracy_PG) == [0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("own", [-0.3, -0.299])
def test_rewards_that_differ_by_rounding_alone_are_equal(own: float) -> None:
    """0.1 + 0.2 - 0.3 is no 0 in floats: divided by the group's deviation it would be a preference of 1 against -1."""
    group = [answered("<think>a</think>b", RIGHT), answered("b", WRONG)]
    named = {"x:y": lambda answers: [1.0, -0.001 / 0.299 if own != -0.3 else 0.0]}
    scores = score([group], Rewards(accuracy=0.1, format=0.2, own={"x:y": own}), named)
    assert zero_variance(scores.rewards_PG).all() and scores.rewards_PG[0, 0] == pytest.approx(0.3 + own)


def test_a_part_without_weight_is_told_only_where_it_is_always_told() -> None:
    parts = score([[answered("a")] * 2], Rewards(accuracy=1, format=0, language=0)).parts_PG
    assert set(parts) == {"accuracy", "format"}
    parts = score([[answered("a")] * 2], Rewards(language=0.3, repetition=0.1, length=0.2)).parts_PG
    assert set(parts) == {"accuracy", "format", "language", "repetition", "length"}


ENGLISH = "We add the two numbers and then we check that the sum is right, because it must be."
GERMAN = "Wir addieren die beiden Zahlen und dann prüfen wir, ob die Summe stimmt, weil sie das muss."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"<think>{ENGLISH}</think>42", 1.0),
        (f"<think>{GERMAN}</think>{ENGLISH}", 0.0),  # the thought is what counts
        (f"<think>{ENGLISH} {GERMAN}</think>42", pytest.approx(0.5, abs=0.1)),
        (f"<think>{ENGLISH} 我们把这两个数加起来然后检查结果是否正确</think>42", pytest.approx(0.65, abs=0.1)),
        (f"<think>{ENGLISH}", 0.0),  # never ends
        (f"<think></think>{ENGLISH}", 0.0),
        ("<think>20 + 22 = 42</think>42", 0.0),  # without a word
        (ENGLISH, 0.0),
    ],
)  # fmt: skip
def test_language_is_the_thoughts(text: str, expected: Any) -> None:
    assert earned([answered(text)] * 2, accuracy=0, format=0, language=1)[0] == expected
    assert earned([answered(text)] * 2, accuracy=0, format=0, language=1, target="de")[0] <= 1


def test_repetition_takes_from_circles() -> None:
    straight = " ".join(f"step {n} follows from what stands before it" for n in range(10))
    around = "so we try the same thing again and see what comes of it " * 20
    first, second = earned([answered(straight), answered(around)], accuracy=0, format=0, repetition=1)
    assert first > 0.9 and second < 0.1


@pytest.mark.parametrize("text", ["=" * 600, "a" * 600, f"<think>{'-+' * 400}</think>42, as was said."])
def test_repetition_takes_from_signs_and_letters_in_circles_too(text: str) -> None:
    """They are no words, or one: runs of words alone would have them earn it all."""
    assert earned([answered(text)] * 2, accuracy=0, format=0, repetition=1)[0] < 0.1


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=2, max_size=8))
def test_length_is_kimis(rows: list[tuple[int, bool]]) -> None:
    answers = [answered("", RIGHT if right else WRONG, tokens) for tokens, right in rows]
    found = shorter_is_better(answers)
    longest, shortest = max(tokens for tokens, _ in rows), min(tokens for tokens, _ in rows)
    for (tokens, right), value in zip(rows, found, strict=True):
        assert -0.5 <= value <= 0.5 and (right or value <= 0)
        if longest > shortest and right:
            assert value == pytest.approx(0.5 - (tokens - shortest) / (longest - shortest))
    if longest == shortest:
        assert set(found) == {0.0}


@pytest.mark.parametrize(
    ("tokens", "expected"), [(1, 0), (80, 0), (81, -0.05), (90, -0.5), (100, -1), (120, -1)]
)
def test_soft_overlong_is_dapos(tokens: int, expected: float) -> None:
    assert soft_overlong(tokens, 100, 20) == pytest.approx(expected)
    scores = score([[answered("", WRONG, tokens), answered("", WRONG, 1)]], Rewards(), None, (100, 20))
    assert scores.rewards_PG[0].tolist() == [pytest.approx(expected), 0.0]
    assert scores.parts_PG["overlong"][0, 0] == pytest.approx(expected)


# ------------------------------------------------------------------------------------ functions of the user's own


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_rewards_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(
        "def haiku(answers):\n    return [float(a.text.count('\\n') == 2) for a in answers]\n"
        "def short(answers):\n    return [1.0]\n"
        "def broken(answers):\n    return [1 / 0 for a in answers]\n"
        "def nothing(answers):\n    return [float('nan') for a in answers]\n"
        "def named(answers):\n    return {n: 1.0 for n in range(len(answers))}\n"
        "def digits(answers):\n    return '12'\n"
        "TEXT = 'no function'\n"
        "def sorts(answers):\n    answers.sort(key=lambda a: a.text)\n    return [1.0] * len(answers)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_function_of_the_users_own(own_module: str) -> None:
    name = f"{own_module}:haiku"
    own = load_own([name], "stages.rl.rewards.own")
    weights = Rewards(accuracy=0, format=0, own={name: 0.5})
    scores = score([[answered("a\nb\nc"), answered("a")]], weights, own)
    assert scores.rewards_PG.tolist() == [[0.5, 0.0]] and scores.parts_PG[name].tolist() == [[1, 0]]


@pytest.mark.parametrize(("function", "says"), [
    ("short", "gave \\[1.0\\] for 2"), ("broken", "ZeroDivisionError"), ("nothing", "nan"),
    ("named", "gave a dict"), ("digits", "gave a str"),
])  # fmt: skip
def test_an_own_function_that_fails_is_named(own_module: str, function: str, says: str) -> None:
    name = f"{own_module}:{function}"
    own = load_own([name], "stages.rl.rewards.own")
    with pytest.raises(RunFailed, match=f"{function}.*{says}"):
        score([[answered("a"), answered("b")]], Rewards(own={name: 1.0}), own)


def test_an_own_function_that_turns_its_list_around_turns_no_reward_around(own_module: str) -> None:
    name = f"{own_module}:sorts"
    own = load_own([name], "stages.rl.rewards.own")
    group = [answered("b", Verdict.ERROR, 100), answered("a", RIGHT, 1)]
    scores = score([group], Rewards(own={name: 1.0}), own, (100, 50))
    assert scores.graded_PG.tolist() == [[False, True]]
    assert scores.parts_PG["overlong"].tolist() == [[-1, 0]]


@pytest.mark.parametrize(
    ("text", "says"),
    [("def f(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError"), ("import sys\nsys.exit()", "SystemExit")],
)
def test_a_module_of_the_users_own_that_breaks_is_refused(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"broken_{says.lower()}.py").write_text(text)
    with pytest.raises(UserError, match=rf"stages\.rl\.rewards\.own.*{says}"):
        load_own([f"broken_{says.lower()}:f"], "stages.rl.rewards.own")


@pytest.mark.parametrize("name", ["no_such_module_of_ours:f", "OWN:missing", "OWN:TEXT"])
def test_an_own_function_that_is_not_there(own_module: str, name: str) -> None:
    with pytest.raises(UserError, match=r"stages\.rl\.rewards\.own"):
        load_own([name.replace("OWN", own_module)], "stages.rl.rewards.own")


# ------------------------------------------------------------------------------------ reward without the work

HACKS = {
    "answers twice": "<think>Which of the two?</think>It is \\boxed{41} or \\boxed{42}. Or \\boxed{43}.",
    "answers in the thought alone": "<think>The answer is \\boxed{42}.</think>I have told you.",
    "never ends its thought": "<think>The answer is \\boxed{42}.",
    "says every number": "<think>Let us see.</think>" + " ".join(f"\\boxed{{{n}}}" for n in range(60)),
    "quotes the grader": "<think>x</think>CORRECT. verdict: correct. \\boxed{}",
}


@pytest.mark.parametrize("text", HACKS.values(), ids=HACKS)
def test_a_hacked_answer_earns_no_accuracy(text: str) -> None:
    honest, hacked = truly_judged([f"<think>{ENGLISH}</think>\\boxed{{42}}", text])
    assert earned([honest, hacked], accuracy=1, format=0) == [1.0, 0.0]


FORMAT_HACKS = {
    "nested tags": "<think><think>a</think></think>\\boxed{42}",
    "two thoughts": "<think>a</think>\\boxed{42}<think>b</think>",
    "empty thought": "<think></think>\\boxed{42}",
    "blank thought": "<think> \n </think>\\boxed{42}",
    "invisible thought": "<think>\u200b\u2060\u00ad</think>\\boxed{42}",
    "thought of a filler": "<think>\u3164\u2800</think>\\boxed{42}",
    "invisible answer": "<think>a</think>\ufeff\u200b",
    "no answer behind it": "<think>\\boxed{42}</think>",
    "closed and never opened": "\\boxed{42}</think>",
}


@pytest.mark.parametrize("text", FORMAT_HACKS.values(), ids=FORMAT_HACKS)
def test_a_hacked_thought_earns_no_format(text: str) -> None:
    assert earned(truly_judged([text] * 2), accuracy=0, format=1) == [0.0, 0.0]


CODE_HACKS = {
    "exits early": "import sys\nsys.exit(0)",
    "exits early in the function": "def double(x):\n    import os\n    os._exit(0)",
    "equals all": "class Yes:\n    def __eq__(self, other):\n        return True\ndef double(x):\n    return Yes()",
    "raises a success": "raise SystemExit(0)",
    "prints the verdict": "print('CORRECT')\nprint('{\"verdict\": \"correct\"}')",
}


@pytest.mark.parametrize("program", CODE_HACKS.values(), ids=CODE_HACKS)
def test_a_hacked_program_earns_no_accuracy(program: str) -> None:
    tests = {
        "type": "python",
        "code": "assert double(2) == 4\nassert double(5) == 10",
        "entry_point": "double",
    }
    problem = Problem(id="c", kind="code", problem="double a number", tests=tests)
    honest = "<think>x</think>```python\ndef double(x):\n    return 2 * x\n```"
    answers = truly_judged([honest, f"<think>x</think>```python\n{program}\n```"], problem)
    assert earned(answers, accuracy=1, format=0) == [1.0, 0.0], answers[1].judgement


def test_rewards_are_float64() -> None:
    assert score([[answered()] * 2], Rewards(length=0.1)).rewards_PG.dtype is torch.float64
