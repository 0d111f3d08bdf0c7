"""Answers that are equal vote together, however they are written; what cannot be told stays apart and is counted."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from distill.records import Verdict
from distill.verify.maths.grader import not_now, same_answer
from eval import votes
from eval.votes import classes_of


def test_spellings_of_one_number_are_one_answer() -> None:
    found = classes_of(["1/2", "0.5", None, "\\frac{1}{2}", "2", " ", "2.0", "50\\%"], "math")
    assert found.labels_G == [0, 0, None, 0, 1, None, 1, 0]
    assert found.unsettled == 0


@pytest.mark.parametrize("answers", [["3 1/2", "31/2"], ["(3,4)", "(4,3)"], ["1/3", "0.33"], ["12", "21"]])
def test_other_answers_stay_apart(answers: list[str]) -> None:
    assert classes_of(answers, "math").labels_G == [0, 1]


def test_lists_in_another_order_are_one_answer() -> None:
    assert classes_of(["1, 2", "2,1", "1,2"], "math").labels_G == [0, 0, 0]


def test_letters_vote_by_letter() -> None:
    assert classes_of(["B", "b ", "A", None], "choice").labels_G == [0, 0, 1, None]


def test_a_letter_is_the_same_with_its_text_in_either_order() -> None:
    assert (
        classes_of(["B) Paris", "B"], "math").labels_G
        == classes_of(["B", "B) Paris"], "math").labels_G
        == [0, 0]
    )


def test_equal_texts_and_plain_integers_cost_no_comparison() -> None:
    assert classes_of(["7"] * 64, "math").compared == 0
    assert classes_of([str(at) for at in range(64)], "math") == (list(range(64)), 0, 0)
    assert classes_of(["007", "7"], "math").labels_G == [0, 0]


def test_comparisons_are_bounded_and_those_not_made_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "MOST_COMPARED", 3)
    found = classes_of([f"{at}/7" for at in range(1, 6)], "math")
    assert (found.labels_G, found.compared, found.unsettled) == ([0, 1, 2, 3, 4], 3, 7)


def test_paragraphs_in_boxes_do_not_take_minutes() -> None:
    said = [f"{'word ' * 200}{at}" for at in range(64)]
    started = time.process_time()
    found = classes_of([*said, "1/2", "0.5"], "math")
    assert time.process_time() - started < 10  # without a bound half a minute
    assert len(set(found.labels_G)) == 65 and found.unsettled > 1000


def test_what_only_math_verify_could_tell_stays_apart_and_is_counted() -> None:
    found = classes_of(["\\sum_{i=1}^{3} i", "\\sum_{j=1}^{3} j"], "math")
    assert (found.labels_G, found.unsettled) == ([0, 1], 1)


def test_programs_have_no_classes() -> None:
    with pytest.raises(AssertionError):
        classes_of(["a"], "code")


SPELLINGS = some.sampled_from(
    ["1/2", "0.5", "\\frac12", "2", "2.0", "\\sqrt{4}", "x=2", "3", "-3", "0.25", "1/4", None]
)


@settings(deadline=None, max_examples=60)
@given(some.lists(SPELLINGS, min_size=1, max_size=10))
def test_classes_are_those_of_comparing_each_with_each(answers: list[str | None]) -> None:
    labels = classes_of(answers, "math").labels_G
    for (one, first), (other, second) in itertools.combinations(zip(answers, labels, strict=True), 2):
        if one is None or other is None:
            assert (first is None) == (one is None) and (second is None) == (other is None)
        else:
            same = any(
                same_answer(*pair, not_now)[0] is Verdict.CORRECT for pair in ((one, other), (other, one))
            )
            assert (first == second) == same
    told = [label for label in labels if label is not None]
    assert list(dict.fromkeys(told)) == list(range(len(set(told))))  # numbered as they appear
