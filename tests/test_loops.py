"""What counts as a loop, against the definition word by word."""

from __future__ import annotations

import random
from types import ModuleType

import pytest

from distill.loops import LONGEST_PERIOD, REPEATS, is_runaway


def varied(count: int, seed: int = 0, vocabulary: int = 50_000) -> list[int]:
    return random.Random(seed).choices(range(vocabulary), k=count)


@pytest.mark.parametrize(
    ("period", "tokens", "expected"),
    [
        (1, 256, True), (1, 255, False), (7, 256, True), (7, 255, False), (64, 256, True), (64, 255, False),
        (65, 260, True), (65, 259, False), (512, 2048, True), (512, 2047, False), (513, 4000, False),
        (300, 1200, True), (300, 1199, False),
    ],
)  # fmt: skip
def test_a_loop_is_one_period_often_enough_and_long_enough(period: int, tokens: int, expected: bool) -> None:
    loop = varied(period, seed=1)
    repeated = [loop[place % period] for place in range(tokens)]
    assert is_runaway(varied(3000) + repeated) is expected
    assert is_runaway(repeated) is expected
    assert not is_runaway([*repeated, -1]), "a loop that has ended is none"


def test_it_equals_the_definition(naive: ModuleType) -> None:
    """Small alphabets, where periods within periods abound; loops of all lengths around the bounds."""
    found = {True: 0, False: 0}
    for seed in range(300):
        rng = random.Random(seed)
        period = rng.choice([1, 2, 3, 5, 31, 63, 64, 65, 127, 200])
        loop = rng.choices(range(rng.choice([1, 2, 3])), k=period)
        length = rng.choice([0, 255, 256, 257, 4 * period - 1, 4 * period, 4 * period + 1, 900])
        ids = rng.choices(range(2), k=rng.randrange(40)) + [loop[at % period] for at in range(length)]
        if rng.random() < 0.3 and ids:
            ids[rng.randrange(len(ids))] = 9
        expected = naive.is_runaway(ids)
        found[expected] += 1
        assert is_runaway(ids) is expected, (seed, period, length)
    assert min(found.values()) > 50


def test_the_end_of_a_text_is_compared_a_few_times_over() -> None:
    """255 equal tokens, where each period fits for long and none long enough: anew for each, 32,000 comparisons."""
    compared = 0

    class Token(int):
        __hash__ = int.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return int(self) == other

    for ids in ([0] * 1500 + [1] + [0] * 255, varied(200_000), [*varied(100_000, vocabulary=2), 5]):
        compared = 0
        assert not is_runaway([Token(token) for token in ids])
        assert compared <= 2 * REPEATS * LONGEST_PERIOD


def test_no_text_is_no_loop() -> None:
    assert (
        not is_runaway([]) and not is_runaway([1]) and not is_runaway((1,) * 255) and is_runaway((1,) * 256)
    )
