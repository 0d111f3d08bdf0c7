"""Log-probabilities of packed rows against one example at a time.

Legend: N trained tokens of a row.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from distill.chat import Example
from distill.training import logprobs
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


def test_answers_that_share_their_prompt_get_the_same_numbers_and_gradients(tiny: Any) -> None:
    """In float64: two prompts of three answers each, one empty but for its end, beside one that stands alone."""
    chat, model = tiny.loaded.chat, copy.deepcopy(tiny.loaded.model).double()
    asked = [("17+5-8", ("1", "<think>22-8</think>14", "")), ("9", ("12", "7", "12")), ("20-3", ("17",))]
    examples = [chat.example(problem, answer) for problem, answers in asked for answer in answers]
    parameters = list(model.parameters())
    found = []
    for shared in (False, True):
        row = pack_row(examples, range(len(examples)), share_prompts=shared)
        logprobs_N = token_logprobs(model, row)
        # Every answer weighs another amount, as advantages do.
        gradients = torch.autograd.grad((logprobs_N * (row.example_N + 1)).sum(), parameters)
        found.append((len(row.ids_T), by_example(row, logprobs_N.detach()), gradients))
    (tokens, apart, expected), (fewer, together, got) = found
    assert tokens - fewer == 2 * examples[0].prompt_length + 2 * examples[3].prompt_length
    assert together.keys() == apart.keys()
    for number in apart:
        assert together[number] == pytest.approx(apart[number], abs=1e-5)  # the head answers in float32
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


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


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_few_tokens_at_a_time_give_the_same_values_and_gradients(
    naive: ModuleType, tiny: Any, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values to 1e-5 of the slow twin; gradients to 1e-5 of their largest: sums in another order, in float32."""
    model = tiny.loaded.model
    examples = examples_of(tiny.loaded.chat)
    row = pack_row(examples, range(len(examples)))
    weights_N = torch.randn(len(row.targets_N), generator=torch.Generator().manual_seed(0))
    results = []
    for tokens, block in ((10**6, 10**6), (7, 10**6), (7, 100), (1, 37)):
        monkeypatch.setitem(logprobs.CHUNK_BYTES, "cpu", 4 * len(tiny.loaded.chat.tokenizer) * tokens)
        monkeypatch.setattr(logprobs, "CPU_ROWS", tokens)
        monkeypatch.setattr(logprobs, "CPU_VOCABULARY_BLOCK", block)
        found_N = token_logprobs(model, row, temperature)
        results.append((found_N, torch.autograd.grad((found_N * weights_N).sum(), list(model.parameters()))))
    for number, example in enumerate(examples):
        expected = naive.response_logprobs(tiny.twin, example.ids, example.prompt_length, temperature)
        assert by_example(row, results[-1][0])[number] == pytest.approx(expected, abs=1e-5)
    for found_N, gradients in results[1:]:
        torch.testing.assert_close(found_N, results[0][0], atol=1e-5, rtol=0)
        for gradient, expected in zip(gradients, results[0][1], strict=True):
            torch.testing.assert_close(
                gradient, expected, atol=1e-5 * float(expected.abs().max()) + 1e-6, rtol=0
            )


@pytest.mark.parametrize("cast", [None, "weights", "autocast"])
def test_a_few_tokens_at_a_time_in_half_precision(
    tiny_qwen2: Any, cast: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 as near to all at once as its eight bits allow: 2% of the largest gradient."""
    model = copy.deepcopy(tiny_qwen2.loaded.model)
    if cast == "weights":
        model = model.to(torch.bfloat16)
    examples = examples_of(tiny_qwen2.loaded.chat)
    row = pack_row(examples, range(len(examples)))
    results = []
    for tokens in (10**6, 5):
        monkeypatch.setitem(logprobs.CHUNK_BYTES, "cpu", 4 * len(tiny_qwen2.loaded.chat.tokenizer) * tokens)
        monkeypatch.setattr(logprobs, "CPU_ROWS", tokens)
        monkeypatch.setattr(logprobs, "CPU_VOCABULARY_BLOCK", 100)
        monkeypatch.setattr(logprobs, "VOCABULARY_BLOCK", 16)
        with torch.autocast("cpu", torch.bfloat16, enabled=cast == "autocast"):
            found_N = token_logprobs(model, row)
        results.append((found_N, torch.autograd.grad(found_N.sum(), list(model.parameters()))))
    torch.testing.assert_close(
        *(found_N for found_N, _ in results), atol=1e-5 if cast is None else 1e-2, rtol=0
    )
    for gradient, expected in zip(results[1][1], results[0][1], strict=True):
        atol = (1e-5 if cast is None else 0.02) * float(expected.abs().max()) + 1e-6
        torch.testing.assert_close(gradient, expected, atol=atol, rtol=0)


def test_an_adapter_on_the_head_is_kept(tiny_qwen2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        copy.deepcopy(tiny_qwen2.loaded.model), LoraConfig(target_modules=["lm_head", "q_proj"], r=4)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    examples = examples_of(tiny_qwen2.loaded.chat)
    row = pack_row(examples, range(len(examples)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    results = []
    for tokens in (10**6, 5):
        monkeypatch.setitem(logprobs.CHUNK_BYTES, "cpu", 4 * len(tiny_qwen2.loaded.chat.tokenizer) * tokens)
        found_N = token_logprobs(model, row)
        results.append((found_N, torch.autograd.grad(found_N.sum(), trained)))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=0)
    for gradient, expected in zip(results[1][1], results[0][1], strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-4 * float(expected.abs().max()) + 1e-6, rtol=0)


PEAK = """
import sys, torch
from transformers import Qwen2Config, Qwen2ForCausalLM
import distill.training.attention
from distill.chat import Example
from distill.training import logprobs
from distill.training.logprobs import token_logprobs
from distill.training.packing import pack_row

def peak():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def loss_of(length):
    example = Example(ids=[n % 128_000 for n in range(length)], prompt_length=1)
    return -token_logprobs(model, pack_row([example], [0])).sum()

torch.manual_seed(0)
config = Qwen2Config(vocab_size=128_000, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False)
config._attn_implementation = "distill"
model = Qwen2ForCausalLM(config)
loss_of(16).backward()
before = peak()
loss_of(4096).backward()
print(peak() - before)
"""


def test_the_loss_of_a_long_row_over_a_large_vocabulary_takes_little_memory() -> None:
    """4,095 x 128,000 logits would be 2.1 GB in float32; real peak memory grows by less than 200 MB."""
    told = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 200


def test_half_precision_models_give_float32(tiny_qwen2: Any) -> None:
    half = copy.deepcopy(tiny_qwen2.loaded.model).to(torch.bfloat16)
    examples = examples_of(tiny_qwen2.loaded.chat)
    row = pack_row(examples, range(len(examples)))
    with torch.no_grad():
        found_N, expected_N = token_logprobs(half, row), token_logprobs(tiny_qwen2.loaded.model, row)
    assert found_N.dtype == torch.float32
    assert (found_N - expected_N).abs().mean() < 0.2
