"""Log-probabilities of packed rows against one example at a time.

Legend: N trained tokens of a row.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from distill.chat import Example
from distill.training.logprobs import token_logprobs
from distill.training.packing import PackedRow, pack_row


def examples_of(chat: Any) -> list[Example]:
    texts = [
        ("17+5-8", "<think>17+5=22;22-8=14;</think>\\boxed{14}"),
        ("a: double; b: at least 3", "<think>a=x*2;b=max(a,3);</think>"),
        ("9", "1"),
        ("20-3", ""),
    ]
    return [chat.example(problem, completion) for problem, completion in texts]


def by_example(row: PackedRow, values_N: torch.Tensor) -> dict[int, list[float]]:
    return {number: values_N[row.example_N == number].tolist() for number in row.example_N.unique().tolist()}


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_equal_one_example_at_a_time(naive: ModuleType, tiny: Any, temperature: float) -> None:
    examples = examples_of(tiny.loaded.chat)
    row = pack_row(examples, range(len(examples)))
    with torch.no_grad():
        found = by_example(row, token_logprobs(tiny.loaded.model, row, temperature))
        for number, example in enumerate(examples):
            expected = naive.response_logprobs(tiny.twin, example.ids, example.prompt_length, temperature)
            assert found[number] == pytest.approx(expected, abs=1e-5)


def test_the_response_is_trained_to_its_eos_and_the_prompt_not_at_all(tiny: Any) -> None:
    chat = tiny.loaded.chat
    examples = examples_of(chat)
    row = pack_row(examples, range(len(examples)))
    for number, example in enumerate(examples):
        targets = row.targets_N[row.example_N == number].tolist()
        assert targets == example.ids[example.prompt_length :]
        assert targets[-1] == chat.eos_id and targets.count(chat.eos_id) == 1
    assert len(row.targets_N) == sum(len(example.ids) - example.prompt_length for example in examples)


def test_the_gradient_of_the_trained_tokens_reaches_every_weight(tiny: Any) -> None:
    examples = examples_of(tiny.loaded.chat)
    row = pack_row(examples, range(len(examples)))
    loss = -token_logprobs(tiny.loaded.model, row).sum()
    gradients = torch.autograd.grad(loss, list(tiny.loaded.model.parameters()))
    # The bias of the keys moves every score of a query alike, so it has no gradient but rounding.
    names = [name for name, _ in tiny.loaded.model.named_parameters()]
    dead = [name for name, gradient in zip(names, gradients, strict=True) if gradient.abs().max() < 1e-4]
    assert dead == []


def test_loss_of_a_packed_row_equals_that_of_rows_of_one(tiny: Any) -> None:
    """The promise of packing: the same loss and gradient to 1e-5 in float32."""
    examples = examples_of(tiny.loaded.chat)
    parameters = list(tiny.loaded.model.parameters())
    results = []
    for cut in ([[0, 1, 2, 3]], [[0], [1], [2], [3]], [[2, 0], [3, 1]]):
        loss = sum(-token_logprobs(tiny.loaded.model, pack_row(examples, row)).sum() for row in cut)
        results.append((loss.item(), torch.autograd.grad(loss, parameters)))
    for loss, gradients in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-5)
        for gradient, expected in zip(gradients, results[0][1], strict=True):
            torch.testing.assert_close(
                gradient, expected, atol=1e-5 * float(expected.abs().max()) + 1e-6, rtol=0
            )


def test_half_precision_models_give_float32(tiny_qwen2: Any) -> None:
    import copy

    half = copy.deepcopy(tiny_qwen2.loaded.model).to(torch.bfloat16)
    examples = examples_of(tiny_qwen2.loaded.chat)
    row = pack_row(examples, range(len(examples)))
    with torch.no_grad():
        found_N, expected_N = token_logprobs(half, row), token_logprobs(tiny_qwen2.loaded.model, row)
    assert found_N.dtype == torch.float32
    assert (found_N - expected_N).abs().mean() < 0.2
