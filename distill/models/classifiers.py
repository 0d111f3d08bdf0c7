"""Sequence classifiers with one score: reward models, loaded and asked.

A text is read as its tokenizer's chat template writes it, a question of the user and the answer of the assistant; where
there is no template, as the tokenizer writes a pair of texts. The score is the classifier's one logit, unbounded.

Legend: B texts, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification

from distill.chat import KNOWN_TAGS, ThoughtTags
from distill.device import Device
from distill.errors import UserError
from distill.lengths import context_of
from distill.models.loading import LoadedModel
from distill.models.vocabulary import first_line, load_tokenizer
from distill.recipe_parts import ModelSource

#: Tokens that are scored side by side, padding included.
SCORED_AT_ONCE = 32768
THOUGHT = ThoughtTags()
REMEDY = "give a sequence classifier with one label, or train one by a stage of kind reward"


#: One text as a tokenizer writes it: ``input_ids``, and what else the model wants of the same length.
Row = dict[str, list[int]]


class Reader:
    """How a classifier's tokenizer writes a prompt with its answer.

    Args:
        longest: tokens that it reads.
    """

    def __init__(self, tokenizer: Any, longest: int) -> None:
        self.tokenizer, self.longest = tokenizer, longest
        thoughts = {
            tag for tags in KNOWN_TAGS for tag in (tags.open, tags.close)
        }  # special to some tokenizers
        self._marks = set(tokenizer.all_special_tokens) - thoughts
        if tokenizer.chat_template:
            text = self._written("?", "!")
            added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
            self._marks |= {token for token in added if token in text} - thoughts

    def read(self, prompt: str, answer: str) -> Row:
        """Both as one row.

        Raises:
            LostText: the chat template leaves part of the answer out, as some do with thoughts.
        """
        if not self.tokenizer.chat_template:
            return dict(self.tokenizer(prompt, answer))
        text = self._written(prompt, answer)
        if answer.strip() not in text:
            raise LostText("its chat template leaves a part of the answer out")
        return {"input_ids": list(self.tokenizer.encode(text, add_special_tokens=False))}

    def _written(self, prompt: str, answer: str) -> str:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False))

    def forged(self, answer: str) -> bool:
        """Whether an answer spells a token that parts turns: it could end its own and praise itself in another."""
        return any(token in answer for token in self._marks)

    def batch(self, rows: Sequence[Row], device: str) -> dict[str, torch.Tensor]:
        """The rows padded on the right, as the model takes them."""
        padded = self.tokenizer.pad(list(rows), padding=True, padding_side="right", return_tensors="pt")
        return {name: tensor.to(device) for name, tensor in padded.items()}


class LostText(Exception):
    """A chat template that does not write what it was given."""


class Scorer:
    """A reward model that is only asked."""

    def __init__(self, model: Any, reader: Reader, device: Device) -> None:
        self.model, self.reader, self._device = model.eval().requires_grad_(False), reader, device

    @torch.no_grad()
    def score(self, rows: Sequence[Row]) -> list[float]:
        """The score of each row, in their order; rows of like length are taken together."""
        found = [0.0] * len(rows)
        lengths = [len(row["input_ids"]) for row in rows]
        order = sorted(range(len(rows)), key=lambda number: lengths[number])
        for batch in cut([lengths[number] for number in order], SCORED_AT_ONCE):
            numbers = [order[place] for place in batch]
            inputs = self.reader.batch([rows[number] for number in numbers], self._device.kind)
            scores_B = self.model(**inputs).logits[:, 0].float()
            for number, value in zip(numbers, scores_B.tolist(), strict=True):
                found[number] = value
        return found


def cut(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Consecutive places whose number times the longest length is at most ``room``; a longer one stands alone."""
    parts: list[list[int]] = []
    longest = 0
    for place, length in enumerate(lengths):
        longest = max(longest, length)
        if not parts or longest * (len(parts[-1]) + 1) > room:
            parts.append([])
            longest = length
        parts[-1].append(place)
    return parts


def from_causal(loaded: LoadedModel, seed: int) -> Any:
    """A classifier with one score around the body of a causal model, its head drawn by the seed; in float32.

    The body is taken over, not copied, and now attends by transformers' own kernels, over padded rows.
    """
    config = type(loaded.model.config).from_dict(loaded.model.config.to_dict())
    config.num_labels = 1
    config.pad_token_id = pad_id(loaded.chat.tokenizer)
    device, body = loaded.model.device.type, loaded.model.base_model
    with init_empty_weights(include_buffers=False):
        classifier = AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")
    setattr(classifier, classifier.base_model_prefix, body)
    body.set_attn_implementation("sdpa")
    torch.manual_seed(seed)
    classifier.score = torch.nn.Linear(body.config.hidden_size, 1, bias=False)
    classifier.score.weight.data.normal_(std=body.config.initializer_range)  # as transformers draws one
    return exact_head(classifier.to(device), device)


def pad_id(tokenizer: Any) -> int:
    """The token that fills rows up: the tokenizer's own, else its EOS. Scores are read at the last other token."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return int(tokenizer.pad_token_id)


def exact_head(model: Any, kind: str) -> Any:
    """Have the score computed in float32, whatever the body is in: bf16 would leave three digits of it."""
    head = getattr(model, "score", None)
    if isinstance(head, torch.nn.Linear):
        plain = head.float().forward
        head.forward = torch.autocast(kind, enabled=False)(lambda hidden: plain(hidden.float()))  # type: ignore[method-assign]
    return model


def check_scorer(name: str, source: ModelSource) -> None:
    """Refuse, before anything is written, what is no classifier with one score.

    Raises:
        UserError: it is not.
    """
    _described(name, source)


def check_reads(name: str, source: ModelSource, *, thoughts: bool) -> None:
    """Refuse, before anything is written, a tokenizer whose chat template cannot write answers.

    Args:
        thoughts: they hold thoughts, which it must not drop.

    Raises:
        UserError: it cannot, or there is no tokenizer.
    """
    key, tokenizer = f"models.{name}.chat_template", load_tokenizer(name, source)
    try:
        Reader(tokenizer, 0).read("?", f"{THOUGHT.open}a{THOUGHT.close}b" if thoughts else "An answer.")
    except LostText as error:
        reason = f"{error}, so that it cannot judge {'whole texts' if thoughts else 'them'}"
        raise UserError(key, None, reason, "give one that does not") from None
    except Exception as error:  # a template may raise whatever an expression can
        reason = f"it cannot write an answer ({first_line(error)})"
        raise UserError(key, None, reason, "give one that takes the turn of an assistant") from None


def load_scorer(name: str, source: ModelSource, device: Device) -> Scorer:
    """A reward model on the device.

    Args:
        source: where it lies, and the chat template that replaces its own.

    Raises:
        UserError: it is no classifier with one score, lacks weights, or has no tokenizer.
    """
    config = _described(name, source)
    tokenizer = load_tokenizer(name, source)
    config.get_text_config().pad_token_id = pad_id(tokenizer)
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source.path, config=config, dtype=device.compute_dtype, output_loading_info=True
        )
        if missing := loading["missing_keys"]:  # transformers would fill these with random numbers
            raise ValueError(f"{len(missing)} are missing, {min(missing)} first")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = f"its weights cannot be loaded ({first_line(error)})"
        raise UserError(f"models.{name}.path", source.path, reason, REMEDY) from None
    longest = context_of(config)
    return Scorer(exact_head(model.to(device.kind), device.kind), Reader(tokenizer, longest), device)


def _described(name: str, source: ModelSource) -> Any:
    key = f"models.{name}.path"
    if source.path is None:
        raise UserError(f"models.{name}.build", None, "a random model is no judge of anything", REMEDY)
    try:
        config = AutoConfig.from_pretrained(source.path)
    except Exception as error:  # values of a wrong type in it may raise anything
        reason = f"no model can be loaded from it ({first_line(error)})"
        raise UserError(key, source.path, reason, REMEDY) from None
    kinds = config.architectures or []
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        reason = f"is no sequence classifier ({', '.join(kinds) or 'its config names no architecture'})"
        raise UserError(key, source.path, reason, REMEDY)
    if config.num_labels != 1:
        raise UserError(key, source.path, f"has {config.num_labels} labels, and not one score", REMEDY)
    return config
