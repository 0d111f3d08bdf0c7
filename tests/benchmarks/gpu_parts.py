"""Parts of `gpu.py` that need no model: the machine, attention over packed rows, the head.

Legend: T tokens, S segments, H heads, D head size, V vocabulary, N trained tokens.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

Found = dict[str, Any]
GIB = 2**30
PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "triton", "bitsandbytes", "trl", "datasets", "flash-attn",
    "liger-kernel",
)  # fmt: skip


def wait(kind: str) -> None:
    """Until the device has done all that it was asked for."""
    if kind == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], kind: str, repeats: int) -> float:
    """The median of so many runs, after two that count for nothing."""
    taken = []
    for number in range(repeats + 2):
        wait(kind)
        began = time.perf_counter()
        work()
        wait(kind)
        if number >= 2:
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def device_of(kind: str) -> Any:
    """The device as the toolkit finds it; on the CPU always in float32."""
    from distill.device import Device, find_device

    if kind == "cpu":
        return Device(f"cpu, {torch.get_num_threads()} threads", "cpu", False)
    assert torch.cuda.is_available(), "no GPU is here: --device cpu --tiny tries the script without one"
    return find_device(1 << 20)


def measured_rate(kind: str, tiny: bool) -> dict[str, float]:
    """TFLOP/s of square matrix products of random numbers, by size: bf16 on a GPU, float32 on a CPU."""
    sizes = (256, 512) if tiny else (4096, 8192, 12288, 16384)
    dtype = torch.bfloat16 if kind == "cuda" else torch.float32
    rates = {}
    for size in sizes:
        left, right = (torch.randn(size, size, dtype=dtype, device=kind) for _ in range(2))
        many = max(1, round(2e13 / size**3)) if kind == "cuda" else 4  # so that launching costs nothing

        def work(left: Any = left, right: Any = right, many: int = many) -> None:
            for _ in range(many):
                left @ right

        rates[str(size)] = 2 * size**3 * many / seconds_of(work, kind, 3) / 1e12
    return rates


def rate_of(place: Any) -> float:
    """The rate that was handed over, else measured now."""
    return place.rate or max(measured_rate(place.kind, place.tiny).values())


def machine(place: Any) -> Iterator[Found]:
    """What is here, and how fast it multiplies and copies."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    yield {
        "versions": {"python": platform.python_version(), **versions},
        "device": device_of(place.kind).name,
    }
    if place.kind == "cuda":
        yield {
            "cuda": torch.version.cuda,
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "gib": torch.cuda.get_device_properties(0).total_memory / GIB,
        }
    rates = measured_rate(place.kind, place.tiny)
    yield {"tflops": max(rates.values()), "tflops_by_size": rates}
    yield {"gb_per_second": _copies(place.kind, 1 << (20 if place.tiny else 30))}


def _copies(kind: str, size: int) -> dict[str, float]:
    """Bytes copied a second: on the device (read and written both counted), to the host's pinned memory and back."""
    here, there = (torch.randint(0, 9, (size,), dtype=torch.uint8, device=kind) for _ in range(2))
    host = torch.zeros(size, dtype=torch.uint8, pin_memory=kind == "cuda")
    work = {
        "device": lambda: there.copy_(here),
        "to host": lambda: host.copy_(here),
        "to device": lambda: here.copy_(host),
    }
    return {
        name: (2 if name == "device" else 1) * size / seconds_of(copy, kind, 3) / 1e9
        for name, copy in work.items()
    }


# ------------------------------------------------------------------------------------------- traces


def lognormal_lengths(row: int, rows: int, median: float, sigma: float = 0.8) -> list[int]:
    """Lengths of traces that `pack` lays in so many rows; seeded, so that all sides have the same."""
    from distill.training.packing import pack

    rng = random.Random(0)
    shortest = min(64, row // 8)
    lengths: list[int] = []
    while sum(lengths) < row * rows:
        lengths.append(min(row, max(shortest, round(median * rng.lognormvariate(0, sigma)))))
    while len(pack(lengths, row)) > rows:
        lengths.pop()
    return lengths


def random_examples(lengths: list[int], vocabulary: int, seed: int = 0) -> list[Any]:
    """Traces of random tokens with short prompts."""
    from distill.chat import Example

    generator = torch.Generator().manual_seed(seed)
    return [
        Example(torch.randint(vocabulary, (n,), generator=generator).tolist(), max(1, min(64, n // 8)))
        for n in lengths
    ]


# ------------------------------------------------------------------------------------------- attention

#: Probabilities and results are rounded to bf16 (2^-9 = 0.002 of each number) on both ways, in other orders; gradients
#: go through two or three such roundings. Independent roundings leave about 0.003 of the norm, a wrong border or a
#: wrong head all of it.
ATTENTION_GAP = 1e-2


def attention(place: Any) -> Iterator[Found]:
    """The varlen kernel and the buckets on the same row: values, gradients, time; both against plain float32."""
    from distill.training import attention as ours

    heads, groups, size = (4, 2, 16) if place.tiny else (12, 2, 128)  # Qwen2.5-1.5B's
    short, long = (128, 256) if place.tiny else (4096, 16384)
    kernel = place.kind == "cuda" and ours._KERNEL_FITS
    if not kernel:
        yield {
            "skipped": {"kernel": "needs a GPU and torch.nn.attention.varlen with window_size (torch 2.11)"}
        }
    ways = ("kernel", "buckets") if kernel else ("buckets",)
    rows = {
        "lognormal": lognormal_lengths(long, 1, long / 8),
        "one segment": [long],
    }
    small = _row(lognormal_lengths(short, 1, short / 8), place.kind)
    tensors = _qkv(small, heads, groups, size, place.kind)
    exact = _exact(small, *(tensor.float() for tensor in tensors))
    results = {way: _attended(way, small, *tensors) for way in ways}
    gaps = {
        way: {
            name: _gap(one, other)
            for name, one, other in zip(("out", "q", "k", "v"), found, exact, strict=True)
        }
        for way, found in results.items()
    }
    largest = max(gap for by_name in gaps.values() for gap in by_name.values())
    yield {
        "gaps_to_float32": gaps,
        "gap": largest,
        "tolerance": ATTENTION_GAP,
        "checks": {"values and gradients": largest < ATTENTION_GAP},
    }
    for name, lengths in rows.items():
        row = _row(lengths, place.kind)
        tensors = _qkv(row, heads, groups, size, place.kind)
        # As the plan counts: 2 s^2 H D forward for causal attention, twice that backward.
        flops = 6 * heads * size * sum(length**2 for length in lengths)
        told: Found = {"segments": len(lengths), "tokens": sum(lengths)}
        for way in ways:
            taken = seconds_of(lambda w=way, r=row, t=tensors: _attended(w, r, *t), place.kind, 5)  # type: ignore[misc]
            told |= {f"{way}_ms": taken * 1e3, f"{way}_tflops": flops / taken / 1e12}
        yield {"runs": {name: told}}


def _row(lengths: list[int], kind: str) -> Any:
    from distill.training.packing import pack_row

    return pack_row(random_examples(lengths, 100), range(len(lengths)), kind)


def _qkv(row: Any, heads: int, groups: int, size: int, kind: str) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values as (1, H, T, D), laid out as a projection leaves them, and the output's gradient."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if kind == "cuda" else torch.float32
    tokens = len(row.ids_T)
    parts = [
        torch.randn(1, tokens, many, size, dtype=dtype, device=kind)
        for many in (heads, groups, groups, heads)
    ]
    q, k, v, grad = parts
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), grad


def _attended(way: str, row: Any, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """The output (1, T, H, D) and the three gradients, one way or the other."""
    from unittest import mock

    from distill.training import attention as ours

    q, k, v = (tensor.detach().requires_grad_() for tensor in tensors[:3])
    with mock.patch.object(ours, "_by_kernel", lambda query, dropout: way == "kernel"):
        out, _ = ours.attend(torch.nn.Module(), q, k, v, None, packed=row)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), tensors[3])]


def _exact(
    row: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad: torch.Tensor
) -> list[torch.Tensor]:
    """The same, segment by segment, as it is written in books."""
    q, k, v = (tensor.detach().requires_grad_() for tensor in (q, k, v))
    each = q.shape[1] // k.shape[1]
    parts = []
    for start, end in itertools.pairwise(row.borders.tolist()):
        qs, ks, vs = (tensor[:, :, start:end] for tensor in (q, k, v))
        ks, vs = (tensor.repeat_interleave(each, 1) for tensor in (ks, vs))
        scores = qs @ ks.transpose(2, 3) / q.shape[-1] ** 0.5
        seen = torch.ones(end - start, end - start, dtype=torch.bool, device=q.device).tril()
        parts.append(scores.masked_fill(~seen, -torch.inf).softmax(-1) @ vs)
    out = torch.cat(parts, 2).transpose(1, 2)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]


def _gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """The norm of the difference, of the norm; one that is not a number is as far as can be."""
    gap = float((one.float() - other.float()).norm() / other.float().norm())
    return gap if gap == gap else 1e9


# ------------------------------------------------------------------------------------------- the head

#: A logit is rounded to bf16, and products of other shapes may round the other way: one step of a logit of up to 4.
LOGPROB_GAP = 2**-6
GRADIENT_GAP = 1e-2  # of the norm; its parts are rounded to bf16 too


def logprobs(place: Any) -> Iterator[Found]:
    """The chunked head on a whole row: memory added, time, and its values and gradients against plain cross entropy."""
    from distill.plan.architectures import KNOWN
    from distill.plan.memory import Training, head_bytes

    shape = KNOWN["Qwen/Qwen2.5-1.5B"]
    tokens, hidden, vocabulary = (256, 32, 16384) if place.tiny else (16384, shape.hidden, shape.vocabulary)
    slice_ = tokens // 16
    torch.manual_seed(0)
    states = torch.randn(
        tokens, hidden, device=place.kind, dtype=torch.bfloat16 if place.kind == "cuda" else None
    )
    head = torch.nn.Linear(hidden, vocabulary, bias=False, device=place.kind)
    targets = torch.randint(vocabulary, (tokens,), device=place.kind)
    states.requires_grad_()
    weights = torch.zeros(tokens, device=place.kind)
    weights[:slice_] = 1.0
    found = _head(place.kind, head, states, targets)
    ours = [found, *torch.autograd.grad(found, (states, head.weight), weights)]
    gap, gaps = _against_plain(place.kind, head, states, targets, slice_, ours)
    yield {
        "largest_gap": gap,
        "gradient_gaps": gaps,
        "checks": {"log-probabilities": gap < LOGPROB_GAP, "gradients": max(gaps) < GRADIENT_GAP},
    }
    del found, ours

    def work() -> Any:
        return torch.autograd.grad(_head(place.kind, head, states, targets).sum(), (states, head.weight))

    # 8 of each weight and token: logits twice, and the two gradients (docs/planning.md).
    flops = 8 * tokens * hidden * vocabulary
    taken = seconds_of(work, place.kind, 3)
    yield {
        "ms": taken * 1e3,
        "tflops_of_head": flops / taken / 1e12,
        "share_of_rate": flops / taken / 1e12 / rate_of(place),
    }
    if place.kind == "cuda":
        planned = head_bytes(Training(shape, tokens, 1)) + states.numel() * 2
        yield {"added_gib": _added(work) / GIB, "planned_gib": planned / GIB}
    yield from _liger(place, head, states, targets)


def _head(kind: str, head: torch.nn.Linear, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probabilities as a model's own forward pass makes them."""
    from distill.training.logprobs import _head_gives_logprobs

    class Model:
        def get_output_embeddings(self) -> torch.nn.Linear:
            return head

    with (
        _head_gives_logprobs(Model(), targets, 1.0),
        torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"),
    ):
        found: torch.Tensor = head(states[None])[0]
    return found


def _against_plain(
    kind: str,
    head: torch.nn.Linear,
    states: torch.Tensor,
    targets: torch.Tensor,
    part: int,
    ours: list[torch.Tensor],
) -> tuple[float, list[float]]:
    """The largest difference on the first tokens, and those of their gradients."""
    few = states.detach()[:part].requires_grad_()
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        logits = head(few).float()
    plain = -torch.nn.functional.cross_entropy(logits, targets[:part], reduction="none")
    theirs = torch.autograd.grad(plain.sum(), (few, head.weight))
    gap = float((ours[0][:part] - plain).abs().max())
    return gap if gap == gap else 1e9, [_gap(ours[1][:part], theirs[0]), _gap(ours[2], theirs[1])]


def _added(work: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


def _liger(place: Any, head: torch.nn.Linear, states: torch.Tensor, targets: torch.Tensor) -> Iterator[Found]:
    """The same loss by liger's fused linear cross entropy, where it is here."""
    if place.kind != "cuda" or importlib.util.find_spec("liger_kernel") is None:
        reason = "needs a GPU" if place.kind != "cuda" else "liger_kernel is absent"
        yield {"skipped": {"liger": reason}}
        return
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")

    def work() -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            made = loss(head.weight.to(torch.bfloat16), states, targets)
        return torch.autograd.grad(made, (states, head.weight))

    yield {"liger_ms": seconds_of(work, place.kind, 3) * 1e3, "liger_added_gib": _added(work) / GIB}
