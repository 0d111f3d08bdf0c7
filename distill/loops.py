"""Repetition loops: whether a text that is being generated has got stuck.

A reasoning model that falls into a loop seldom leaves it, and then writes to its token limit for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

#: A loop is one period of at most so many tokens, so many times in a row, and so many tokens in all. 256 tokens of one
#: period are beyond what tables, drawings and counted lists of real traces hold.
LONGEST_PERIOD, REPEATS, TOKENS = 512, 4, 256


def is_runaway(token_ids: Sequence[int]) -> bool:
    """Whether the ids end in a loop: a function of the ids alone, in time linear in what it looks at (2,048 tokens).

    Read backwards, the ids are r, and z[p] is the length of the longest prefix of r that stands again at p (the
    Z-algorithm; Gusfield 1997, section 1.4). The last p + z[p] tokens have the period p.
    """
    r = list(token_ids[-REPEATS * LONGEST_PERIOD :])[::-1]
    if len(r) < TOKENS:
        return False
    z = [0] * len(r)
    left = right = 0  # of the match found so far that reaches furthest
    for p in range(1, min(LONGEST_PERIOD, len(r) - 1) + 1):
        length = min(right - p, z[p - left]) if p < right else 0
        while p + length < len(r) and r[length] == r[p + length]:
            length += 1
        z[p] = length
        if p + length >= max(REPEATS * p, TOKENS):
            return True
        if p + length > right:
            left, right = p, p + length
    return False
