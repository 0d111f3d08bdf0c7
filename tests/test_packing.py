"""Packed rows: every example once, no row over its room, each trained token with its example and place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.chat import Example
from distill.training.packing import BUCKET_GROWTH, BUCKET_SLACK, pack, pack_groups, pack_row

LENGTHS = st.lists(st.integers(1, 50), max_size=40)


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, slack=st.integers(0, 60))
def test_every_example_once_and_no_row_over_its_room(lengths: list[int], slack: int) -> None:
    room = max(lengths, default=1) + slack
    rows = pack(lengths, room)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    assert all(row for row in rows)
    filled = [sum(lengths[number] for number in row) for row in rows]
    assert all(tokens <= room for tokens in filled)
    # Two rows that would fit into one are never left apart.
    assert sum(sorted(filled)[:2]) > room or len(rows) < 2
    assert pack(lengths, room) == rows


def test_fills_the_fullest_row_that_still_has_room() -> None:
    assert pack([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    assert pack([7, 6, 3, 4], 10) == [[0, 2], [1, 3]]
    assert pack([], 10) == []


def test_an_example_longer_than_a_row_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="example 1 has 11 tokens, a row 10"):
        pack([3, 11], 10)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(
        st.tuples(st.integers(1, 60), st.lists(st.integers(0, 30), min_size=1, max_size=6)), max_size=8
    ),
    slack=st.integers(0, 60),
)
def test_groups_share_their_prompts_and_no_row_is_over_its_room(
    groups: list[tuple[int, list[int]]], slack: int
) -> None:
    made = [
        Example(
            [1000 * group + place for place in range(prompt)] + [-place for place in range(response)], prompt
        )
        for group, (prompt, responses) in enumerate(groups)
        for response in responses
    ]
    room = max((len(one.ids) for one in made), default=1) + slack
    rows = pack_groups(made, range(len(made)), room)
    assert sorted(number for row in rows for number in row) == list(range(len(made)))
    alone = 0
    for numbers in rows:
        row = pack_row(made, numbers, share_prompts=True)
        assert len(row.ids_T) <= room
        alone += len(row.ids_T)
        whole = row.ids_T if row.whole is None else row.ids_T[row.whole]
        order = sorted(numbers, key=lambda n: (len(made[n].ids), n))
        assert len(whole) <= 2 * room, "what attention has in memory"
        assert whole.tolist() == [token for number in order for token in made[number].ids]
        if row.whole is not None and row.first_T is not None:
            assert row.whole[row.first_T].tolist() == list(range(len(row.ids_T)))
    if slack == 60 and len(rows) == 1:
        assert alone == sum(prompt + sum(responses) for prompt, responses in groups)


def test_long_prompts_that_many_short_answers_share_fill_a_row_by_what_attention_sees() -> None:
    """16 answers of 10 tokens to one prompt of 90: 250 tokens in a row of 400, of which attention would make 1,600."""
    made = [Example([*range(90), *[number] * 10], 90) for number in range(16)]
    assert [len(row) for row in pack_groups(made, range(16), 400)] == [8, 8]
    assert [len(row) for row in pack_groups(made, range(16), 800)] == [16]


@st.composite
def examples(draw: st.DrawFn) -> list[Example]:
    lengths = draw(st.lists(st.integers(2, 200), min_size=1, max_size=12))
    made = []
    for number, length in enumerate(lengths):
        ids = [1000 * number + place for place in range(length)]
        made.append(Example(ids, draw(st.integers(1, length - 1))))
    return made


@settings(max_examples=60, deadline=None)
@given(examples=examples(), data=st.data())
def test_a_row_holds_its_examples_and_trains_their_responses(
    examples: list[Example], data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(examples))), min_size=1, unique=True))
    row = pack_row(examples, chosen)
    ids, positions = row.ids_T.tolist(), row.positions_T.tolist()
    assert sorted(ids) == sorted(token for number in chosen for token in examples[number].ids)
    assert all(
        examples[token // 1000].ids[position] == token for token, position in zip(ids, positions, strict=True)
    )

    found: dict[int, list[int]] = {number: [] for number in chosen}
    trained = zip(row.trained_N, row.targets_N, row.example_N, row.place_N, strict=True)
    for at, target, number, place in ((int(a), int(b), int(c), int(d)) for a, b, c, d in trained):
        example = examples[number]
        assert target == example.ids[example.prompt_length + place]
        assert ids[at] == example.ids[example.prompt_length + place - 1], "it stands just before its target"
        assert ids[at + 1] == target
        found[number].append(target)
    assert found == {number: examples[number].ids[examples[number].prompt_length :] for number in chosen}


@settings(max_examples=60, deadline=None)
@given(examples=examples())
def test_buckets_cover_the_row_in_order_with_little_padding(examples: list[Example]) -> None:
    row = pack_row(examples, range(len(examples)))
    start = 0
    for bucket in row.buckets:
        segment_T, column_T = bucket.place_T // bucket.longest, bucket.place_T % bucket.longest
        lengths = segment_T.bincount(minlength=bucket.segments)
        assert lengths.max() == bucket.longest, "no column is padding throughout"
        assert bucket.longest <= max(lengths.min() * BUCKET_GROWTH, lengths.min() + BUCKET_SLACK)
        for length, columns in zip(lengths.tolist(), column_T.split(lengths.tolist()), strict=True):
            assert columns.tolist() == list(range(length))
            owners = {token // 1000 for token in row.ids_T[start : start + length].tolist()}
            assert len(owners) == 1, "a segment is one example"
            start += length
    assert start == len(row.ids_T)


def test_a_response_needs_a_token_before_it() -> None:
    with pytest.raises(AssertionError, match="first token"):
        pack_row([Example([1, 2], 0)], [0])
