"""The part `methods` of `gpu.py`: a small model under every method and memory setting, four updates each.

Three things are checked. The losses of each setting are those of ``keep`` with float32 weights and moments, to a
tolerance. ``recompute`` and ``offload`` change no bit of ``keep``. A run that is stopped and resumed changes no bit of
one that is not. Bits are compared with `torch.use_deterministic_algorithms`: FlashAttention's backward pass adds in
whatever order its blocks end, so without it no two runs are the same; ``repeats_itself`` tells whether they were.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_parts import Found, device_of, random_examples
from gpu_training import SMALL, in_nf4, model_of, shape_of, stage_of, tune

ROW, UPDATES, LEARNING_RATE = 768, 4, 1e-3
LENGTHS = [300, 40, 150, 90, 17, 220, 64, 130]  # of an update: two rows
#: Wide enough that the adapters' moments are in eight bits where that is asked for (4,096 elements and up).
WIDE = SMALL | {"hidden": 256, "head_dim": 64, "intermediate": 512}
#: Losses begin at 6.2 and fall by a tenth an update. Weights in bf16 are rounded at random, by up to 2^-8 of themselves
#: and without a bias; on a CPU in bf16 the losses of all settings differ by 0.0003. A lost update would make a tenth.
LOSS_GAP = 0.01
Setting = dict[str, str]


def methods(place: Any) -> Iterator[Found]:
    """Losses first, then bits."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    reasons: dict[str, str] = {}
    try:
        import bitsandbytes  # noqa: F401

        eight_bit = True
    except ImportError as error:
        eight_bit = False
        reasons = dict.fromkeys(("qlora", "8bit"), f"bitsandbytes cannot be imported ({error})")
        yield {"skipped": reasons}
    chosen = settings_to_try(eight_bit)
    yield {"settings": len(chosen)}
    yield from _losses(place, chosen)
    torch.use_deterministic_algorithms(True)
    for method, memory in itertools.groupby(
        chosen, key=lambda one: (one["method"], one["weights"], one["moments"])
    ):
        yield from _bits(place, list(memory), " ".join(method))


def settings_to_try(eight_bit: bool) -> list[Setting]:
    """Every method with every memory setting that it has, ``keep`` first of each kind."""
    found = []
    for method in ("full", "lora", *(["qlora"] if eight_bit else [])):
        for weights in ("float32", "bfloat16") if method == "full" else ("float32",):
            for moments in ("float32", *(["8bit"] if eight_bit else [])):
                for activations in ("keep", "recompute", "offload"):
                    found.append(
                        {"method": method, "weights": weights, "moments": moments, "activations": activations}
                    )
    return found


def _model(place: Any, setting: Setting) -> Any:
    """As `Chain.start` loads it; all kinds start from one set of weights, which bfloat16 can hold."""
    from distill.models import LoadedModel, with_lora

    shape = dataclasses.replace(shape_of("Qwen/Qwen2.5-1.5B", True), **(SMALL if place.tiny else WIDE))
    device = device_of(place.kind)
    if setting["method"] == "qlora":
        torch.manual_seed(0)
        model = in_nf4(model_of(shape, torch.bfloat16, "meta"), place)
    else:
        model = model_of(shape, torch.float32, place.kind).to(torch.bfloat16)
        exact = setting["method"] == "full" and setting["weights"] == "float32"
        dtype = (
            torch.float32
            if exact
            else torch.bfloat16
            if setting["method"] == "full"
            else device.compute_dtype
        )
        model = model.to(dtype)
    if setting["method"] == "full":
        return model
    return with_lora(LoadedModel("m", model, chat=None), None, 0).model  # type: ignore[arg-type]


def _run(
    place: Any, setting: Setting, model: Any = None, **more: Any
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of four updates, and the trained weights after them."""
    model = model if model is not None else _model(place, setting)
    memory = {key: value for key, value in setting.items() if key != "method"}
    every = {key: more.pop(key) for key in ("checkpoint_every",) if key in more}
    stage = stage_of(
        ROW, len(LENGTHS), method=setting["method"], memory=memory, learning_rate=LEARNING_RATE, **every
    )
    examples = random_examples(LENGTHS, SMALL["vocabulary"]) * UPDATES  # the same again, so that losses fall
    rows = tune(stage, model, device_of(place.kind), examples, **more)
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    return [row["loss"] for row in rows], trained


def _losses(place: Any, chosen: list[Setting]) -> Iterator[Found]:
    """Every setting beside its method's plainest; and whether the plainest repeats itself bit for bit."""
    plainest: dict[str, list[float]] = {}
    largest, gaps = 0.0, {}
    for setting in chosen:
        name = " ".join(setting.values())
        try:
            losses, _ = _run(place, setting)
        except Exception as error:  # one that breaks must not hide the others
            yield {
                "checks": {f"{name}: losses": False},
                "broken": {name: f"{type(error).__name__}: {error}"[:300]},
            }
            continue
        first = plainest.setdefault(setting["method"], losses)
        gap = max(abs(one - other) for one, other in zip(losses, first, strict=True))
        gap = gap if gap == gap else 1e9
        gaps[name], largest = gap, max(largest, gap)
        yield {"checks": {f"{name}: losses": gap < LOSS_GAP and losses[-1] < losses[0]}}
    again, _ = _run(place, chosen[0])
    yield {
        "largest_gap": largest, "tolerance": LOSS_GAP, "loss_gaps": gaps, "losses": plainest,
        "repeats_itself": again == plainest.get("full"),
    }  # fmt: skip


def _bits(place: Any, settings: list[Setting], name: str) -> Iterator[Found]:
    """What gives up memory for time, and what stops and goes on, end with the same bits."""
    checks: dict[str, bool] = {}
    try:
        kept = _run(place, settings[0])
        for setting in settings[1:]:
            checks[f"{name}: {setting['activations']} is keep, bit for bit"] = _same(
                _run(place, setting), kept
            )
        checks[f"{name}: resumed, bit for bit"] = _same(_resumed(place, settings[-1]), kept)
        yield {"checks": checks}
    except Exception as error:
        broken = {f"{name}, bits": f"{type(error).__name__}: {error}"[:300]}
        yield {"checks": checks | {f"{name}: bits": False}, "broken": broken}


def _same(
    one: tuple[list[float], dict[str, torch.Tensor]], other: tuple[list[float], dict[str, torch.Tensor]]
) -> bool:
    same_weights = all(torch.equal(one[1][name], other[1][name]) for name in other[1])
    return one[0] == other[0] and same_weights


class _Stopped(Exception):
    """Stands for a kill."""


def _resumed(place: Any, setting: Setting) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Stop after the checkpoint of update 2, begin again with a fresh model and the same folder."""

    def stop() -> None:
        raise _Stopped

    fresh = _model(place, setting)
    with tempfile.TemporaryDirectory() as folder:
        where = {"folder": Path(folder), "checkpoint_every": 2}
        try:
            _run(
                place,
                setting,
                copy.deepcopy(fresh) if setting["method"] != "qlora" else None,
                saved=stop,
                **where,
            )
        except _Stopped:
            pass
        else:
            raise AssertionError("it was not stopped")
        return _run(place, setting, fresh, **where)
