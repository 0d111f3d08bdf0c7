"""Texts as sequences of words, and runs of words as 64-bit numbers: what repetition, likeness and overlap are told by.

Legend: W words of a text, N = W - n + 1 runs of n words.
"""

from __future__ import annotations

import re
import unicodedata
from zlib import crc32

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

#: Numbers, runs of letters, and single characters of scripts without spaces; everything else only parts them.
_WORD = re.compile(
    r"\d+(?:\.\d+)?|[\u3041-\u30ff\u3400-\u9fff\u0e01-\u0e5b]|[^\W\d_\u3041-\u30ff\u3400-\u9fff]+"
)
# What LaTeX writes for looks alone, and commas inside numbers.
_LOOKS = re.compile(
    r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|q?quad|limits|text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox|hspace\{[^{}]*\})(?![a-z])"
    r"|\\[,;:! ]|(?<=\d)(?:,|\{,\}|\\,)(?=\d{3})"
)
_DRAWING = re.compile(
    r"\[asy\].{0,20000}?(?:\[/asy\]|\Z)", re.DOTALL
)  # the code of a diagram is nobody's wording
_FRACTION = re.compile(r"\\[dtc]frac(?![a-z])")
_BASE = np.uint64(0x9E3779B97F4A7C15)


def normalised(text: str) -> str:
    """A text in small letters, without drawings and what LaTeX writes for looks: spacing, brackets' sizes, ..."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _FRACTION.sub(r"\\frac", _LOOKS.sub("", _DRAWING.sub(" ", text.lower())))


def words(text: str) -> list[str]:
    """The words of a text: case, punctuation, signs and white space do not count."""
    return _WORD.findall(normalised(text))


def hash_runs(of_text: list[str], n: int) -> Hashes:
    """A 64-bit number for each run of ``n`` words, the same on every machine; equal runs have equal numbers [N]."""
    if len(of_text) < n:
        return np.empty(0, np.uint64)
    codes = {word: crc32(word.encode("utf-8", "surrogatepass")) for word in set(of_text)}
    words_W = np.fromiter(map(codes.__getitem__, of_text), np.uint64, len(of_text))
    return mix_runs(words_W, n)


def mix_runs(words_W: Hashes, n: int) -> Hashes:
    """The runs' numbers from their words': a polynomial of them modulo 2**64, its bits then stirred (splitmix64)."""
    count = len(words_W) - n + 1
    runs_N = np.zeros(count, np.uint64)
    for place in range(n):
        runs_N = runs_N * _BASE + words_W[place : place + count] + np.uint64(1)
    runs_N = (runs_N ^ (runs_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    runs_N = (runs_N ^ (runs_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return runs_N ^ (runs_N >> np.uint64(31))
