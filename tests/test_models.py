"""Models: built, loaded, adapted and saved as ordinary transformers folders; what cannot serve is refused by name."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

from distill.device import Device
from distill.errors import UserError
from distill.models import LoadedModel, build_folder, context_of, load, save, with_lora
from distill.recipe_parts import Architecture, Lora, ModelSource

CPU = Device("cpu", "cpu", False)
TEXTS = [
    "17+5-8",
    "<think>17+5=22;22-8=14;</think>\\boxed{14}<|end|>",
    "```python\ndef f(x):\n\ta=x*2\n\treturn a\n```",
    "\u5148\u52a0\u4e8c\u7b49\u4e8e\u4e94 caf\u00e9  \U0001f600\n\n x",
]
IDS = torch.tensor([[5, 7, 100, 3, 250, 8]])


def source_of(**build: Any) -> ModelSource:
    return ModelSource(
        build=Architecture(**{"hidden": 16, "layers": 1, "heads": 2, **build}), tokenizer="world"
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "model"
    build_folder("m", source_of(), folder, seed=0)
    return folder


def load_path(folder: Path, **source: Any) -> LoadedModel:
    return load("m", folder, ModelSource(path=str(folder), **source), CPU)


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def test_transformers_loads_what_we_save(tiny: Any) -> None:
    ours = tiny.loaded.model
    theirs = AutoModelForCausalLM.from_pretrained(tiny.folder)
    torch.testing.assert_close(logits_of(theirs), logits_of(ours), atol=1e-4, rtol=1e-5)
    assert theirs.config._attn_implementation == "sdpa", "our attention is no part of the folder"
    assert theirs.generation_config.eos_token_id == sorted(tiny.loaded.chat.stop_ids)
    tokenizer = AutoTokenizer.from_pretrained(tiny.folder)
    before = tiny.loaded.chat.tokenizer
    assert tokenizer.chat_template == before.chat_template
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == before.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_a_built_folder_keeps_the_tokenizer_it_was_built_with(tmp_path: Path, architecture: str) -> None:
    from distill.world_tokenizer import build_tokenizer

    build_folder("m", source_of(architecture=architecture), tmp_path / "model", seed=0)
    loaded = load("m", tmp_path / "model", source_of(architecture=architecture), CPU)
    tokenizer = build_tokenizer()
    for text in TEXTS:
        assert loaded.chat.encode(text) == tokenizer.encode(text, add_special_tokens=False)
    assert loaded.chat.eos_id == tokenizer.eos_token_id
    assert loaded.model.config.vocab_size == len(tokenizer)


def test_the_seed_decides_the_weights(built: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        build_folder("m", source_of(), tmp_path / str(seed), seed)
    same, other = ((tmp_path / str(seed) / "model.safetensors").read_bytes() for seed in (0, 1))
    assert same == (built / "model.safetensors").read_bytes() != other


def test_saving_over_a_folder_replaces_it_whole(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "stale.txt").write_text("x")
    save(load_path(built), folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in built.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_save_that_breaks_leaves_the_folder_before(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    loaded = load_path(built)
    save(loaded, folder)
    weights = (folder / "model.safetensors").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(loaded.chat.tokenizer), "save_pretrained", full)
    with pytest.raises(OSError):
        save(loaded, folder)
    assert (folder / "model.safetensors").read_bytes() == weights and (folder / "tokenizer.json").is_file()


@pytest.mark.parametrize("kind", [Exception, SafetensorError])
def test_a_full_disk_is_told_as_such_whoever_meets_it(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """The tokenizers' library raises a bare exception with the system's number in its text."""
    loaded = load_path(built)
    with pytest.raises(Exception, match="os error 28"):
        loaded.chat.tokenizer.backend_tokenizer.save("/dev/full")

    def full(*_: Any, **__: Any) -> None:
        raise kind("No space left on device (os error 28)")

    monkeypatch.setattr(type(loaded.chat.tokenizer), "save_pretrained", full)
    with pytest.raises(OSError) as caught:
        save(loaded, tmp_path / "model")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------- adapters


def test_adapters_start_as_nothing_and_merge_without_a_trace(tiny: Any, tmp_path: Path) -> None:
    loaded = load("m", tiny.folder, ModelSource(path=str(tiny.folder)), CPU, dtype=torch.float32)
    before = logits_of(loaded.model)
    adapted = with_lora(loaded, Lora(rank=4, alpha=8), seed=0)
    torch.testing.assert_close(logits_of(adapted.model), before)
    trainable = {name for name, parameter in adapted.model.named_parameters() if parameter.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    torch.manual_seed(0)
    for name, parameter in adapted.model.named_parameters():
        if name in trainable:
            torch.nn.init.normal_(parameter, std=0.2)
    unmerged = logits_of(adapted.model)
    assert (unmerged - before).abs().max() > 0.1
    save(adapted, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits_of(merged), unmerged, atol=1e-4, rtol=1e-4)
    assert not (tmp_path / "merged" / "adapter_config.json").exists(), (
        "transformers would add the adapter again"
    )


def test_the_seed_decides_the_adapters(built: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        adapted = with_lora(load_path(built), Lora(rank=2), seed)
        found.append(torch.cat([p.flatten() for n, p in adapted.model.named_parameters() if "lora_A" in n]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


# ---------------------------------------------------------------------------------------------- context


def test_the_recipe_changes_the_context(built: Path, tmp_path: Path) -> None:
    changed = load_path(built, max_length=4096, rope_theta=300000)
    assert changed.model.config.max_position_embeddings == 4096
    assert (logits_of(changed.model) - logits_of(load_path(built).model)).abs().max() > 1e-4
    save(changed, tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert (
        again.config.max_position_embeddings == 4096 and again.config.rope_parameters["rope_theta"] == 300000
    )
    torch.testing.assert_close(logits_of(again), logits_of(changed.model))


def test_a_stretched_rope_reads_further_than_its_positions() -> None:
    """Qwen2.5 states the positions before YaRN, Llama 3.1 those after its own stretching."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert context_of(Qwen2Config(max_position_embeddings=32768, rope_scaling=yarn)) == 131072
    llama3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    llama3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert context_of(LlamaConfig(max_position_embeddings=131072, rope_scaling=llama3)) == 131072
    assert context_of(Qwen2Config(max_position_embeddings=512)) == 512


# ---------------------------------------------------------------------------------------------- what cannot serve


def without(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        content = {key: value for key, value in {**content, **changes}.items() if value != "REMOVE"}
        (folder / name).write_text(json.dumps(content))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "no model can be loaded"),
        (without("config.json"), "no model can be loaded"),
        (without("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"), "no tokenizer"),
        (without("tokenizer.json", "tokenizer_config.json"), "no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "no tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "no tokenizer"),
        (without("chat_template.jinja"), "no chat template"),
        (without("model.safetensors"), "weights cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"half"), "weights cannot be loaded"),
        (edit("config.json", hidden_size=32), "weights cannot be loaded"),
        (
            edit("config.json", num_hidden_layers=2, layer_types=["full_attention"] * 2),
            "weights cannot be loaded",
        ),
        (lambda folder: (folder / "config.json").write_text("{"), "no model can be loaded"),
        (edit("config.json", model_type="t5"), "is a t5 model, whose attention"),
    ],
)
def test_a_folder_that_cannot_serve_is_refused_by_name(
    built: Path, tmp_path: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(built, folder)
    spoil(folder)
    with pytest.raises(UserError, match=said) as caught:
        load_path(folder)
    assert caught.value.key.startswith("models.m")


def test_no_eos_is_refused(tmp_path: Path) -> None:
    """Qwen2's tokenizer class invents an EOS beyond the vocabulary where none is given; Llama's has none."""
    for architecture in ("qwen2", "llama"):
        folder = tmp_path / architecture
        build_folder("m", source_of(architecture=architecture), folder, seed=0)
        edit("tokenizer_config.json", eos_token="REMOVE")(folder)
        with pytest.raises(UserError, match=r"no EOS|tokens, the model only"):
            load_path(folder)


def test_a_tokenizer_larger_than_the_model_is_refused(built: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(built)
    tokenizer.add_tokens(["<one>", "<more>"])
    tokenizer.save_pretrained(tmp_path / "larger")
    with pytest.raises(UserError, match=f"has {len(tokenizer)} tokens, the model only {len(tokenizer) - 2}"):
        load_path(built, tokenizer=str(tmp_path / "larger"))


def test_a_sliding_window_is_refused(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sliding"
    shutil.copytree(built, folder)
    edit(
        "config.json",
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=0,
        layer_types=["sliding_attention"],
    )(folder)
    with pytest.raises(UserError, match="sliding window"):
        load_path(folder)


def test_nothing_is_built_with_a_tokenizer_that_cannot_be_trained(tmp_path: Path, built: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(built, bare)
    (bare / "chat_template.jinja").unlink()
    source = source_of().model_copy(update={"tokenizer": str(bare)})
    with pytest.raises(UserError, match="no chat template"):
        build_folder("m", source, tmp_path / "new", seed=0)
    assert not (tmp_path / "new").exists()


def test_a_model_with_sampling_defaults_can_be_saved(built: Path, tmp_path: Path) -> None:
    """transformers refuses to save a temperature beside greedy decoding, as many base models come."""
    folder = tmp_path / "m"
    shutil.copytree(built, folder)
    defaults = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**defaults, "temperature": 0.7, "top_p": 0.8}))
    save(load_path(folder), tmp_path / "saved")
    told = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert told["temperature"] == 0.7 and told["do_sample"] is True


def test_what_no_device_has_to_hold_whole_stays_on_the_host(tiny: Any) -> None:
    """Torch's device without memory stands for a GPU."""
    gpu = Device("meta", "meta", False)
    source = ModelSource(path=str(tiny.folder))
    there = load("m", tiny.folder, source, gpu).model
    here = load("m", tiny.folder, source, gpu, on_host=True).model
    assert {p.device.type for p in there.parameters()} == {"meta"}
    assert {p.device.type for p in here.parameters()} == {"cpu"}
