r"""The rules of IFEval: functions of a text and an instruction's arguments.

Our own, from the descriptions in Zhou et al. 2023 ("Instruction-Following Evaluation for Large Language Models") and
the wordings of its prompts.

Where we cannot do as the authors' tools do, we differ: sentences end at marks followed by a blank, but for known
abbreviations (theirs: NLTK's trained splitter); words in capitals are runs of letters (theirs: NLTK's tokenizer);
languages are told by `told_language` (theirs: langdetect). Every rule is linear in its text, which a model wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from distill.verify.told_language import LANGUAGES, is_in_language


class ArgumentMistake(ValueError):
    """An instruction's argument is of no use to its rule; the message says why."""


class Rule(NamedTuple):
    """What checks an instruction, and the names of its arguments."""

    follows: Callable[..., bool]
    arguments: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------ arguments


def _holds(number: int, relation: Any, bound: Any) -> bool:
    least = _count(bound)
    if relation == "at least":
        return number >= least
    if relation == "less than":
        return number < least
    raise ArgumentMistake(f"relation {relation!r} is neither 'at least' nor 'less than'")


def _count(value: Any) -> int:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())  # nan and inf are not
    if isinstance(value, bool) or not whole:
        raise ArgumentMistake(f"{value!r} is no whole number")
    return int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ArgumentMistake(f"{value!r} is no text")
    return value


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise ArgumentMistake(f"{value!r} is no list of texts")
    return [_text(one) for one in value]


# ------------------------------------------------------------------------------------ words


def _existence(text: str, keywords: Any) -> bool:
    return all(word.lower() in text.lower() for word in _texts(keywords))


def _frequency(text: str, keyword: Any, frequency: Any, relation: Any) -> bool:
    return _holds(text.lower().count(_text(keyword).strip().lower()), relation, frequency)


def _forbidden(text: str, forbidden_words: Any) -> bool:
    return not any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in _texts(forbidden_words)
    )


def _letters(text: str, letter: Any, let_frequency: Any, let_relation: Any) -> bool:
    if len(_text(letter)) != 1:
        raise ArgumentMistake(f"{letter!r} is not one character")
    return _holds(text.lower().count(letter.lower()), let_relation, let_frequency)


def _words(text: str, num_words: Any, relation: Any) -> bool:
    return _holds(len(re.findall(r"\w+", text)), relation, num_words)


_RUN = re.compile(r"[^\W\d_]+(?:[-'\u2019][^\W\d_]+)*")


def _capitals(text: str, capital_frequency: Any, capital_relation: Any) -> bool:
    return _holds(sum(word.isupper() for word in _RUN.findall(text)), capital_relation, capital_frequency)


# ------------------------------------------------------------------------------------ sentences, paragraphs

_ENDS = re.compile(r"[.!?\u2026]{1,9}[\"'\u201d\u2019)\]*_]{0,5}(?=\s|$)|[\u3002\uff01\uff1f\u0964]")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|no|fig|approx|inc|ltd|co|corp|gen|col|sgt|rev|hon|mt|"
    r"jan|feb|mar|apr|aug|sept?|oct|nov|dec|e\.g|i\.e|u\.s|u\.k|a\.m|p\.m|ph\.d|[a-z])\.$",
    re.IGNORECASE,
)
_ONLY_MARKS = re.compile(r"[\W_\d]*")
_ABBREVIATION_REACH = 12  # characters before a mark that are looked at


def count_sentences(text: str) -> int:
    """Sentences of a text: what stands between ends of sentences, or a blank line, and holds a letter."""
    found = 0
    for block in re.split(r"\n[ \t]*\n", text):
        start = 0
        for end in _ENDS.finditer(block):
            before = block[max(start, end.start() - _ABBREVIATION_REACH) : end.start() + 1]
            follows = block[end.end() : end.end() + 2].lstrip()
            if (
                end[0] == "."
                and _ABBREVIATION.search(before)
                and follows
                and not _starts_anew(before, follows)
            ):
                continue
            if not _ONLY_MARKS.fullmatch(block[start : end.start()]):
                found += 1
            start = end.end()
        found += not _ONLY_MARKS.fullmatch(block[start:])
    return found


def _starts_anew(before: str, follows: str) -> bool:
    """Whether a sentence begins behind "etc." and its like, which may end one; behind "Mr." or an initial none does."""
    may_end = re.search(r"(?:etc|a\.m|p\.m|inc|ltd|co|corp|u\.s|u\.k)\.$", before, re.IGNORECASE)
    return may_end is not None and follows[0].isupper()


def _sentences(text: str, num_sentences: Any, relation: Any) -> bool:
    return _holds(count_sentences(text), relation, num_sentences)


def _paragraphs(text: str, num_paragraphs: Any) -> bool:
    """Parted by ``***``; an empty one between two is a mistake, one at either end is none at all."""
    parts = [part.strip() for part in text.split("***")]
    last = len(parts) - 1
    start = next((place for place, part in enumerate(parts) if part), last)
    end = next((place for place in range(last, start, -1) if parts[place]), start)
    return all(parts[start : end + 1]) and end + 1 - start == _count(num_paragraphs)


_WORD_END = re.compile(r"[.,?!'\"]")


def _first_word(text: str, num_paragraphs: Any, nth_paragraph: Any, first_word: Any) -> bool:
    """Paragraphs parted by blank lines; empty ones do not count."""
    nth, wanted = _count(nth_paragraph), _text(first_word).lower()
    parts = text.split("\n\n")
    whole = [part for part in parts if part.strip()]
    if len(whole) != _count(num_paragraphs) or not 1 <= nth <= len(whole) or not parts[nth - 1].strip():
        return False
    word = parts[nth - 1].split()[0].lstrip("'").lstrip('"')
    return _WORD_END.split(word, maxsplit=1)[0].lower() == wanted


def _two_responses(text: str) -> bool:
    """Two different answers parted by six asterisks."""
    parts = [part.strip() for part in text.split("******")]
    inner = [part for place, part in enumerate(parts) if part or 0 < place < len(parts) - 1]
    return len(inner) == 2 and all(inner) and inner[0] != inner[1]


# ------------------------------------------------------------------------------------ marks and forms


def _pairs(text: str, opening: str, closing: str) -> list[str]:
    """What stands between an opening and the next closing mark of the same line, from left to right."""
    found = []
    for line in text.split("\n"):
        start = line.find(opening)
        while start >= 0:
            end = line.find(closing, start + len(opening))
            if end < 0:
                break
            found.append(line[start + len(opening) : end])
            start = line.find(opening, end + len(closing))
    return found


def _placeholders(text: str, num_placeholders: Any) -> bool:
    return len(_pairs(text, "[", "]")) >= _count(num_placeholders)


def _title(text: str) -> bool:
    return any(title.strip("<>").strip() for title in _pairs(text, "<<", ">>"))


_HIGHLIGHT, _BOLD = re.compile(r"\*([^\n*]*)\*"), re.compile(r"\*\*([^\n*]*)\*\*")


def _highlights(text: str, num_highlights: Any) -> bool:
    found = [part for mark in (_HIGHLIGHT, _BOLD) for part in mark.findall(text) if part.strip()]
    return len(found) >= _count(num_highlights)


def _bullets(text: str, num_bullets: Any) -> bool:
    """Lines that begin with ``-``, or with one ``*`` and something behind it: as many as asked for, and no more."""
    lines = [line.lstrip() for line in text.split("\n")]
    starred = sum(line.startswith("*") and len(line) > 1 and line[1] != "*" for line in lines)
    return starred + sum(line.startswith("-") for line in lines) == _count(num_bullets)


def _sections(text: str, section_spliter: Any, num_sections: Any) -> bool:
    marks = re.findall(rf"{re.escape(_text(section_spliter))}\s?\d+", text)
    return len(marks) >= _count(num_sections)


_FENCE = re.compile(r"```(?:json)?", re.IGNORECASE)


def _json(text: str) -> bool:
    bare = text.strip()
    if opening := _FENCE.match(bare):
        bare = bare[opening.end() :]
    try:
        json.loads(bare.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _constrained(text: str) -> bool:
    return any(f"my answer is {word}." in text.lower() for word in ("yes", "no", "maybe"))


def _postscript(text: str, postscript_marker: Any) -> bool:
    marker = _text(postscript_marker).strip().lower()
    if marker.rstrip(".") in ("p.s", "p.p.s"):  # written with blanks between by some
        letters = [re.escape(letter) for letter in marker.rstrip(".").split(".")]
        return (
            re.search(r"\.\s?".join(letters) + (r"\." if marker.endswith(".") else ""), text.lower())
            is not None
        )
    return marker in text.lower()


def _no_comma(text: str) -> bool:
    return "," not in text


def _quotation(text: str) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def _ends_with(text: str, end_phrase: Any) -> bool:
    return text.strip().strip('"').lower().endswith(_text(end_phrase).strip().lower())


def _repeats(text: str, prompt_to_repeat: Any) -> bool:
    return text.strip().lower().startswith(_text(prompt_to_repeat).strip().lower())


# ------------------------------------------------------------------------------------ languages, case


def _language(text: str, language: Any) -> bool:
    if language not in LANGUAGES:
        raise ArgumentMistake(
            f"{language!r} is none of the languages that we can tell: {', '.join(LANGUAGES)}"
        )
    return is_in_language(text, language)


def _upper(text: str) -> bool:
    return text.isupper() and is_in_language(text, "en")


def _lower(text: str) -> bool:
    return text.islower() and is_in_language(text, "en")


RULES: dict[str, Rule] = {
    "change_case:capital_word_frequency": Rule(_capitals, ("capital_frequency", "capital_relation")),
    "change_case:english_capital": Rule(_upper),
    "change_case:english_lowercase": Rule(_lower),
    "combination:repeat_prompt": Rule(_repeats, ("prompt_to_repeat",)),
    "combination:two_responses": Rule(_two_responses),
    "detectable_content:number_placeholders": Rule(_placeholders, ("num_placeholders",)),
    "detectable_content:postscript": Rule(_postscript, ("postscript_marker",)),
    "detectable_format:constrained_response": Rule(_constrained),
    "detectable_format:json_format": Rule(_json),
    "detectable_format:multiple_sections": Rule(_sections, ("section_spliter", "num_sections")),
    "detectable_format:number_bullet_lists": Rule(_bullets, ("num_bullets",)),
    "detectable_format:number_highlighted_sections": Rule(_highlights, ("num_highlights",)),
    "detectable_format:title": Rule(_title),
    "keywords:existence": Rule(_existence, ("keywords",)),
    "keywords:forbidden_words": Rule(_forbidden, ("forbidden_words",)),
    "keywords:frequency": Rule(_frequency, ("keyword", "frequency", "relation")),
    "keywords:letter_frequency": Rule(_letters, ("letter", "let_frequency", "let_relation")),
    "language:response_language": Rule(_language, ("language",)),
    "length_constraints:nth_paragraph_first_word": Rule(
        _first_word, ("num_paragraphs", "nth_paragraph", "first_word")
    ),
    "length_constraints:number_paragraphs": Rule(_paragraphs, ("num_paragraphs",)),
    "length_constraints:number_sentences": Rule(_sentences, ("num_sentences", "relation")),
    "length_constraints:number_words": Rule(_words, ("num_words", "relation")),
    "punctuation:no_comma": Rule(_no_comma),
    "startend:end_checker": Rule(_ends_with, ("end_phrase",)),
    "startend:quotation": Rule(_quotation),
}
