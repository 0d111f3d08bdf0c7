"""Before the first step of a fine-tuning: what the loss will really see, looked at on real rows.

The mistakes looked for are the silent ones, which only show in a finished model: an EOS that is not trained or that
nothing stops at (it never ends), a thought lost on the way, a second BOS, a mask that goes by token instead of place,
packed examples that see each other, positions that the model has never met.

What the user's model or recipe causes is a UserError, what a trace causes is a RunFailed, and what only a mistake of
ours can cause is an assert.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch

from distill.chat import ChatFormat, Example, ThoughtState, ThoughtTags, split_thought
from distill.errors import RunFailed, UserError
from distill.models import LoadedModel, context_of
from distill.recipe import SftStage
from distill.records import FinishReason
from distill.student.mixture import CHANGE_FIRST, Mixture, Source
from distill.training.packing import Bucket, PackedRow, pack, pack_row

ROWS = 256  # looked at besides the longest: a fault of template or tokenizer is in every row
PROMPT_SHOWN, TRAINED_SHOWN = 300, 600  # characters


def audit(stage: SftStage, loaded: LoadedModel, mixture: Mixture, *, key: str, show: bool) -> dict[str, int]:
    """Check the rows that a stage is about to be trained on; one line on stderr says that they passed.

    Args:
        key: the recipe's entry of the model, ``models.NAME``.
        show: print one row, its trained tokens marked.

    Returns:
        How many examples were looked at, and the tokens of the longest of all.

    Raises:
        UserError: the model's tokenizer, template, generation settings or context cannot serve.
        RunFailed: a trace does not survive.
    """
    chat = loaded.chat
    used = sorted(set(mixture.order))
    longest = max(used, key=lambda number: len(mixture.examples[number].ids))
    tokens = len(mixture.examples[longest].ids)
    check_stops(key, chat)
    note_stops(key, chat, loaded.model.generation_config)
    check_context(stage, tokens, key, context_of(loaded.model.config))
    numbers = sorted({*used[:: -(-len(used) // ROWS)], longest})
    for number in used:
        reason = mixture.sources[number].trace.finish_reason
        assert reason in (None, FinishReason.STOP), f"example {number} is a trace that ended by {reason}"
    for number in numbers:
        check_trace(chat, mixture.examples[number], mixture.sources[number])
        check_bos(key, chat, mixture.examples[number], mixture.sources[number])
    check_packing(mixture.examples, numbers, stage.micro_batch_tokens, chat.stop_ids)
    trained = sum(len(mixture.examples[n].ids) - mixture.examples[n].prompt_length for n in numbers)
    share = trained / sum(len(mixture.examples[n].ids) for n in numbers)
    print(
        f"{stage.name}: {len(numbers)} of {len(used)} examples checked: traces whole, no second BOS, all trained to "
        f"the end and stopping at {chat.token(chat.eos_id)}, packed apart; {share:.2f} of their tokens trained; "
        f"longest {tokens} tokens",
        file=sys.stderr,
    )
    if show and not os.environ.get("DISTILL_QUIET"):
        first = mixture.examples[mixture.order[0]]
        print(shown(chat, first, coloured=sys.stderr.isatty()), file=sys.stderr)
    return {"examples": len(numbers), "longest": tokens}


# -------------------------------------------------------------------------------- the model


def check_stops(key: str, chat: ChatFormat) -> None:
    """What is trained as the last token, what the template ends a turn with and what generation stops at agree.

    Asked before the run too, of every model that is to be fine-tuned: nothing is written then.

    Raises:
        UserError: generation would go on behind the template's own end of a turn.
    """
    end, eos = chat.turn_end(), chat.token(chat.eos_id)
    if end is not None and end not in chat.stop_ids:
        stops = ", ".join(chat.token(stop) for stop in sorted(chat.stop_ids))
        raise UserError(
            key,
            None,
            f"its chat template ends an answer with {chat.token(end)}, but its tokenizer's EOS, which is trained, is "
            f"{eos}, and its generation stops at {stops} alone (a base model's settings under a chat's template)",
            f"name as {key}.tokenizer a copy of its tokenizer whose tokenizer_config.json says "
            f'"eos_token": "{chat.token(end)}", or as {key}.chat_template one that ends an answer with {eos}',
        )


def note_stops(key: str, chat: ChatFormat, generation: Any) -> None:
    """Say on stderr where the three differ although generation stops at each of them."""
    end, eos = chat.turn_end(), chat.token(chat.eos_id)
    if end is not None and end != chat.eos_id:
        _note(
            f"{key}: its chat template ends an answer with {chat.token(end)}; {eos} is trained, the tokenizer's "
            "EOS; generation stops at both"
        )
    given = getattr(generation, "eos_token_id", None)
    if given is not None and chat.eos_id not in (given if isinstance(given, list) else [given]):
        theirs = ", ".join(chat.token(stop) for stop in sorted(chat.stop_ids - {chat.eos_id}))
        _note(
            f"{key}: its generation config stops at {theirs} and not at {eos}, the tokenizer's EOS, which is "
            "trained; the model made from it will stop at both"
        )


def check_context(stage: SftStage, tokens: int, key: str, context: int) -> None:
    """The longest example, and any that ``max_length`` would let in, stand at positions that the model knows.

    `lengths.fit` has refused most of it before the run; this is of the model as loaded and of the rows as they are.
    """
    if max(tokens, stage.max_length) > context:
        raise UserError(
            f"stages.{stage.name}.max_length",
            stage.max_length,
            f"the longest example has {tokens} tokens, and `{stage.model}` reads {context} (its "
            "max_position_embeddings and rope scaling)",
            f"use at most {context}; or, to train it on longer ones, set {key}.max_length and a larger "
            f"{key}.rope_theta (Qwen2.5-Math's 4096 became 32768 with 300000)",
        )


def _note(text: str) -> None:
    print(text, file=sys.stderr)


# -------------------------------------------------------------------------------- rows


def check_trace(chat: ChatFormat, example: Example, source: Source) -> None:
    """The response spells the trace, thought and tags included, and ends at an EOS with its thought closed.

    Raises:
        RunFailed: something of the trace is lost or added.
    """
    trace, tags = source
    assert example.ids[-1] in chat.stop_ids, (
        f"trace {trace.id} does not end at a stop token: {example.ids[-9:]}"
    )
    found = chat.decode(example.ids[example.prompt_length :])
    expected = chat.as_taught(trace.completion.lstrip() if chat.prefill else trace.completion, tags)
    families = (chat.tags, tags or chat.tags)
    if not _same(found, expected, chat.tags) or _words(found, families) != _words(trace.completion, families):
        at = _first_difference(found, expected)
        raise RunFailed(
            f"trace {trace.id} does not survive its tokens: from character {at} on it is "
            f"{_readable(expected[at : at + 40])!r}, the tokens spell {_readable(found[at : at + 40])!r}",
            f"The tokenizer of `{chat.name}` cannot spell it, or its chat format loses it. {CHANGE_FIRST}",
        )
    closed = split_thought(found, (chat.tags,)).state is not ThoughtState.OPEN
    assert closed, f"trace {trace.id} never ends its thought: {found[-80:]!r}"


def _first_difference(one: str, other: str) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _same(found: str, expected: str, tags: ThoughtTags) -> bool:
    """Equal, but for what Unicode calls equal and blanks behind the opening tag, which some tokenizers put there."""
    return found == expected or _settled(found, tags) == _settled(expected, tags)


def _settled(text: str, tags: ThoughtTags) -> str:
    text = unicodedata.normalize("NFC", text)
    opened, rest = text[: len(tags.open)], text[len(tags.open) :]
    return opened + rest.lstrip() if opened == tags.open else text


def _words(text: str, families: Sequence[ThoughtTags]) -> list[str]:
    """Everything but tags and blanks: the same of a trace and of what is taught of it, whatever was rewritten."""
    marks = {mark for tags in families for mark in (tags.open, tags.close)}
    for mark in sorted(marks, key=lambda mark: (-len(mark), mark)):
        text = text.replace(mark, " ")
    return unicodedata.normalize("NFC", text).split()


def check_bos(key: str, chat: ChatFormat, example: Example, source: Source) -> None:
    """No BOS but a first one, and those that the trace itself spells.

    Raises:
        UserError: the template or the tokenizer writes another.
    """
    bos = chat.tokenizer.bos_token_id
    if bos is None or (bos in chat.stop_ids and example.ids[:2] != [bos, bos]):
        return  # where one token is BOS and EOS, templates use it between turns
    spelt = (source.trace.problem + source.trace.completion).count(chat.token(bos))
    prompt = example.ids[1 : example.prompt_length].count(bos)
    further = prompt + example.ids[example.prompt_length :].count(bos)
    if further > spelt:
        where = "prompt" if prompt else "response"
        raise UserError(
            key,
            None,
            f"a second {chat.token(bos)} (BOS) stands in the {where} of trace {source.trace.id}",
            f"let the chat template write it once ({key}.chat_template) and the tokenizer add none to a text",
        )


def check_packing(
    examples: Sequence[Example], numbers: Sequence[int], room: int, stops: frozenset[int]
) -> None:
    """In the rows that training makes, each response is trained whole and nothing else is, each example has positions
    from 0 on and is attended to alone."""
    for row in pack([len(examples[number].ids) for number in numbers], room):
        chosen = [numbers[place] for place in row]
        check_row(pack_row(examples, chosen), examples, chosen, stops)


def check_row(
    row: PackedRow, examples: Sequence[Example], numbers: Sequence[int], stops: frozenset[int]
) -> None:
    """`check_packing` of one row, which holds the examples with these numbers.

    All of it by place, so that a pad token within a response, or one that is also the EOS, is a token like any other.
    """
    segments = []
    for number in numbers:
        example = examples[number]
        length, responses = len(example.ids), len(example.ids) - example.prompt_length
        of_it = row.example_N == number
        trained, targets = row.trained_N[of_it], row.targets_N[of_it]
        assert len(trained) == responses, (
            f"{len(trained)} of {responses} response tokens of {number} are trained"
        )
        start = int(trained[0]) - example.prompt_length + 1
        here = slice(start, start + length)
        assert row.ids_T[here].tolist() == example.ids, f"example {number} does not stand at {start}"
        expected = torch.arange(start + example.prompt_length - 1, start + length - 1)
        assert torch.equal(trained, expected), (
            f"example {number} is trained at {trained}, its response is {expected}"
        )
        assert targets.tolist() == example.ids[example.prompt_length :], (
            f"example {number} learns other tokens"
        )
        assert int(targets[-1]) in stops, f"example {number} is trained to end with {int(targets[-1])}"
        positions = row.positions_T[here]
        assert torch.equal(positions, torch.arange(length)), f"positions of example {number}: {positions}"
        segments.append((start, length))
    responses = sum(len(examples[number].ids) - examples[number].prompt_length for number in numbers)
    assert len(row.trained_N) == responses, (
        f"{len(row.trained_N)} tokens are trained, {responses} are responses"
    )
    assert len(row.ids_T) == sum(length for _, length in segments), f"{len(row.ids_T)} tokens hold {segments}"
    attended = list(_spans(row.buckets))
    assert sorted(attended) == sorted(segments), (
        f"attention goes over {attended}, the examples are {segments}"
    )


def _spans(buckets: Sequence[Bucket]) -> Iterator[tuple[int, int]]:
    """First place and length of each segment that is attended; buckets take the row's tokens one after the other."""
    start = 0
    for bucket in buckets:
        segments, lengths = (bucket.place_T // bucket.longest).unique_consecutive(return_counts=True)
        assert len(segments) == bucket.segments, f"segments in pieces: {segments}"
        columns = (bucket.place_T % bucket.longest).split(lengths.tolist())
        for column_T in columns:
            assert torch.equal(column_T, torch.arange(len(column_T))), f"a segment in pieces: {column_T}"
            yield start, len(column_T)
            start += len(column_T)


# -------------------------------------------------------------------------------- one row to look at


def shown(chat: ChatFormat, example: Example, *, coloured: bool) -> str:
    """A row as the loss sees it, special tokens and newlines visible, long pieces cut in the middle.

    Coloured: the prompt dim, what is trained green; else what is trained stands in ``[[ ]]``.
    """
    row = pack_row([example], [0])
    trained = {int(at) + 1 for at in row.trained_N}
    told = []
    for is_trained, places in groupby(range(len(example.ids)), lambda place: place in trained):
        text = chat.tokenizer.decode([example.ids[place] for place in places], skip_special_tokens=False)
        text = _readable(_shortened(text, TRAINED_SHOWN if is_trained else PROMPT_SHOWN))
        if coloured:
            told.append(f"\033[{'32' if is_trained else '2'}m{text}\033[0m")
        else:
            told.append(f"[[{text}]]" if is_trained else text)
    return "".join(told)


def _shortened(text: str, room: int) -> str:
    half = room // 2
    if len(text) <= room + 40:  # what tells of the cut takes place too
        return text
    return f"{text[:half]} ... {len(text) - 2 * half} characters ... {text[-half:]}"


def _readable(text: str) -> str:
    """Newlines as a sign, and no control characters: a trace from elsewhere could steer the terminal."""
    signs = (sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return "".join("\u23ce" if sign == "\\n" else sign for sign in signs)
