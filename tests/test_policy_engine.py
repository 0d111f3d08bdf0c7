"""What samples from a policy in training, where no vLLM is needed to tell: recipes, the plan, weights found or not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from distill.device import Device
from distill.errors import UserError
from distill.generate import apart, synced, vllm_engine
from distill.generate.local import LocalEngine
from distill.generate.policy import at_version, policy_engine
from distill.generate.vllm_engine import VllmEngine as VllmProcesses
from distill.generate.vllm_policy import checksum, parts_of, write_weights
from distill.generate.vllm_weights import compare, compare_adapters
from distill.generate.vllm_worker import take
from distill.models import load
from distill.plan import make_plan
from distill.plan.sizes import Assumptions
from distill.recipe_parts import ModelSource, PolicyVllm, VllmEngine

CPU = Device("cpu", "cpu", False)


# ------------------------------------------------------------------------------------ recipes


def test_a_policy_is_sampled_by_itself_or_by_vllm(tiny_recipe_module: Any) -> None:
    recipe = tiny_recipe_module.tiny_recipe
    assert recipe("stages.zero.engine={kind: vllm, max_length: 90}").stage("zero").engine == PolicyVllm(
        kind="vllm", max_length=90
    )
    refused = {
        "engine={kind: server, urls: http://here}": r"stages.zero.engine.kind.*server",
        "engine={kind: vllm, tensor_parallel: 2}": r"stages.zero.engine.tensor_parallel = 2: .*whole on one GPU",
        "engine={kind: vllm, apart: true, tensor_parallel: 2}": r"tensor_parallel = 2: .*whole on one GPU",
        "engine={kind: vllm, data_parallel: 3}": r"stages.zero.engine.data_parallel = 3: .*one device",
        "engine={kind: vllm, max_rows: 3}": r"max_rows",
        "top_p=0.9": "top_p",
        "top_k=20": "top_k",
    }
    for change, reason in refused.items():
        with pytest.raises(UserError, match=reason):
            recipe(f"stages.zero.{change}")
    lora = ("stages.zero.method=lora", "stages.zero.engine={kind: vllm}")
    assert recipe(*lora, "stages.zero.lora={rank: 512}").stage("zero").lora.rank == 512
    with pytest.raises(UserError, match=r"stages.zero.lora.rank = 513: is more than the 512"):
        recipe(*lora, "stages.zero.lora={rank: 513}")


def test_without_vllm_it_is_refused_before_anything_is_written(
    tiny_recipe_module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from distill.chain import run_recipe
    from distill.generate import vllm_engine

    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"stages.zero.engine.kind = 'vllm': vLLM is not installed"):
        run_recipe(tiny_recipe_module.tiny_recipe("stages.zero.engine={kind: vllm}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sampler_apart_needs_gpus_that_the_trainer_leaves(
    tiny_recipe_module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill.order import check_machine

    def check(engine: str) -> None:
        recipe = tiny_recipe_module.tiny_recipe(f"stages.zero.engine={engine}")
        check_machine(recipe, [recipe.stage("zero")])

    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: object())
    monkeypatch.setattr(vllm_engine, "gpus_here", lambda: ["0", "1"])
    check("{kind: vllm}")
    check("{kind: vllm, apart: true}")
    with pytest.raises(
        UserError, match=r"stages.zero.engine = '3 GPUs': .*1 for the trainer, and 2 are here"
    ):
        check("{kind: vllm, apart: true, data_parallel: 2}")
    with pytest.raises(UserError, match=r"stages.harvest.engine.apart"):
        tiny_recipe_module.tiny_recipe("stages.harvest.engine={kind: vllm, apart: true}")


def test_the_plan_holds_a_second_model_and_the_rows_there_is_room_for(tiny_recipe_module: Any) -> None:
    def stage(*changes: str) -> Any:
        recipe = tiny_recipe_module.tiny_recipe("hardware={gpu: h100-80gb}", *changes)
        return next(one for one in make_plan(recipe, Assumptions())["stages"] if one["name"] == "zero")

    local, vllm = stage(), stage("stages.zero.engine={kind: vllm}")
    assert vllm["memory"]["rollout"] > local["memory"]["rollout"], "vLLM has weights of its own"
    ahead = stage("stages.zero.asynchronous=true", "stages.zero.correction={kind: mask}")
    assert ahead["needs"] > local["needs"] and any("overlap" in note for note in ahead["notes"])
    beside = stage("stages.zero.engine={kind: vllm, apart: true}")
    assert "rollout" not in beside["memory"] and any("takes 1 more" in note for note in beside["notes"])
    assert "engine.max_rows" in local["largest"] and "engine.max_rows" not in vllm["largest"]


# ------------------------------------------------------------------------------------ weights found, or not


class Sampler(torch.nn.Module):
    """Parameters as vLLM holds them: q, k and v as one, a vocabulary padded to 64."""

    packed_modules_mapping: ClassVar = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in weights.items():
            module: torch.nn.Module = self
            *above, leaf = name.split(".")
            for step in above:
                if not hasattr(module, step):
                    module.add_module(step, torch.nn.Module())
                module = getattr(module, step)
            module.register_parameter(leaf, torch.nn.Parameter(value, requires_grad=False))


def policy_and_sampler(dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], Sampler]:
    torch.manual_seed(0)
    policy = {
        "embed_tokens.weight": torch.randn(50, 4),
        "layers.0.q_proj.weight": torch.randn(6, 4),
        "layers.0.k_proj.weight": torch.randn(2, 4),
        "layers.0.v_proj.weight": torch.randn(2, 4),
        "layers.0.o_proj.weight": torch.randn(4, 6),
    }
    fused = torch.cat([policy[f"layers.0.{part}_proj.weight"] for part in "qkv"])
    held = {
        "embed_tokens.weight": torch.cat([policy["embed_tokens.weight"], torch.zeros(14, 4)]),
        "layers.0.qkv_proj.base_layer.weight": fused,
        "layers.0.o_proj.base_layer.weight": policy["layers.0.o_proj.weight"].clone(),
    }
    return policy, Sampler({name: value.to(dtype) for name, value in held.items()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_is_found_where_vllm_holds_it(dtype: torch.dtype) -> None:
    policy, sampler = policy_and_sampler(dtype)
    found = compare(sampler, policy.items())
    assert found.wrong == []
    for name, value in policy.items():
        changed = policy | {name: value.clone()}
        changed[name][-1, -1] *= 1 + (2e-7 if dtype == torch.float32 else 0.01)
        told = compare(sampler, changed.items())
        assert told.wrong == [name] and told.checksum == found.checksum, "the checksum is of what is held"
    with torch.no_grad():
        sampler.get_parameter("layers.0.o_proj.base_layer.weight")[0, 0] += 1
    assert compare(sampler, policy.items()).checksum != found.checksum


def test_weights_that_are_in_one_model_alone() -> None:
    policy, sampler = policy_and_sampler(torch.float32)
    assert compare(sampler, (policy | {"head.weight": torch.zeros(2)}).items()).wrong == ["head.weight"]
    less = {name: value for name, value in policy.items() if "o_proj" not in name}
    assert compare(sampler, less.items()).wrong == ["layers.0.o_proj.weight"]
    swapped = policy | {
        "layers.0.k_proj.weight": policy["layers.0.v_proj.weight"],
        "layers.0.v_proj.weight": policy["layers.0.k_proj.weight"],
    }
    assert compare(sampler, swapped.items()).wrong == ["layers.0.k_proj.weight", "layers.0.v_proj.weight"]


def test_adapters_are_found_in_the_room_for_larger_ones() -> None:
    torch.manual_seed(0)
    adapters = {
        f"layers.0.{part}_proj.lora_{side}": torch.randn(shape)
        for part, rows in (("q", 6), ("v", 2))
        for side, shape in (("A", (3, 4)), ("B", (rows, 3)))
    }
    sampler = Sampler({"layers.0.qkv_proj.x": torch.zeros(1)})
    a_side, b_side = [], []
    for part, rows in (("q", 6), ("k", 2), ("v", 2)):
        a, b = torch.zeros(1, 1, 8, 4), torch.zeros(1, 1, rows, 8)
        if part != "k":
            a[0, 0, :3] = adapters[f"layers.0.{part}_proj.lora_A"]
            b[0, 0, :, :3] = adapters[f"layers.0.{part}_proj.lora_B"]
        a_side.append(a)
        b_side.append(b)
    layer: Any = sampler.get_submodule("layers.0.qkv_proj")
    layer.lora_a_stacked, layer.lora_b_stacked = tuple(a_side), tuple(b_side)
    assert compare_adapters(sampler, adapters).wrong == []
    changed = adapters | {"layers.0.v_proj.lora_B": adapters["layers.0.v_proj.lora_B"] + 1e-6}
    assert compare_adapters(sampler, changed).wrong == ["layers.0.v_proj.lora_B"]
    more = adapters | {"layers.1.q_proj.lora_A": torch.zeros(3, 4)}
    assert compare_adapters(sampler, more).wrong == ["layers.1.q_proj.lora_A"]
    b_side[1][0, 0, 0, 0] = 1.0  # an old adapter on a layer that has none now
    assert compare_adapters(sampler, adapters).wrong == ["layers.0.k_proj.lora_B"]


# ------------------------------------------------------------------------------------ processes of its own


def test_a_process_tells_what_it_holds_of_a_folder(tiny_qwen2: Any, tmp_path: Path) -> None:
    """What is missing in its memory is named; an old folder, which is all there, shows in the checksum."""
    source = ModelSource(path=str(tiny_qwen2.folder))
    policy = load("m", tiny_qwen2.folder, source, CPU, dtype=torch.float32).model
    parts = parts_of(policy, torch.bfloat16, True)
    held = Sampler({name: torch.zeros_like(value) for name, value in parts["base"].items()})
    names, kept = {"base": list(parts["base"])}, 0  # so many are not taken over

    def rpc(method: Any, kwargs: Any = None) -> Any:
        if method == "reload_weights":
            for name, value in list(kwargs["weights_iterator"])[kept:]:
                held.get_parameter(name).copy_(value)
            return [None]
        return [method(SimpleNamespace(get_model=lambda: held))]

    engine = SimpleNamespace(collective_rpc=rpc, reset_prefix_cache=lambda: True)
    with torch.no_grad():
        write_weights(policy, parts, tmp_path)
        assert take(engine, str(tmp_path), names) == (None, ([], checksum(parts)))
        policy.get_parameter(names["base"][3]).mul_(1.5)
        newer = parts_of(policy, torch.bfloat16, True)
        assert take(engine, str(tmp_path), names)[1] == ([], checksum(parts)), "the folder is old"
        assert checksum(newer) != checksum(parts)
        write_weights(policy, newer, tmp_path)
        kept = 4
        assert take(engine, str(tmp_path), names)[1][0] == [names["base"][3]]
        kept, engine.reset_prefix_cache = 0, lambda: False
        assert take(engine, str(tmp_path), names)[1][0] == ["keys and values of older weights"]


def test_each_process_has_a_gpu_after_the_trainer_s(
    tiny_qwen2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ModelSource(path=str(tiny_qwen2.folder))
    loaded = load("m", tiny_qwen2.folder, source, CPU, dtype=torch.float32)
    given: list[Any] = []
    for module in (vllm_engine, apart):
        monkeypatch.setattr(module, "gpus_here", lambda: ["4", "5", "6"])
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: object())
    monkeypatch.setattr(vllm_engine, "launch", lambda variables: given.append(variables) or SimpleNamespace())
    monkeypatch.setattr(vllm_engine, "end", lambda copies: None)
    monkeypatch.setattr(VllmProcesses, "_send", lambda self, copy, settings: given.append(settings))
    monkeypatch.setattr(VllmProcesses, "_receive", lambda self, copy: ("ready", 4))
    settings = PolicyVllm(kind="vllm", apart=True, data_parallel=2, memory=0.8, max_length=70)
    engine = apart.ApartEngine(loaded, CPU, settings, 1.0, tmp_path)
    engine._start(engine.length)
    first, told, second, _ = given
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("5", "6")
    assert (told["load_format"], told["max_model_len"], told["dtype"]) == ("dummy", 70, "bfloat16")
    assert told["gpu_memory_utilization"] == 0.8
    assert Path(told["model"], "config.json").is_file()


# ------------------------------------------------------------------------------------ taking turns on a GPU


@pytest.mark.parametrize(("adapted", "level"), [(False, 2), (True, 1)])
def test_on_a_gpu_it_sleeps_between_rollouts(
    tiny_qwen2: Any, monkeypatch: pytest.MonkeyPatch, adapted: bool, level: int
) -> None:
    """The order of the calls alone: weights come before the room for keys and values, which the trainer may need."""
    calls: list[Any] = []
    source = ModelSource(path=str(tiny_qwen2.folder))
    loaded = load("m", tiny_qwen2.folder, source, CPU, dtype=torch.float32)
    monkeypatch.setattr(synced, "check_vllm", lambda key, settings: None)
    engine = synced.SyncedEngine(loaded, Device("gpu", "cuda", True), VllmEngine(kind="vllm"), 1.0)
    engine._adapted = adapted
    engine._llm = SimpleNamespace(
        wake_up=lambda tags: calls.append(tags),
        sleep=lambda level: calls.append(level),
        reset_prefix_cache=lambda: calls.append("reset") or True,
    )
    monkeypatch.setattr(engine, "_send", lambda first: calls.append("send"))
    monkeypatch.setattr(engine, "_read_back", lambda first: calls.append("read back") or 7)
    monkeypatch.setattr(engine, "_probe", lambda: calls.append("probe") or 0.0)
    with at_version(engine, 5) as told:
        calls.append(engine.policy_version)
    assert calls == [["weights"], "send", ["kv_cache"], "read back", "reset", "probe", 5, level]
    assert told["weights_checksum"] == 7


def test_the_model_itself_needs_no_sync(tiny_qwen2: Any, tiny_recipe_module: Any) -> None:
    stage = tiny_recipe_module.tiny_recipe().stage("zero")
    loaded = load("m", tiny_qwen2.folder, ModelSource(path=str(tiny_qwen2.folder)), CPU, dtype=torch.float32)
    with policy_engine(stage, loaded, CPU) as engine:
        assert isinstance(engine, LocalEngine)
        with at_version(engine, 3) as told:
            assert told == {} and engine.policy_version == 3
