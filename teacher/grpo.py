"""The GRPO loop: sample groups, verify, advantages, clipped update, log, save.

Shao et al. 2024 (DeepSeekMath), algorithm 1, as DeepSeek-R1-Zero uses it: no critic, rule-based rewards. The formulas
stand in `advantages.py` and `losses.py` with our deviations from the papers.

Legend: P problems, G samples per problem, B = P*G completions of one update, N trained tokens of a micro-batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from distill.device import Device
from distill.generate.engine import Instruction
from distill.generate.policy import at_version, policy_engine
from distill.models import LoadedModel
from distill.recipe import GrpoStage
from distill.records import Problem
from distill.runs import MetricsLog, Progress
from distill.training.activations import keeping, recompute
from distill.training.checkpoint import load_checkpoint, save_checkpoint
from distill.training.logprobs import token_logprobs
from distill.training.packing import PackedRow
from distill.training.update import Updater
from distill.training.world import ALONE, World, cut_again
from teacher.advantages import group_advantages, zero_variance
from teacher.following import Following
from teacher.judges import Judges
from teacher.losses import PolicyTerms, Tokens, divergence, grpo_loss, token_weights
from teacher.reference import Reference
from teacher.rewards import graded_mean, load_own
from teacher.rollout import Deck, Rollout, Sampler
from teacher.shares import DealtRow, of_all, rows_of
from teacher.turns import rollouts_of

#: What a stage counts over all its updates; ``masked`` completions were cut by the limit and left out of the loss.
COUNTED = (
    "generated_tokens",
    "trained_tokens",
    "zero_variance_groups",
    "ungraded",
    "discarded_groups",
    "masked",
)


def train(
    stage: GrpoStage,
    loaded: LoadedModel,
    device: Device,
    problems: Sequence[Problem],
    instruction: Instruction,
    *,
    folder: Path,
    fingerprint: str,
    seed: int,
    saved: Callable[[], None],
    judges: Judges | None = None,
    world: World = ALONE,
) -> dict[str, Any]:
    """Train ``loaded`` in place; returns the counts of the whole stage.

    Args:
        folder: the stage's folder; its metrics and checkpoints are continued when they are of this fingerprint.
        saved: called after each checkpoint. Checkpoints fall on the ends of rollouts only.
        judges: the reward models and people's scores that ``stage.rewards`` names; None: it names none.
        world: the processes that train together; each has the same model and problems (`teacher.shares`).

    Raises:
        UserError: a reward of the user's own cannot be imported.
        RunFailed: a gradient is not finite, a reward failed, or the sampler does not hold the policy.
    """
    learner = Learner(stage, loaded, device, world)
    own = load_own(list(stage.rewards.own), f"stages.{stage.name}.rewards.own")
    log = MetricsLog(folder / "metrics.jsonl")
    counts = dict.fromkeys(COUNTED, 0)
    found = load_checkpoint(folder / "checkpoints", fingerprint, world)
    if found:
        learner.restore(found[1]["learner"])
        counts = found[1]["counts"]
    if world.rank == 0:
        log.rewind(learner.updates)
    with policy_engine(stage, loaded, device) as engine:
        sampler = Sampler(stage, engine, loaded.chat, instruction, own, seed, judges, world)
        asked = {"folder": folder, "seed": seed, "judges": judges, "world": world}
        following = Following(stage, engine, loaded.chat, instruction, problems, **asked)
        following.rewind(learner.updates)
        with (
            rollouts_of(stage, engine, sampler, Deck(problems, seed), following.look) as rollouts,
            Progress(f"{stage.name}: GRPO on {stage.model}", stage.steps, "step") as progress,
        ):
            if found:
                rollouts.restore(found[1])
            progress.skip(learner.updates)
            while learner.updates < stage.steps:
                rollout, synced = rollouts.take(learner.updates)
                counts["generated_tokens"] += rollout.generated_tokens
                counts["ungraded"] += rollout.scores.ungraded
                counts["discarded_groups"] += rollout.discarded
                for measures in learner.learn(rollout):
                    counts["trained_tokens"] += measures.pop("tokens")
                    counts["zero_variance_groups"] += measures["zero_variance_groups"]
                    counts["masked"] += measures["masked"]
                    tokens = {name: counts[name] for name in ("generated_tokens", "trained_tokens")}
                    told = rollout.measures() | synced
                    if world.rank == 0:
                        log.append({"step": learner.updates, **told, **measures, **tokens})
                    shown = {"reward": told["reward"], "right": told["reward_accuracy"]}
                    progress.advance(1, **{name: value for name, value in shown.items() if value is not None})
                last = learner.updates - stage.steps_per_rollout
                if last // stage.checkpoint_every != learner.updates // stage.checkpoint_every:
                    state = {"learner": learner.state(), "counts": counts, **rollouts.state()}
                    save_checkpoint(folder / "checkpoints", learner.updates, fingerprint, state, world)
                    saved()
            if stage.follow.problems:
                with at_version(engine, stage.steps):
                    following.look(stage.steps)
    return {"steps": stage.steps, **counts}


class Learner:
    """The policy in training, its optimiser and its reference model."""

    def __init__(self, stage: GrpoStage, loaded: LoadedModel, device: Device, world: World = ALONE) -> None:
        self.stage, self.device, self.world = stage, device, world
        self.reference = (
            Reference(loaded.model, stage.method != "full", device, world) if stage.kl.coefficient else None
        )
        if stage.memory.activations != "keep":
            recompute(loaded.model)
        self.updater = Updater(
            loaded.model,
            device,
            stage.learning_rate,
            stage.schedule,
            stage.optimiser,
            stage.steps,
            stage.memory,
            world,
        )
        self.updater.model.train()

    @property
    def updates(self) -> int:
        """Updates done so far."""
        return self.updater.done

    def learn(self, rollout: Rollout) -> Iterator[dict[str, Any]]:
        """One update for each mini-batch of the rollout; yields each one's measurements."""
        stage, penalised = self.stage, self._kl_in("reward")
        old = self._before(rollout, self._logprobs) if stage.steps_per_rollout > 1 or penalised else None
        rewards_PG = rollout.scores.rewards_PG
        if penalised and old is not None:
            rewards_PG = rewards_PG - stage.kl.coefficient * self._divergence(rollout, old)
            rewards_PG = graded_mean(rewards_PG, rollout.scores.graded_PG)
        advantages_PG = group_advantages(
            rewards_PG, stage.advantage.scale, rollout.scores.graded_PG, stage.advantage.baseline
        )
        equal_P = zero_variance(rewards_PG)
        for first in range(0, len(rewards_PG), stage.problems_per_step):
            groups = slice(first, first + stage.problems_per_step)
            start = first * stage.samples_per_problem
            batch = list(range(start, start + stage.problems_per_step * stage.samples_per_problem))
            told = self._update(rollout, batch, advantages_PG.flatten(), old)
            yield told | {"zero_variance_groups": int(equal_P[groups].sum())}
            every = stage.reference.refresh_every
            if self.reference is not None and every and self.updates % every == 0:
                self.reference.move(stage.reference.mix)

    def _update(
        self,
        rollout: Rollout,
        batch: list[int],
        advantages_B: torch.Tensor,
        old: dict[int, torch.Tensor] | None,
    ) -> dict[str, Any]:
        """One update on the completions with these numbers, cut into rows of ``micro_batch_tokens``.

        Without a KL term a completion of advantage zero has no gradient at all: it is left out of the computation, not
        of the denominators. A masked one is left out of both but for the count of completions.
        """
        stage, began = self.stage, time.monotonic()
        cut_B, advantages = rollout.truncated_B, advantages_B.tolist()
        masked = {number for number in batch if stage.overlong.mask and cut_B[number]}
        lengths = [0 if number in masked else len(rollout.sampled[number].token_ids) for number in batch]
        weights_B = token_weights(torch.tensor(lengths), stage.aggregate, rollout.limit)
        weights = dict(zip(batch, weights_B.tolist(), strict=True))
        needed = [number for number in batch if self._kl_in("loss") or advantages[number] != 0]
        active = [number for number in needed if number not in masked]
        watched = torch.zeros(len(PolicyTerms._fields), dtype=torch.float64, device=self.device.kind)
        dealt = self._rows(rollout, active)
        for number, (row, mine) in enumerate(dealt):
            # Before the policy's own: it may put other adapters in their place for a moment.
            reference_N = self._reference_logprobs(row) if self._kl_in("loss") else None
            with keeping(stage.memory.activations):
                logprobs_N = self._logprobs(row)
            tokens = Tokens(
                logprobs_N,
                logprobs_N.detach() if old is None else _gather(old.__getitem__, row),
                _gather(lambda number: torch.tensor(rollout.sampled[number].logprobs), row),
                reference_N,
                _of_examples(row, advantages),
                _of_examples(row, weights),
                row.example_N.unique_consecutive(return_inverse=True)[1],
            )
            terms = grpo_loss(
                tokens, ratio=stage.ratio, clip=stage.clip, kl=stage.kl, correction=stage.correction
            )
            self.updater.backward(terms.loss if mine else terms.loss * 0.0, last=number == len(dealt) - 1)
            # Summed where it is made: asking for a number would have a GPU's next row be packed while the GPU waits.
            if mine:
                watched += torch.stack([value.detach().double() for value in terms])
        told = self.updater.step() if active else self.updater.skip()
        sums = dict(zip(PolicyTerms._fields, self.world.sums(watched.tolist()), strict=True))
        count = sum(len(rollout.sampled[number].token_ids) for number in active)
        updating = time.monotonic() - began
        sampling, verifying = (
            seconds / stage.steps_per_rollout for seconds in (rollout.seconds_sample, rollout.seconds_verify)
        )

        def mean(name: str) -> float | None:
            return sums[name] / count if active else None

        return {
            "loss": sums["loss"],
            "kl": mean("kl_sum") if self._kl_in("loss") else None,
            "clip_fraction": mean("clipped_sum") or 0.0,
            "ratio_mean": mean("ratio_sum"),
            "ratio_first_mean": mean("sampler_ratio_sum"),
            "sampler_kl": mean("sampler_kl_sum"),
            "corrected_fraction": mean("corrected_sum"),
            "masked": len(masked),
            **told,
            "policy_version": rollout.sampled[0].policy_version,
            "tokens": count,
            "seconds_sample": sampling,
            "seconds_verify": verifying,
            "seconds_update": updating,
            "seconds": sampling + verifying + updating,
        }

    def _rows(self, rollout: Rollout, numbers: Sequence[int]) -> list[DealtRow]:
        room = self.stage.micro_batch_tokens
        return rows_of(self.world, rollout.examples, numbers, room, self.device.kind)

    @torch.no_grad()
    def _before(
        self, rollout: Rollout, logprobs: Callable[[PackedRow], torch.Tensor]
    ) -> dict[int, torch.Tensor]:
        """Each completion's log-probabilities under a model before the updates, by the trainer's own arithmetic."""
        found: dict[int, torch.Tensor] = {}
        for row, mine in self._rows(rollout, range(len(rollout.examples))):
            logprobs_N = logprobs(row)
            for number in row.example_N.unique().tolist() if mine else ():
                found[number] = logprobs_N[row.example_N == number]
        cut_again(self.updater.model)
        return of_all(self.world, found)

    def _divergence(self, rollout: Rollout, old: dict[int, torch.Tensor]) -> torch.Tensor:
        """The estimated divergence of each completion from the reference, (P, G): the sum over its tokens."""
        reference = self._before(rollout, self._reference_logprobs)
        sums = [
            float(divergence(old[number], reference[number], self.stage.kl.estimator).sum())
            for number in range(len(rollout.examples))
        ]
        return torch.tensor(sums, dtype=torch.float64).view(-1, self.stage.samples_per_problem)

    def _logprobs(self, row: PackedRow) -> torch.Tensor:
        return token_logprobs(self.updater.model, row, self.stage.temperature)

    def _reference_logprobs(self, row: PackedRow) -> torch.Tensor:
        assert self.reference is not None, "a KL has a reference"
        with self.updater.autocast():
            return self.reference.logprobs(row, self.stage.temperature)

    def _kl_in(self, term: str) -> bool:
        return self.stage.kl.coefficient > 0 and self.stage.kl.term == term

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs; the reference's weights only where it has left its starting point."""
        moved = self.reference.state() if self.reference is not None else None
        return {"updater": self.updater.state(), "reference": moved}

    def restore(self, state: dict[str, Any]) -> None:
        """Back to `state`."""
        self.updater.restore(state["updater"])
        if self.reference is not None:
            self.reference.restore(state["reference"])


def _of_examples(row: PackedRow, values: Any) -> torch.Tensor:
    """The value of the completion each trained token belongs to."""
    return torch.tensor([values[number] for number in row.example_N.tolist()], device=row.example_N.device)


def _gather(of_example: Callable[[int], torch.Tensor], row: PackedRow) -> torch.Tensor:
    """Each trained token's own entry; a row holds its examples whole and in order."""
    numbers = row.example_N.unique_consecutive().tolist()
    return torch.cat([of_example(number) for number in numbers]).to(row.example_N.device)
