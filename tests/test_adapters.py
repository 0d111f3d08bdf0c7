"""Adapters are those of their model, and stand on its linear layers; malformed folders are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from distill.chain import run_recipe
from distill.device import Device
from distill.errors import UserError
from distill.inputs import Inputs
from distill.lengths import context_of
from distill.models import build_folder, count_parameters, load, preview, with_lora
from distill.plan import Assumptions, make_plan
from distill.recipe_parts import Architecture, Lora, ModelSource

CPU = Device("cpu", "cpu", False)
IDS = torch.tensor([[5, 7, 100, 3, 250, 8]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "base"
    build = Architecture(hidden=16, layers=2, heads=2, max_length=192)
    build_folder("m", ModelSource(build=build, tokenizer="world"), folder, seed=0)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter that moves the logits, as peft saves it: no tokenizer beside it."""
    loaded = load("m", base, ModelSource(path=str(base)), CPU)
    adapted = with_lora(loaded, Lora(rank=2), seed=0)
    for name, weight in adapted.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return tmp_path / "adapter"


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content = {key: value for key, value in {**content, **changes}.items() if value != "REMOVE"}
        (folder / name).write_text(json.dumps(content))

    return spoil


def write(name: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)

    return spoil


def both_ways(folder: Path, said: str) -> None:
    """Refused before anything is written, and again where it is loaded."""
    for look in (preview, lambda name, source: load(name, folder, source, CPU)):
        with pytest.raises(UserError, match=said) as caught:
            look("m", ModelSource(path=str(folder)))
        assert caught.value.key == "models.m.path", caught.value.key


def test_an_adapter_is_loaded_as_peft_loads_it(base: Path, adapter: Path) -> None:
    from peft import PeftModel

    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
    ours = load("m", adapter, ModelSource(path=str(adapter)), CPU).model.eval()
    assert preview("m", ModelSource(path=str(adapter))).context == 192
    with torch.no_grad():
        expected = theirs(input_ids=IDS).logits
        torch.testing.assert_close(ours(input_ids=IDS).logits, expected, atol=1e-4, rtol=1e-4)
        assert (
            expected - AutoModelForCausalLM.from_pretrained(base)(input_ids=IDS).logits
        ).abs().max() > 0.01
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    ours = load("m", adapter, ModelSource(path=str(adapter)), CPU).model.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(input_ids=IDS).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            weights(lambda w: {k: v for k, v in w.items() if "layers.1" not in k}),
            "lacks 14 of 28 weights, .*layers.1",
        ),
        (weights(lambda w: {k: v for k, v in w.items() if "q_proj" not in k}), "lacks 4 of 28 .*q_proj"),
        (
            weights(lambda w: w | {k.replace("layers.1", "layers.2"): v + 0 for k, v in w.items()}),
            "14 weights that have no place in .*layers.2",
        ),
        (edit("adapter_config.json", target_modules=["q_proj"]), "24 weights that have no place"),
        (weights(lambda w: {k: v.repeat_interleave(2, 0) for k, v in w.items()}), "another shape: .* takes"),
        (edit("adapter_config.json", r=4), "another shape"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "without weights"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"half"), "cannot be read"),
        (write("adapter_config.json", "{"), "no JSON"),
        (write("adapter_config.json", "[]"), "does not say of which model"),
        (edit("adapter_config.json", base_model_name_or_path=5), "does not say of which model"),
        (edit("adapter_config.json", base_model_name_or_path="REMOVE"), "does not say of which model"),
        (edit("adapter_config.json", peft_type="REMOVE"), "cannot be used"),
        (edit("adapter_config.json", peft_type="WORLD"), "cannot be used"),
        (edit("adapter_config.json", r="many"), "cannot be used"),
        (edit("adapter_config.json", target_modules=["no_proj"]), "cannot be used .*no_proj"),
        (
            write(
                "adapter_config.json",
                '{"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4, '
                '"base_model_name_or_path": "BASE"}',
            ),
            "cannot be merged",
        ),
    ],
)
def test_an_adapter_that_is_not_this_models_is_refused(
    base: Path, adapter: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    spoil(adapter)
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace('"BASE"', json.dumps(str(base))))
    both_ways(adapter, said)


def test_an_adapter_of_an_adapter_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "second")
    edit("adapter_config.json", base_model_name_or_path=str(adapter))(tmp_path / "second")
    shutil.copy(
        Path(
            json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"],
            "config.json",
        ),
        adapter,
    )
    both_ways(tmp_path / "second", "is an adapter itself")


# ---------------------------------------------------------------------------------------------- malformed folders


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (write("config.json", "[]"), "no model can be loaded"),
        (write("config.json", '"text"'), "no model can be loaded"),
        (write("config.json", "{}"), "no model can be loaded"),
        (edit("config.json", hidden_size="wide"), "no model can be"),
        (edit("config.json", hidden_size=None), "no model"),
        (edit("config.json", num_attention_heads=0), "no model"),
        (edit("config.json", num_key_value_heads=0), "no model"),
        (edit("config.json", num_hidden_layers=-3), "no model"),
        (edit("config.json", vocab_size="REMOVE", hidden_act="no_such"), "no model"),
        (edit("config.json", rope_parameters="yarn"), "no model"),
        (edit("config.json", rope_parameters={"rope_type": "yarn"}), "no model"),
        (edit("config.json", rope_parameters={"rope_type": "no_such"}), "no model"),
        (edit("config.json", max_position_embeddings="long"), "no model"),
        (edit("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "quantised"),
        (
            edit("config.json", layer_types=["chunked_attention"] * 2),
            "has chunked_attention, which packed rows",
        ),
        (write("generation_config.json", "[]"), "generation_config.json"),
        (edit("generation_config.json", eos_token_id="<|end|>"), "eos_token_id"),
        (edit("generation_config.json", eos_token_id=[[5]]), "eos_token_id"),
    ],
)
def test_a_malformed_folder_is_refused_by_name(
    base: Path, tmp_path: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(base, folder)
    spoil(folder)
    both_ways(folder, said)


@pytest.mark.parametrize(
    "text", ["[]", "5", '{"added_tokens_decoder": 5}', '{"eos_token": 5}', '{"chat_template": 5}']
)
def test_a_malformed_tokenizer_config_is_refused(base: Path, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(base, folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(text)
    with pytest.raises(UserError) as caught:
        preview("m", ModelSource(path=str(folder)))
    assert caught.value.key.startswith("models.m")


def test_layers_that_the_config_does_not_count_are_not_left_out(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fewer"
    shutil.copytree(base, folder)
    edit("config.json", num_hidden_layers=1, layer_types=["full_attention"])(folder)
    with pytest.raises(UserError, match=r"have no place in what config.json describes, .*layers.1"):
        load("m", folder, ModelSource(path=str(folder)), CPU)


def test_weights_whose_index_is_malformed_are_refused(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    for text in ("{", "[]", "{}", '{"metadata": {}, "weight_map": {"a": "none.safetensors"}}'):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(UserError, match="weights cannot be loaded"):
            load("m", folder, ModelSource(path=str(folder)), CPU)


# ---------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("[q_prj]", "q_prj.*names no module of the model\n  remedy: did you mean `q_proj`"),
        ("[q_proj, experts]", "experts.*names no module"),
        ("[input_layernorm]", "is no linear layer but a Qwen2RMSNorm"),
        ("[self_attn]", "is no linear layer but a Qwen2Attention"),
        ("[embed_tokens]", "is no linear layer but a Embedding"),
        ("[lm_head]", "merged, the adapter would change both"),
        ("[]", "names no layer"),
        ("['']", "names no module"),
    ],
)
def test_targets_are_checked_before_anything_is_written(
    tiny_recipe_module: Any, tmp_path: Path, base: Path, targets: str, said: str
) -> None:
    given = ["stages.distil.method=lora", f"stages.distil.lora={{targets: {targets}}}"]
    there = [
        "models.student-blank.build=null",
        "models.student-blank.tokenizer=null",
        f"models.student-blank.path={base}",
    ]
    for recipe in (
        tiny_recipe_module.tiny_recipe(*given),
        tiny_recipe_module.tiny_recipe(*given, *there),
    ):
        with pytest.raises(UserError, match=said) as caught:
            run_recipe(recipe, tmp_path / "run")
        assert caught.value.key == "stages.distil.lora.targets"
    assert not (tmp_path / "run").exists()


def test_a_rank_above_the_width_is_refused_by_run_and_plan(
    tiny_recipe_module: Any, tmp_path: Path, base: Path
) -> None:
    there = ["models.student-blank.build=null", "models.student-blank.tokenizer=null"]
    there = [*there, f"models.student-blank.path={base}", "stages.distil.method=lora"]
    good = tiny_recipe_module.tiny_recipe(*there, "stages.distil.lora.rank=16")
    assert Inputs(good).fitted("distil").method == "lora"
    recipe = tiny_recipe_module.tiny_recipe(*there, "stages.distil.lora.rank=17")
    with pytest.raises(
        UserError, match=r"stages.distil.lora.rank = 17: is more than the model's width of 16"
    ):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"stages.distil.lora.rank = 17"):
        make_plan(recipe, Assumptions())


@pytest.mark.parametrize("lora", ["{targets: [q_prj]}", "{rank: 4096}"])
def test_a_plan_refuses_adapters_of_a_policy_that_a_run_would_refuse(
    tiny_recipe_module: Any, lora: str
) -> None:
    recipe = tiny_recipe_module.tiny_recipe("stages.zero.method=lora", f"stages.zero.lora={lora}")
    with pytest.raises(UserError, match=r"stages.zero.lora.(targets = 'q_prj'|rank = 4096)"):
        make_plan(recipe, Assumptions())


def test_good_targets_pass(tiny_recipe_module: Any) -> None:
    for targets in ("[q_proj, down_proj]", "[layers.0.mlp.up_proj]", "all-linear"):
        given = ["stages.distil.method=lora", f"stages.distil.lora={{targets: {targets}}}"]
        assert Inputs(tiny_recipe_module.tiny_recipe(*given)).fitted("distil").method == "lora"


def test_an_adapter_under_four_bits_is_refused_before_anything_is_written(
    tiny_recipe_module: Any, tmp_path: Path, adapter: Path
) -> None:
    given = [
        "models.student-blank.build=null",
        f"models.student-blank.path={adapter}",
        "stages.distil.method=qlora",
    ]
    with pytest.raises(UserError, match="cannot be merged into four-bit weights"):
        run_recipe(tiny_recipe_module.tiny_recipe(*given), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- positions


def test_positions_that_go_by_the_longest_text_are_refused(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "longrope"
    shutil.copytree(base, folder)
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4.0}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 16, **factors}
    edit("config.json", rope_parameters=rope)(folder)
    both_ways(folder, "longrope")


def test_dynamic_positions_are_the_plain_ones_within_the_context(base: Path, tmp_path: Path) -> None:
    """Beyond it they would go by the longest text of a batch, so nothing may be read there."""
    folder = tmp_path / "dynamic"
    shutil.copytree(base, folder)
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    edit("config.json", rope_parameters=rope)(folder)
    plain = load("m", base, ModelSource(path=str(base)), CPU).model.eval()
    dynamic = load("m", folder, ModelSource(path=str(folder)), CPU).model.eval()
    ids = torch.arange(192)[None] % 50 + 3
    with torch.no_grad():
        torch.testing.assert_close(dynamic(input_ids=ids).logits, plain(input_ids=ids).logits)
        torch.testing.assert_close(dynamic(input_ids=IDS).logits, plain(input_ids=IDS).logits)
    assert context_of(dynamic.config) == 192
    stated = {**rope, "original_max_position_embeddings": 192}
    config = LlamaConfig(max_position_embeddings=192, rope_parameters=stated)
    assert context_of(config) == 192


def test_parameters_of_a_malformed_config_are_not_counted(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "m")
    edit("config.json", num_attention_heads=0)(tmp_path / "m")
    with pytest.raises(UserError, match="no model"):
        count_parameters("m", tmp_path / "m")
