"""Supervised fine-tuning on traces: packed rows, the response alone in the loss, resumable at every checkpoint.

    loss of an update = - sum of log-probabilities of its trained tokens / count of its trained tokens

over the whole batch, however it is cut into rows (so accumulation cannot change the gradient).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from distill.device import Device
from distill.models import LoadedModel
from distill.recipe import SftStage
from distill.runs import MetricsLog, Progress
from distill.student.mixture import Mixture
from distill.training.activations import keeping, recompute
from distill.training.checkpoint import load_checkpoint, save_checkpoint
from distill.training.logprobs import token_logprobs
from distill.training.packing import pack, pack_row
from distill.training.update import Updater
from distill.training.world import ALONE, World


class Tuned(NamedTuple):
    """The counts of a finished stage, and its trained weights where they were asked for (in the first process)."""

    counts: dict[str, Any]
    weights: dict[str, torch.Tensor]


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
    world: World = ALONE,
    give_weights: bool = False,
) -> Tuned:
    """Train ``loaded`` in place on the mixture.

    Args:
        folder: the stage's folder; its metrics and checkpoints are continued when they are of this fingerprint.
        saved: called after each checkpoint.
        world: the processes that train together; each has the same model and mixture.

    Raises:
        RunFailed: a gradient is not finite.
    """
    examples, order = mixture.examples, mixture.order
    steps = math.ceil(len(order) / stage.batch_size)
    if stage.memory.activations != "keep":
        recompute(loaded.model)
    updater = Updater(
        loaded.model, device, stage.learning_rate, stage.schedule, stage.optimiser, steps, stage.memory, world
    )
    log = MetricsLog(folder / "metrics.jsonl")
    trained_tokens = 0
    if found := load_checkpoint(folder / "checkpoints", fingerprint, world):
        updater.restore(found[1]["updater"])
        trained_tokens = found[1]["trained_tokens"]
    if world.rank == 0:
        log.rewind(updater.done)
    updater.model.train()
    with Progress(f"{stage.name}: fine-tuning {stage.makes}", steps, "step") as progress:
        progress.skip(updater.done)
        while updater.done < steps:
            began = time.monotonic()
            # Adapter dropout draws the same after a resume, and not the same in every process.
            torch.manual_seed((seed + updater.done) * world.size + world.rank)
            batch = order[updater.done * stage.batch_size : (updater.done + 1) * stage.batch_size]
            tokens = sum(len(examples[number].ids) - examples[number].prompt_length for number in batch)
            loss = _learn(updater, stage, mixture, batch, tokens)
            told = updater.step()
            trained_tokens += tokens
            if world.rank == 0:
                log.append(
                    {
                        "step": updater.done,
                        # The last batch may be smaller than the others.
                        "epoch": round(
                            min(1, updater.done * stage.batch_size / len(order)) * stage.epochs, 4
                        ),
                        "loss": loss,
                        **told,
                        "trained_tokens": trained_tokens,
                        "seconds": time.monotonic() - began,
                    }
                )
            progress.advance(1, loss=loss)
            if updater.done % stage.checkpoint_every == 0 and updater.done < steps:
                state = {"updater": updater.state(), "trained_tokens": trained_tokens}
                save_checkpoint(folder / "checkpoints", updater.done, fingerprint, state, world)
                saved()
    counts = {
        "steps": steps,
        "examples": len(order),
        "trained_tokens": trained_tokens,
        "generated_tokens": 0,
        "left_out": mixture.left_out,
        "mixture": mixture.parts,
    }
    return Tuned(counts, updater.whole() if give_weights else {})


def _learn(updater: Updater, stage: SftStage, mixture: Mixture, batch: list[int], tokens: int) -> float:
    """Add the gradient of one update, this process's rows of it; returns the whole loss."""
    examples, world = mixture.examples, updater.world
    lengths = [len(examples[number].ids) for number in batch]
    # No row so long that another process has nothing to do.
    fair = max(*lengths, math.ceil(sum(lengths) / world.size)) if len(lengths) > 1 else lengths[0]
    rows = pack(lengths, min(stage.micro_batch_tokens, fair))
    mine = world.share(rows, [sum(lengths[place] for place in row) for row in rows])
    # Summed where it is made: asking for a number would have a GPU's next row be packed while the GPU waits.
    loss = torch.zeros((), dtype=torch.float64, device=updater.device.kind)
    for number, row in enumerate(mine):
        row_or_other = row or rows[-1]  # whoever has none computes along with no weight
        packed = pack_row(examples, [batch[place] for place in row_or_other], updater.device.kind)
        with keeping(stage.memory.activations):
            part = -token_logprobs(updater.model, packed).sum() / tokens
        updater.backward(part if row else part * 0.0, last=number == len(mine) - 1)
        if row:
            loss += part.detach()
    return world.sum(float(loss))
