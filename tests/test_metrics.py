"""pass@1, pass@k and cons@k agree with counting by hand, and with naive twins on random tables."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

from eval.metrics import cons_at_k, pass_at_1, pass_at_k

_spec = importlib.util.spec_from_file_location("naive_eval", Path(__file__).with_name("naive_eval.py"))
assert _spec is not None and _spec.loader is not None
naive = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(naive)


def random_table(seed: int, samples: int = 5) -> tuple[list[list[str | None]], list[list[bool]]]:
    """Answers and their correctness; answer "0" is the right one."""
    rng = random.Random(seed)
    answers = [[rng.choice([None, "0", "0", "1", "2"]) for _ in range(samples)] for _ in range(8)]
    return answers, [[answer == "0" for answer in row] for row in answers]


@pytest.mark.parametrize("seed", range(20))
def test_they_agree_with_their_naive_twins(seed: int) -> None:
    answers, correct = random_table(seed)
    assert pass_at_1(correct) == pytest.approx(naive.pass_at_1(correct), abs=1e-12)
    assert cons_at_k(answers, correct) == pytest.approx(naive.cons_at_k(answers, correct), abs=1e-12)
    for k in (1, 2, 5):
        assert pass_at_k(correct, k) == pytest.approx(naive.pass_at_k(correct, k), abs=1e-12)


def test_pass_at_1_weighs_problems_alike_however_many_samples_each_has() -> None:
    assert pass_at_1([[True], [False, False, False]]) == 0.5  # not 1/4
    assert pass_at_1([[True], []]) == 1.0  # a problem without a graded sample says nothing
    assert pass_at_1([[]]) is None


def test_pass_at_k_of_a_hand_count() -> None:
    # one right of four, two drawn: 3 of the 6 pairs hold it
    assert pass_at_k([[True, False, False, False]], 2) == pytest.approx(0.5)
    assert pass_at_k([[True, False]], 1) == pass_at_1([[True, False]])
    assert pass_at_k([], 1) is None


def test_pass_at_k_refuses_fewer_samples_than_k() -> None:
    with pytest.raises(ValueError, match=r"pass@4 needs 4 samples .* has 3"):
        pass_at_k([[True] * 4, [True] * 3], 4)


@pytest.mark.parametrize(
    ("answers", "correct", "score"),
    [
        (["7", "7", "8"], [True, True, False], 1.0),
        (["8", "8", "7"], [False, False, True], 0.0),
        (["7", "8"], [True, False], 0.5),
        (["7", "8", "9"], [True, False, False], 1 / 3),
        ([None, None, None, "7"], [False, False, False, True], 1.0),  # unanswered never wins
        ([" ", " ", "7"], [False, False, True], 1.0),
        ([None, None], [False, False], 0.0),
        (["1, 2", "1,2", "3"], [True, True, False], 1.0),
    ],
)
def test_majority_vote(answers: list[str | None], correct: list[bool], score: float) -> None:
    assert cons_at_k([answers], [correct]) == pytest.approx(score)


def test_a_problem_without_graded_samples_is_left_out_of_the_vote() -> None:
    assert cons_at_k([["7"], []], [[True], []]) == 1.0
    assert cons_at_k([[]], [[]]) is None
