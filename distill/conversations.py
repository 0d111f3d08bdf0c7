"""Conversations as tables hold them: lists of turns, each with who speaks and what is said.

Two spellings are in use: ``{"role": "user", "content": ...}`` and ``{"from": "human", "value": ...}``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

#: Columns in which tables keep them, in the order in which they are looked for.
COLUMNS = ("messages", "conversations")
_SPEAKERS = {"human": "user", "gpt": "assistant", "model": "assistant"}


def turns(conversation: object) -> Iterator[tuple[str, Any]]:
    """Who speaks (user, assistant, system, ...) and what is said, turn by turn; nothing where it is no conversation."""
    for turn in conversation if isinstance(conversation, list) else ():
        if not isinstance(turn, dict):
            return
        speaker = str(turn.get("role", turn.get("from", "")))
        yield _SPEAKERS.get(speaker, speaker), turn.get("content", turn.get("value"))


def is_conversation(value: object) -> bool:
    """Whether a column's value is a list of turns at all."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)


def said_by(conversation: object, speaker: Literal["user", "assistant"]) -> Any:
    """What the first turn of the user, or the last of the assistant, says; None where there is none."""
    said = [text for who, text in turns(conversation) if who == speaker]
    if not said:
        return None
    return said[0] if speaker == "user" else said[-1]


def exchanges(conversation: object) -> int:
    """How many times the user speaks: a trace is one question and its answer."""
    return sum(who == "user" for who, _ in turns(conversation))
