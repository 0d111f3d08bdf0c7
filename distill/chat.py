"""From messages to token ids and back: the only file that touches chat templates and thought tags.

Rules (DESIGN: Thoughts):
* the text to judge is prefill + completion, where the prefill is an opening tag that the template already wrote;
* a thought that was opened and not closed has no answer;
* text without any thought tag is searched whole.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from distill.errors import UserError


@dataclass(frozen=True, slots=True)
class ThoughtTags:
    """The pair of tags around a model's thought."""

    open: str = "<think>"
    close: str = "</think>"


#: Tags of the families whose outputs people bring along. `split_thought` knows them all unless told otherwise.
KNOWN_TAGS = (
    ThoughtTags(),
    ThoughtTags("<|begin_of_thought|>", "<|end_of_thought|>"),
    ThoughtTags("<thought>", "</thought>"),
    ThoughtTags("<thinking>", "</thinking>"),
    ThoughtTags("<reasoning>", "</reasoning>"),
    ThoughtTags("<|thinking|>", "<|/thinking|>"),
    ThoughtTags("[THINK]", "[/THINK]"),
)


class ThoughtState(StrEnum):
    """Whether a text holds a finished thought, one that never ends, or none."""

    CLOSED = "closed"
    OPEN = "open"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SplitText:
    """A text cut at the end of its thought; ``answer`` is None exactly when a thought was opened and not closed."""

    state: ThoughtState
    thought: str | None
    answer: str | None


def split_thought(text: str, tags: tuple[ThoughtTags, ...] = KNOWN_TAGS) -> SplitText:
    """Cut prefill + completion into thought and answer after the *last* closing tag of any of the given families.

    An opening tag after the last closing one means a second thought that never ended: OPEN.
    """
    end, end_tag = -1, ""
    for tag in tags:
        at = text.rfind(tag.close)
        if at > end:
            end, end_tag = at, tag.close
    after = end + len(end_tag) if end >= 0 else 0
    last_open = max((text.find(tag.open, after) for tag in tags), default=-1)
    if last_open >= 0:
        return SplitText(ThoughtState.OPEN, text[last_open:], None)
    if end < 0:
        return SplitText(ThoughtState.NONE, None, text)
    thought = text[:end]
    for tag in tags:
        if thought.lstrip().startswith(tag.open):
            thought = thought.lstrip().removeprefix(tag.open)
    return SplitText(ThoughtState.CLOSED, thought, text[after:])


def tags_in(text: str, tags: tuple[ThoughtTags, ...] = KNOWN_TAGS) -> ThoughtTags | None:
    """The family that a text's thought is written in: that of the last closing tag (as `split_thought` cuts), else of
    the first opening one; None where there is neither."""
    closed = max(tags, key=lambda family: text.rfind(family.close))
    if closed.close in text:
        return closed
    opened = [family for family in tags if family.open in text]
    return min(opened, key=lambda family: text.find(family.open), default=None)


def is_well_formed(text: str, tags: ThoughtTags) -> bool:
    """The format reward's and the format filter's one rule: ``OPEN thought CLOSE answer``, each tag exactly once.

    The thought and the answer must both show something (no blanks, joiners or fillers alone: a thought for free), and
    nothing but blanks may precede the opening tag. Whitespace around the tags is free: a rule that demands exact
    newlines scores 0 wherever a template prefills.
    """
    text = text.lstrip()
    if not text.startswith(tags.open) or text.count(tags.open) != 1 or text.count(tags.close) != 1:
        return False
    thought, answer = text[len(tags.open) :].split(tags.close)
    return _shows(thought) and _shows(answer)


#: Characters that Unicode calls letters or symbols and that print nothing: Hangul fillers, the empty Braille cell.
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")


def _shows(text: str) -> bool:
    """Whether anything of a text can be seen: a character that is no control, separator, lone mark or filler."""
    return any(unicodedata.category(one)[0] not in "CMZ" and one not in _FILLERS for one in text)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt. ``prefill`` is the opening thought tag (blanks included) that its last ids already spell."""

    ids: list[int]
    prefill: str


@dataclass(frozen=True, slots=True)
class Example:
    """One training row: the loss counts ``ids[prompt_length:]``, whose last id is the EOS."""

    ids: list[int]
    prompt_length: int


class ChatFormat:
    """One tokenizer with its chat template and its model's thought tags.

    Rendered templates are tokenized without special tokens added, so the template's BOS stays the only one.

    Args:
        name: what the user calls the model, for error messages.
        tokenizer: a transformers fast tokenizer.
        tags: the model's thought tags.
        prefill: add the opening tag to each prompt when the template does not.
        stop_ids: further ids that end a completion, besides the tokenizer's EOS.

    Raises:
        UserError: the tokenizer has no EOS or no chat template.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        tags: ThoughtTags,
        prefill: bool = False,
        stop_ids: tuple[int, ...] = (),
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"models.{name}",
                None,
                "its tokenizer has no EOS token, so nothing it learns would ever stop",
                "set eos_token in its tokenizer_config.json",
            )
        if not tokenizer.chat_template:
            raise UserError(
                f"models.{name}",
                None,
                "its tokenizer has no chat template",
                f"write models.{name}.chat_template: FILE.jinja",
            )
        self.name, self.tokenizer, self.tags = name, tokenizer, tags
        self.eos_id: int = tokenizer.eos_token_id
        self.stop_ids = frozenset({self.eos_id, *stop_ids})
        rendered = self._checked()
        opens = rendered.rstrip().endswith(tags.open)
        self._template_prefill = rendered[rendered.rindex(tags.open) :] if opens else ""
        self.prefill = self._template_prefill or (f"{tags.open}\n" if prefill else "")

    def _checked(self) -> str:
        """A prompt's text, from a template that was seen to hold the problem, whatever its thought tags are.

        Raises:
            UserError: the template breaks, or leaves the problem out.
        """
        key, problem = f"models.{self.name}.chat_template", "How many are 17 and 25?"
        try:
            rendered, without = self._render(problem), self._render("?")
        except Exception as error:  # a template may raise whatever an expression can
            words = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            reason = f"its chat template cannot write a prompt ({words})"
            remedy = "give a Jinja file that takes one message of a user"
            raise UserError(key, None, reason, remedy) from None
        if problem not in rendered:
            reason = "its chat template leaves the problem out, so that every prompt would be the same"
            raise UserError(key, None, reason, "give a Jinja file that writes each message's content")
        return without

    def _render(self, problem: str) -> str:
        messages = [{"role": "user", "content": problem}]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _bare_prompt(self, problem: str) -> str:
        return self._render(problem).removesuffix(self._template_prefill)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with nothing added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def token(self, number: int) -> str:
        """How one token is written, for messages."""
        return str(self.tokenizer.convert_ids_to_tokens(number))

    def decode(self, ids: list[int]) -> str:
        """The text of generated ids, special tokens kept, a final stop token dropped."""
        if ids and ids[-1] in self.stop_ids:
            ids = ids[:-1]
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def prompt(self, problem: str) -> Prompt:
        """The ids that ask for an answer to one problem, prefill included."""
        ids = self.encode(self._bare_prompt(problem))
        return Prompt(ids + self.encode(self.prefill), self.prefill)

    def as_taught(self, completion: str, written_with: ThoughtTags | None = None) -> str:
        """A teacher's completion as this model learns it: in its own tags, the thought opened as its prompts open one.

        Args:
            completion: the teacher's own text, prefill included.
            written_with: the teacher's tags, rewritten to this model's own when they differ.
        """
        if written_with and written_with != self.tags:
            completion = completion.replace(written_with.open, self.tags.open, 1)
            head, close, answer = completion.rpartition(written_with.close)
            completion = head + self.tags.close + answer if close else completion
        # A model is always asked with its prefill: a thought that opens with other blanks would train what nobody asks.
        if completion.startswith(self.tags.open) and not completion.startswith(self.prefill):
            completion = self.prefill + completion.removeprefix(self.tags.open).lstrip()
        return completion

    def example(self, problem: str, completion: str, written_with: ThoughtTags | None = None) -> Example:
        """A training row: prompt, then the whole completion `as_taught` (opening tag included), then EOS."""
        completion = self.as_taught(completion, written_with)
        prompt_ids = self.encode(self._bare_prompt(problem))
        # Tokenized in the same pieces as at inference, so that no merge across the prefill's end differs.
        prefill = self.prefill if completion.startswith(self.prefill) else ""
        answer_ids = self.encode(prefill) + self.encode(completion.removeprefix(prefill)) + [self.eos_id]
        return Example(prompt_ids + answer_ids, len(prompt_ids))

    def turn_end(self) -> int | None:
        """The first added token that the template itself writes behind an answer; None where it writes none."""
        answer = "An answer."
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
        try:
            text = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception:  # one that takes no answer of the model writes no end of one
            return None
        _, found, after = text.rpartition(answer)
        added = self.tokenizer.added_tokens_decoder
        return next((token for token in self.encode(after) if token in added), None) if found else None
