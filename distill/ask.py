"""`distill ask`: one question to one model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from distill import models
from distill.chat import KNOWN_TAGS, split_thought
from distill.device import find_device
from distill.errors import UserError
from distill.generate.engine import Request
from distill.generate.local import LocalEngine
from distill.recipe_parts import ModelSource, Sampling

#: What a model may say where `--max-tokens` is not given.
MOST_TOKENS = 2048


def ask(
    model: str, question: str, *, temperature: float, top_p: float, max_tokens: int | None, seed: int
) -> dict[str, Any]:
    """The model's thought (None: it has none) and answer (None: the thought never ended), and how the text ended.

    Args:
        max_tokens: None: `MOST_TOKENS`, or what the model's context leaves if that is less.

    Raises:
        UserError: a setting is out of its range, the model cannot be loaded, or the question does not fit its context.
    """
    for flag, value, fits, remedy in (
        ("--temperature", temperature, temperature >= 0, "give 0 or more"),
        ("--top-p", top_p, 0 < top_p <= 1, "give more than 0 and at most 1"),
        ("--max-tokens", max_tokens, max_tokens is None or max_tokens >= 1, "give at least 1"),
        ("--seed", seed, -(2**63) <= seed < 2**63, "give a number of 64 bits"),
    ):
        if not fits:
            raise UserError(flag, value, "is out of range", remedy)
    name, source = Path(model).name, ModelSource(path=model)
    device = find_device(models.width(name, source))
    known = models.preview(name, source)
    prompt = known.chat.prompt(question)
    most = _fit(max_tokens, known.context, len(prompt.ids))
    loaded = models.load(name, model, source, device)
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=most)
    request = Request("question", 0, prompt.ids, prompt.prefill, seed, question)
    (completion,) = LocalEngine(loaded, device, 1).generate([request], sampling)
    split = split_thought(completion.prefill + completion.text, (loaded.chat.tags, *KNOWN_TAGS))
    return {
        "question": question,
        "thought": split.thought.strip() if split.thought is not None else None,
        "answer": split.answer.strip() if split.answer is not None else None,
        "finish_reason": completion.finish_reason,
        "tokens": completion.tokens,
    }


def _fit(max_tokens: int | None, context: int, prompt: int) -> int:
    """How much the model may say after a prompt of so many tokens."""
    room = context - prompt
    if room < 1:
        reason = f"its {prompt} tokens leave no room in the model's {context}"
        raise UserError("QUESTION", None, reason, "ask a shorter one, or a model with a longer context")
    if max_tokens is not None and max_tokens > room:
        reason = f"is too long: the model reads {context} tokens, and the question takes {prompt}"
        raise UserError("--max-tokens", max_tokens, reason, f"give at most {room}")
    if max_tokens is None and room < MOST_TOKENS:
        print(f"--max-tokens: {room}, what the model's context of {context} leaves", file=sys.stderr)
    return max_tokens or min(room, MOST_TOKENS)
