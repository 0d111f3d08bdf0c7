"""A packed row is each of its examples alone: logits, gradients, and nothing seen across their borders.

Legend: T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch

from distill.chat import Example
from distill.training import attention
from distill.training.packing import pack_row

LENGTHS = [3, 90, 9, 47, 2, 48, 11, 140]  # several buckets, several examples in some


def make_examples(vocabulary: int, seed: int = 0) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)
    return [Example(torch.randint(vocabulary, (n,), generator=generator).tolist(), 1) for n in LENGTHS]


def packed_logits(model: Any, examples: list[Example]) -> list[torch.Tensor]:
    """Each example's logits_TV out of one packed row, in the order given."""
    row = pack_row(examples, range(len(examples)))
    assert len(row.buckets) > 2 and any(bucket.segments > 1 for bucket in row.buckets)
    logits_TV = model(
        input_ids=row.ids_T[None], position_ids=row.positions_T[None], packed=row, use_cache=False
    ).logits[0]
    shortest_first = sorted(range(len(examples)), key=lambda number: (len(examples[number].ids), number))
    parts = logits_TV.split([len(examples[number].ids) for number in shortest_first])
    by_number = dict(zip(shortest_first, parts, strict=True))
    return [by_number[number] for number in range(len(examples))]


def alone_logits(model: Any, examples: list[Example]) -> list[torch.Tensor]:
    return [model(input_ids=torch.tensor([example.ids])).logits[0] for example in examples]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_packed_equals_each_example_alone(tiny: Any, dtype: torch.dtype, tolerance: float) -> None:
    ours, twin = (copy.deepcopy(model).to(dtype) for model in (tiny.loaded.model, tiny.twin))
    examples = make_examples(len(tiny.loaded.chat.tokenizer))
    with torch.no_grad():
        packed, alone, plain = (
            packed_logits(ours, examples),
            alone_logits(twin, examples),
            alone_logits(ours, examples),
        )
    for packed_TV, alone_TV, plain_TV in zip(packed, alone, plain, strict=True):
        scale = float(alone_TV.abs().max())
        torch.testing.assert_close(packed_TV, alone_TV, atol=tolerance * scale, rtol=0)
        torch.testing.assert_close(plain_TV, alone_TV, atol=tolerance * scale, rtol=0)


def test_gradients_equal_those_of_each_example_alone(tiny: Any) -> None:
    examples = make_examples(len(tiny.loaded.chat.tokenizer))
    gradients = []
    for model, logits_of in ((tiny.loaded.model, packed_logits), (tiny.twin, alone_logits)):
        trained = copy.deepcopy(model).double()
        torch.manual_seed(0)
        torch.stack(
            [(part * torch.randn_like(part)).sum() for part in logits_of(trained, examples)]
        ).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in trained.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        scale = float(gradients[1][name].abs().max())
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-10 * scale, rtol=0, msg=name)


@pytest.mark.parametrize("changed", [0, 1, 4, 7])
def test_an_example_sees_nothing_of_its_neighbours(tiny: Any, changed: int) -> None:
    vocabulary = len(tiny.loaded.chat.tokenizer)
    before, other = make_examples(vocabulary), make_examples(vocabulary, seed=1)
    after = [other[number] if number == changed else example for number, example in enumerate(before)]
    with torch.no_grad():
        first, second = packed_logits(tiny.loaded.model, before), packed_logits(tiny.loaded.model, after)
    for number in range(len(before)):
        assert torch.equal(first[number], second[number]) is (number != changed), number


def test_a_token_sees_nothing_after_it(tiny: Any) -> None:
    before = make_examples(len(tiny.loaded.chat.tokenizer))
    longer = before[1].ids
    after = [*before]
    after[1] = Example([*longer[:20], *make_examples(400, seed=2)[1].ids[20:]], 1)
    with torch.no_grad():
        first, second = packed_logits(tiny.loaded.model, before), packed_logits(tiny.loaded.model, after)
    assert torch.equal(first[1][:20], second[1][:20])
    assert not torch.equal(first[1][20:], second[1][20:])


def test_what_it_cannot_do_is_never_done_silently(tiny_qwen2: Any) -> None:
    """A padding mask, or keys of earlier calls without word of which are real."""
    model, ids = tiny_qwen2.loaded.model, torch.tensor([[5, 6, 7], [8, 9, 10]])
    with pytest.raises(AssertionError, match="seen_BQK"), torch.no_grad():
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, do_sample=False)
    with pytest.raises(AssertionError, match="one row"), torch.no_grad():
        model(input_ids=ids, packed=pack_row([Example([5, 6, 7], 1)], [0]), use_cache=False)


@pytest.mark.parametrize("heads", [6, 2], ids=["a head each", "three to a head"])
def test_one_query_over_a_cache_equals_a_softmax_written_out(heads: int) -> None:
    """As decoding calls it: keys are a window of a wider cache, and rows see unlike parts of it."""
    torch.manual_seed(0)
    query, cache = torch.randn(3, 6, 1, 5), torch.randn(2, 3, heads, 20, 5)
    cache[..., :4, :] = torch.inf  # what lies outside of the window must not be touched
    key, value = cache[..., 4:15, :]
    seen_BQK = torch.arange(11) >= torch.tensor([0, 3, 10])[:, None, None]
    found, _ = attention.attend(torch.nn.Module(), query, key, value, None, scaling=0.3, seen_BQK=seen_BQK)
    assert found.shape == (3, 1, 6, 5)
    for row, head in itertools.product(range(3), range(6)):
        own = head // (6 // heads)
        keys, values = (tensor[row, own, seen_BQK[row, 0]].double() for tensor in (key, value))
        weights = torch.softmax(keys @ query[row, head, 0].double() * 0.3, 0)
        torch.testing.assert_close(found[row, 0, head].double(), weights @ values, atol=1e-6, rtol=1e-5)


def test_in_half_precision_no_score_is_rounded(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of their own would give scores in bf16, where the fused kernel keeps them in float32."""

    def never(*_: Any) -> None:
        raise AssertionError("scores in half precision")

    monkeypatch.setattr(attention, "_short", never)
    monkeypatch.setattr(attention, "_one_query", never)
    examples = make_examples(len(tiny.loaded.chat.tokenizer))
    with torch.no_grad(), pytest.raises(AssertionError, match="scores in half"):
        packed_logits(tiny.loaded.model, examples)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        packed_logits(tiny.loaded.model, examples)
    halves = [torch.randn(2, 2, length, 5, dtype=torch.bfloat16) for length in (1, 7, 7)]
    attention.attend(torch.nn.Module(), *halves, None, seen_BQK=torch.ones(2, 1, 7, dtype=torch.bool))


def test_the_kernel_sees_answers_whole_that_share_a_prompt(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row with shared prompts, by buckets and by (a slow twin of) the kernel for segments."""
    examples = [Example([5, 6, 7, *answer], 3) for answer in ([8], [9, 10, 11], [9])]
    row = pack_row(examples, range(3), share_prompts=True)
    assert len(row.ids_T) == 3 + 1 + 3 + 1 and row.borders.tolist() == [0, 4, 8, 14]

    def twin(q_THD: Any, k_THD: Any, v_THD: Any, borders: Any, *_: Any, **how: Any) -> Any:
        parts = []
        for start, end in itertools.pairwise(borders.tolist()):
            q, k, v = (tensor[start:end].transpose(0, 1)[None] for tensor in (q_THD, k_THD, v_THD))
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, scale=how["scale"], enable_gqa=q_THD.shape[1] != k_THD.shape[1]
            )
            parts.append(out[0].transpose(0, 1))
        return torch.cat(parts)

    def logits() -> torch.Tensor:
        given = {"input_ids": row.ids_T[None], "position_ids": row.positions_T[None], "use_cache": False}
        with torch.no_grad():
            found: torch.Tensor = tiny.loaded.model(**given, packed=row).logits[0]
        return found

    by_buckets = logits()
    monkeypatch.setattr(attention, "varlen_attn", twin)
    monkeypatch.setattr(attention, "_by_kernel", lambda query, dropout: True)
    torch.testing.assert_close(logits(), by_buckets, atol=1e-5 * float(by_buckets.abs().max()), rtol=0)
    alone = torch.cat([one[-1:] for one in alone_logits(tiny.loaded.model, [Example([5, 6, 7, 9], 3)])])
    torch.testing.assert_close(by_buckets[4:5], alone.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("asked", [True, False], ids=["torch 2.12 and later", "torch 2.11"])
def test_varlen_attention_gets_each_example_and_what_the_kernel_asks_for(
    asked: bool, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU torch's kernel takes a row as it is. Here a slow twin stands in for it, which is handed the same."""
    calls = []

    def twin(
        q_THD: Any, k_THD: Any, v_THD: Any, borders: Any, also: Any, longest: int, too: int, **how: Any
    ) -> Any:
        calls.append((q_THD.dtype, borders.dtype, how["window_size"]))
        assert borders is also and longest == too == max(LENGTHS) and len(borders) == len(LENGTHS) + 1
        grouped = q_THD.shape[1] != k_THD.shape[1]
        assert how.get("enable_gqa") == (grouped if asked else None)
        parts = []
        for start, end in itertools.pairwise(borders.tolist()):
            q, k, v = (tensor[start:end].transpose(0, 1)[None] for tensor in (q_THD, k_THD, v_THD))
            shared = {"scale": how["scale"], "enable_gqa": grouped}
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, **shared)
            parts.append(out[0].transpose(0, 1))
        return torch.cat(parts)

    examples = make_examples(len(tiny.loaded.chat.tokenizer))
    with torch.no_grad():
        expected = packed_logits(tiny.loaded.model, examples)
        monkeypatch.setattr(attention, "varlen_attn", twin)
        monkeypatch.setattr(attention, "_GROUPS_ARE_ASKED_FOR", asked)
        monkeypatch.setattr(attention, "_by_kernel", lambda query, dropout: True)
        found = packed_logits(tiny.loaded.model, examples)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=0)
        with torch.autocast("cpu", torch.bfloat16):
            packed_logits(tiny.loaded.model, examples)
    assert calls[0] == (torch.float32, torch.int32, (-1, 0)) and calls[-1][0] == torch.bfloat16
