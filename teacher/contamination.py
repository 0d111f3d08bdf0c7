"""Whether a training text overlaps an evaluation suite: its questions, and its worked solutions where it brings them.

DeepSeek-R1 (arXiv 2501.12948) drops what shares ten words in a row with a question or reference solution of a suite.
Ten such words ("express your answer as a common fraction ...") also join problems that have nothing in common, and a
problem asked with other numbers is another problem. So ten words only make a suspect, and this is what convicts one:

* aligned word by word, the two share half the words of the shorter and half the numbers and signs of the suite's
  text, or LONG_RUN words in a row;
* and no number or sign of the suite's text is another one in the training text ("translated numbers" are left alone).

A question of fewer than ten words must be the same as the training question but for case, punctuation, spacing and
words that only ask. Words that RUN together in COMMON problems of a suite are its wording, and make no suspect.
Not found: translations, paraphrases, and what shares fewer than ten words in a row.

Legend: N runs of ten words of a text.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np

from distill.suites import Suite, load_solutions, load_suite
from teacher.shingles import hash_runs, normalised, words

RUN = 10
LONG_RUN = 20
COMMON = 3
_SHARED = 0.5
_SUSPECTS = 32  # passages that one text is aligned with, those of most shared runs first

_TOKEN = re.compile(
    r"\d+(?:\.\d+)?|[\u3041-\u30ff\u3400-\u9fff\u0e01-\u0e5b]|[^\W\d_\u3041-\u30ff\u3400-\u9fff]+|[-+*/^=<>!]"
)
_ASKING = frozenset(
    ["what", "is", "are", "the", "value", "of", "compute", "find", "evaluate", "calculate", "simplify", "determine",
     "solve", "please", "a", "an", "for"]
)  # fmt: skip


class Passage(NamedTuple):
    """A text of a suite: the ``question`` or ``solution`` of one of its problems."""

    suite: str
    problem_id: str
    part: str
    text: str


class Match(NamedTuple):
    """What a text overlaps; ``words`` are the first shared ones, ``share`` of the shorter text's words are shared."""

    suite: str
    problem_id: str
    part: str
    words: str
    share: float


class Suites:
    """The passages of some suites, indexed.

    Attributes:
        passages: as given.
        identity: of each suite, a hash of its passages: what was compared with another text was compared with others.
    """

    def __init__(self, passages: Iterable[Passage]) -> None:
        self.passages = list(passages)
        texts: dict[str, list[str]] = defaultdict(list)
        self._short: dict[tuple[str, ...], Passage] = {}
        runs: dict[int, set[int]] = defaultdict(set)
        for number, passage in enumerate(self.passages):
            texts[passage.suite].append("\x1f".join(passage[1:]))
            of_text = words(passage.text)
            if len(of_text) < RUN and passage.part == "question":
                self._short.setdefault(_asked(passage.text), passage)
            for run in hash_runs(of_text, RUN).tolist():
                runs[run].add(number)
        self._runs = {run: found for run, found in runs.items() if not self._is_wording(found)}
        self._known_N = np.fromiter(self._runs, np.uint64, len(self._runs))
        self._known_N.sort()
        self.identity = {suite: _hash(lines) for suite, lines in texts.items()}

    def _is_wording(self, found: set[int]) -> bool:
        problems = {self.passages[number][:2] for number in found}
        return max(Counter(suite for suite, _ in problems).values()) >= COMMON

    def matches(self, text: str, *, question: bool, of_text: list[str] | None = None) -> list[Match]:
        """What a text overlaps, at most one match for each problem of a suite, in the suites' order.

        Args:
            question: the text is a whole question, so short ones are compared too.
            of_text: its words, where they are known already.
        """
        found: dict[tuple[str, str], Match] = {}
        of_text = words(text) if of_text is None else of_text
        if question and (short := self._short.get(_asked(text))) is not None:
            found[short[:2]] = Match(*short[:3], " ".join(of_text), 1.0)
        runs_N = hash_runs(of_text, RUN)
        if not len(runs_N) or not len(self._known_N):
            return list(found.values())
        near = np.minimum(np.searchsorted(self._known_N, runs_N), len(self._known_N) - 1)
        places: dict[int, list[int]] = defaultdict(list)
        for place in np.flatnonzero(self._known_N[near] == runs_N).tolist():
            for number in self._runs[int(runs_N[place])]:
                places[number].append(place)
        suspects = sorted(places, key=lambda number: (-len(places[number]), number))[:_SUSPECTS]
        aligned = _tokens(text, of_text) if suspects else ([], [])
        for number in sorted(suspects):
            passage = self.passages[number]
            share = _overlap(passage.text, aligned, places[number][0])
            if share is not None and passage[:2] not in found:
                first = " ".join(of_text[places[number][0] : places[number][0] + RUN])
                found[passage[:2]] = Match(*passage[:3], first, round(share, 3))
        return list(found.values())


def indexed(suites: Sequence[Suite], seed: int) -> Suites:
    """The questions of suites, and their solutions where their data brings them.

    Args:
        seed: draws the problems of suites of the built-in world.

    Raises:
        UserError: a suite cannot be read.
    """
    passages: list[Passage] = []
    for suite in suites:
        whole = replace(suite, source=suite.source.model_copy(update={"limit": None}))
        solutions = load_solutions(whole)
        for problem in load_suite(whole, seed):
            passages.append(Passage(suite.name, problem.id, "question", problem.problem))
            if problem.id in solutions:
                passages.append(Passage(suite.name, problem.id, "solution", solutions[problem.id]))
    return Suites(passages)


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\x1e".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _asked(text: str) -> tuple[str, ...]:
    """A question as words and signs, without those that only ask."""
    return tuple(token for token in _TOKEN.findall(normalised(text)) if token not in _ASKING)


def _tokens(text: str, of_text: list[str]) -> tuple[list[str], list[int]]:
    """Words and signs of a text, and the place of each of its words among them."""
    tokens = _TOKEN.findall(normalised(text))
    places = [place for place, token in enumerate(tokens) if token not in "-+*/^=<>!"]
    assert len(places) == len(of_text), (len(places), len(of_text))
    return tokens, places


def _overlap(passage: str, aligned: tuple[list[str], list[int]], first: int) -> float | None:
    """The share of the shorter text's words that both hold in one order; None where that convicts nobody.

    Args:
        aligned: the other text, as `_tokens` gives it.
        first: its word at which the first shared run begins.
    """
    theirs = _TOKEN.findall(normalised(passage))
    tokens, places = aligned
    # The passage could lie anywhere around the first shared run; what is further away cannot belong to it.
    start = max(0, places[first] - len(theirs) - len(theirs) // 4)
    ours = tokens[start : places[first] + len(theirs) + len(theirs) // 4]
    shared = longest = numbers = 0
    for kind, a, b, c, d in SequenceMatcher(None, theirs, ours, autojunk=False).get_opcodes():
        if kind == "equal":
            shared, longest = shared + b - a, max(longest, b - a)
            numbers += sum(map(_is_number, theirs[a:b]))
        elif kind == "replace" and _renumbered(theirs[a:b], ours[c:d]):
            return None
    share = shared / min(len(theirs), len(ours))
    same = share >= _SHARED and numbers >= _SHARED * sum(map(_is_number, theirs))
    return share if same or longest >= LONG_RUN else None


def _renumbered(theirs: list[str], ours: list[str]) -> bool:
    """Whether a stretch that differs holds a number or sign on both sides: one question, asked of other numbers."""
    return any(map(_is_number, theirs)) and any(map(_is_number, ours))


def _is_number(token: str) -> bool:
    return token[0].isdigit() or token in "-+*/^=<>!"
