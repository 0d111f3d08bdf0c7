"""Training a reward model: one score for a prompt with an answer, from comparisons or from single labels.

    pairwise     L = -log sigmoid(r(x, y_w) - r(x, y_l))                  Bradley and Terry 1952, as Ouyang et al. 2022
                                                                         (InstructGPT), eq. 1; DeepSeek-R1, section 3.1
    pointwise    L = -log sigmoid(r(x, y)) of a good answer, -log sigmoid(-r(x, y)) of a bad one     DeepSeek-R1, 3.1

each the mean over an update's rows, however they are cut into micro-batches. r is the one logit of a sequence
classifier, read at the last token that is no padding.

Deviations: R1 does not tell its loss beyond "pairwise" and "point-wise"; both are the usual ones. It takes the mean of
four judgements and rows of like lengths: what a file holds is the user's. InstructGPT's several comparisons of a prompt
in one batch are rows like others here.

Legend: N rows (pairs or single answers).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from distill.device import Device
from distill.models.classifiers import Reader, cut
from distill.recipe_rewards import RewardStage
from distill.runs import MetricsLog, Progress
from distill.training.activations import keeping, recompute
from distill.training.checkpoint import load_checkpoint, save_checkpoint
from distill.training.update import Updater
from teacher.preferences import Item, Preferences


def pairwise_loss(better_N: torch.Tensor, worse_N: torch.Tensor) -> torch.Tensor:
    """-log of the probability that Bradley and Terry give to each comparison as it came out, (N,)."""
    return -logsigmoid(better_N - worse_N)


def pointwise_loss(score_N: torch.Tensor, good_N: torch.Tensor) -> torch.Tensor:
    """-log of the probability of each label, (N,); ``good_N`` is bool."""
    return -logsigmoid(torch.where(good_N, score_N, -score_N))


def train_reward(
    stage: RewardStage,
    model: Any,
    reader: Reader,
    device: Device,
    preferences: Preferences,
    *,
    folder: Path,
    fingerprint: str,
    seed: int,
    saved: Callable[[], None],
) -> dict[str, Any]:
    """Train the classifier in place; returns the counts of the whole stage and what the held-out rows measure.

    Args:
        folder: the stage's folder; its metrics and checkpoints are continued when they are of this fingerprint.
        saved: called after each checkpoint.

    Raises:
        RunFailed: a gradient is not finite.
    """
    items = preferences.train
    order = _order(len(items), stage.epochs, seed)
    steps = math.ceil(len(order) / stage.batch_size)
    if stage.memory.activations != "keep":
        recompute(model)
    updater = Updater(
        model, device, stage.learning_rate, stage.schedule, stage.optimiser, steps, stage.memory
    )
    log, tokens = MetricsLog(folder / "metrics.jsonl"), 0
    if found := load_checkpoint(folder / "checkpoints", fingerprint):
        updater.restore(found[1]["updater"])
        tokens = found[1]["trained_tokens"]
    log.rewind(updater.done)
    with Progress(f"{stage.name}: training {stage.makes}", steps, "step") as progress:
        progress.skip(updater.done)
        while updater.done < steps:
            began = time.monotonic()
            updater.model.train()
            torch.manual_seed(seed + updater.done)  # a body with dropout draws the same after a resume
            first = updater.done * stage.batch_size
            batch = [items[number] for number in order[first : first + stage.batch_size]]
            told = _learn(updater, stage, reader, batch)
            told |= updater.step()
            tokens += sum(len(row["input_ids"]) for item in batch for row in item.rows)
            last = updater.done == steps
            checkpoint = updater.done % stage.checkpoint_every == 0 and not last
            held_out = measure(updater, stage, reader, preferences.held_out) if checkpoint or last else {}
            told |= {f"held_out_{name}": value for name, value in held_out.items()}
            seconds = time.monotonic() - began
            log.append({"step": updater.done, **told, "trained_tokens": tokens, "seconds": seconds})
            progress.advance(1, loss=told["loss"], accuracy=told["accuracy"])
            if checkpoint:
                state = {"updater": updater.state(), "trained_tokens": tokens}
                save_checkpoint(folder / "checkpoints", updater.done, fingerprint, state)
                saved()
    return {
        "steps": steps,
        "examples": len(order),
        "trained_tokens": tokens,
        "generated_tokens": 0,
        "left_out": preferences.left_out,
        "held_out": measure(updater, stage, reader, preferences.held_out),
    }


@torch.no_grad()
def measure(updater: Updater, stage: RewardStage, reader: Reader, items: Sequence[Item]) -> dict[str, Any]:
    """Loss and accuracy on rows that are not trained on, with their count and the accuracy's Wilson interval of 95 %.

    A comparison is right where the better answer's score is the higher (a tie is half right), a single answer where its
    score's sign is its label's. ``longer`` is what choosing the longer answer would get, so that a model which has
    learnt no more than length can be told.
    """
    if not items:
        return {}
    updater.model.eval()
    loss = right = 0.0
    for part in _parts(items, stage.micro_batch_tokens):
        losses_N, margin_N = _judge(updater, reader, [items[place] for place in part])
        loss += float(losses_N.sum())
        right += float((margin_N > 0).sum()) + 0.5 * float((margin_N == 0).sum())
    found: dict[str, Any] = {"n": len(items), "loss": loss / len(items), "accuracy": right / len(items)}
    found["ci95"] = _wilson(found["accuracy"], len(items))
    if stage.objective == "pairwise":
        found["longer"] = sum(bool(item.longer) for item in items) / len(items)
    return found


def _learn(updater: Updater, stage: RewardStage, reader: Reader, batch: Sequence[Item]) -> dict[str, float]:
    """Add the gradient of one update; rows of like length stand together."""
    batch = sorted(batch, key=lambda item: item.longest)
    sums = dict.fromkeys(("loss", "accuracy", "margin"), 0.0)
    parts = _parts(batch, stage.micro_batch_tokens)
    for number, part in enumerate(parts):
        with keeping(stage.memory.activations):
            losses_N, margin_N = _judge(updater, reader, [batch[place] for place in part])
            loss = losses_N.sum() / len(batch)
        updater.backward(loss, last=number == len(parts) - 1)
        sums["loss"] += float(loss.detach())
        sums["accuracy"] += float((margin_N > 0).sum() + 0.5 * (margin_N == 0).sum()) / len(batch)
        sums["margin"] += float(margin_N.sum()) / len(batch)
    return sums


def _judge(updater: Updater, reader: Reader, items: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and margin of each row: how far the better answer is above the worse, or a score on its label's side."""
    device = updater.device.kind
    answers = len(items[0].rows)
    rows = [item.rows[which] for which in range(answers) for item in items]
    scores = updater.model(**reader.batch(rows, device)).logits[:, 0].float().view(answers, len(items))
    if answers == 2:
        return pairwise_loss(scores[0], scores[1]), (scores[0] - scores[1]).detach()
    good_N = torch.tensor([item.good for item in items], device=device)
    return pointwise_loss(scores[0], good_N), torch.where(good_N, scores[0], -scores[0]).detach()


def _parts(items: Sequence[Item], room: int) -> list[list[int]]:
    """Places of consecutive rows whose padded tokens fit into ``room``."""
    return cut([len(item.rows) * item.longest for item in items], room)


def _order(count: int, epochs: float, seed: int) -> list[int]:
    """Row numbers of the whole run: shuffled epochs, the last one broken off where ``epochs`` is."""
    order: list[int] = []
    for epoch in range(math.ceil(epochs)):
        order += random.Random(f"{seed}/{epoch}").sample(range(count), count)
    return order[: max(1, round(count * epochs))]


def _wilson(share: float, count: int) -> list[float]:
    """Wilson's score interval of a share (1927), at 95 %."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return [max(0.0, middle - half), min(1.0, middle + half)]
