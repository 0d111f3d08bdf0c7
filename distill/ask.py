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
from distill.recipe import ModelSource, Sampling


def ask(
    model: str, question: str, *, temperature: float, top_p: float, max_tokens: int, seed: int
) -> dict[str, Any]:
    """The model's thought (None: it has none) and answer (None: the thought never ended), and how the text ended.

    Raises:
        UserError: a setting is out of its range, the model cannot be loaded, or the question does not fit its context.
    """
    for flag, value, fits, remedy in (
        ("--temperature", temperature, temperature >= 0, "give 0 or more"),
        ("--top-p", top_p, 0 < top_p <= 1, "give more than 0 and at most 1"),
        ("--max-tokens", max_tokens, max_tokens >= 1, "give at least 1"),
    ):
        if not fits:
            raise UserError(flag, value, "is out of range", remedy)
    name, source = Path(model).name, ModelSource(path=model)
    device = find_device(models.width(name, source))
    loaded = models.load(name, model, source, device)
    prompt = loaded.chat.prompt(question)
    room = loaded.model.config.get_text_config().max_position_embeddings - len(prompt.ids)
    if room < 1:
        reason = f"its {len(prompt.ids)} tokens leave no room in the model's {room + len(prompt.ids)}"
        raise UserError("QUESTION", None, reason, "ask a shorter one, or a model with a longer context")
    if room < max_tokens:
        print(f"--max-tokens: {room} at most fit this model's context", file=sys.stderr)
    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=min(room, max_tokens))
    request = Request("question", 0, prompt.ids, prompt.prefill, seed)
    (completion,) = LocalEngine(loaded, device, 1).generate([request], sampling)
    split = split_thought(completion.prefill + completion.text, (loaded.chat.tags, *KNOWN_TAGS))
    return {
        "question": question,
        "thought": split.thought.strip() if split.thought is not None else None,
        "answer": split.answer.strip() if split.answer is not None else None,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids),
    }
