"""What is measured of a text, against slow twins and by hand."""

from __future__ import annotations

import random

import naive_filters
import pytest

from distill.chat import ThoughtTags
from teacher.measures import CYCLES, RUN, TAIL, code_blocks, longest_paragraph, loop, measure, repetition
from teacher.shingles import hash_runs, normalised, words


@pytest.mark.parametrize("seed", range(30))
def test_repetition_is_its_slow_twin(seed: int) -> None:
    lots = random.Random(seed)
    text = [lots.choice("ab") for _ in range(lots.randint(0, 120))]
    assert repetition(text) == pytest.approx(naive_filters.repetition(text, RUN), abs=1e-4)


@pytest.mark.parametrize("seed", range(60))
def test_a_loop_is_its_slow_twin(seed: int) -> None:
    lots = random.Random(seed)
    period = "".join(lots.choice("ab ") for _ in range(lots.choice([1, 2, 7, 40, 90])))
    inner = "".join(lots.choice("ab") for _ in range(5)) * lots.randint(0, 30)
    head = "".join(lots.choice("abc") for _ in range(lots.randint(0, 200)))
    text = head + (period + inner) * lots.randint(0, 5) + (period + inner)[: lots.randint(0, 60)]
    assert loop(text) == pytest.approx(naive_filters.loop(text, TAIL, CYCLES), abs=1e-4)


def test_loops_of_any_length_and_what_is_none() -> None:
    sentence = "I need to check the area of the triangle again, since the result was not what I expected. "
    page = " ".join(f"Step {number}: try {number * 17}." for number in range(100)) + " "
    assert loop("So. " + "!" * 500) > 0.95
    assert loop("Let me see. " * 3 + sentence * 4) > 0.85
    assert loop(page * 3) == 1.0
    assert loop("It is so. " * 30 + page + "Thus 5. " + sentence * 2) == 0.0  # said twice is no loop
    assert loop(page + sentence) == 0.0 and loop("") == 0.0


def test_a_loop_inside_a_thought_that_was_closed_is_seen() -> None:
    sentence = "I need to check the area of the triangle again, since the result was not what I expected. "
    found = measure(
        f"<think>Well. {sentence * 5}</think>The answer is 5, and we are done with it.", ThoughtTags()
    )
    assert found["loop"] > 0.9 and found["repetition"] > 0.5 and found["well_formed"] == 1


def test_paragraphs_and_code() -> None:
    text = (
        "short\n\n" + "a" * 300 + "\nlist\n\n```python\n" + "b" * 900 + "\n```\n`inline`\n  ```\nagain\n  ```"
    )
    assert (longest_paragraph(text), code_blocks(text)) == (300, 2)
    assert (
        code_blocks("```\nnever closed") == 1 and code_blocks("a ``` b") == 0 and longest_paragraph("") == 0
    )


def test_every_measure_has_its_name() -> None:
    found = measure("<think>We need the sum of the numbers.</think>It is 5.", ThoughtTags())
    assert found == {
        "well_formed": 1.0, "unclosed_thought": 0.0, "repetition": 0.0, "loop": 0.0, "longest_paragraph": 54.0,
        "code_blocks": 0.0, "language.en": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"),
    [("Let $x + y$.", "let x+y"), ("\\left( \\dfrac{1}{2} \\right)", "(\\frac 12".replace("12", "{1}{2}")),
     ("1,000,000 men", "1000000 MEN"), ("10{,}000", "10000"), ("a\\, b\\; c\\quad d", "a b c d"), ("ﬁve", "five"),
     ("\\text{ cm}", "cm"), ("so [asy] draw(a); [/asy] it", "so it"), ("我们", "我 们")],
)  # fmt: skip
def test_looks_make_no_other_words(one: str, other: str) -> None:
    assert words(one) == words(other)


def test_words_that_differ_stay_so() -> None:
    assert (
        words("1.5") != words("1 5") and words("ab") != words("a b") and words("\\leftarrow") == ["leftarrow"]
    )
    assert normalised("\\leq") == "\\leq"


def test_equal_runs_have_equal_numbers_wherever_they_stand() -> None:
    first, second = hash_runs(["a", "b", "c", "d", "e"], 3), hash_runs(["x", "b", "c", "d"], 3)
    assert first[1] == second[1] and len(set(first.tolist() + second.tolist())) == 4
    assert hash_runs(["a", "b"], 3).tolist() == []
    assert hash_runs(["a", "b", "c"], 3)[0] == 14695975401845466609  # stored signatures stand on it
