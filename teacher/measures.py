"""What the filters need to know of a text: numbers, each a pure function of the text, stored on its row.

They are taken once, when a trace is written, so that a filter's threshold can change without reading the texts again.
"""

from __future__ import annotations

import re

import numpy as np

from distill.chat import KNOWN_TAGS, ThoughtState, ThoughtTags, is_well_formed, split_thought
from distill.language import language_shares
from teacher.shingles import hash_runs, words

RUN = 10  # words; shorter runs come back in any long calculation
TAIL = 64  # characters that must come back for a loop
CYCLES = 3  # the round of a period that must have begun, so that an answer said twice is no loop

#: Added to a language's name as `distill.language` tells it.
LANGUAGE = "language."

_FENCED = re.compile(r"^[ \t]*```", re.MULTILINE)


def measure(text: str, tags: ThoughtTags | None) -> dict[str, float]:
    """Every measure of a text (prefill included).

    ``well_formed`` and ``unclosed_thought`` are 0 or 1; ``repetition`` and ``loop`` are shares of the text (see the
    functions of these names); ``longest_paragraph`` is characters; ``code_blocks`` a count; ``language.en`` and the
    like are shares of its words, languages that it does not hold left out.

    Args:
        tags: the family in which the text has to be well formed; None: it is written in none.
    """
    families = (tags, *KNOWN_TAGS) if tags else KNOWN_TAGS
    parts = split_thought(text, families)
    found = {
        "well_formed": float(tags is not None and is_well_formed(text, tags)),
        "unclosed_thought": float(parts.state is ThoughtState.OPEN),
        "repetition": repetition(words(text)),
        # A thought may run in circles and still be closed, by the model or by who cut it there.
        "loop": max(loop(text), loop(parts.thought or "")),
        "longest_paragraph": float(longest_paragraph(text)),
        "code_blocks": float(code_blocks(text)),
    }
    shares = language_shares(text)
    return found | {f"{LANGUAGE}{language}": round(share, 4) for language, share in shares.items()}


def is_measured(measures: dict[str, float]) -> bool:
    """Whether a row holds these measures; sets of earlier versions hold two of them."""
    return "code_blocks" in measures


def repetition(of_text: list[str]) -> float:
    """The share of a text's runs of RUN words that have stood in it before; 0 for a text shorter than that."""
    runs_N = hash_runs(of_text, RUN)
    return round(1 - len(np.unique(runs_N)) / len(runs_N), 4) if len(runs_N) else 0.0


def loop(text: str) -> float:
    """The share of a text, at its end, that repeats one period; 0 unless a third round of it has begun.

    The period may be of any length: a sign, a sentence, or pages. TAIL characters make a beginning. Blanks at the end
    do not count.
    """
    text = text.rstrip()
    if len(text) < CYCLES - 1 + TAIL:
        return 0.0
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    size, longest, end = len(text), 0, len(text) - 1
    tail = text[-TAIL:]
    # Each place where the last TAIL characters have stood before tells a period; how far back it holds is the run.
    while (at := text.rfind(tail, 0, end)) >= 0:
        period = size - TAIL - at
        differ = np.flatnonzero(letters[period:] != letters[:-period])
        run = size - (int(differ[-1]) + 1 if len(differ) else 0)
        if run >= (CYCLES - 1) * period + TAIL:
            longest = max(longest, run)
        # Any period up to run - period holds no further back: where it broke, so would this one (Fine and Wilf 1965).
        end = min(at + TAIL - 1, size - (run - period))
    return round(longest / size, 4)


def longest_paragraph(text: str) -> int:
    """Characters of the longest stretch without a line break, code blocks apart."""
    parts = _FENCED.split(text)
    return max((len(line.strip()) for prose in parts[::2] for line in prose.split("\n")), default=0)


def code_blocks(text: str) -> int:
    """Fenced blocks; one that is opened and not closed counts."""
    return (len(_FENCED.findall(text)) + 1) // 2
