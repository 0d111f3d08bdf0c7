"""What must be read out of whole texts when a set is decided: signatures, and overlaps with suites; on all cores.

The first ALONE traces are read in this process, so that small sets start no others. What is read does not depend on
who reads it.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import NamedTuple

from distill.records import Trace
from teacher.contamination import Match, Passage, Suites
from teacher.minhash import signature
from teacher.shingles import words

ALONE = 1000
_AT_ONCE = 32  # traces that go to a process together
_WAITING = 3  # such groups for each process, so that none runs dry


class Reading(NamedTuple):
    """Of one trace: its signature's bytes (none, where nobody asked), and what question and completion overlap."""

    signature: bytes
    question: list[Match]
    completion: list[Match]


def read(problem: str, completion: str, suites: Suites | None, sign: bool) -> Reading:
    """One trace's reading."""
    of_text = words(completion)
    return Reading(
        signature(completion, of_text).tobytes() if sign else b"",
        suites.matches(problem, question=True) if suites else [],
        suites.matches(completion, question=False, of_text=of_text) if suites else [],
    )


def read_all(
    traces: Iterable[Trace], suites: Suites | None, sign: bool
) -> Iterator[tuple[Trace, Reading | None]]:
    """Each trace, in its order, with its reading; None where nothing is asked of the texts."""
    if suites is None and not sign:
        yield from ((trace, None) for trace in traces)
        return
    waiting = iter(traces)
    for trace in islice(waiting, ALONE):
        yield trace, read(trace.problem, trace.completion, suites, sign)
    if following := list(islice(waiting, _AT_ONCE)):
        yield from _beside(following, waiting, suites, sign)


def _beside(
    following: list[Trace], waiting: Iterator[Trace], suites: Suites | None, sign: bool
) -> Iterator[tuple[Trace, Reading]]:
    cores = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of this process's threads
    flying: deque[tuple[list[Trace], Future[list[Reading]]]] = deque()
    with ProcessPoolExecutor(cores, context, _prepare, (suites.passages if suites else None, sign)) as pool:
        while following or flying:
            while following and len(flying) < _WAITING * cores:
                texts = [(trace.problem, trace.completion) for trace in following]
                flying.append((following, pool.submit(_read_some, texts)))
                following = list(islice(waiting, _AT_ONCE))
            group, future = flying.popleft()
            yield from zip(group, future.result(), strict=True)


class _Prepared(NamedTuple):
    suites: Suites | None
    sign: bool


_prepared = _Prepared(None, False)  # of a worker process


def _prepare(passages: list[Passage] | None, sign: bool) -> None:
    global _prepared
    _prepared = _Prepared(None if passages is None else Suites(passages), sign)


def _read_some(texts: list[tuple[str, str]]) -> list[Reading]:
    return [read(problem, completion, *_prepared) for problem, completion in texts]
