"""A rollout: groups of completions, judged and rewarded, ready to be learnt from.

Legend: P problems, G samples per problem, B = P*G completions, problem by problem.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import Any, NamedTuple

import torch

from distill.chat import KNOWN_TAGS, ChatFormat, Example, ThoughtTags, split_thought
from distill.errors import RunFailed
from distill.generate.engine import Engine, Instruction, Request, build_requests, in_order
from distill.recipe import GrpoStage
from distill.recipe_parts import Sampling
from distill.recipe_rl import tokens_at
from distill.records import Completion, FinishReason, Problem, sample_seed
from distill.reflection import reflective_rate
from distill.training.world import ALONE, World
from distill.verify import Response, check_many
from teacher.advantages import zero_variance
from teacher.judges import Judges
from teacher.rewards import UNGRADED, Answered, Own, Scores, score
from teacher.shares import groups_of
from teacher.watching import loop_share, solve_rates, target_share


class Deck:
    """The training problems in shuffled epochs, one after the other, without end.

    ``position`` counts the problems drawn so far. The order follows from the seed alone, so that a resumed run, told
    its position, goes on where the undisturbed one would.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self.position = 0
        self._problems, self._seed = list(problems), seed
        self._epoch, self._shuffled = -1, self._problems

    def draw(self, count: int, wanted: Callable[[Problem], bool] = lambda _: True) -> list[Problem]:
        """The next problems that are wanted; one may come twice where an epoch ends among them.

        Raises:
            RunFailed: none of them is.
        """
        drawn: list[Problem] = []
        passed = 0
        while len(drawn) < count:
            epoch, number = divmod(self.position, len(self._problems))
            if epoch != self._epoch:
                self._epoch = epoch
                self._shuffled = random.Random(f"{self._seed}/{epoch}").sample(
                    self._problems, len(self._problems)
                )
            self.position += 1
            passed = 0 if wanted(self._shuffled[number]) else passed + 1
            if not passed:
                drawn.append(self._shuffled[number])
            elif passed == 2 * len(self._problems):
                raise RunFailed(
                    "nothing rewards any of the problems yet", "Ask a reward model from update 0 on."
                )
        return drawn


class Groups(NamedTuple):
    """Completions, problem by problem: prompt + completion as token ids, what the engine gave, and what it earned.

    ``fault`` says why the first ungraded completion could not be graded; ``unread_P`` counts, by reward model, the
    answers of each group that it could not read.
    """

    examples: list[Example]
    sampled: list[Completion]
    scores: Scores
    fault: str
    unread_P: dict[str, torch.Tensor]

    @property
    def tokens(self) -> int:
        """Tokens that the engine made, EOS included."""
        return sum(completion.tokens for completion in self.sampled)

    def only(self, chosen_P: torch.Tensor) -> Groups:
        """These groups, whole."""
        scores = self.scores
        chosen_B = chosen_P.repeat_interleave(scores.rewards_PG.shape[1]).tolist()
        return Groups(
            list(compress(self.examples, chosen_B)),
            list(compress(self.sampled, chosen_B)),
            Scores(
                scores.rewards_PG[chosen_P],
                {name: part_PG[chosen_P] for name, part_PG in scores.parts_PG.items()},
                scores.graded_PG[chosen_P],
            ),
            self.fault,
            {name: count_P[chosen_P] for name, count_P in self.unread_P.items()},
        )


def joined(parts: Sequence[Groups]) -> Groups:
    """All groups of these, in order."""
    scores = [part.scores for part in parts]
    return Groups(
        [one for part in parts for one in part.examples],
        [one for part in parts for one in part.sampled],
        Scores(
            torch.cat([one.rewards_PG for one in scores]),
            {name: torch.cat([one.parts_PG[name] for one in scores]) for name in scores[0].parts_PG},
            torch.cat([one.graded_PG for one in scores]),
        ),
        next((part.fault for part in parts if part.fault), ""),
        {name: torch.cat([part.unread_P[name] for part in parts]) for name in parts[0].unread_P},
    )


class Rollout(NamedTuple):
    """The groups of one rollout, and what they took.

    ``discarded`` groups of equal rewards were sampled besides and gave way to others. ``limit`` is the limit of tokens
    that held; ``watched`` is what `teacher.watching` saw.
    """

    examples: list[Example]
    sampled: list[Completion]
    scores: Scores
    limit: int
    discarded: int
    generated_tokens: int
    watched: dict[str, Any]
    seconds_sample: float
    seconds_verify: float

    @property
    def truncated_B(self) -> list[bool]:
        """Which completions the token limit ended."""
        return [completion.finish_reason is FinishReason.LENGTH for completion in self.sampled]

    def measures(self) -> dict[str, Any]:
        """What the metrics log tells of this rollout; lengths in tokens, entropy in nats a token.

        The entropy is the sampler's: the mean of -log p over the tokens it drew, an unbiased estimate.
        """
        accuracy_B = self.scores.parts_PG["accuracy"].flatten()  # NaN of what was not graded
        right_B, wrong_B = (accuracy_B > 0).tolist(), (accuracy_B == 0).tolist()
        lengths = [completion.tokens for completion in self.sampled]
        logprob_sum = sum(sum(completion.logprobs) for completion in self.sampled)
        return {
            "reward": float(self.scores.rewards_PG.mean()),
            **{f"reward_{name}": told_mean(part_PG) for name, part_PG in self.scores.parts_PG.items()},
            "ungraded": self.scores.ungraded,
            "entropy": -logprob_sum / sum(lengths),
            "completion_tokens": sum(lengths) / len(lengths),
            "completion_tokens_correct": _mean(compress(lengths, right_B)),
            "completion_tokens_wrong": _mean(compress(lengths, wrong_B)),
            "truncated": sum(self.truncated_B) / len(lengths),
            **self.watched,
            "discarded_groups": self.discarded,
        }


class Sampler:
    """Makes rollouts of one stage: samples every problem's group, has it verified, rewards it."""

    def __init__(
        self,
        stage: GrpoStage,
        engine: Engine,
        chat: ChatFormat,
        instruction: Instruction,
        own: dict[str, Own],
        seed: int,
        judges: Judges | None = None,
        world: World = ALONE,
    ) -> None:
        self._world = world
        self._stage, self._engine, self._chat = stage, engine, chat
        self._instruction, self._own, self._seed = instruction, own, seed
        self._judges = judges or Judges(stage.rewards, {})

    def roll_out(self, deck: Deck, number: int) -> Rollout:
        """Rollout ``number`` of the stage; with the run's seed it decides every sample.

        With ``refill``, groups of one reward throughout are discarded and others drawn for them, at most so many times
        (DAPO, Yu et al. 2025, sec. 3.2, who do not bound it); what is then still short is filled with discarded ones.

        Each of several processes samples and judges its share of the groups and is then given the others'.

        Raises:
            RunFailed: not one completion could be graded.
        """
        stage = self._stage
        wanted = stage.problems_per_step * stage.steps_per_rollout
        update = number * stage.steps_per_rollout
        limit = tokens_at(stage.max_tokens, update)
        kept: list[Groups] = []
        flat: list[Groups] = []
        sampling = verifying = 0.0
        for attempt in range(stage.refill + 1):
            missing = wanted - sum(len(part.scores.rewards_PG) for part in kept)
            if not missing:
                break
            began = time.monotonic()
            problems = deck.draw(missing, lambda one: self._judges.is_asked(one, update))
            mine = groups_of(self._world, len(problems))
            requests = self._requests(problems, number, attempt, mine)
            drawn = Sampling(temperature=stage.temperature, top_p=1.0, max_tokens=limit)
            sampled = in_order(requests, self._engine.generate(requests, drawn))
            self._world.wait()
            sampled_at = time.monotonic()
            own = self._judged(problems[mine], requests, sampled, limit, update) if requests else None
            made = joined([part for part in self._world.gather(own) if part is not None])
            sampling += sampled_at - began
            verifying += time.monotonic() - sampled_at
            if stage.refill:
                equal_P = zero_variance(made.scores.rewards_PG)
                flat.append(made.only(equal_P))
                made = made.only(~equal_P)
            kept.append(made)
        found = joined([*kept, *flat])
        groups = found.only(torch.arange(len(found.scores.rewards_PG)) < wanted)
        if groups.scores.ungraded == len(groups.sampled):
            reason = "none of a rollout's completions could be graded, so there is nothing to learn from"
            raise RunFailed(f"{reason}: the first says {groups.fault}")
        discarded = len(found.scores.rewards_PG) - wanted
        watched = _watched(groups, self._chat.tags, stage.rewards.target)
        watched |= {f"unread_{name}": int(count_P.sum()) for name, count_P in groups.unread_P.items()}
        return Rollout(*groups[:3], limit, discarded, found.tokens, watched, sampling, verifying)

    def _requests(
        self, problems: Sequence[Problem], number: int, attempt: int, chosen: slice
    ) -> Sequence[Request]:
        """The chosen groups' requests; a problem that is drawn for another attempt again gets other samples."""
        stage = self._stage
        name = f"{stage.name}/refill-{attempt}" if attempt else stage.name
        seed = sample_seed(self._seed, name, number)
        all_ = build_requests(problems, stage.samples_per_problem, self._chat, seed, self._instruction)
        return all_[chosen.start * stage.samples_per_problem : chosen.stop * stage.samples_per_problem]

    def _judged(
        self,
        problems: Sequence[Problem],
        requests: Sequence[Request],
        sampled: list[Completion],
        limit: int,
        update: int,
    ) -> Groups:
        samples, tags = self._stage.samples_per_problem, self._chat.tags
        texts = [completion.prefill + completion.text for completion in sampled]
        owners = [problem for problem in problems for _ in range(samples)]
        responses = [
            Response(problem, text, completion.finish_reason)
            for problem, text, completion in zip(owners, texts, sampled, strict=True)
        ]
        judgements = check_many(responses, tags=(tags, *KNOWN_TAGS))
        answers_B = [
            Answered(problem, text, completion.tokens, completion.finish_reason, judgement, tags)
            for problem, text, completion, judgement in zip(owners, texts, sampled, judgements, strict=True)
        ]
        answers_PG = [answers_B[at : at + samples] for at in range(0, len(answers_B), samples)]
        soft = (limit, self._stage.overlong.soft) if self._stage.overlong.soft else None
        examples = [
            Example(request.prompt_ids + completion.token_ids, len(request.prompt_ids))
            for request, completion in zip(requests, sampled, strict=True)
        ]
        fault = next((one.reason for one in judgements if one.verdict in UNGRADED), "")
        judged = self._judges.judge(answers_PG, update)
        scores = score(answers_PG, self._stage.rewards, self._own, soft, judged)
        return Groups(examples, sampled, scores, fault, judged.unread_P)


def _watched(groups: Groups, tags: ThoughtTags, target: str) -> dict[str, Any]:
    texts = [completion.prefill + completion.text for completion in groups.sampled]
    thoughts = [split_thought(text, (tags, *KNOWN_TAGS)).thought or "" for text in texts]
    return {
        "reflective": reflective_rate(texts),
        "loops": loop_share([completion.token_ids for completion in groups.sampled]),
        "language": target_share(thoughts, target),
        "solve_rates": solve_rates(groups.scores.parts_PG["accuracy"]),
    }


def told_mean(part_PG: torch.Tensor) -> float | None:
    """The mean over the samples that a reward says something of; None: of none."""
    told = part_PG[~part_PG.isnan()]
    return float(told.mean()) if len(told) else None


def _mean(values: Iterable[int]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None
