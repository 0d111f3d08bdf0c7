"""Real text through the same commands: GSM8K, real tokenizers, the outputs of a 32B model. Models are random and small.

Skipped where the folder of real data is absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cli import main
from distill.shards import read_parquet

TOKENIZERS = {"qwen2": "qwen2.5-rebuilt", "llama": "llama3.1-rebuilt"}
SHORT = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 16}
ENGINE = {"max_rows": 4}
GSM8K_FIELDS = {"problem": "question", "reference": {"from": "answer", "extract": "hash"}}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISTILL_QUIET", "1")


@pytest.fixture
def built(shared_data: Path) -> Callable[[str], dict[str, Any]]:
    def model(architecture: str) -> dict[str, Any]:
        build = {"architecture": architecture, "hidden": 16, "layers": 2, "heads": 2, "max_length": 4096}
        return {"build": build, "tokenizer": str(shared_data / "tokenizers" / TOKENIZERS[architecture])}

    return model


def write(recipe: dict[str, Any]) -> str:
    Path("recipe.yaml").write_text(yaml.safe_dump({"name": "real", **recipe}, sort_keys=False))
    return "recipe.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TOKENIZERS)
def test_gsm8k_is_sampled_and_examined(
    shared_data: Path,
    built: Callable[[str], dict[str, Any]],
    architecture: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = shared_data / "problems" / "gsm8k_test.jsonl"
    filters = {"verified": False, "format": False, "finished": False}
    instruction = "{problem}\n\nPut the answer in \\boxed{}."
    source = {"path": str(path), "fields": GSM8K_FIELDS, "limit": 3, "instruction": instruction}
    file = write(
        {
            "models": {"m": built(architecture)},
            "problems": {"gsm8k": source},
            "suites": {"gsm8k": {"path": str(path), "limit": 2}},
            "stages": [
                {
                    "name": "harvest", "kind": "sample", "model": "m", "problems": "gsm8k", "makes": "traces",
                    "sampling": SHORT, "collect": {"samples": 2}, "filters": filters, "engine": ENGINE,
                },
                {
                    "name": "exam", "kind": "eval", "models": ["m"], "suites": ["gsm8k"], "samples": 2,
                    "sampling": SHORT, "engine": ENGINE,
                },
            ],
        }
    )  # fmt: skip
    assert main(["teacher", "sample", file]) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()[:3]]
    traces = list(read_parquet(Path("runs/real/traces/traces/traces.parquet")))
    assert [trace.problem for trace in traces] == [row["question"] for row in rows for _ in range(2)]
    assert [trace.reference for trace in traces[::2]] == ["18", "3", "70000"]
    assert all(0 < trace.tokens <= 16 and trace.completion for trace in traces)
    capsys.readouterr()
    assert main(["eval", file, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["suite"], row["n"], row["k"]) == ("gsm8k", 2, 2) and row["mean_tokens"] <= 16
    responses = [
        json.loads(line)
        for line in Path("runs/real/results/m/gsm8k/responses.jsonl").read_text().splitlines()
    ]
    assert [row["reference"] for row in responses] == ["18", "18", "3", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", TOKENIZERS)
def test_real_traces_train_a_student(
    shared_data: Path,
    built: Callable[[str], dict[str, Any]],
    architecture: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Import, verify, filter, fine-tune: the recorded thought tags become the student's own."""
    path = shared_data / "outputs" / "qwen25_32b_prompted_long_cot.jsonl"
    names = "problem=question,response=response,reference=gold,tokens=completion_tokens"
    command = ["traces", "import", str(path), "--out", "imported", "--map", names, "--limit", "12", "--json"]
    assert main(command) == 0
    funnel = json.loads(capsys.readouterr().out)
    assert funnel["input"]["traces"] == 12 and funnel["kept"]["traces"] >= 6
    file = write(
        {
            "models": {"blank": built(architecture)},
            "traces": {"real": {"path": "imported"}},
            "stages": [
                {
                    "name": "distil", "kind": "sft", "model": "blank", "traces": {"real": 1}, "makes": "student",
                    "epochs": 1, "batch_size": 4, "max_length": 700, "micro_batch_tokens": 1000,
                }
            ],
        }
    )  # fmt: skip
    assert main(["student", "train", file]) == 0
    counts = json.loads(next(Path("runs/real/stages").glob("*/finished.json")).read_text())["counts"]
    left_out = sum(counts["left_out"].values())
    assert counts["examples"] + left_out == funnel["kept"]["traces"] and counts["examples"] >= 2

    from transformers import AutoModelForCausalLM, AutoTokenizer

    student = Path("runs/real/models/student")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(student), AutoTokenizer.from_pretrained(student)
    assert model.config.model_type == architecture
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id]


def test_a_tokenizer_that_the_architecture_would_read_otherwise_is_refused(
    shared_data: Path, built: Callable[[str], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    model = built("qwen2") | {"tokenizer": str(shared_data / "tokenizers" / TOKENIZERS["llama"])}
    stage = {"name": "exam", "kind": "eval", "models": ["m"], "suites": ["chains"]}
    assert main(["run", write({"models": {"m": model}, "stages": [stage]})]) == 2
    assert "models.m.tokenizer" in capsys.readouterr().err
    assert not Path("runs").exists()
