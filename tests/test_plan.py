"""Plans: parameters and saved bytes against real models, parts against numbers worked by hand, and what fits."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.autograd.graph import saved_tensors_hooks

import distill.training.attention
from distill.chat import Example
from distill.cli import main
from distill.errors import UserError
from distill.plan import Assumptions, make_plan
from distill.plan.architectures import KNOWN, WORLD_VOCABULARY, Shape, shape_of
from distill.plan.fit import largest, nearest_change
from distill.plan.hardware import GIB, GPUS
from distill.plan.memory import (
    CHUNK_BYTES,
    Training,
    activation_bytes,
    generation_parts,
    layer_bytes,
    training_parts,
)
from distill.plan.table import as_lines
from distill.plan.work import forward_flops, generate, training_flops
from distill.recipe_file import find_recipe, load_recipe, parse_recipe, shipped_recipes
from distill.recipe_parts import Lora, ModelSource
from distill.training import logprobs
from distill.training.packing import pack_row
from distill.world_tokenizer import build_tokenizer

SHIPPED = sorted(shipped_recipes())
R1 = [name for name in SHIPPED if name.startswith("r1-distill-")]
CONFIGS = {
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
    "llama": transformers.LlamaConfig,
}


def config_of(shape: Shape) -> Any:
    return CONFIGS[shape.family](
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=shape.context,
    )


def model_of(shape: Shape, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_config(config_of(shape), **options)


def planned(name: str, *overrides: str, **assumed: Any) -> dict[str, Any]:
    return make_plan(load_recipe(find_recipe(name), list(overrides)), Assumptions(**assumed))


# ------------------------------------------------------------------------------------ shapes


@pytest.mark.parametrize("shape", KNOWN.values(), ids=KNOWN)
def test_parameters_are_those_of_the_model_that_transformers_builds(shape: Shape) -> None:
    with torch.device("meta"):
        model = model_of(shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-Math-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-Math-7B", 7_615_616_512),
        ("Qwen/Qwen2.5-14B", 14_770_033_664),
        ("Qwen/Qwen2.5-32B", 32_763_876_352),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Llama-3.3-70B-Instruct", 70_553_706_496),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000),
        ("Qwen/Qwen3-8B", 8_190_735_360),
    ],
)
def test_parameters_are_the_published_ones(name: str, parameters: int) -> None:
    assert KNOWN[name].parameters == parameters


def test_the_world_has_as_many_tokens_as_the_plan_says() -> None:
    assert len(build_tokenizer()) == WORLD_VOCABULARY


def test_chunks_are_those_of_the_head() -> None:
    assert CHUNK_BYTES == logprobs.CHUNK_BYTES


@pytest.mark.parametrize("family", CONFIGS)
def test_a_local_folder_is_read(family: Any, tmp_path: Path) -> None:
    head_dim = 24 if family == "qwen3" else 16  # Qwen3's heads need not add up to the hidden size
    shape = Shape(str(tmp_path), family, 64, 2, 4, 2, head_dim, 96, 500, family != "llama", 512)
    config_of(shape).save_pretrained(tmp_path)
    assert shape_of("m", ModelSource(path=str(tmp_path))) == shape


def test_a_built_model_has_the_parameters_of_the_real_one(tmp_path: Path) -> None:
    from distill.models import build_folder

    source = load_recipe(find_recipe("quickstart")).models["teacher-blank"]
    build_folder("m", source, tmp_path / "m", seed=0)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert shape_of("m", source).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_model_that_is_nowhere_is_a_clear_error() -> None:
    with pytest.raises(UserError) as caught:
        shape_of("mine", ModelSource(path="someone/Unheard-Of-7B"))
    assert caught.value.key == "models.mine.path" and "config.json" in caught.value.remedy


# ------------------------------------------------------------------------------------ memory


def saved_bytes(shape: Shape, *, autocast: bool, dtype: torch.dtype, lora: Lora | None) -> int:
    """Bytes that autograd saves for one row of 320 tokens, weights and their casts left out."""
    model = model_of(shape, attn_implementation=distill.training.attention.NAME, dtype=dtype)
    if lora is not None:
        from peft import LoraConfig, get_peft_model

        targets = lora.targets
        model = get_peft_model(model, LoraConfig(r=lora.rank, target_modules=targets, task_type="CAUSAL_LM"))
    model.train()
    row = pack_row([Example([1 + number % 60 for number in range(320)], 4)], [0], "cpu")
    weights = {tuple(parameter.shape) for parameter in model.parameters()}
    weights |= {shape[::-1] for shape in weights}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, autocast):
        logprobs.token_logprobs(model, row)
    return sum(
        tensor.untyped_storage().nbytes()
        for place, tensor in saved.items()
        if place not in own and tuple(tensor.shape) not in weights
    )


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("case", ["float32", "bfloat16", "lora", "cpu", "cpu lora", "cpu lora of some"])
def test_saved_activations_are_those_that_autograd_saves(family: Any, case: str) -> None:
    """The difference between three layers and one is two layers'."""
    shape = Shape("tiny", family, 256, 1, 8, 2, 48 if family == "qwen3" else 32, 1000, 64, True, 512)
    some = ["v_proj", "up_proj", "down_proj"] if case.endswith("some") else "all-linear"
    lora, on_cpu = Lora(rank=8, targets=some) if "lora" in case else None, case.startswith("cpu")
    dtype = torch.float32 if case == "float32" or on_cpu else torch.bfloat16
    one, three = (
        saved_bytes(replace(shape, layers=layers), autocast=not on_cpu, dtype=dtype, lora=lora)
        for layers in (1, 3)
    )
    training = Training(
        shape,
        row=320,
        gpus=1,
        device="cpu" if on_cpu else "cuda",
        method="lora" if lora else "full",
        lora=lora or Lora(),
        weights="bfloat16" if case == "bfloat16" else "float32",
    )
    exact = 0.01 if case.endswith("some") else 0  # some 128 bytes of 22,920 are not explained
    assert (three - one) / 2 / 320 == pytest.approx(layer_bytes(training), rel=exact, abs=0)


def test_the_parts_of_a_7b_model_worked_by_hand() -> None:
    """Qwen2.5-Math-7B, full, eight GPUs, a row of 32768: h 3584, q 3584, k 512, f 18944, H 28, L 28, V 152064."""
    training = Training(KNOWN["Qwen/Qwen2.5-Math-7B"], 32768, 8, activations="recompute")
    assert training_parts(training) == {
        "weights": 4 * 7_615_616_512 / 8,
        "gradients": 4 * 7_615_616_512 / 8,
        "moments": 8 * 7_615_616_512 / 8,
        # a layer 233,057,792, outside the layers 1,089,998,336
        "copies": 2 * (2 * 233_057_792 + 1_089_998_336) + 6 * 1_089_998_336,
        # inputs 28 * 4 * 3584, a layer 26h + 6q + 4k + 8f + 4H + 8, gradients 6f + 16h, ends 16h
        "activations": 32768 * (401_408 + 268_408 + 171_008 + 57_344),
        "head": 1.5 * 2**29 + 6 * 152064 * 3584,
        "overhead": 2 * 2**30,
    }


def test_the_parts_of_a_32b_qlora_worked_by_hand() -> None:
    """Qwen2.5-32B, NF4, one GPU, a row of 8192; adapters of rank 16 on all: 16 * 131072 a layer."""
    training = Training(KNOWN["Qwen/Qwen2.5-32B"], 8192, 1, method="qlora", activations="recompute")
    adapters = 134_217_728
    assert training.trainable == adapters
    # a layer: 8h + 4q + 4k + 6f + 4H + 8, and twice the inputs 6h + q + f (q, k, v, gate, up; o; down) and ranks
    layer = 40_960 + 20_480 + 4_096 + 165_888 + 160 + 8 + 2 * (5 * 5120 + 5120 + 27648) + 2 * 7 * 16
    expected = {
        "weights": 31_205_621_760 * 4.126953125 / 8 + 2 * 1_558_254_592 + 4 * adapters,
        "gradients": 4 * adapters,
        "moments": 8 * adapters,
        "copies": 2 * 5120 * 27648,
        "activations": 8192 * (64 * 2 * 5120 + layer + 6 * 27648 + 32 * 5120),
        "head": 1.5 * 2**29 + 2 * 152064 * 5120,
        "overhead": 2 * 2**30,
    }
    assert training_parts(training) == pytest.approx(expected, rel=1e-12)
    assert 17 < training_parts(training)["weights"] / GIB < 19, "as QLoRA's 32B models are known to take"


def test_generation_worked_by_hand() -> None:
    """Llama-3.1-8B in bf16, ten rows of 1000 tokens: a token's cache is 2 * 32 * 8 * 128 numbers."""
    parts = generation_parts(KNOWN["meta-llama/Llama-3.1-8B"], 10, 1000, 1, "cuda")
    assert parts["weights"] == 2 * 8_030_261_248
    assert parts["cache"] == 10 * 1000 * 131_072
    assert parts["drawing"] == 40 * 10 * 128_256


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen3-8B", "meta-llama/Llama-3.3-70B-Instruct"]
)
def test_what_gives_something_up_takes_less_memory(name: str) -> None:
    def total(**changes: Any) -> float:
        return sum(training_parts(replace(base, **changes)).values())

    base = Training(KNOWN[name], 16384, 1)
    assert total(activations="keep") > total(activations="recompute") > total(activations="offload")
    assert total(moments="float32") > total(moments="8bit")
    assert total(weights="float32") > total(weights="bfloat16")
    assert total() > total(method="lora") > total(method="qlora")
    assert total(row=32768) > total() > total(row=16383)
    sharded = [total(gpus=gpus) for gpus in (2, 4, 8, 16)]
    assert sharded == sorted(sharded, reverse=True)
    assert activation_bytes(base) == activation_bytes(replace(base, gpus=8)), "rows are not sharded"


# ------------------------------------------------------------------------------------ work


def test_the_flops_of_training_worked_by_hand() -> None:
    """Llama-3.1-8B: layers 32 * 218,103,808 weights, head 525,336,576; 1000 tokens of traces of 4096."""
    training = Training(KNOWN["meta-llama/Llama-3.1-8B"], 8192, 8)
    layers, head, attention = 32 * 218_103_808, 525_336_576, 32 * 4096 * 4096
    assert training_flops(training, 1000, 4096) == 1000 * (6 * layers + 8 * head + 6 * attention)
    again = replace(training, activations="recompute")
    assert training_flops(again, 1000, 4096) == 1000 * (8 * layers + 8 * head + 8 * attention)
    frozen = replace(training, method="lora")
    adapted = 1000 * (4 * layers + 6 * head + 6 * attention + 6 * frozen.trainable)
    assert training_flops(frozen, 1000, 4096) == adapted


def test_decoding_alone_is_bound_by_reading_the_weights_and_many_rows_by_products() -> None:
    shape, gpu = KNOWN["meta-llama/Llama-3.1-8B"], GPUS["h100-80gb"]

    def seconds(rows: int, bandwidth: float) -> float:
        slow = replace(gpu, bandwidth=bandwidth)
        return generate(
            shape, slow, prompts=0, answers=rows, length=100, rows=rows, copies=1, split=1, mfu=0.4
        ).seconds

    read = 2 * (32 * 218_103_808 + 525_336_576 + 250 * 65_536)
    assert seconds(1, gpu.bandwidth) == pytest.approx(100 * read / (0.6 * 3.35e12))
    assert seconds(1, gpu.bandwidth) == pytest.approx(seconds(1, gpu.bandwidth * 2) * 2)
    assert seconds(4096, 1e18) == pytest.approx(seconds(4096, 2e18)), "no longer bound by reading"


def test_an_exam_takes_its_waves_of_answers_and_its_verdicts() -> None:
    """HumanEval, 164 programs x 8 by two models of 7B, on eight GPUs of eight cores each: seven waves of 24 rows."""
    exam = planned("r1-distill-qwen-7b", "stages.exam.suites=[humaneval]")["stages"][1]
    shape, gpu, answers = KNOWN["Qwen/Qwen2.5-Math-7B"], GPUS["h100-80gb"], 164 * 8
    arguments: dict[str, Any] = {"length": 5400, "rows": 24, "copies": 8, "split": 1, "mfu": 0.4}
    told = generate(shape, gpu, prompts=164, answers=answers, **arguments).seconds
    one_wave = generate(shape, gpu, prompts=0, answers=24 * 8, **arguments).seconds
    prefill = generate(shape, gpu, prompts=164, answers=24 * 8, **arguments).seconds - one_wave
    assert told == pytest.approx(7 * one_wave + prefill)
    assert exam["hours"] * 3600 == pytest.approx(2 * (told + answers * 10.8e-3 / 64))


def test_hours_and_money_follow_from_the_machine() -> None:
    one = planned("r1-distill-qwen-7b")["stages"][0]
    assert one["hours"] == pytest.approx(one["flops"] / (8 * 989.4e12 * 0.4) / 3600)
    assert one["money"] == pytest.approx(one["hours"] * 8 * 2)
    assert planned("r1-distill-qwen-7b", mfu=0.2)["stages"][0]["hours"] == pytest.approx(2 * one["hours"])
    fewer = planned("r1-distill-qwen-7b", traces=400_000)["stages"][0]
    assert fewer["trained_tokens"] == one["trained_tokens"] / 2 == 400_000 * 2 * 5600
    assert planned("gsm8k-distill")["total"]["money"] is None, "no price, no sum"


def test_traces_are_counted_where_they_lie(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    lines = tmp_path / "traces.jsonl"
    lines.write_text('{"problem": "p", "response": "r"}\n' * 7 + "\n")
    own = tmp_path / "own"
    own.mkdir()
    table = pyarrow.table({"completion": ["a", "b", "c"], "kept": [True, False, True]})
    pyarrow.parquet.write_table(table, own / "traces.parquet")
    for path, rows in ((lines, 7), (own, 2), (own / "traces.parquet", 2)):
        plan = planned("r1-distill-qwen-7b", f"traces.openr1.path={path}")
        assert plan["stages"][0]["trained_tokens"] == rows * 2 * 5600
        assert not any("--traces" in text for text in plan["assumptions"])


def test_traces_of_an_earlier_stage_are_problems_times_what_is_kept() -> None:
    harvest, distil, exam, report = planned("gsm8k-distill")["stages"]
    assert harvest["generated_tokens"] == 2000 * 4 * 4096
    assert distil["trained_tokens"] == 2000 * 2 * 2 * (3000 + 200)
    assert exam["generated_tokens"] == 3 * 1319 * 4 * 4096
    assert report["hours"] == report["needs"] == 0 and report["fits"]


# ------------------------------------------------------------------------------------ what fits


def test_bisection_finds_the_last_that_fits() -> None:
    assert [largest(lambda value, top=top: value <= top, 100) for top in (0, 1, 57, 100, 500)] == [
        0, 1, 57, 100, 100,
    ]  # fmt: skip


def test_the_nearest_change_is_the_cheapest_kind_and_no_more_of_it_than_needed() -> None:
    steps = [("small", [1]), ("middle", [1, 2]), ("large", [1])]
    worth = {"small": 1, "middle": 2, "large": 5}

    def change(aim: int) -> Any:
        now = dict.fromkeys(worth, 0)
        return nearest_change(
            now, steps, lambda s: sum(worth[key] * int(str(s[key])) for key in worth) >= aim
        )

    assert change(1) == {"small": 1}
    assert change(2) == {"middle": 1}
    assert change(5) == {"small": 1, "middle": 2}
    assert change(6) == {"small": 1, "large": 1}
    assert change(99) is None


TIGHT = [
    ("r1-distill-qwen-7b", ["stages.distil.memory.activations=keep"]),
    ("r1-distill-qwen-7b", ["hardware.gpus=1"]),
    ("r1-distill-qwen-7b", ["hardware.gpu=a100-40gb"]),
    ("r1-distill-qwen-1.5b", ["stages.distil.micro_batch_tokens=400000"]),
    ("r1-distill-llama-70b", ["hardware.gpus=1", "hardware.nodes=1"]),
    ("r1-distill-qwen-14b", ["hardware.gpu=l40s-48gb"]),
    ("r1-distill-qwen-32b", ["stages.distil.max_length=2048", "stages.distil.micro_batch_tokens=4096",
                             "hardware.gpu=rtx4090-24gb"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "overrides"), TIGHT)
def test_the_nearest_change_makes_it_fit_and_nothing_of_it_is_too_much(
    name: str, overrides: list[str]
) -> None:
    before = planned(name, *overrides)
    stage = before["stages"][0]
    assert not stage["fits"] and not before["total"]["fits"] and stage["nearest"]
    assert any("DOES NOT FIT: stage distil" in line for line in as_lines(before))

    def fits(changes: list[str]) -> bool:
        return bool(planned(name, *overrides, *changes)["stages"][0]["fits"])

    for change in filter(None, (stage["nearest"], stage["on_this_machine"])):
        fixed = [_override(key, value) for key, value in change.items()]
        assert fits(fixed)
        for one in fixed:
            assert not fits([other for other in fixed if other != one]), f"{one} is not needed"


def _override(key: str, value: object) -> str:
    return f"{key}={value}" if key.startswith("hardware.") else f"stages.distil.{key}={value}"


@pytest.mark.parametrize(
    ("overrides", "gpus", "nodes"),
    [(["hardware.gpu=h100-80gb"], None, 4), (["hardware.gpu=h100-80gb", "hardware.gpus=3"], 8, 3)],
)
def test_more_gpus_are_said_as_nodes_of_at_most_eight(
    overrides: list[str], gpus: int | None, nodes: int
) -> None:
    nearest = planned("r1-distill-llama-70b", *overrides)["stages"][0]["nearest"]
    assert (nearest.get("hardware.gpus"), nearest["hardware.nodes"]) == (gpus, nodes)


def test_a_change_is_milder_before_it_is_dearer() -> None:
    nearest = [planned(name, *overrides)["stages"][0]["nearest"] for name, overrides in TIGHT]
    assert nearest[0] == {"memory.activations": "recompute"}
    assert list(nearest[3]) == ["micro_batch_tokens"]
    assert nearest[4]["hardware.gpus"] == 8 and "method" not in nearest[4]
    alone = planned(*TIGHT[4][:1], *TIGHT[4][1])["stages"][0]["on_this_machine"]
    assert alone["method"] in ("lora", "qlora") and "hardware.gpus" not in alone
    assert planned(*TIGHT[0][:1], *TIGHT[0][1])["stages"][0]["on_this_machine"] is None


@pytest.mark.parametrize("name", R1)
def test_the_largest_row_fits_and_one_token_more_does_not(name: str) -> None:
    row = planned(name)["stages"][0]["largest"]["micro_batch_tokens"]
    for tokens, fits in ((row, True), (row + 1, False)):
        assert planned(name, f"stages.distil.micro_batch_tokens={tokens}")["stages"][0]["fits"] is fits


def test_a_cache_that_does_not_fit_is_told_how_many_rows_do() -> None:
    exam = planned("r1-distill-qwen-7b", "stages.exam.engine.max_rows=256")["stages"][1]
    assert not exam["fits"] and exam["nearest"] == exam["largest"] == {"engine.max_rows": 33}
    assert planned("r1-distill-qwen-7b", "stages.exam.engine.max_rows=33")["stages"][1]["fits"]


def test_a_model_too_big_for_one_gpu_is_said_to_need_another_engine() -> None:
    exam = planned("r1-distill-llama-70b")["stages"][1]
    assert exam["fits"] and "2 GPUs" in exam["notes"][0] and "engine" in exam["notes"][0]
    alone = planned("r1-distill-llama-70b", "hardware.gpus=1", "hardware.nodes=1")["stages"][1]
    assert not alone["fits"] and alone["nearest"] == {"hardware.gpus": 2}


def test_grpo_holds_policy_and_reference_and_takes_turns() -> None:
    raw = {
        "name": "zero",
        "hardware": {"gpus": 8, "gpu": "h200-141gb"},
        "models": {"base": {"path": "Qwen/Qwen2.5-7B"}},
        "problems": {"p": {"path": "somewhere/problems"}},
        "stages": [
            {"name": "zero", "kind": "grpo", "model": "base", "problems": "p", "makes": "t", "steps": 100,
             "max_tokens": 8192, "micro_batch_tokens": 8392, "engine": {"max_rows": 32}},
        ],
    }  # fmt: skip
    (stage,) = make_plan(parse_recipe(raw))["stages"]
    memory = stage["memory"]
    assert memory["reference"] == 4 * 7_615_616_512 / 8
    turns = max(
        sum(memory[part] for part in ("gradients", "copies", "activations", "head")), memory["rollout"]
    )
    lasting = sum(memory[part] for part in ("weights", "moments", "reference", "overhead"))
    assert stage["needs"] == pytest.approx(lasting + turns)
    assert memory["rollout"] > 2 * 7_615_616_512, "whole, besides its shards"
    (single,) = make_plan(parse_recipe(raw | {"hardware": {"gpus": 1, "gpu": "h200-141gb"}}))["stages"]
    copies = single["memory"]["copies"] - 2 * 7_615_616_512
    assert single["memory"]["rollout"] - memory["rollout"] == pytest.approx(copies), "what it computes with"
    assert stage["generated_tokens"] == 100 * 32 * 16 * 5400
    section: dict[str, Any] = raw["stages"][0]  # type: ignore[assignment, index]
    section["kl"] = {"coefficient": 0}
    (without,) = make_plan(parse_recipe(raw))["stages"]
    assert "reference" not in without["memory"] and without["hours"] < stage["hours"]
    forward = forward_flops(KNOWN["Qwen/Qwen2.5-7B"], 100 * 512 * 5600, 5600)
    assert stage["flops"] - without["flops"] == pytest.approx(forward), "of the reference"
    section["steps_per_rollout"] = 4
    (stale,) = make_plan(parse_recipe(raw))["stages"]
    assert stale["flops"] - without["flops"] == pytest.approx(forward), "of the policy before its updates"


# ------------------------------------------------------------------------------------ the command


PLANS = """
import json, socket, sys, time

def refuse(*_, **__):
    raise AssertionError("a plan opened a socket")

socket.socket = refuse
socket.getaddrinfo = refuse
from distill.cli import main

seconds = {}
for name in sys.argv[1:]:
    began = time.process_time()
    assert main(["plan", name]) == 0
    seconds[name] = time.process_time() - began
heavy = sorted({"torch", "transformers", "datasets"} & set(sys.modules))
print(json.dumps({"seconds": seconds, "heavy": heavy}), file=sys.stderr)
"""


def test_every_shipped_recipe_plans_at_once_without_network_or_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLANS, *SHIPPED], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stderr.splitlines()[-1])
    assert told["heavy"] == []
    assert max(told["seconds"].values()) < 5
    assert len(told["seconds"]) == len(SHIPPED) >= 8


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_fits(name: str) -> None:
    assert planned(name)["total"]["fits"]


@pytest.mark.parametrize(
    ("name", "base", "rate", "theta"),
    [
        ("qwen-1.5b", "Qwen/Qwen2.5-Math-1.5B", 1e-4, 300000),
        ("qwen-7b", "Qwen/Qwen2.5-Math-7B", 8e-5, 300000),
        ("qwen-14b", "Qwen/Qwen2.5-14B", 7e-5, None),
        ("qwen-32b", "Qwen/Qwen2.5-32B", 6e-5, None),
        ("llama-8b", "meta-llama/Llama-3.1-8B", 5e-5, None),
        ("llama-70b", "meta-llama/Llama-3.3-70B-Instruct", 2e-5, None),
    ],
)
def test_the_recipes_say_what_the_paper_says(name: str, base: str, rate: float, theta: float | None) -> None:
    """DeepSeek-R1 v2, B.4.3 and Table 6; rope_theta is open-r1's."""
    recipe = load_recipe(find_recipe(f"r1-distill-{name}"))
    model, stage = recipe.models["base"], recipe.stage("distil")
    assert stage.kind == "sft"
    assert (model.path, stage.learning_rate, model.rope_theta) == (base, rate, theta)
    assert (stage.batch_size, stage.max_length, stage.schedule.final) == (64, 32768, 0.1)
    assert 2 <= stage.epochs <= 3
    assert (model.max_length or KNOWN[base].context) >= stage.max_length


def test_json_is_the_plan_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "r1-distill-qwen-7b", "--set", "hardware.gpus=1", "--json"]) == 0, (
        "no fit is no failure"
    )
    plan = json.loads(capsys.readouterr().out)
    assert set(plan) == {"recipe", "hardware", "models", "stages", "total", "assumptions"}
    assert plan["total"]["fits"] is False
    assert plan["models"]["base"]["licence"] == "Apache-2.0"
    for stage in plan["stages"]:
        assert set(stage) == {
            "name", "kind", "about", "parameters", "trainable", "fits", "needs", "usable", "memory", "host", "nearest",
            "on_this_machine", "largest", "generated_tokens", "trained_tokens", "flops", "hours", "money", "notes",
        }  # fmt: skip
    distil = plan["stages"][0]
    assert distil["needs"] == pytest.approx(sum(distil["memory"].values()))
    for key in ("flops", "hours", "money", "generated_tokens", "trained_tokens"):
        assert plan["total"][key] == pytest.approx(sum(stage[key] for stage in plan["stages"]))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--set", "hardware.gpu=h100-80g"], ["hardware.gpu", "did you mean `h100-80gb`", "rtx4090-24gb"]),
        (["--set", "models.base.path=nobody/nothing"], ["models.base.path", "config.json"]),
        (["--set", "stages.exam.suites=[gsm9k]"], ["suites", "did you mean `gsm8k`"]),
        (["--mfu", "0"], ["--mfu", "up to 1"]),
        (["--mfu", "1.5"], ["--mfu"]),
        (["--traces", "-3"], ["--traces", "above 0"]),
        (["--tokens-per-trace", "0"], ["--tokens-per-trace"]),
    ],
)
def test_mistakes_are_told(arguments: list[str], told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "r1-distill-qwen-7b", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and all(word in err for word in told), err


def test_the_table_is_aligned_and_tells_its_assumptions() -> None:
    lines = as_lines(planned("r1-distill-qwen-7b"))
    table = [
        line for line in lines if line.startswith(("stage   kind", "distil  sft", "exam    eval", "total"))
    ]
    assert len(table) == 4 and len({len(line) for line in table}) == 1, "columns of one width"
    text = "\n".join(lines)
    assert "DOES NOT FIT" not in text and "--traces" in text and "--mfu" in text
    unplaced = as_lines(planned("gsm8k-distill"))
    assert any("one h100-80gb assumed" in line for line in unplaced)
