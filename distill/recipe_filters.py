"""What a trace must pass to be kept: the filters of a recipe, in the order in which the funnel shows them.

A filter with settings may be switched on by ``true`` alone, which takes its defaults, and off by ``false``.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from distill.recipe_types import Count, Section, Share

#: Languages that can be told, by ISO 639 code; `distill.language` holds what tells them.
LANGUAGE_CODES = [
    "en", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "tr", "vi", "id",
    "ru", "uk", "ar", "fa", "ko", "he", "hi", "th", "el", "zh", "ja",
]  # fmt: skip


def _settings(value: Any) -> Any:
    """``true`` is a section with its defaults, ``false`` none; on a command line both are words."""
    switches = {True: {}, False: None, "true": {}, "false": None}
    return switches[value] if isinstance(value, bool | str) and value in switches else value


class Tokens(Section):
    """A window of generated tokens, its ends included."""

    min: Count | None = None
    max: Count | None = None


class Language(Section):
    """At least ``min`` of a text's words, maths and code left out, are in the language ``target`` (ISO 639 code)."""

    target: str = "en"
    min: Share = 0.95


class Repetition(Section):
    """At most ``max`` of the runs of ten words have stood before; at most ``loop`` of a text goes round at its end."""

    max: Share = 0.4
    loop: Share = 0.05


class Readable(Section):
    """No paragraph longer than ``paragraph`` characters; no block of code where no code was asked, unless ``code``."""

    paragraph: Count = 2000
    code: bool = False


class Difficulty(Section):
    """The problem's pass rate over its ``first`` samples (all it has, where fewer) lies from ``min`` to ``max``."""

    min: Share = 0.0
    max: Share = 1.0
    first: Count = 4


class NearDuplicates(Section):
    """Unlike each trace kept so far, of its problem and of others: less than ``similarity`` of runs of words shared."""

    similarity: Annotated[Share, Field(ge=0.5)] = 0.8


class Filters(Section):
    """What a trace must pass. The first filter that it fails is its reason; ``difficulty`` looks at whole problems.

    ``decontaminate`` names the suites that no kept trace may overlap. ``diverse`` is no filter: it has a cap on a
    problem's kept traces choose those that are unlike one another, where else it takes the first. ``reviewed`` is of
    sets that people have looked at (`distill traces reviewed`): what they kept passes.
    """

    finished: bool = True
    verified: bool = True
    format: bool = True
    tokens: Annotated[Tokens | None, BeforeValidator(_settings)] = None
    language: Annotated[Language | None, BeforeValidator(_settings)] = None
    repetition: Annotated[Repetition | None, BeforeValidator(_settings)] = None
    readable: Annotated[Readable | None, BeforeValidator(_settings)] = None
    decontaminate: list[str] = []
    difficulty: Annotated[Difficulty | None, BeforeValidator(_settings)] = None
    duplicates: bool = True
    near_duplicates: Annotated[NearDuplicates | None, BeforeValidator(_settings)] = None
    diverse: bool = False
    reviewed: bool = False
