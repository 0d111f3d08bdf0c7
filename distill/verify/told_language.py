"""Whether a text is in a language that a prompt asks for: `distill.language`, and IFEval's languages that it lacks.

Scripts of one language decide alone: a text is in the language of the script that most of its letters have. Where
several write with one script, function words (and, for Urdu, its own letters) do. Latin texts too short for
`distill.language` to tell are taken for the language asked for. Limits: two languages that we have no words for (Danish
and Norwegian, say) are not told apart, and a text half in one language and half in another is in neither or in both.
"""

from __future__ import annotations

import re

from distill.language import language_shares, prose
from distill.recipe_filters import LANGUAGE_CODES

#: Scripts that one language asked for writes; Bengali script is Assamese's too, Gurmukhi is Punjabi's alone.
_SCRIPTS = {
    "kn": "\u0c80-\u0cff", "pa": "\u0a00-\u0a7f", "gu": "\u0a80-\u0aff", "te": "\u0c00-\u0c7f",
    "ta": "\u0b80-\u0bff", "bn": "\u0980-\u09ff", "ml": "\u0d00-\u0d7f",
}  # fmt: skip
_DEVANAGARI = {
    "hi": "है हैं में की के और का को से यह नहीं था थी हो पर एक लिए",
    "mr": "आहे आहेत आणि नाही होते होता हे ते या च्या साठी करा आम्ही मी मला त्या",
    "ne": "छ छन् र पनि हुन्छ गर्न गर्छ भएको यो हो थियो हामी मेरो तपाईं गरे लागि",
}
_CYRILLIC = {
    "bg": "са се да като това със ще че към който която е при най",
    "ru": "это что как для был или его она они бы если чтобы",
    "uk": "це що як для був або його вона вони якщо щоб",
}
_LATIN = {
    "fi": "ja on ei se että oli hän mutta kun niin ovat tai joka myös olen minä sinä kuin voi tämä ne",
    "sw": "na ya wa kwa ni katika la za kama hii hiyo yake cha kuwa pia ili lakini sana yangu wetu",
}
_URDU = "ٹڈڑںےھہ"
_URDU_SHARE = 0.02  # of a text's letters; Arabic and Persian write none of these but ہ by accident
_WORDS_SHARE = 0.08  # of a text's words that are function words of the language

LANGUAGES = tuple(sorted({*LANGUAGE_CODES, *_SCRIPTS, *_DEVANAGARI, *_CYRILLIC, *_LATIN, "ur"}))
_RUN = re.compile(r"[^\W\d_]+")
_DEVANAGARI_WORD = re.compile("[\u0900-\u097f]+")


def is_in_language(text: str, language: str) -> bool:
    """Whether most of a text is in one of LANGUAGES; a text without words is in none."""
    bare = prose(text)
    letters = [letter for letter in bare if letter.isalpha()]
    if not letters:
        return False
    if language in _SCRIPTS:
        return _share(letters, _SCRIPTS[language]) > 0.5
    if language in _DEVANAGARI:
        return _share(letters, "\u0900-\u097f") > 0.5 and _votes(
            _DEVANAGARI_WORD.findall(bare), _DEVANAGARI, language
        )
    if language in _CYRILLIC:
        return _share(letters, "\u0400-\u04ff") > 0.5 and _is_cyrillic(bare, language)
    urdu = sum(letter in _URDU for letter in letters) / len(letters)
    if language == "ur":
        return urdu > _URDU_SHARE
    words = _RUN.findall(bare.lower())
    if language in _LATIN:
        said = sum(word in set(_LATIN[language].split()) for word in words)
        return said >= _WORDS_SHARE * len(words) and _share(letters, "A-Za-z\u00c0-\u024f") > 0.5
    shares = language_shares(text)
    if not shares or urdu > _URDU_SHARE:
        return False
    best = max(shares, key=lambda name: shares[name])
    return best == language or (best == "latin" and _share(letters, "A-Za-z\u00c0-\u024f\u1e00-\u1eff") > 0.5)


def _share(letters: list[str], script: str) -> float:
    return len(re.findall(f"[{script}]", "".join(letters))) / len(letters)


def _votes(words: list[str], tables: dict[str, str], language: str) -> bool:
    """Whether no other language of the script has more of its function words here; with none of any, it may be."""
    votes = {name: sum(word in set(listed.split()) for word in words) for name, listed in tables.items()}
    return votes[language] == max(votes.values())


def _is_cyrillic(bare: str, language: str) -> bool:
    """Letters tell first: Russian has ы and э, Ukrainian і and ї, Bulgarian ъ in every other sentence."""
    low = bare.lower()
    own = {"ru": "ыэё", "uk": "іїєґ", "bg": ""}
    if any(letter in low for name, special in own.items() if name != language for letter in special):
        others = sum(
            low.count(letter) for name, special in own.items() if name != language for letter in special
        )
        if others > sum(low.count(letter) for letter in own[language]):
            return False
    return _votes(_RUN.findall(low), _CYRILLIC, language)
