"""What is known for sure of the licences of given models and data sets, by their hub names; of others nothing is said.

Only what a model's card must state: the licence of a model made from them, the name it may bear, what has to be
displayed. Sources: the licences themselves and the models' own cards.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_OWN_CARD = "see the base model's card"


class Llama(NamedTuple):
    """What a Llama licence asks of whoever publishes a model that its models, or their outputs, went into."""

    licence: str
    prefix: str
    display: str
    notice: str


class Licence(NamedTuple):
    """``id`` is the hub's word for it (None: not known, or none of the hub's); ``words`` say it in a sentence."""

    id: str | None
    words: str
    llama: Llama | None = None


def _llama(version: str) -> Llama:
    meta = "Meta " if version == "3" else ""
    name = f"{meta}Llama {version} Community License"
    return Llama(
        licence=name,
        prefix="Llama-3" if version == "3" else "Llama",
        display=f"Built with {meta}Llama{' 3' if version == '3' else ''}",
        notice=f"{meta}Llama {version} is licensed under the {name}, Copyright © Meta Platforms, Inc. "
        "All Rights Reserved.",
    )


def _of_llama(version: str, before: str = "") -> Licence:
    terms = _llama(version)
    words = f"{before}{terms.licence}"
    if version == "3":  # later ones allow it, and ask for the name
        return Licence("llama3", f"{words}, which forbids to improve other models with its outputs", terms)
    return Licence(f"llama{version}", words, terms)


_APACHE = Licence("apache-2.0", "Apache-2.0")
_SIZE = r"(?P<size>\d+(\.\d+)?)B"

#: Hub names (whole, case counts) whose licence depends on nothing else in the name.
_FIXED = (
    (r"deepseek-ai/DeepSeek-R1(-Zero|-0528)?", Licence("mit", "MIT, which allows distillation")),
    (
        r"deepseek-ai/DeepSeek-R1-Distill-Qwen-(1\.5|7|14|32)B",
        Licence("mit", "MIT, which allows distillation; made by its authors from Qwen2.5 (Apache-2.0)"),
    ),
    (
        r"deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        _of_llama("3.1", "MIT by its authors, and of the Llama 3.1 weights in it the "),
    ),
    (
        r"deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
        _of_llama("3.3", "MIT by its authors, and of the Llama 3.3 weights in it the "),
    ),
    (r"Qwen/Qwen3-(0\.6|1\.7|4|8|14|32)B(-Base)?", _APACHE),
    (r"Qwen/QwQ-32B", _APACHE),
)
_QWEN25 = re.compile(rf"Qwen/Qwen2\.5-(Math-|Coder-)?{_SIZE}(-Instruct)?")
_META_LLAMA = re.compile(r"meta-llama/(Meta-)?Llama-(?P<version>3(\.[123])?)-\d+B(-Instruct)?")


def licence_of(name: str) -> Licence:
    """The licence of a model by its hub name, or words that say where to look."""
    for pattern, licence in _FIXED:
        if re.fullmatch(pattern, name):
            return licence
    if found := _META_LLAMA.fullmatch(name):
        return _of_llama(found["version"])
    if found := _QWEN25.fullmatch(name):
        if found["size"] in ("3", "72"):
            return Licence(None, f"a licence of its own, unlike most sizes of Qwen2.5: {_OWN_CARD}")
        return _APACHE
    return Licence(None, _OWN_CARD)


#: Data sets whose own cards state their licence, by the hub's word for it.
_DATA = {
    "openai/gsm8k": "mit",
    "open-r1/OpenR1-Math-220k": "apache-2.0",
    "open-thoughts/OpenThoughts-114k": "apache-2.0",
}


def licence_of_data(name: str) -> str | None:
    """The hub's word for the licence of a data set, by its hub name; None where nothing is known for sure."""
    return _DATA.get(name)


def llama_terms(names: list[str]) -> Llama | None:
    """The first Llama licence among these models; a Llama 3.0, which asks for more of the name, before others."""
    found = [licence_of(name).llama for name in names]
    return max((terms for terms in found if terms), key=lambda terms: len(terms.prefix), default=None)


def may_be_llama(names: list[str]) -> list[str]:
    """Those that call themselves Llama without being known: derived from Meta's models, or only of the same shape."""
    return [name for name in names if "llama" in name.lower() and licence_of(name).llama is None]


def name_to_publish(made: str, terms: Llama) -> str:
    """A name that the licence allows: the model's own, with the prefix where that is missing."""
    return made if made.startswith(terms.prefix) else f"{terms.prefix}-{made}"
