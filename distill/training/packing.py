"""Several examples to a row, without padding.

Legend: T tokens of a packed row, N trained tokens of it, S segments (examples) of one bucket, L longest of them.

A row is the plain concatenation of examples, sorted by length. Every layer but attention works on the T tokens and
nothing else; attention takes each example on its own, see `attention.py`. Answers to one prompt may share its tokens:
what they go through every layer for is the same for all of them, so it is computed once, and attention alone sees each
example whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from distill.chat import Example

#: Examples are attended together when the longest of them is at most this much longer than the shortest.
BUCKET_GROWTH = 1.25
#: ... or has at most this many tokens more: short examples cost less in padding than in a call of their own.
BUCKET_SLACK = 32
#: Attention, which sees each example whole, has at most so many times the tokens of a row that shares prompts.
MOST_ATTENDED = 2


@dataclass(frozen=True, slots=True)
class Bucket:
    """Neighbouring segments of similar length: ``place_T`` is each of their tokens' place in (S, L), flat."""

    segments: int
    longest: int
    place_T: torch.Tensor


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Some examples as one row.

    ``trained_N`` are the flat positions whose *next* token is trained, ``targets_N`` those tokens, ``example_N`` the
    number (in the caller's list) of the example each belongs to and ``place_N`` its place in that example's response.
    Examples begin and end at ``borders`` (one more than there are examples); ``longest`` counts tokens.

    Where prompts are shared, ``buckets`` and ``borders`` are those of the row with every example whole: ``whole`` holds
    the flat position in this row of each of that row's tokens, ``first_T`` the way back, to a token's first copy.
    """

    ids_T: torch.Tensor
    positions_T: torch.Tensor
    buckets: list[Bucket]
    trained_N: torch.Tensor
    targets_N: torch.Tensor
    example_N: torch.Tensor
    place_N: torch.Tensor
    borders: torch.Tensor
    longest: int
    whole: torch.Tensor | None = None
    first_T: torch.Tensor | None = None


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Best-fit decreasing: each example goes to the fullest row that still has room for it.

    Args:
        lengths: tokens of each example, none above ``room``.
        room: tokens a row holds.

    Returns:
        Rows of example numbers; every number once.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        assert lengths[number] <= room, f"example {number} has {lengths[number]} tokens, a row {room}"
        fits = [row for row, space in enumerate(free) if space >= lengths[number]]
        if fits:
            best = min(fits, key=lambda row: (free[row], row))
            rows[best].append(number)
            free[best] -= lengths[number]
        else:
            rows.append([number])
            free.append(room - lengths[number])
    return rows


def pack_groups(examples: Sequence[Example], numbers: Sequence[int], room: int) -> list[list[int]]:
    """`pack` of these examples' numbers, where those with one prompt stay together as far as a row holds them.

    A row's tokens are counted with every prompt once, but as no fewer than the part MOST_ATTENDED of what attention
    sees: where prompts are longer than answers, its memory would outgrow the row's. ``room`` is at least the longest
    example.
    """
    parts: list[list[int]] = []
    lengths: list[int] = []
    for group in _by_prompt(examples, numbers):
        prompt = examples[group[0]].prompt_length
        shared = attended = 0
        for number in group:
            whole = len(examples[number].ids)
            now = shared + whole - prompt, attended + whole
            if number == group[0] or _counted(*now) > room:
                parts.append([])
                lengths.append(0)
                now = whole, whole
            shared, attended = now
            parts[-1].append(number)
            lengths[-1] = _counted(shared, attended)
    return [[number for part in row for number in parts[part]] for row in pack(lengths, room)]


def _counted(shared: int, attended: int) -> int:
    return max(shared, -(-attended // MOST_ATTENDED))


def tokens_of(examples: Sequence[Example], numbers: Sequence[int]) -> int:
    """Tokens of a row of these examples that share their prompts."""
    groups = _by_prompt(examples, numbers)
    prompts = sum(examples[group[0]].prompt_length for group in groups)
    return prompts + sum(len(examples[number].ids) - examples[number].prompt_length for number in numbers)


def _by_prompt(examples: Sequence[Example], numbers: Sequence[int]) -> list[list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in numbers:
        groups.setdefault(tuple(examples[number].ids[: examples[number].prompt_length]), []).append(number)
    return list(groups.values())


def pack_row(
    examples: Sequence[Example],
    numbers: Sequence[int],
    device: torch.device | str = "cpu",
    *,
    share_prompts: bool = False,
) -> PackedRow:
    """One row of the examples with these numbers, laid out by rising length."""
    order = sorted(numbers, key=lambda n: (len(examples[n].ids), n))
    ids: list[int] = []
    positions: list[int] = []
    trained: list[int] = []
    targets: list[int] = []
    example: list[int] = []
    place: list[int] = []
    whole: list[int] = []
    prompts: dict[tuple[int, ...], int] = {}
    for number in order:
        row = examples[number]
        length, prompt_length = len(row.ids), row.prompt_length
        assert prompt_length > 0, "the first token of a response needs one before it to be predicted from"
        prompt = tuple(row.ids[:prompt_length])
        known = prompts.get(prompt) if share_prompts else None
        if known is None:
            known = prompts[prompt] = len(ids)
            ids.extend(prompt)
            positions.extend(range(prompt_length))
        start = len(ids)
        ids.extend(row.ids[prompt_length:])
        positions.extend(range(prompt_length, length))
        if length > prompt_length:
            trained.extend((known + prompt_length - 1, *range(start, start + length - prompt_length - 1)))
        targets.extend(row.ids[prompt_length:])
        example.extend([number] * (length - prompt_length))
        place.extend(range(length - prompt_length))
        whole.extend((*range(known, known + prompt_length), *range(start, start + length - prompt_length)))
    lengths = [len(examples[number].ids) for number in order]
    packed = PackedRow(
        *(torch.tensor(part, device=device) for part in (ids, positions)),
        _buckets(lengths, device),
        *(torch.tensor(part, dtype=torch.long, device=device) for part in (trained, targets, example, place)),
        torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device),
        max(lengths),
    )
    if len(whole) == len(ids):
        return packed
    copies = dict(zip(reversed(whole), range(len(whole) - 1, -1, -1), strict=True))
    first_T = torch.tensor([copies[at] for at in range(len(ids))], device=device)
    return replace(packed, whole=torch.tensor(whole, device=device), first_T=first_T)


def _buckets(lengths: list[int], device: torch.device | str) -> list[Bucket]:
    """Consecutive segments, cut where the length has outgrown BUCKET_GROWTH and BUCKET_SLACK since the bucket began."""
    buckets = []
    first = 0
    for number in range(1, len(lengths) + 1):
        limit = max(lengths[first] * BUCKET_GROWTH, lengths[first] + BUCKET_SLACK)
        if number < len(lengths) and lengths[number] <= limit:
            continue
        longest = lengths[number - 1]
        length_S = torch.tensor(lengths[first:number])
        place_T = (torch.arange(longest) < length_S[:, None]).flatten().nonzero()[:, 0]
        buckets.append(Bucket(number - first, longest, place_T.to(device)))
        first = number
    return buckets
