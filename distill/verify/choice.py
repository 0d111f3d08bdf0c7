"""Multiple choice: the letter that an answer settles on."""

from __future__ import annotations

import re

from distill.verify.marks import last_boxed, last_tagged

SHORT = 200  # characters; an answer no longer than this may be the option itself: "B) Paris"

# Every repetition is bounded, for the texts are a model's. Pieces: a letter in whatever brackets ("A" before a word
# that goes on with the sentence is the article), the nouns that announce it, and what stands between them.
_WRAPPER = r"(?:\\(?:text|textbf|mathrm|mathbf|boxed)\s{0,3}\{\s{0,3}|\\\(|[(\[*_$\"'\u201c\u2018`]){0,6}"
_GOES_ON = r"\s{1,9}(?!because|since|as|which|and|with|is|for|due|by)[a-z]"
_LETTER = f"{_WRAPPER}(?:[AI](?!{_GOES_ON})|[B-HJ-Z])" + r"(?![A-Za-z]|['\u2019][A-Za-z])"
_NOUN = r"(?:answer|choice|option|solution|letter|response|\u7b54\u6848|\u9009\u9879)"
_IS = r"(?:\s{1,9}(?:is|are|would be|must be|should be)|\s{0,9}[:=]|\u662f|\u4e3a|\uff1a)"
_ADVERB = r"(?:clearly|thus|therefore|probably|likely|definitely|simply|hence)"
_GAP = rf"[\s:*_]{{0,9}}(?:{_ADVERB}\s{{1,9}})?"
_NAMED = rf"(?:the\s{{1,9}})?(?:{_NOUN}\s{{1,9}})?({_LETTER})"
_CLOSED = r"[)\]*_.:]{0,6}"
_VERB = r"(?:choose|pick|select|go with|conclude)"

_HEDGE = re.compile(
    r"[\W_]{0,9}(?:[,/&]|\b(?:or|and)\b)[\W_]{0,9}(?:(?:option|choice)\s{1,3})?\(?([A-Z])(?![A-Za-z]|['\u2019][A-Za-z])"
)
_SMALL = re.compile(r"\W{0,9}(?:\\text\{)?\W{0,3}([a-z])\W{0,9}")
_ONLY = re.compile(r"[A-Z](?![A-Za-z])")
_BRACKETED = re.compile(r"\(([A-Z])\)")
_FIRST = re.compile(rf"\W{{0,9}}(?:text\{{)?\W{{0,3}}(?:(?i:option|choice|answer))?\W{{0,9}}({_LETTER})")
_OPTION = re.compile(rf"\s{{0,9}}({_LETTER})\s{{0,3}}(?:[)\].:]|$)")
# The last match of the first pattern that matches anywhere decides.
_SAID = (
    re.compile(rf"\bfinal {_NOUN}[*_]{{0,4}}{_IS}{_GAP}{_NAMED}", re.IGNORECASE),
    re.compile(rf"{_NOUN}[*_]{{0,4}}{_IS}{_GAP}{_NAMED}", re.IGNORECASE),
    re.compile(rf"\b{_VERB}\s{{1,9}}{_NAMED}", re.IGNORECASE),
    re.compile(
        rf"(?<![A-Za-z])({_LETTER}){_CLOSED}\s{{1,3}}is (?:the )?(?:correct|right|best|answer)", re.IGNORECASE
    ),
    re.compile(rf"^[ \t]{{0,9}}({_LETTER})[ \t)\]*_$.:\"}}\u201d]{{0,12}}$", re.MULTILINE),
)


def extract_choice(answer: str) -> str | None:
    r"""The chosen letter, by its strongest mark, the last of its kind; None where no mark stands.

    Marks: ``\boxed{B}``, ``<answer>B</answer>``, "final answer: B", "ANSWER: B", "the answer is (B)", "I choose B",
    "B is correct", a line with a lone letter, and a short answer of one line that begins as an option does. A
    letter that merely stands in the reasoning is none.
    """
    for marked in (last_boxed(answer), last_tagged(answer)):
        if marked is None:
            continue
        if match := _FIRST.match(marked):
            return None if _hedged(marked, match) else _upper(match[1])
        if small := _SMALL.fullmatch(marked):
            return small[1].upper()
    for pattern in _SAID:
        found = [match for match in pattern.finditer(answer) if _upper(match[1])]
        if found:
            return None if _hedged(answer, found[-1]) else _upper(found[-1][1])
    line = answer.strip()
    if len(line) > SHORT or "\n" in line or len(set(_BRACKETED.findall(line))) > 1:
        return None
    match = _OPTION.match(line)
    return _upper(match[1]) if match else None


def _hedged(text: str, match: re.Match[str]) -> bool:
    """Whether another letter is named in the same breath: "B or C"."""
    other = _HEDGE.match(text, match.end(1))
    return other is not None and other[1] != _upper(match[1])


def _upper(found: str) -> str | None:
    """The letter itself; None for a small one, which is a word."""
    letters = _ONLY.findall(found.rpartition("{")[2])
    return str(letters[-1]) if letters else None
