"""The part `trl-1.5b` of `gpu.py`: the work of `full-1.5b` by TRL's SFTTrainer, in each way that it can be set up."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from gpu_parts import Found, device_of, lognormal_lengths, random_examples, wait
from gpu_training import WARM_UP, _clean, _memory, measured, model_of, shape_of, stage_of

#: Options of SFTConfig and traces (packed: rows) at a time; padding-free batches need FlashAttention.
SETTINGS: dict[str, tuple[dict[str, Any], int]] = {
    "padding-free, 4 at a time": ({"padding_free": True, "max_length": None}, 4),
    "packed, a row at a time": ({"packing": True, "packing_strategy": "bfd"}, 1),
    "padded, a trace at a time": ({}, 1),
    "padded, 4 at a time": ({}, 4),
}


def trl(place: Any) -> Iterator[Found]:
    """Ours first, in this process too; then TRL. All recompute their layers and train float32 masters in bf16."""
    for needed in ("trl", "datasets"):
        if importlib.util.find_spec(needed) is None:
            yield {"skipped": {"all": f"{needed} is absent"}}
            return
    shape = shape_of("Qwen/Qwen2.5-1.5B", place.tiny)
    row, rows, updates = (256, 2, 2) if place.tiny else (16384, 2, 2)
    lengths = lognormal_lengths(row, rows, row / 5)
    stage = stage_of(row, len(lengths), memory={"activations": "recompute"})
    ours = measured(place, shape, stage, lambda: model_of(shape, torch.float32, place.kind), lengths, updates)
    yield {"runs": {"ours": ours}, "checks": {"ours": "failed" not in ours}}
    flash = place.kind == "cuda" and importlib.util.find_spec("flash_attn") is not None
    best = 0.0
    for name, (options, at_a_time) in SETTINGS.items():
        if name.startswith("padding-free") and not flash:
            yield {"skipped": {name: "flash_attn is absent"}}
            continue
        per_update = rows if "packing" in options else len(lengths)
        options = {
            **options, "per_device_train_batch_size": at_a_time,
            "gradient_accumulation_steps": max(1, per_update // at_a_time),
        }  # fmt: skip
        try:
            told = _trained(place, shape, lengths, row, updates, options, flash)
        except torch.OutOfMemoryError as error:
            told = {"failed": f"out of memory: {str(error).splitlines()[0][:200]}"}
        except Exception as error:  # another version of TRL: the other ways may still work
            told = {"failed": f"{type(error).__name__}: {error}"[:300]}
        best = max(best, told.get("tokens_per_second", 0.0))
        ratio = ours["tokens_per_second"] / best if best and "failed" not in ours else None
        yield {"runs": {name: told}, "ratio": ratio}


def _trained(
    place: Any, shape: Any, lengths: list[int], row: int, updates: int, options: Found, flash: bool
) -> Found:
    """Tokens a second of the updates after the first."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        """When each update was done."""

        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wait(place.kind)
            self.ends.append(time.perf_counter())

    _clean(place.kind)
    examples = [
        one for seed in range(WARM_UP + updates) for one in random_examples(lengths, shape.vocabulary, seed)
    ]
    labels = [[-100] * one.prompt_length + one.ids[one.prompt_length :] for one in examples]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(**{
            "output_dir": folder, "use_cpu": place.kind == "cpu", "bf16": device_of(place.kind).bf16,
            "gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False},
            "max_steps": WARM_UP + updates, "max_length": row, "learning_rate": 1e-5,
            "lr_scheduler_type": "constant", "optim": "adamw_torch_fused", "weight_decay": 0.0,
            "train_sampling_strategy": "sequential", "logging_steps": 1, "report_to": "none", "save_strategy": "no",
            "disable_tqdm": True, "dataloader_pin_memory": place.kind == "cuda", "seed": 0,
        } | options)  # fmt: skip
        trainer = SFTTrainer(
            model=model_of(shape, torch.float32, place.kind, "flash_attention_2" if flash else "sdpa"),
            args=config,
            train_dataset=Dataset.from_dict({"input_ids": [one.ids for one in examples], "labels": labels}),
            processing_class=_tokenizer(),
            callbacks=[clock],
        )
        trainer.train()
    losses = [one["loss"] for one in trainer.state.log_history if "loss" in one]
    seconds = clock.ends[-1] - clock.ends[WARM_UP - 1]
    # Packed by TRL, an update has about as many tokens; taken is what it should have.
    return {"tokens_per_second": sum(lengths) * updates / seconds, "losses": losses, **_memory(place.kind)}


def _tokenizer() -> Any:
    """One that SFTTrainer accepts; all it is asked for is a token to pad with."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
