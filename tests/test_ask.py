"""One question to one model: what is told, and what cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.cli import main
from distill.models import build_folder
from distill.recipe_parts import Architecture, ModelSource

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model with a short context."""
    folder = tmp_path_factory.mktemp("models") / "student"
    build = Architecture(hidden=16, layers=1, heads=2, max_length=192)
    build_folder("student", ModelSource(build=build, tokenizer="world"), folder, seed=0)
    return str(folder)


def test_ask(model: str, capsys: Capture) -> None:
    arguments = ["ask", model, "1+1", "--max-tokens", "4"]
    assert main(arguments) == 0
    first = capsys.readouterr()
    assert first.out and "stopped after 4 tokens" in first.err
    assert main(arguments) == 0 and capsys.readouterr().out == first.out, "the seed decides"


def test_ask_says_json_and_nothing_else(model: str, capsys: Capture) -> None:
    assert main(["ask", model, "1+1", "--max-tokens", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"question", "thought", "answer", "finish_reason", "tokens"}
    assert told["question"] == "1+1" and told["tokens"] == 4 and told["finish_reason"] == "length"


def test_ask_stops_at_the_context_unless_told_how_far(model: str, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["ask", model, "1+1"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("--max-tokens: ") and "context of 192 leaves" in told[0]
    room = told[0].split()[1].rstrip(",")
    assert main(["ask", model, "1+1", "--max-tokens", room]) == 0
    assert "context" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--temperature", "-1"], "--temperature"),
        (["--top-p", "2"], "--top-p"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["--seed", str(2**64)], "--seed"),
        (["--max-tokens", "192"], "give at most"),
        (["--max-tokens", "4", "long " * 300], "leave no room"),
    ],
)
def test_ask_what_cannot_be_asked(model: str, capsys: Capture, options: list[str], said: str) -> None:
    question = ["1+1"] if len(options) == 2 else []
    assert main(["ask", model, *options, *question]) == 2
    told = capsys.readouterr()
    assert said in told.err and told.out == ""


def test_ask_an_adapter(tiny_qwen2: Any, tmp_path: Path, capsys: Capture) -> None:
    """As peft saves one: no config, no tokenizer, but the name of what it adapts."""
    import torch

    from distill.device import Device
    from distill.models import load, with_lora
    from distill.recipe_parts import Lora, ModelSource

    source, cpu = ModelSource(path=str(tiny_qwen2.folder)), Device("cpu", "cpu", False)
    adapted = with_lora(load("m", tiny_qwen2.folder, source, cpu, dtype=torch.float32), Lora(rank=2), seed=0)
    for name, parameter in adapted.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "config.json").exists()
    place = str(tmp_path / "adapter")
    loaded = load("m", place, ModelSource(path=place), cpu)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        expected = adapted.model.eval()(input_ids=ids).logits
        torch.testing.assert_close(loaded.model(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
    assert main(["ask", place, "1+1", "--max-tokens", "3"]) == 0 and capsys.readouterr().out
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert main(["ask", place, "1+1"]) == 2
    assert "does not say of which model" in capsys.readouterr().err
