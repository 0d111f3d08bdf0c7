"""Near duplicates: the estimate, its error, and who is dropped."""

from __future__ import annotations

import random

import naive_filters
import numpy as np
import pytest

from teacher.minhash import PLACES, SHINGLE, likeness, signature, similar_pairs
from teacher.shingles import words


def text(seed: int, length: int = 300) -> list[str]:
    lots = random.Random(seed)
    return [spelled(lots.randint(0, 5000)) for _ in range(length)]


def spelled(number: int) -> str:
    """A number in letters, as digits would be a word of their own."""
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


def changed(of_text: list[str], changes: int, seed: int) -> list[str]:
    """The text with some words replaced, spread evenly."""
    lots = random.Random(seed)
    copy = list(of_text)
    for place in lots.sample(range(len(copy)), changes):
        copy[place] = f"x{spelled(seed)}y{spelled(place)}"
    return copy


@pytest.mark.parametrize("changes", [0, 2, 5, 10, 30, 300])
def test_likeness_estimates_the_jaccard_index(changes: int) -> None:
    errors = []
    for seed in range(24):
        one = text(seed)
        other = changed(one, changes, seed)
        exact = naive_filters.jaccard(one, other, SHINGLE)
        errors.append(likeness(signature(" ".join(one)), signature(" ".join(other))) - exact)
        assert abs(errors[-1]) <= 4 * np.sqrt(max(exact * (1 - exact), 1e-9) / PLACES) + 1e-9
    assert abs(np.mean(errors)) < 0.03


def test_copies_are_dropped_as_by_the_slow_twin() -> None:
    texts = [text(seed) for seed in range(20)]
    for seed in range(20):
        texts.append(changed(texts[seed], 2, seed))  # alike by 0.93 or so
        texts.append(changed(texts[seed], 60, seed))  # by 0.2 or so
    signatures = np.stack([signature(" ".join(one)) for one in texts])
    pairs, alike = similar_pairs(signatures, np.arange(len(texts)), 0.8)
    assert sorted({int(later) for later, _ in pairs}) == naive_filters.near_duplicates(texts, SHINGLE, 0.8)
    assert ((pairs[:, 0] > pairs[:, 1]).all()) and (alike >= 0.8).all()


def test_a_crowd_of_copies_costs_a_few_pairs_each() -> None:
    one = text(3)
    signatures = np.stack([signature(" ".join(changed(one, 1, seed))) for seed in range(400)])
    pairs, _ = similar_pairs(signatures, np.arange(400), 0.8)
    assert {int(later) for later, _ in pairs} == set(range(1, 400))  # all meet the first
    assert len(pairs) < 400 * 100


def test_copies_of_one_that_are_unlike_each_other_all_meet_it() -> None:
    one = text(4)
    rows = [
        one,
        *(changed(one, 6, seed) for seed in range(40)),
    ]  # alike by 0.82 to the first, by 0.67 to each other
    pairs, _ = similar_pairs(np.stack([signature(" ".join(row)) for row in rows]), np.arange(41), 0.75)
    assert len({int(later) for later, earlier in pairs if earlier == 0}) > 32


def test_only_the_given_rows_are_looked_at_in_their_order() -> None:
    signatures = np.stack([signature(" ".join(text(seed))) for seed in (1, 2, 1, 1)])
    assert similar_pairs(signatures, np.array([3, 1, 0]), 0.8)[0].tolist() == [[2, 0]]
    assert similar_pairs(signatures, np.array([], np.int64), 0.8)[0].tolist() == []


def test_short_texts_and_texts_without_words() -> None:
    assert likeness(signature("a b"), signature("A, b!")) == 1.0
    assert likeness(signature("a b"), signature("a c")) < 0.1
    assert likeness(signature("+"), signature("-")) < 0.1 and words("+") == []


def test_signatures_are_the_same_everywhere() -> None:
    found = signature("the same words on every machine and in every version")
    assert found[:3].tolist() == FIXED, "signatures that were stored are worthless now"


FIXED = [442878935, 1254213414, 1103149695]
