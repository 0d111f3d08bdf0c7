"""A rollout: groups of completions, judged and rewarded, ready to be learnt from.

Legend: P problems, G samples per problem, B = P*G completions, problem by problem.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from distill.chat import KNOWN_TAGS, ChatFormat, Example
from distill.generate.engine import Engine, build_requests, in_order
from distill.recipe import GrpoStage
from distill.recipe_parts import Sampling
from distill.records import Completion, FinishReason, Problem, sample_seed
from distill.verify import Response, check_many
from teacher.advantages import group_advantages
from teacher.rewards import UNGRADED, Scores, score


class Rollout(NamedTuple):
    """Completions of one rollout with everything the update needs.

    ``examples`` are prompt + completion as token ids, ``sampled`` the completions themselves (the sampler's
    log-probabilities with them).
    """

    examples: list[Example]
    sampled: list[Completion]
    scores: Scores
    advantages_PG: torch.Tensor
    seconds_sample: float
    seconds_verify: float
    first_fault: str  # why the first ungraded completion could not be graded

    @property
    def generated_tokens(self) -> int:
        """Tokens that the engine made, EOS included."""
        return sum(completion.tokens for completion in self.sampled)

    def measures(self) -> dict[str, float | int | None]:
        """What the metrics log tells of this rollout; lengths in tokens, entropy in nats a token.

        The entropy is the sampler's: the mean of -log p over the tokens it drew, an unbiased estimate.
        """
        right_B = (self.scores.accuracy_PG.flatten() > 0).tolist()
        lengths = [completion.tokens for completion in self.sampled]
        logprob_sum = sum(sum(completion.logprobs) for completion in self.sampled)
        truncated = sum(completion.finish_reason is FinishReason.LENGTH for completion in self.sampled)
        return {
            "reward": float(self.scores.rewards_PG.mean()),
            "reward_accuracy": float(self.scores.accuracy_PG.mean()),
            "reward_format": float(self.scores.format_PG.mean()),
            "ungraded": self.scores.ungraded,
            "entropy": -logprob_sum / sum(lengths),
            "completion_tokens": sum(lengths) / len(lengths),
            "completion_tokens_correct": _mean(
                [n for n, right in zip(lengths, right_B, strict=True) if right]
            ),
            "completion_tokens_wrong": _mean(
                [n for n, right in zip(lengths, right_B, strict=True) if not right]
            ),
            "truncated": truncated / len(lengths),
        }


def _mean(values: Sequence[int]) -> float | None:
    return sum(values) / len(values) if values else None


def draw_problems(
    problems: Sequence[Problem], per_rollout: int, seed: int, start: int
) -> Iterator[list[Problem]]:
    """The problems of each rollout from number ``start`` on: shuffled epochs, one after the other, without end.

    The order follows from the seed alone, so a resumed run goes on where the undisturbed one would.
    """
    position = start * per_rollout
    shuffled: dict[int, list[Problem]] = {}
    while True:
        drawn = []
        for place in range(position, position + per_rollout):
            epoch, number = divmod(place, len(problems))
            if epoch not in shuffled:
                shuffled = {known: order for known, order in shuffled.items() if known == epoch - 1}
                shuffled[epoch] = random.Random(f"{seed}/{epoch}").sample(list(problems), len(problems))
            drawn.append(shuffled[epoch][number])
        yield drawn
        position += per_rollout


def roll_out(
    stage: GrpoStage,
    engine: Engine,
    chat: ChatFormat,
    problems: Sequence[Problem],
    instruction: str | None,
    seed: int,
    number: int,
) -> Rollout:
    """Sample every problem's group, verify, reward, and compare within the group.

    Args:
        seed: the run's; with the rollout's ``number`` it decides every sample.
    """
    began = time.monotonic()
    samples = stage.samples_per_problem
    requests = build_requests(problems, samples, chat, sample_seed(seed, stage.name, number), instruction)
    sampling = Sampling(temperature=stage.temperature, top_p=1.0, max_tokens=stage.max_tokens)
    sampled = in_order(requests, engine.generate(requests, sampling))
    sampled_at = time.monotonic()
    texts = [completion.prefill + completion.text for completion in sampled]
    owners = [problem for problem in problems for _ in range(samples)]
    responses = [
        Response(problem, text, completion.finish_reason)
        for problem, text, completion in zip(owners, texts, sampled, strict=True)
    ]
    judgements = check_many(responses, tags=(chat.tags, *KNOWN_TAGS))
    scores = score(texts, judgements, samples, chat.tags, stage.rewards)
    examples = [
        Example(request.prompt_ids + completion.token_ids, len(request.prompt_ids))
        for request, completion in zip(requests, sampled, strict=True)
    ]
    advantages_PG = group_advantages(scores.rewards_PG, stage.advantage.scale, scores.graded_PG)
    verified = time.monotonic() - sampled_at
    fault = next((one.reason for one in judgements if one.verdict in UNGRADED), "")
    return Rollout(examples, sampled, scores, advantages_PG, sampled_at - began, verified, fault)
