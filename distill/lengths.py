"""Whether prompts, completions and traces fit what their models read: decided before anything is written.

A length that somebody chose must fit, or it is refused. One that nobody chose (a suite's own protocol, the 32768 that
is every length's default) is only an upper bound: it is cut to what fits, and stderr is told. A recipe cannot tell its
default from the same number written out, as a run's ``recipe.yaml`` writes every default: 32768 always counts as it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from distill.chat import ChatFormat
from distill.errors import UserError


@dataclass(frozen=True, slots=True)
class Reader:
    """A model and the longest prompt that it is given, in tokens (0: none).

    ``key`` is where a recipe says its ``context``; empty where there is no recipe.
    """

    model: str
    context: int
    prompt: int = 0
    key: str = ""

    @property
    def room(self) -> int:
        """Tokens left after the prompt."""
        return self.context - self.prompt


def context_of(config: Any) -> int:
    """How many tokens a model reads, by its transformers config.

    Rope scaling may go beyond the positions of pre-training, which some configs state (Qwen2.5 with YaRN) and others
    (Llama 3.1) do not. Not so `dynamic`: beyond them it turns every token by the longest text of a batch.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    stretched = rope.get("factor", 1) * rope.get("original_max_position_embeddings", 0)
    if rope.get("rope_type") == "dynamic":
        stretched = 0
    return max(int(config.max_position_embeddings), int(stretched))


def longest_prompt(chat: ChatFormat, texts: Iterable[str], enough: int) -> int:
    """Tokens of the longest prompt; exact where that is more than ``enough``, else some number not above it.

    A token spells a byte or more, so of a long set only the few texts that could matter are tokenized.
    """
    around = len(chat.prompt("?").ids)
    longest = 0
    sizes = {text: len(text.encode("utf-8", "surrogatepass")) for text in texts}
    for text in sorted(sizes, key=lambda text: -sizes[text]):
        if around + sizes[text] <= max(longest, enough):
            break
        longest = max(longest, len(chat.prompt(text).ids))
    return longest


def fit(key: str, asked: int, readers: Sequence[Reader], *, chosen: bool) -> int:
    """The length asked for, or what all readers have room for when nobody chose it.

    Args:
        key: where the length stands.
        asked: in tokens.
        readers: the models that read so many tokens after their prompts; none where no context is known.
        chosen: somebody wrote the number.

    Raises:
        UserError: a chosen length does not fit, or a prompt leaves no room at all.
    """
    tightest = min(readers, key=lambda reader: reader.room, default=None)
    if tightest is None or asked <= tightest.room:
        return asked
    room = tightest.room
    prompt = f", and its longest prompt has {tightest.prompt}" if tightest.prompt else ""
    reads = f"`{tightest.model}` reads {tightest.context} tokens{prompt}"
    further = f", or set {tightest.key} higher if it really reads further" if tightest.key else ""
    if room < 1:
        raise UserError(
            key, asked, f"leaves no room: {reads}", f"shorten or leave out such problems{further}"
        )
    if chosen:
        raise UserError(key, asked, f"is too long: {reads}", f"use at most {room}{further}")
    print(f"{key}: cut from {asked} to {room}: {reads}", file=sys.stderr)
    return room
