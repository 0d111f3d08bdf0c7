"""Updates: accumulation, schedule, clipping, a gradient that breaks, and going on where it was left."""

from __future__ import annotations

import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from distill.chat import Example
from distill.device import Device
from distill.errors import RunFailed
from distill.recipe_parts import Optimiser, Schedule
from distill.training.checkpoint import load_checkpoint, save_checkpoint
from distill.training.logprobs import token_logprobs
from distill.training.packing import pack_row
from distill.training.update import Updater, learning_rate_at

CPU = Device("cpu", "cpu", False)


def make_examples(count: int) -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 40, (count,), generator=generator).tolist()
    return [Example(torch.randint(400, (n,), generator=generator).tolist(), 3) for n in lengths]


def make_updater(model: Any, **settings: Any) -> Updater:
    optimiser = Optimiser(**{"max_grad_norm": 1e9, **settings})
    return Updater(copy.deepcopy(model), CPU, 1e-2, Schedule(kind="cosine"), optimiser, steps=10)


def learn(updater: Updater, examples: list[Example], rows: list[list[int]]) -> dict[str, float]:
    """One update on examples that are cut into these rows."""
    tokens = sum(len(example.ids) - example.prompt_length for example in examples)
    for numbers in rows:
        updater.backward(-token_logprobs(updater.model, pack_row(examples, numbers)).sum() / tokens)
    return updater.step()


def weights(updater: Updater) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in updater.model.named_parameters()}


def test_one_row_of_eight_and_eight_rows_of_one_have_equal_gradients(tiny_qwen2: Any) -> None:
    examples = make_examples(8)
    gradients = []
    for rows in ([list(range(8))], [[number] for number in range(8)], [[0, 5], [7, 1, 2], [3, 4, 6]]):
        updater = make_updater(tiny_qwen2.loaded.model)
        tokens = sum(len(example.ids) - example.prompt_length for example in examples)
        for row in rows:
            updater.backward(-token_logprobs(updater.model, pack_row(examples, row)).sum() / tokens)
        gradients.append([parameter.grad for parameter in updater.model.parameters()])
    for others in gradients[1:]:
        for gradient, expected in zip(others, gradients[0], strict=True):
            torch.testing.assert_close(
                gradient, expected, atol=1e-5 * float(expected.abs().max()) + 1e-7, rtol=0
            )


def test_an_update_is_adamw_by_the_book() -> None:
    """Loshchilov & Hutter 2019, algorithm 2, with weight decay on matrices alone."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    settings = {"weight_decay": 0.1, "betas": (0.9, 0.95), "max_grad_norm": 0.5}
    updater = make_updater(model, **settings)
    expected = {name: tensor.detach().clone().double() for name, tensor in model.named_parameters()}
    moments = {
        name: (torch.zeros_like(tensor), torch.zeros_like(tensor)) for name, tensor in expected.items()
    }
    for step in range(1, 4):
        inputs = torch.randn(5, 3)
        updater.backward(updater.model(inputs).square().sum())
        gradient = {name: p.grad.double().clone() for name, p in updater.model.named_parameters()}
        norm = torch.sqrt(sum(g.square().sum() for g in gradient.values()))
        told = updater.step()
        assert told["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
        rate = told["learning_rate"]
        for name, weight in expected.items():
            clipped = gradient[name] * min(1.0, 0.5 / float(norm))
            first, second = moments[name]
            first.mul_(0.9).add_(0.1 * clipped)
            second.mul_(0.95).add_(0.05 * clipped.square())
            if weight.ndim >= 2:
                weight.mul_(1 - rate * 0.1)
            weight.sub_(rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-8))
    for name, weight in weights(updater).items():
        torch.testing.assert_close(weight.double(), expected[name], rtol=1e-4, atol=1e-6)
    assert updater.done == 3
    assert all(parameter.grad is None for parameter in updater.model.parameters())


@pytest.mark.parametrize("kind", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_the_schedule(naive: ModuleType, kind: Any, warmup: float, final: float) -> None:
    schedule, steps = Schedule(kind=kind, warmup=warmup, final=final), 40
    rates = [learning_rate_at(step, steps, 3e-4, schedule) for step in range(steps)]
    expected = [
        naive.learning_rate(step, steps, 3e-4, kind, int(warmup * steps), final) for step in range(steps)
    ]
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-18)
    assert max(rates) == 3e-4
    assert rates[0] > 0, "no update is wasted at rate zero"
    assert rates[-1] == pytest.approx(3e-4 * (final if kind == "cosine" else 1))


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_the_schedule_of_a_very_short_run(steps: int, warmup: float) -> None:
    schedule = Schedule(kind="cosine", warmup=warmup, final=0.1)
    rates = [learning_rate_at(step, steps, 1.0, schedule) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(tiny_qwen2: Any, broken: float) -> None:
    examples = make_examples(2)
    updater = make_updater(tiny_qwen2.loaded.model, max_grad_norm=1.0)
    learn(updater, examples, [[0, 1]])
    before, state = weights(updater), copy.deepcopy(updater.adamw.state_dict()["state"])
    updater.backward(token_logprobs(updater.model, pack_row(examples, [0])).sum() * broken)
    with pytest.raises(RunFailed, match="gradient of update 2 is not finite"):
        updater.step()
    for name, tensor in weights(updater).items():
        assert torch.equal(tensor, before[name]), name
    assert updater.done == 1
    for number, moments in updater.adamw.state_dict()["state"].items():
        assert all(torch.equal(tensor, state[number][name]) for name, tensor in moments.items())


def test_resumes_bit_for_bit_through_a_file(tiny_qwen2: Any, tmp_path: Path) -> None:
    examples = make_examples(6)
    batches = [[[0, 1], [2]], [[3, 4, 5]], [[5, 0]], [[1, 2, 3]]]
    whole = make_updater(tiny_qwen2.loaded.model, weight_decay=0.1)
    told = [learn(whole, examples, rows) for rows in batches]

    first = make_updater(tiny_qwen2.loaded.model, weight_decay=0.1)
    for rows in batches[:2]:
        learn(first, examples, rows)
    save_checkpoint(tmp_path, first.done, "stage", first.state())
    # What happens to the killed process after its checkpoint must not reach the file.
    learn(first, examples, batches[3])

    second = make_updater(tiny_qwen2.loaded.model, weight_decay=0.1)
    found = load_checkpoint(tmp_path, "stage")
    assert found is not None and found[0] == 2
    second.restore(found[1])
    assert second.done == 2
    assert [learn(second, examples, rows) for rows in batches[2:]] == told[2:]
    for name, tensor in weights(second).items():
        assert torch.equal(tensor, weights(whole)[name]), name


def test_a_checkpoint_of_another_model_is_our_own_mistake() -> None:
    state = make_updater(torch.nn.Linear(2, 2)).state()
    updater = make_updater(torch.nn.Sequential(torch.nn.Linear(2, 2)))
    with pytest.raises(AssertionError, match="another model"):
        updater.restore(state)


def test_a_skipped_update_counts_and_changes_nothing() -> None:
    updater = make_updater(torch.nn.Linear(2, 2))
    before = weights(updater)
    told = updater.skip()
    assert told == {"grad_norm": 0.0, "learning_rate": 1e-2} and updater.done == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(updater).items())


def test_frozen_weights_stay_and_are_not_saved() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    updater = make_updater(model, weight_decay=0.5)
    updater.backward(updater.model(torch.ones(1, 2)).sum())
    updater.step()
    assert torch.equal(updater.model[0].weight, model[0].weight)
    assert not torch.equal(updater.model[1].weight, model[1].weight)
    assert set(updater.state()["weights"]) == {"1.weight", "1.bias"}


def test_each_run_of_updates_has_its_own_precision() -> None:
    for bf16 in (True, False):
        model = torch.nn.Linear(2, 1)
        updater = Updater(model, Device("cpu", "cpu", bf16), 0.1, Schedule(kind="constant"), Optimiser(), 1)
        product = updater.model(torch.ones(1, 2)).sum()
        assert product.dtype == (torch.bfloat16 if bf16 else torch.float32)
        updater.backward(product)
        updater.step()
