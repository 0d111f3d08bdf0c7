"""Parts of `gpu.py` that fine-tune models of real shapes with random weights: speed, MFU, memory against the plan.

Training goes through `distill.student.sft.fine_tune`, as a recipe's stage does. Weights are made on the device, since
only their number matters.

    model FLOPs of an update = sum over traces of s tokens:  s (6 (N + V h) + 6 L q s)
        under adapters of A weights:                         s (4 (N + V h) + 6 A + 6 L q s)
    MFU = model FLOPs / seconds / rate of part `machine`

N weights of the layers' matrices, V h the head, L layers, q width of queries; causal attention is 2 L q s a token
forward, as in `distill/plan/work.py`. What is computed twice (recomputed layers, the head's logits) is no model FLOP;
``hfu`` counts it, with `training_flops`.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import re
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_parts import GIB, Found, device_of, lognormal_lengths, random_examples, rate_of

WARM_UP = 1  # updates that are not timed
SMALL = {
    "hidden": 64,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "intermediate": 128,
    "vocabulary": 512,
}


def shape_of(name: str, tiny: bool) -> Any:
    """A model of the plan's table; tiny, its family with small numbers."""
    from distill.plan.architectures import KNOWN

    return dataclasses.replace(KNOWN[name], **SMALL) if tiny else KNOWN[name]


def model_of(shape: Any, dtype: torch.dtype, device: str, attention: str | None = None) -> Any:
    """A model of that shape, made on the device with random weights."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    import distill.training.attention

    config = Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.intermediate,
        tie_word_embeddings=shape.tied, max_position_embeddings=32768,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention or distill.training.attention.NAME
        )


def stage_of(row: int, batch: int, **settings: Any) -> Any:
    """A recipe's stage; nothing is saved on the way."""
    from distill.recipe import SftStage

    return SftStage.model_validate(
        {
            "name": "bench", "kind": "sft", "model": "m", "traces": {"t": 1}, "makes": "s", "epochs": 1,
            "learning_rate": 1e-5, "schedule": {"kind": "constant"}, "batch_size": batch, "max_length": row,
            "micro_batch_tokens": row, "checkpoint_every": 10**6,
        }
        | settings
    )  # fmt: skip


def tune(stage: Any, model: Any, device: Any, examples: list[Any], **settings: Any) -> list[Found]:
    """Run the stage; returns its metrics, an entry an update."""
    from distill.models import LoadedModel
    from distill.runs import MetricsLog
    from distill.student.mixture import Mixture
    from distill.student.sft import fine_tune

    mixture = Mixture(examples, [], list(range(len(examples))), {})
    with tempfile.TemporaryDirectory() as folder:
        where = {"folder": Path(folder), "fingerprint": "f", "seed": 0, "saved": lambda: None} | settings
        loaded = LoadedModel("m", model, chat=None)  # type: ignore[arg-type]
        fine_tune(stage, loaded, device, mixture, **where)  # type: ignore[arg-type]
        return list(MetricsLog.read(where["folder"] / "metrics.jsonl"))


def model_flops(training: Any, lengths: list[int]) -> float:
    """Of the traces, once each; the formula stands above."""
    shape = training.shape
    weights = shape.matrices + shape.embedding
    each = 6 * weights if training.method == "full" else 4 * weights + 6 * training.trainable
    return float(sum(s * (each + 6 * shape.layers * shape.query_width * s) for s in lengths))


def planned(stage: Any, shape: Any, place: Any) -> Any:
    """What the plan thinks of this stage on this device."""
    from distill.plan.memory import Training
    from distill.recipe_parts import Lora

    memory = stage.memory
    return Training(
        shape, stage.micro_batch_tokens, 1, place.kind, stage.method, stage.lora or Lora(), memory.activations,
        memory.weights, memory.moments,
    )  # fmt: skip


def measured(
    place: Any, shape: Any, stage: Any, build: Callable[[], Any], lengths: list[int], updates: int
) -> Found:
    """Tokens a second, MFU and peak memory of a stage whose every update has traces of these lengths."""
    from distill.plan.memory import training_parts
    from distill.plan.work import training_flops

    training = planned(stage, shape, place)
    parts = training_parts(training)
    told: Found = {"tokens_an_update": sum(lengths), "planned_gib": sum(parts.values()) / GIB}
    try:
        _clean(place.kind)
        model = build()
        examples = [
            one
            for seed in range(WARM_UP + updates)
            for one in random_examples(lengths, shape.vocabulary, seed)
        ]
        rows = tune(stage, model, device_of(place.kind), examples)
    except torch.OutOfMemoryError as error:
        return told | {"failed": f"out of memory: {str(error).splitlines()[0][:200]}"} | _memory(place.kind)
    seconds = sum(row["seconds"] for row in rows[WARM_UP:])
    losses = [row["loss"] for row in rows]
    rate = rate_of(place) * 1e12
    model_work = model_flops(training, lengths) * updates
    done = sum(training_flops(training, s, s) for s in lengths) * updates
    told |= {
        "tokens_per_second": sum(lengths) * updates / seconds,
        "seconds_an_update": seconds / updates,
        "mfu": model_work / seconds / rate,
        "hfu": done / seconds / rate,
        "losses": losses,
        "near_log_vocabulary": abs(losses[0] - math.log(shape.vocabulary)) < 1.0,
        **_memory(place.kind),
        "planned_parts_gib": {name: round(size / GIB, 2) for name, size in parts.items()},
    }
    if place.kind == "cuda":
        told |= _where(lambda: tune(stage, model, device_of(place.kind), examples[: len(lengths)]))
    return told


def _clean(kind: str) -> None:
    gc.collect()
    if kind == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory(kind: str) -> Found:
    """The peak of what tensors took, of what torch held, and of the whole card now; on a CPU of the whole process."""
    if kind == "cpu":
        return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB}
    free, whole = torch.cuda.mem_get_info()
    outside = whole - free - torch.cuda.memory_reserved()
    return {
        "allocated_gib": torch.cuda.max_memory_allocated() / GIB,
        "peak_gib": (torch.cuda.max_memory_reserved() + outside) / GIB,  # what the plan's sum has to cover
        "outside_torch_gib": outside / GIB,
    }


#: Kernels by what they do, the first that fits. Attention's are named after cutlass too.
KERNELS = (
    ("attention", r"flash|fmha"),
    ("optimiser", r"adam|multi_tensor|foreach"),
    ("products", r"gemm|nvjet|cutlass|xmma|cublas|dequantize"),
    ("copies and casts", r"memcpy|memset|copy"),
    ("reductions", r"reduce|softmax|norm"),
    ("elementwise", r"elementwise|triton"),
)


def _where(work: Callable[[], Any]) -> Found:
    """Where the GPU's time goes in one more update: shares by kind of kernel, and the ten that take longest."""
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            work()
            torch.cuda.synchronize()
    except RuntimeError as error:  # the profiler's trouble, or memory: what was measured before still stands
        return {"profile": str(error)[:200]}
    taken = {
        event.key: event.self_device_time_total
        for event in profiler.key_averages()
        if event.self_device_time_total > 0 and event.device_type == torch.autograd.DeviceType.CUDA
    }
    busy = sum(taken.values()) or 1.0
    shares: dict[str, float] = {}
    for name, microseconds in taken.items():
        kind = next((kind for kind, pattern in KERNELS if re.search(pattern, name, re.IGNORECASE)), "other")
        shares[kind] = shares.get(kind, 0.0) + microseconds / busy
    longest = sorted(taken, key=lambda name: -taken[name])[:10]
    return {
        "busy_seconds_an_update": busy / 1e6,
        "shares": {kind: round(share, 3) for kind, share in shares.items()},
        "longest": {name[:100]: round(taken[name] / busy, 3) for name in longest},
    }


# ------------------------------------------------------------------------------------------- the parts

TARGET = 0.5  # MFU that full fine-tuning is to reach


def full(place: Any) -> Iterator[Found]:
    """Rows of 16k tokens: many traces a row recomputed and kept, then one trace a row."""
    from distill.plan.fit import largest
    from distill.plan.hardware import USABLE
    from distill.plan.memory import training_parts

    shape = shape_of("Qwen/Qwen2.5-1.5B", place.tiny)
    row, rows, updates = (256, 2, 2) if place.tiny else (16384, 4, 3)
    room = torch.cuda.get_device_properties(0).total_memory * USABLE if place.kind == "cuda" else 8 * GIB

    def fits(activations: str, tokens: int) -> bool:
        stage = stage_of(tokens, 1, memory={"activations": activations})
        return sum(training_parts(planned(stage, shape, place)).values()) <= room

    # Kept activations may not fit at that row: then in the longest row of whole thousands that does.
    step = 64 if place.tiny else 1024
    kept = min(row, step * largest(lambda many: fits("keep", step * many), row // step))
    runs = {
        "recompute, many traces a row": ("recompute", row, lognormal_lengths(row, rows, row / 5)),
        f"keep, rows of {kept}": ("keep", kept, lognormal_lengths(kept, rows, row / 5)),
        "recompute, one trace a row": ("recompute", row, [row] * 2),
        "offload, many traces a row": ("offload", row, lognormal_lengths(row, rows, row / 5)),
    }
    best = 0.0
    for name, (activations, tokens, lengths) in runs.items():
        if tokens == 0:
            yield {"runs": {name: {"failed": "does not fit by the plan"}}}
            continue
        stage = stage_of(tokens, len(lengths), memory={"activations": activations})
        told = measured(
            place, shape, stage, lambda: model_of(shape, torch.float32, place.kind), lengths, updates
        )
        best = max(best, told.get("mfu", 0.0))
        yield {"runs": {name: told}, **_checked(name, told), "mfu": best}
    yield {"target_mfu": TARGET, "reached": best >= TARGET}


def _checked(name: str, told: Found) -> Found:
    """A run went through, and its first loss is that of a model that knows nothing."""
    return {"checks": {name: "failed" not in told and told["near_log_vocabulary"]}}


def lora(place: Any) -> Iterator[Found]:
    """Qwen2.5-7B under adapters on one long trace, layers recomputed; then their inputs offloaded too."""
    from distill.models import LoadedModel, with_lora

    shape = shape_of("Qwen/Qwen2.5-7B", place.tiny)
    row = 256 if place.tiny else 32768
    dtype = device_of(place.kind).compute_dtype

    def build() -> Any:
        made = LoadedModel("m", model_of(shape, dtype, place.kind), chat=None)  # type: ignore[arg-type]
        return with_lora(made, None, 0).model

    for activations in ("recompute", "offload"):
        stage = stage_of(row, 1, method="lora", memory={"activations": activations})
        name = f"{activations}, one trace of {row}"
        told = measured(place, shape, stage, build, [row], 1)
        yield {"runs": {name: told}, **_checked(name, told)}


def qlora(place: Any) -> Iterator[Found]:
    """Qwen2.5-32B in NF4 under adapters, one trace."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        yield {"skipped": {"all": f"bitsandbytes cannot be imported ({error})"}}
        return
    from distill.models import LoadedModel, with_lora

    shape = shape_of("Qwen/Qwen2.5-32B", place.tiny)
    row = 256 if place.tiny else 8192

    def build() -> Any:
        made = LoadedModel("m", in_nf4(model_of(shape, torch.bfloat16, "meta"), place), chat=None)  # type: ignore[arg-type]
        return with_lora(made, None, 0).model

    stage = stage_of(row, 1, method="qlora", memory={"activations": "recompute"})
    name = f"recompute, one trace of {row}"
    told = measured(place, shape, stage, build, [row], 2)
    yield {"runs": {name: told}, **_checked(name, told)}


def in_nf4(model: Any, place: Any) -> Any:
    """Give a model without weights random ones, its layers' matrices in NF4, one matrix at a time."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    dtype = device_of(place.kind).compute_dtype
    for layer in model.model.layers:
        for name, plain in [
            (name, one) for name, one in layer.named_modules() if type(one) is torch.nn.Linear
        ]:
            made = Linear4bit(
                plain.in_features, plain.out_features, plain.bias is not None, compute_dtype=dtype,
                compress_statistics=True, quant_type="nf4", device="meta",
            )  # fmt: skip
            random = torch.randn(plain.out_features, plain.in_features, dtype=dtype, device=place.kind) * 0.02
            settings = {"requires_grad": False, "quant_type": "nf4", "compress_statistics": True}
            made.weight = Params4bit(random, **settings).to(place.kind)
            home, _, last = name.rpartition(".")
            setattr(layer.get_submodule(home), last, made)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:  # embedding, head, norms, biases
                values = torch.randn(parameter.shape, dtype=dtype, device=place.kind) * 0.02
                values += 1.0 if "norm" in type(module).__name__.lower() else 0.0
                setattr(module, name, torch.nn.Parameter(values, requires_grad=False))
    with torch.device(place.kind):
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    model.is_loaded_in_4bit = True  # what peft asks for
    return model
