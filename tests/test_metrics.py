"""pass@1, pass@k and cons@k agree with counting by hand, and with naive twins on random tables."""

from __future__ import annotations

import naive_eval as naive
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from eval.metrics import cons_at_k, outcomes, pass_at_1, pass_at_k, powers_up_to, solve_rates

#: Answers of 1 to 7 samples of 1 to 4 problems; "0" is the right one.
TABLES = some.lists(
    some.lists(some.sampled_from([None, "0", "0", "1", "2", "3"]), min_size=1, max_size=7),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(TABLES, some.integers(1, 7))
def test_they_agree_with_their_naive_twins(answers: list[list[str | None]], k: int) -> None:
    correct = [[answer == "0" for answer in row] for row in answers]
    assert pass_at_1(correct) == pytest.approx(naive.pass_at_1(correct), abs=1e-12)
    assert cons_at_k(answers, correct) == pytest.approx(naive.cons_at_k(answers, correct), abs=1e-12)
    k = min(k, *map(len, answers), 7)
    assert pass_at_k(correct, k) == pytest.approx(naive.pass_at_k(correct, k), abs=1e-12)
    votes = [naive.cons_at(*row, k) for row in zip(answers, correct, strict=True)]
    assert cons_at_k(answers, correct, k) == pytest.approx(sum(votes) / len(votes), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(some.lists(some.sampled_from([None, 0, 1, 2, 3, 4]), min_size=2, max_size=8), some.data())
def test_votes_of_some_samples_count_every_choice_of_them(
    answers: list[int | None], data: some.DataObject
) -> None:
    correct = data.draw(some.lists(some.booleans(), min_size=len(answers), max_size=len(answers)))
    for k in range(1, len(answers) + 1):
        ours = cons_at_k([answers], [correct], k)
        assert ours == pytest.approx(naive.cons_at(answers, correct, k), abs=1e-9)


def test_a_vote_of_one_sample_is_pass_at_1_and_of_many_samples_is_quick() -> None:
    answers = [[at % 40 if at % 5 else None for at in range(256)], [0] * 90 + [1] * 80 + list(range(2, 88))]
    correct = [[answer == 1 for answer in row] for row in answers]
    assert cons_at_k(answers, correct, 1) == pytest.approx(pass_at_1(correct))
    assert 0 < (cons_at_k(answers, correct, 128) or 0) < 1


def test_a_vote_needs_its_samples() -> None:
    with pytest.raises(ValueError, match=r"cons@3 needs 3 samples .* has 2"):
        cons_at_k([["1", "2"]], [[True, False]], 3)


def test_the_points_of_a_curve() -> None:
    assert [powers_up_to(k) for k in (1, 2, 3, 10, 64)] == [
        [1], [1, 2], [1, 2, 3], [1, 2, 4, 8, 10], [1, 2, 4, 8, 16, 32, 64],
    ]  # fmt: skip


@given(some.lists(some.integers(1, 64).flatmap(lambda k: some.tuples(some.integers(0, k), some.just(k)))))
def test_bins_of_difficulty_are_those_of_whole_numbers(counts: list[tuple[int, int]]) -> None:
    assert solve_rates([right / samples for right, samples in counts]) == naive.solve_rates(counts)


def test_outcomes_keep_what_could_not_be_graded_apart() -> None:
    verdicts = {"correct": 3, "wrong": 2, "timeout": 1, "error": 4, "bad_reference": 5, "unverified": 6}
    assert outcomes(verdicts) == {
        "correct": 3, "wrong": 2, "no_answer": 0, "truncated": 0, "timeout": 1, "ungraded": 15,
    }  # fmt: skip


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
    ],
)
def test_majority_vote(answers: list[str | None], correct: list[bool], score: float) -> None:
    assert cons_at_k([answers], [correct]) == pytest.approx(score)


def test_a_problem_without_graded_samples_is_left_out_of_the_vote() -> None:
    assert cons_at_k([["7"], []], [[True], []]) == 1.0
    assert cons_at_k([[]], [[]]) is None


def test_a_vote_among_very_many_samples_is_drawn_and_agrees_with_counting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers: list[str | None] = ["a"] * 40 + ["b"] * 38 + ["c"] * 12 + [None] * 30
    correct = [answer == "b" for answer in answers]
    counted = [cons_at_k([answers], [correct], k) for k in (1, 4, 16, 64, 120)]
    many = cons_at_k([answers * 20], [[*correct] * 20], 1024)  # no float holds the number of choices
    assert many is not None and 0 < many < 0.2
    monkeypatch.setattr("eval.metrics.MOST_EXACT", 0)
    drawn = [cons_at_k([answers], [correct], k) for k in (1, 4, 16, 64, 120)]
    assert drawn == pytest.approx(counted, abs=0.02) and drawn[-1] == counted[-1] == 0
    assert cons_at_k([[None] * 9], [[False] * 9], 3) == 0
