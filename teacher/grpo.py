"""The GRPO loop: sample groups, verify, advantages, clipped update, log, save.

Shao et al. 2024 (DeepSeekMath), algorithm 1, as DeepSeek-R1-Zero uses it: no critic, rule-based rewards. The formulas
stand in `advantages.py` and `losses.py` with our deviations from the papers.

Legend: P problems, G samples per problem, B = P*G completions of one update, N trained tokens of a micro-batch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from distill.device import Device
from distill.errors import RunFailed
from distill.generate.local import LocalEngine
from distill.models import LoadedModel
from distill.recipe import GrpoStage
from distill.records import Problem
from distill.runs import MetricsLog, Progress
from distill.training.checkpoint import load_checkpoint, save_checkpoint
from distill.training.logprobs import token_logprobs
from distill.training.packing import PackedRow, pack, pack_row
from distill.training.update import Updater
from teacher.advantages import zero_variance_groups
from teacher.losses import grpo_loss, token_weights
from teacher.rollout import Rollout, draw_problems, roll_out


def train(
    stage: GrpoStage,
    loaded: LoadedModel,
    device: Device,
    problems: Sequence[Problem],
    instruction: str | None,
    *,
    folder: Path,
    fingerprint: str,
    seed: int,
    saved: Callable[[], None],
) -> dict[str, Any]:
    """Train ``loaded`` in place; returns the counts of the whole stage.

    Args:
        folder: the stage's folder; its metrics and checkpoints are continued when they are of this fingerprint.
        saved: called after each checkpoint. Checkpoints fall on the ends of rollouts only.

    Raises:
        RunFailed: a gradient is not finite.
    """
    learner = Learner(stage, loaded, device)
    engine = LocalEngine(loaded, device, stage.engine.max_rows)
    log = MetricsLog(folder / "metrics.jsonl")
    counts = {"generated_tokens": 0, "trained_tokens": 0, "zero_variance_groups": 0, "ungraded": 0}
    if found := load_checkpoint(folder / "checkpoints", fingerprint):
        learner.restore(found[1]["learner"])
        counts = found[1]["counts"]
    log.rewind(learner.updates)
    per_rollout = stage.problems_per_step * stage.steps_per_rollout
    number = learner.updates // stage.steps_per_rollout
    with Progress(f"{stage.name}: GRPO on {stage.model}", stage.steps, "step") as progress:
        progress.skip(learner.updates)
        for drawn in draw_problems(problems, per_rollout, seed, number):
            if learner.updates >= stage.steps:
                break
            engine.policy_version = learner.updates
            rollout = roll_out(stage, engine, loaded.chat, drawn, instruction, seed, number)
            counts["generated_tokens"] += rollout.generated_tokens
            counts["ungraded"] += rollout.scores.ungraded
            if rollout.scores.ungraded == len(rollout.examples):
                reason = "none of a rollout's completions could be graded, so there is nothing to learn from"
                raise RunFailed(f"{reason}: the first says {rollout.first_fault}")
            for measures in learner.learn(rollout):
                counts["trained_tokens"] += measures.pop("tokens")
                counts["zero_variance_groups"] += measures["zero_variance_groups"]
                tokens = {name: counts[name] for name in ("generated_tokens", "trained_tokens")}
                told = rollout.measures()
                log.append({"step": learner.updates, **told, **measures, **tokens})
                progress.advance(1, reward=told["reward"], right=told["reward_accuracy"])
            number += 1
            last = learner.updates - stage.steps_per_rollout
            if last // stage.checkpoint_every != learner.updates // stage.checkpoint_every:
                state = {"learner": learner.state(), "counts": counts}
                save_checkpoint(folder / "checkpoints", learner.updates, fingerprint, state)
                saved()
    return {"steps": stage.steps, **counts}


class Learner:
    """The policy in training, its optimiser and its reference model."""

    def __init__(self, stage: GrpoStage, loaded: LoadedModel, device: Device) -> None:
        self.stage, self.device = stage, device
        self.reference = (
            copy.deepcopy(loaded.model).eval().requires_grad_(False) if stage.kl.coefficient else None
        )
        self.updater = Updater(
            loaded.model, device, stage.learning_rate, stage.schedule, stage.optimiser, stage.steps
        )
        self.updater.model.train()

    @property
    def updates(self) -> int:
        """Updates done so far."""
        return self.updater.done

    def learn(self, rollout: Rollout) -> Any:
        """One update for each mini-batch of the rollout; yields each one's measurements."""
        stage = self.stage
        old = self._logprobs_before(rollout) if stage.steps_per_rollout > 1 else None
        share = stage.problems_per_step * stage.samples_per_problem
        for start in range(0, len(rollout.examples), share):
            yield self._update(rollout, list(range(start, start + share)), old)
            every = stage.reference.refresh_every
            if self.reference is not None and every and self.updates % every == 0:
                self.reference.load_state_dict(self.updater.bare.state_dict())

    def _update(
        self, rollout: Rollout, batch: list[int], old: dict[int, torch.Tensor] | None
    ) -> dict[str, Any]:
        """One update on the completions with these numbers, cut into rows of ``micro_batch_tokens``.

        Without a KL term a completion of advantage zero has no gradient at all: it is left out of the computation, not
        of the denominators.
        """
        stage, began = self.stage, time.monotonic()
        advantages = rollout.advantages_PG.flatten()
        lengths = torch.tensor([len(rollout.sampled[number].token_ids) for number in batch])
        weights = dict(zip(batch, token_weights(lengths, stage.aggregate).tolist(), strict=True))
        active = [number for number in batch if self.reference is not None or advantages[number] != 0]
        sums = {"loss": 0.0, "kl": 0.0, "clipped": 0.0, "ratio": 0.0, "sampler_ratio": 0.0, "tokens": 0}
        for row in self._rows(rollout, active):
            logprobs_N = token_logprobs(self.updater.model, row, stage.temperature)
            reference_N = self._reference_logprobs(row)
            terms = grpo_loss(
                logprobs_N,
                logprobs_N.detach() if old is None else _gather(old, row),
                reference_N,
                _of_examples(row, advantages.tolist()),
                _of_examples(row, weights),
                clip_low=stage.clip.low,
                clip_high=stage.clip.high,
                kl_coefficient=stage.kl.coefficient,
            )
            self.updater.backward(terms.loss)
            sampled_N = _gather({n: torch.tensor(rollout.sampled[n].logprobs) for n in active}, row)
            sums["loss"] += terms.loss.item()
            sums["kl"] += terms.kl_sum.item()
            sums["clipped"] += terms.clipped_sum.item()
            sums["ratio"] += terms.ratio_sum.item()
            sums["sampler_ratio"] += (logprobs_N.detach() - sampled_N).exp().sum().item()
            sums["tokens"] += len(logprobs_N)
        told = self.updater.step() if active else self.updater.skip()
        tokens = max(1, sums["tokens"])
        groups_PG = rollout.scores.rewards_PG.flatten()[batch].view(-1, stage.samples_per_problem)
        updating = time.monotonic() - began
        sampling, verifying = (
            seconds / stage.steps_per_rollout for seconds in (rollout.seconds_sample, rollout.seconds_verify)
        )
        return {
            "loss": sums["loss"],
            "kl": sums["kl"] / tokens if self.reference is not None else None,
            "clip_fraction": sums["clipped"] / tokens,
            "ratio_mean": sums["ratio"] / tokens if active else None,
            "ratio_first_mean": sums["sampler_ratio"] / tokens if active else None,
            "zero_variance_groups": zero_variance_groups(groups_PG),
            **told,
            "policy_version": rollout.sampled[0].policy_version,
            "tokens": sums["tokens"],
            "seconds_sample": sampling,
            "seconds_verify": verifying,
            "seconds_update": updating,
            "seconds": sampling + verifying + updating,
        }

    def _rows(self, rollout: Rollout, numbers: Sequence[int]) -> list[PackedRow]:
        lengths = [len(rollout.examples[number].ids) for number in numbers]
        room = max(self.stage.micro_batch_tokens, *lengths, 1) if lengths else 1
        return [
            pack_row(rollout.examples, [numbers[place] for place in row], self.device.kind)
            for row in pack(lengths, room)
        ]

    @torch.no_grad()
    def _logprobs_before(self, rollout: Rollout) -> dict[int, torch.Tensor]:
        """Each completion's log-probabilities under the policy that sampled it, by the trainer's own arithmetic."""
        old: dict[int, torch.Tensor] = {}
        for row in self._rows(rollout, range(len(rollout.examples))):
            logprobs_N = token_logprobs(self.updater.model, row, self.stage.temperature)
            for number in row.example_N.unique().tolist():
                old[number] = logprobs_N[row.example_N == number]
        return old

    @torch.no_grad()
    def _reference_logprobs(self, row: PackedRow) -> torch.Tensor | None:
        if self.reference is None:
            return None
        with self.updater.autocast():
            return token_logprobs(self.reference, row, self.stage.temperature)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs; the reference's weights only where it has left its starting point."""
        moved = self.reference is not None and self.stage.reference.refresh_every is not None
        return {"updater": self.updater.state(), "reference": self.reference.state_dict() if moved else None}

    def restore(self, state: dict[str, Any]) -> None:
        """Back to `state`."""
        self.updater.restore(state["updater"])
        if state["reference"] is not None:
            self.reference.load_state_dict(state["reference"])


def _of_examples(row: PackedRow, values: Any) -> torch.Tensor:
    """The value of the completion each trained token belongs to."""
    return torch.tensor([values[number] for number in row.example_N.tolist()], device=row.example_N.device)


def _gather(by_example: dict[int, torch.Tensor], row: PackedRow) -> torch.Tensor:
    """Each trained token's own entry; a row holds its examples whole and in order."""
    numbers = list(dict.fromkeys(row.example_N.tolist()))
    return torch.cat([by_example[number] for number in numbers]).to(row.example_N.device)
