"""Fine-tuning: which traces are seen and how often, packing that changes nothing, adapters, resumption."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from distill.chat import ChatFormat, ThoughtTags
from distill.device import Device
from distill.errors import RunFailed
from distill.models import load, save, with_lora
from distill.recipe import SftStage
from distill.recipe_parts import ModelSource
from distill.records import FinishReason, Trace
from distill.runs import MetricsLog
from distill.student.mixture import Mixture, mix
from distill.student.sft import fine_tune
from distill.training import activations

CPU = Device("cpu", "cpu", False)


def trace(number: int, completion: str | None = None, **changes: Any) -> Trace:
    text = (
        completion if completion is not None else f"<think>{number}+{number}</think>\\boxed{{{2 * number}}}"
    )
    settings: dict[str, Any] = {"tokens": 0, "finish_reason": FinishReason.STOP, "teacher": "t", **changes}
    settings |= {"id": f"t{number}", "problem_id": f"p{number}", "kind": "math"}
    return Trace(problem=f"{number}+{number}", completion=text, **settings)


TRACES = [trace(number) for number in range(10)]


@pytest.fixture
def mixed(tiny_qwen2: Any) -> Any:
    def mix_them(traces: Any, weights: Any, chat: Any = None, **changes: Any) -> Mixture:
        settings = {"epochs": 1.0, "max_length": 1000, "seed": 0, **changes}
        return mix(traces, weights, chat or tiny_qwen2.loaded.chat, **settings)

    return mix_them


# -------------------------------------------------------------------------------- the mixture


@pytest.mark.parametrize(
    ("weight", "epochs", "seen"),
    [(1, 1, 10), (2, 1, 20), (0.5, 1, 5), (1, 2, 20), (1, 0.5, 5), (1, 2.3, 23), (0.5, 3, 15), (1.2, 1, 12)],
)
def test_weights_and_broken_epochs(mixed: Any, weight: float, epochs: float, seen: int) -> None:
    order = mixed({"a": TRACES}, {"a": weight}, epochs=epochs).order
    assert len(order) == seen
    counts = Counter(order)
    assert max(counts.values()) - min(counts.get(number, 0) for number in range(10)) <= (
        1 if weight == int(weight) else int(epochs) + 1
    )


def test_each_epoch_has_its_own_order_and_its_own_half(mixed: Any) -> None:
    order = mixed({"a": TRACES}, {"a": 1}, epochs=2).order
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10)) and order[:10] != order[10:]
    half = mixed({"a": TRACES}, {"a": 0.5}, epochs=2).order
    assert set(half[:5]) != set(half[5:])
    assert mixed({"a": TRACES}, {"a": 1}, seed=1).order != mixed({"a": TRACES}, {"a": 1}).order


def test_sets_keep_their_own_weights(mixed: Any) -> None:
    order = mixed({"a": TRACES[:4], "b": TRACES[4:]}, {"a": 2, "b": 0.5}).order
    assert Counter(order[:]).total() == 11
    assert [Counter(order)[number] for number in range(4)] == [2] * 4


def test_what_is_left_out_is_counted(mixed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [
        trace(11, finish_reason=FinishReason.LENGTH),
        trace(12, finish_reason=FinishReason.ERROR),
        trace(13, "<think>" + "1+1=2;" * 100 + "</think>3"),
        trace(14, finish_reason=None),
        trace(15, "<think>1+1=", finish_reason=None),
    ]
    found = mixed({"a": [*TRACES, *bad]}, {"a": 1}, max_length=100)
    assert found.left_out == {"truncated": 2, "longer than max_length=100": 1, "whose thought never ends": 1}
    assert len(found.examples) == len(found.order) == 11
    assert "left out: 2 traces truncated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("traces", "weight"), [([trace(1, finish_reason=FinishReason.LENGTH)], 1), (TRACES[:1], 0.2)]
)
def test_nothing_left_is_a_failure(mixed: Any, traces: list[Trace], weight: float) -> None:
    with pytest.raises(RunFailed, match=r"no usable trace|leave none") as caught:
        mixed({"a": traces}, {"a": weight})
    assert "goes on" not in caught.value.then, "it would not"


def test_a_model_that_is_asked_with_its_tag_learns_only_what_opens_one(tiny_qwen2: Any, mixed: Any) -> None:
    chat = ChatFormat("m", tiny_qwen2.loaded.chat.tokenizer, ThoughtTags(), prefill=True)
    rows = [trace(1), trace(2, "\n<think>2</think>4"), trace(3, "no thought, 6"), trace(4, "4+4</think>8")]
    found = mixed({"a": rows}, {"a": 1}, chat)
    assert found.left_out == {"without the opening tag that the model's prompt ends with": 2}
    for example, row in zip(found.examples, rows, strict=False):
        assert chat.decode(example.ids[: example.prompt_length] + example.ids[example.prompt_length :])
        prompt = chat.prompt(row.problem).ids
        assert example.ids[: len(prompt)] == prompt, "trained on the very prompt that it will be asked with"
    assert mixed({"a": rows}, {"a": 1}).left_out == {}, "a model without prefill learns them all"


def test_a_teachers_own_tags_become_the_students(mixed: Any, tiny_qwen2: Any) -> None:
    rows = [trace(1, "<<1+1>>\\boxed{2}")]
    chat = tiny_qwen2.loaded.chat
    told = mixed({"a": rows}, {"a": 1}, written_with=[ThoughtTags("<<", ">>")]).examples[0]
    assert chat.decode(told.ids[told.prompt_length :]) == "<think>1+1</think>\\boxed{2}"
    untold = mixed({"a": rows}, {"a": 1}).examples[0]
    assert chat.decode(untold.ids[untold.prompt_length :]) == "<<1+1>>\\boxed{2}"


# -------------------------------------------------------------------------------- training


@pytest.fixture
def tuned(tiny_qwen2: Any, mixed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fine-tune the tiny model: the model, its metrics, the counts."""
    monkeypatch.setenv("DISTILL_QUIET", "1")
    numbers = itertools.count()

    def tune(folder: Path | None = None, traces: Any = TRACES, **changes: Any) -> tuple[Any, Any, Any]:
        settings = {"learning_rate": 1e-2, "batch_size": 4, "epochs": 2, "checkpoint_every": 2, **changes}
        stage = SftStage.model_validate(
            {"name": "distil", "kind": "sft", "model": "m", "traces": {"a": 1}, "makes": "s", **settings}
        )
        loaded = load(
            "m", tiny_qwen2.folder, ModelSource(path=str(tiny_qwen2.folder)), CPU, dtype=torch.float32
        )
        if stage.method == "lora":
            loaded = with_lora(loaded, stage.lora, seed=0)
        folder = folder or tmp_path / str(next(numbers))
        counts = fine_tune(
            stage, loaded, CPU, mixed({"a": traces}, {"a": 1}, epochs=stage.epochs),
            folder=folder, fingerprint="f", seed=0, saved=lambda: None,
        )  # fmt: skip
        return loaded, MetricsLog.read(folder / "metrics.jsonl"), counts.counts

    return tune


def weights_of(loaded: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in loaded.model.named_parameters()}


def test_packing_changes_nothing(tuned: Any) -> None:
    """One update: Adam divides by the gradient's size, so that later ones would blow rounding errors up."""
    changes = {"epochs": 0.8, "batch_size": 8, "optimiser": {"betas": (0.0, 0.9)}}
    packed, (told,), _ = tuned(**changes)
    alone, (told_alone,), _ = tuned(**changes, micro_batch_tokens=40, max_length=40)
    for key in ("loss", "grad_norm"):
        assert told_alone[key] == pytest.approx(told[key], rel=1e-5), key
    found, expected = weights_of(alone), weights_of(packed)
    for name in found:
        if "bias" not in name:  # the gradient of a key's bias is zero but for rounding, whose sign Adam takes
            torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=0, msg=name)


def test_it_learns_the_responses_by_heart(tuned: Any) -> None:
    _, rows, counts = tuned(traces=TRACES[:4], epochs=60, learning_rate=1e-2)
    assert rows[0]["loss"] > 3 and rows[-1]["loss"] < 0.05
    assert counts["steps"] == len(rows) == 60 and counts["examples"] == 240
    assert rows[-1]["epoch"] == 60 and counts["trained_tokens"] == rows[-1]["trained_tokens"]


@pytest.mark.parametrize(("traces", "epochs"), [(3, 1), (5, 1), (6, 2.5)])
def test_epochs_end_where_they_were_said_to(tuned: Any, traces: int, epochs: float) -> None:
    _, rows, _ = tuned(traces=TRACES[:traces], epochs=epochs)
    told = [row["epoch"] for row in rows]
    assert told == sorted(told) and told[-1] == epochs


def test_the_prompt_is_no_part_of_the_loss(tuned: Any, mixed: Any) -> None:
    _, _, counts = tuned(epochs=1)
    examples = mixed({"a": TRACES}, {"a": 1}).examples
    assert counts["trained_tokens"] == sum(len(e.ids) - e.prompt_length for e in examples)


@pytest.mark.parametrize(
    "method",
    [
        {"method": "full"},
        {"method": "lora", "lora": {"rank": 2, "dropout": 0.2}},
        {"method": "qlora", "lora": {"rank": 2, "dropout": 0.2}},
        {"memory": {"weights": "bfloat16", "moments": "8bit"}},
        {"memory": {"moments": "8bit", "activations": "offload"}},
    ],
    ids=["full", "lora", "qlora", "bfloat16 and 8 bits", "8 bits and offload"],
)
@pytest.mark.parametrize("stopped_at", [2, 4, 5])
def test_a_resumed_run_is_the_undisturbed_one(
    tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: dict[str, Any], stopped_at: int
) -> None:
    whole, rows, counts = tuned(**method)
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    calls, real = itertools.count(1), MetricsLog.append

    def stops(log: MetricsLog, row: Any) -> None:
        real(log, row)
        if next(calls) == stopped_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetricsLog, "append", stops)
        tuned(tmp_path / "resumed", **method)
    resumed, rows_resumed, counts_resumed = tuned(tmp_path / "resumed", **method)
    expected = weights_of(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(resumed).items())
    assert counts == counts_resumed
    for row, row_resumed in zip(rows, rows_resumed, strict=True):
        assert {**row, "seconds": 0} == {**row_resumed, "seconds": 0}


@pytest.mark.parametrize("activations", ["recompute", "offload"])
def test_activations_that_are_not_kept_change_nothing(tuned: Any, activations: str) -> None:
    kept, rows, _ = tuned()
    other, others, _ = tuned(memory={"activations": activations})
    assert [row["loss"] for row in rows] == [row["loss"] for row in others]
    expected = weights_of(kept)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(other).items())


def test_what_waits_on_the_host_is_large_and_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []
    real = activations._to_host
    monkeypatch.setattr(activations, "_to_host", lambda tensor: moved.append(real(tensor)) or moved[-1])
    linear = torch.nn.Linear(256, 256)
    x = torch.randn(300, 256, requires_grad=True)
    with activations.keeping("offload"):
        y = linear(x * 2)
    y.sum().backward()
    shapes = [one[1].shape for one in moved if isinstance(one, tuple)]
    assert shapes == [(300, 256)] and len(moved) == 2
    torch.testing.assert_close(linear.weight.grad, (x * 2).sum(0).expand(256, 256), rtol=1e-4, atol=1e-4)


def test_adapters_alone_are_trained_and_merge_into_a_plain_folder(
    tuned: Any, tiny_qwen2: Any, tmp_path: Path
) -> None:
    loaded, rows, _ = tuned(method="lora", lora={"rank": 4, "alpha": 8}, epochs=4)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1
    before = {name: tensor for name, tensor in tiny_qwen2.loaded.model.state_dict().items()}
    for name, parameter in loaded.model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        assert parameter.requires_grad is ("lora_" in name), name
        if "lora_" not in name:
            assert torch.equal(parameter, before[plain]), name
    ids = torch.tensor([[5, 6, 7, 8]])
    loaded.model.eval()
    with torch.no_grad():
        unmerged = loaded.model(input_ids=ids).logits
        save(loaded, tmp_path / "student")
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "student")(input_ids=ids).logits
    torch.testing.assert_close(merged, unmerged, atol=1e-4, rtol=1e-4)
