"""`distill plan` on what lies here: contexts as a run reads them; what cannot be read is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, Qwen2Config

from distill.cli import main
from distill.errors import UserError
from distill.models import context_of
from distill.plan import make_plan
from distill.recipe_file import find_recipe, load_recipe

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
SMALL |= {"intermediate_size": 32, "vocab_size": 400}


def planned(*overrides: str) -> dict[str, Any]:
    return make_plan(load_recipe(find_recipe("r1-distill-qwen-7b"), list(overrides)))


def folder(path: Path, kind: Any = Qwen2Config, **settings: Any) -> str:
    kind(**{**SMALL, **settings}).save_pretrained(path)
    return f"models.base.path={path}"


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 256}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("kind", "rope", "further", "context"),
    [
        (Qwen2Config, YARN, [], 2048),
        (LlamaConfig, LLAMA3, [], 2048),
        (Qwen2Config, None, [], 512),
        (Qwen2Config, {"rope_type": "dynamic", "factor": 4.0}, [], 512),
        (Qwen2Config, YARN, ["models.base.max_length=1024"], 1024),
        (Qwen2Config, None, ["models.base.max_length=4096", "models.base.rope_theta=300000"], 4096),
    ],
)
def test_a_context_is_as_long_as_a_run_reads(
    tmp_path: Path, kind: Any, rope: Any, further: list[str], context: int
) -> None:
    given = folder(tmp_path / "m", kind, max_position_embeddings=512, rope_parameters=rope)
    unset = ["models.base.max_length=null", "models.base.rope_theta=null", *further]
    plan = planned(given, *unset, "stages.distil.max_length=32768")
    assert plan["models"]["base"]["context"] == context
    assert any(f"reads {context} tokens" in note for note in plan["stages"][0]["notes"])
    if not further:
        assert context_of(kind.from_pretrained(tmp_path / "m")) == context


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(40) + b"PAR1", b"half"])
def test_a_torn_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    own = tmp_path / "set"
    own.mkdir()
    (own / "traces.parquet").write_bytes(content)
    for path in (own, own / "traces.parquet"):
        assert main(["plan", "r1-distill-qwen-7b", "--set", f"traces.openr1.path={path}"]) == 2
        err = capsys.readouterr().err
        assert "traces.openr1.path" in err and "traces.parquet" in err and "cannot be read" in err
        recipe = ["plan", "gsm8k-distill", "--set", f"problems.gsm8k-train.path={own / 'traces.parquet'}"]
        assert main(recipe) == 2
        assert "problems.gsm8k-train.path" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "a.jsonl").chmod(0)
    with pytest.raises(UserError, match="cannot be read"):
        planned(f"traces.openr1.path={tmp_path / 'a.jsonl'}")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"model_type": "qwen2", "hidden_size": "wide"}',
        '{"model_type": "qwen2", "num_attention_heads": 0}',
    ],
)
def test_a_malformed_config_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json (cannot be used|describes no model)") as caught:
        planned(f"models.base.path={tmp_path}")
    assert caught.value.key == "models.base.path"


def test_an_adapter_has_the_shape_of_its_base(tmp_path: Path) -> None:
    folder(tmp_path / "m")
    (tmp_path / "a").mkdir()
    for base, hidden in ((str(tmp_path / "m"), None), ("Qwen/Qwen2.5-0.5B", 494032768)):
        (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        plan = planned(f"models.base.path={tmp_path / 'a'}")
        assert plan["models"]["base"]["parameters"] == (hidden or plan["stages"][0]["parameters"])


def test_targets_that_name_no_layer_are_not_planned(tmp_path: Path) -> None:
    given = ["stages.distil.method=lora", "stages.distil.lora={targets: [q_prj]}"]
    with pytest.raises(UserError, match="did you mean `q_proj`") as caught:
        planned(*given)
    assert caught.value.key == "stages.distil.lora.targets"
