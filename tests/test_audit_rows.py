"""Masks and packed rows as they are looked at before a fine-tuning: what users of other tools complain of is caught."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.chat import ChatFormat, Example, ThoughtTags
from distill.student import audit as looks
from distill.student.audit import check_packing, check_row
from distill.training.packing import Bucket, pack_row

REAL = ("llama3.1", "qwen2.5", "qwen3", "deepseek-r1-distill-qwen", "deepseek-r1-distill-llama")


@functools.cache
def real_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, shared_data: Path) -> ChatFormat:
    tokenizer = real_tokenizer(shared_data / "tokenizers" / f"{request.param}-rebuilt")
    return ChatFormat(request.param, tokenizer, ThoughtTags())


def rows_of(chat: ChatFormat) -> list[Example]:
    """Responses that hold the pad token in their midst, and one that is trained from its second token on."""
    pad = chat.tokenizer.pad_token_id
    assert pad is not None
    made = [
        chat.example(f"{number}?", f"<think>\n{'1+1=2;' * (number + 1)}\n</think>\n\n\\boxed{{2}}")
        for number in range(6)
    ]
    made = [Example([*e.ids[:-4], pad, *e.ids[-4:]], e.prompt_length) for e in made]
    return [*made, Example([*made[0].ids[:1], pad, chat.eos_id], 1)]


def test_a_pad_token_is_trained_like_any_other(real: ChatFormat) -> None:
    examples = rows_of(real)
    check_packing(examples, range(len(examples)), 150, real.stop_ids)
    row = pack_row(examples, range(len(examples)))
    pads = sum(e.ids[e.prompt_length :].count(real.tokenizer.pad_token_id) for e in examples)
    assert int((row.targets_N == real.tokenizer.pad_token_id).sum()) == pads >= len(examples)


def changed(change: str, pad: int) -> Callable[[Any], Any]:
    """A packed row as the tools make it that their users complain of."""

    def spoil(row: Any) -> Any:
        keep = torch.ones(len(row.trained_N), dtype=torch.bool)
        put: dict[str, Any] = {}
        match change:
            case "masked by pad":
                keep = row.targets_N != pad
            case "last token masked":
                keep = torch.cat([row.example_N[1:] == row.example_N[:-1], torch.tensor([False])])
            case "a prompt token trained":
                keep = torch.ones(len(row.trained_N) + 1, dtype=torch.bool)
                for name in ("trained_N", "targets_N", "example_N", "place_N"):
                    value = getattr(row, name)
                    first = value[:1] - 1 if name == "trained_N" else value[:1]
                    put[name] = torch.cat([first, value])
            case "shifted":
                put = {"trained_N": row.trained_N + 1}
            case "other targets":
                put = {"targets_N": row.targets_N.flip(0)}
            case "positions go on":
                put = {"positions_T": torch.arange(len(row.ids_T))}
            case "one for all to see":
                length = len(row.ids_T)
                put = {"buckets": [Bucket(1, length, torch.arange(length))]}
            case "an example unattended":
                first = row.buckets[0]
                others = first.place_T[first.place_T >= first.longest] - first.longest
                bucket = dataclasses.replace(first, segments=first.segments - 1, place_T=others)
                put = {"buckets": [bucket, *row.buckets[1:]]}
        row = dataclasses.replace(row, **put)
        kept = {name: getattr(row, name)[keep] for name in ("trained_N", "targets_N", "example_N", "place_N")}
        return dataclasses.replace(row, **kept)

    return spoil


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("masked by pad", "response tokens of"),
        ("last token masked", "response tokens of"),
        ("a prompt token trained", "response tokens of"),
        ("shifted", "does not stand at"),
        ("other targets", "learns other tokens"),
        ("positions go on", "positions of example"),
        ("one for all to see", "attention goes over"),
        ("an example unattended", "attention goes over"),
    ],
)
def test_a_spoilt_row_is_caught(real: ChatFormat, change: str, said: str) -> None:
    examples = rows_of(real)[:6]
    numbers = range(6)
    row = changed(change, real.tokenizer.pad_token_id)(pack_row(examples, numbers))
    with pytest.raises(AssertionError, match=said):
        check_row(row, examples, numbers, real.stop_ids)


def test_the_rows_that_training_makes_are_those_looked_at(
    real: ChatFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask by token id in the packing itself: with pad = EOS, the end that is never learnt."""
    spoil = changed("masked by pad", real.eos_id)
    monkeypatch.setattr(looks, "pack_row", lambda *given: spoil(pack_row(*given)))
    with pytest.raises(AssertionError, match="response tokens of"):
        check_packing(rows_of(real), range(6), 150, real.stop_ids)
