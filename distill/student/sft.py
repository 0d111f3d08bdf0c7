"""Supervised fine-tuning on traces: packed rows, the response alone in the loss, resumable at every checkpoint.

    loss of an update = - sum of log-probabilities of its trained tokens / count of its trained tokens

over the whole batch, however it is cut into rows (so accumulation cannot change the gradient).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distill.device import Device
from distill.models import LoadedModel
from distill.recipe import SftStage
from distill.runs import MetricsLog, Progress
from distill.student.mixture import Mixture
from distill.training.checkpoint import load_checkpoint, save_checkpoint
from distill.training.logprobs import token_logprobs
from distill.training.packing import pack, pack_row
from distill.training.update import Updater


def fine_tune(
    stage: SftStage,
    loaded: LoadedModel,
    device: Device,
    mixture: Mixture,
    *,
    folder: Path,
    fingerprint: str,
    seed: int,
    saved: Callable[[], None],
) -> dict[str, Any]:
    """Train ``loaded`` in place on the mixture; returns the counts of the whole stage.

    Args:
        folder: the stage's folder; its metrics and checkpoints are continued when they are of this fingerprint.
        saved: called after each checkpoint.

    Raises:
        RunFailed: a gradient is not finite.
    """
    examples, order = mixture.examples, mixture.order
    steps = math.ceil(len(order) / stage.batch_size)
    updater = Updater(loaded.model, device, stage.learning_rate, stage.schedule, stage.optimiser, steps)
    log = MetricsLog(folder / "metrics.jsonl")
    trained_tokens = 0
    if found := load_checkpoint(folder / "checkpoints", fingerprint):
        updater.restore(found[1]["updater"])
        trained_tokens = found[1]["trained_tokens"]
    log.rewind(updater.done)
    updater.model.train()
    with Progress(f"{stage.name}: fine-tuning {stage.makes}", steps, "step") as progress:
        progress.skip(updater.done)
        while updater.done < steps:
            began = time.monotonic()
            torch.manual_seed(seed + updater.done)  # adapter dropout draws the same after a resume
            batch = order[updater.done * stage.batch_size : (updater.done + 1) * stage.batch_size]
            rows = pack([len(examples[number].ids) for number in batch], stage.micro_batch_tokens)
            tokens = sum(len(examples[number].ids) - examples[number].prompt_length for number in batch)
            loss = 0.0
            for row in rows:
                packed = pack_row(examples, [batch[place] for place in row], device.kind)
                part = -token_logprobs(updater.model, packed).sum() / tokens
                updater.backward(part)
                loss += part.item()
            told = updater.step()
            trained_tokens += tokens
            log.append(
                {
                    "step": updater.done,
                    "epoch": round(updater.done * stage.batch_size / len(order) * stage.epochs, 4),
                    "loss": loss,
                    **told,
                    "trained_tokens": trained_tokens,
                    "seconds": time.monotonic() - began,
                }
            )
            progress.advance(1, loss=loss)
            if updater.done % stage.checkpoint_every == 0 and updater.done < steps:
                state = {"updater": updater.state(), "trained_tokens": trained_tokens}
                save_checkpoint(folder / "checkpoints", updater.done, fingerprint, state)
                saved()
    return {
        "steps": steps,
        "examples": len(order),
        "trained_tokens": trained_tokens,
        "generated_tokens": 0,
        "left_out": mixture.left_out,
    }
