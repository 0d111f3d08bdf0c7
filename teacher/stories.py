"""Rewards for stories by rules, each from 0 to 1: an example of rewards of one's own, used by `creative-story.yaml`.

    in_length       1 where the story has as many words as its problem asks for; to either side it falls in a straight
                    line, to 0 at half the least and at twice the most
    has_words       the share of the problem's required words (or several in a row) that stand in it, each in a sentence
                    of its own
    unrepetitive    the share of its runs of three words that have not stood in it before
    varied          the mean of two shares: sentences that do not begin as another does, and the spread of the
                    sentences' lengths (standard deviation over mean; 0.5 and more is 1)

Problems tell ``least``, ``most`` (numbers of words) and ``words`` (parted by commas) as further fields, which become
tags. The story is the final answer; one whose thought never ends, or that holds no word, earns 0 everywhere.

What these do not measure is whether the story is any good: they reward its form, and a policy that is trained on
nothing else will find the dullest text of that form. The measures are our own choice, not a paper's.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from distill.chat import KNOWN_TAGS, split_thought
from teacher.rewards import Answered

LEAST, MOST = 100, 400  # words, where a problem does not say
RUN = 3
FULL_SPREAD = 0.5

_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_SENTENCE_END = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)]*\s+|\n+")


def in_length(answers: list[Answered]) -> list[float]:
    """How well each story keeps to the length that its problem asks for."""
    return [_length(answer) for answer in answers]


def has_words(answers: list[Answered]) -> list[float]:
    """The share of required words in each story; 1 where none is required."""
    return [_required(answer) for answer in answers]


def unrepetitive(answers: list[Answered]) -> list[float]:
    """The share of runs of three words that are new; 0 for stories of fewer words."""
    shares = []
    for answer in answers:
        words = words_of(story(answer))
        runs = [tuple(words[at : at + RUN]) for at in range(len(words) - RUN + 1)]
        shares.append(len(set(runs)) / len(runs) if runs else 0.0)
    return shares


def varied(answers: list[Answered]) -> list[float]:
    """How much the sentences of each story differ in beginning and length; 0 for a single sentence."""
    return [_variety(sentences(story(answer))) for answer in answers]


def story(answer: Answered) -> str:
    """The final answer; empty where there is none."""
    return split_thought(answer.text, (answer.tags, *KNOWN_TAGS)).answer or ""


def words_of(text: str) -> list[str]:
    """The words of a text in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def sentences(text: str) -> list[list[str]]:
    """The words of each sentence that has some."""
    return [words for part in _SENTENCE_END.split(text) if (words := words_of(part))]


def _length(answer: Answered) -> float:
    count = len(words_of(story(answer)))
    least, most = (_number(answer, name, usual) for name, usual in (("least", LEAST), ("most", MOST)))
    if count < least:
        return max(0.0, 2 * count / least - 1)
    if count <= most:
        return 1.0
    return max(0.0, 2 - count / most) if most > 0 else 0.0


def _number(answer: Answered, name: str, usual: float) -> float:
    """A number of words that a problem tells; tables write whole ones as 120.0 too."""
    told = answer.problem.tags.get(name)
    try:
        return usual if told is None else float(told)
    except ValueError:
        raise ValueError(f"problem {answer.problem.id}: {name} is no number: {told}") from None


def _required(answer: Answered) -> float:
    found = sentences(story(answer))
    wanted = [
        " ".join(words) for one in answer.problem.tags.get("words", "").split(",") if (words := words_of(one))
    ]
    if not found:
        return 0.0
    told = [f" {' '.join(words)} " for words in found]
    said = [{one for one in wanted if f" {one} " in text} for text in told]
    return _matched(wanted, said) / len(wanted) if wanted else 1.0


def _matched(wanted: list[str], said: list[set[str]]) -> int:
    """The most words that can each have a sentence of their own (augmenting paths, Kuhn 1955)."""
    owner: dict[int, int] = {}

    def place(word: int, tried: set[int]) -> bool:
        for number, words in enumerate(said):
            if wanted[word] in words and number not in tried:
                tried.add(number)
                if number not in owner or place(owner[number], tried):
                    owner[number] = word
                    return True
        return False

    return sum(place(word, set()) for word in range(len(wanted)))


def _variety(found: list[list[str]]) -> float:
    if len(found) < 2:
        return 0.0
    begun = Counter(words[0] for words in found)
    alone = sum(count for count in begun.values() if count == 1) / len(found)
    mean = sum(map(len, found)) / len(found)
    spread = math.sqrt(sum((len(words) - mean) ** 2 for words in found) / len(found)) / mean
    return (alone + min(1.0, spread / FULL_SPREAD)) / 2
