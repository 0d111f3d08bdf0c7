"""Which problems a rollout asks, and groups that teach nothing giving way to others.

Legend: P problems, G samples per problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from distill.recipe import GrpoStage
from distill.records import Completion, FinishReason, Problem
from teacher.judges import Judges
from teacher.rollout import Deck, Sampler

PROBLEMS = [Problem(id=f"p{n}", kind="math", problem=f"{n}+{n}", reference=str(2 * n)) for n in range(7)]


def ids(problems: Sequence[Problem]) -> list[str]:
    return [problem.id for problem in problems]


def test_every_problem_once_an_epoch_in_a_new_order() -> None:
    deck = Deck(PROBLEMS, seed=0)
    drawn = [one for _ in range(7) for one in ids(deck.draw(3))]
    epochs = [drawn[start : start + 7] for start in range(0, 21, 7)]
    assert all(sorted(epoch) == sorted(ids(PROBLEMS)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert ids(Deck(PROBLEMS, seed=1).draw(7)) != epochs[0]


@pytest.mark.parametrize("per_rollout", [1, 3, 7, 16])
@pytest.mark.parametrize("start", [1, 4, 5])
def test_a_late_start_draws_what_the_first_run_would_have(per_rollout: int, start: int) -> None:
    whole = Deck(PROBLEMS, seed=0)
    drawn = [ids(whole.draw(per_rollout)) for _ in range(start + 3)]
    late = Deck(PROBLEMS, seed=0)
    late.position = start * per_rollout
    assert [ids(late.draw(per_rollout)) for _ in range(3)] == drawn[start:]


class Scripted:
    """An engine that answers a problem of an even number half right and all others wrong."""

    name, together = "scripted", None

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def generate(self, requests: Any, sampling: Any, runaway: Any = None) -> Iterator[Completion]:
        for request in requests:
            self.seeds.append(request.seed)
            number = int(request.problem_id[1:])
            right = number % 2 == 0 and request.sample_index % 2 == 0
            text = f"<think>a</think>\\boxed{{{2 * number if right else -1}}}"
            yield Completion(
                problem_id=request.problem_id, sample_index=request.sample_index, prefill="", text=text,
                token_ids=[1, 2], logprobs=[-0.5, -0.5], tokens=2, finish_reason=FinishReason.STOP,
            )  # fmt: skip


def rolled(refill: int, tiny_qwen2: Any, scorer: Any = None) -> tuple[Any, Deck, Scripted]:
    models = {"helpful": {"model": "rm", "problems": "all"}} if scorer else {}
    stage = GrpoStage.model_validate({
        "name": "zero", "kind": "grpo", "model": "m", "problems": "p", "makes": "t", "steps": 4, "refill": refill,
        "problems_per_step": 4, "samples_per_problem": 2, "max_tokens": 10, "rewards": {"models": models},
    })  # fmt: skip
    engine, deck = Scripted(), Deck(PROBLEMS, seed=0)
    judges = Judges(stage.rewards, {"helpful": scorer}) if scorer else None
    sampler = Sampler(stage, engine, tiny_qwen2.loaded.chat, None, {}, seed=3, judges=judges)
    return sampler.roll_out(deck, 0), deck, engine


def groups_that_teach(rollout: Any) -> int:
    rewards_PG = rollout.scores.rewards_PG
    return int((rewards_PG.amax(1) > rewards_PG.amin(1)).sum())


def test_without_refill_groups_come_as_they_are(tiny_qwen2: Any) -> None:
    rollout, deck, _ = rolled(0, tiny_qwen2)
    assert deck.position == 4 and len(rollout.sampled) == 8 and rollout.discarded == 0
    assert rollout.generated_tokens == 16


def test_refill_draws_until_every_group_teaches(tiny_qwen2: Any) -> None:
    rollout, deck, engine = rolled(6, tiny_qwen2)
    assert groups_that_teach(rollout) == 4 and len(rollout.sampled) == 8
    assert deck.position == 4 + rollout.discarded > 4
    assert rollout.generated_tokens == 2 * len(engine.seeds) == 4 * deck.position
    assert len(set(engine.seeds)) == len(engine.seeds), "a problem that comes again gets other samples"
    assert rollout.measures()["discarded_groups"] == rollout.discarded


def test_refill_is_bounded_and_what_is_missing_is_filled(tiny_qwen2: Any) -> None:
    """After one attempt more, what is short is filled with groups that teach nothing: the size never changes."""
    rollout, deck, _ = rolled(1, tiny_qwen2)
    assert len(rollout.sampled) == 8 and len(rollout.scores.rewards_PG) == 4
    assert deck.position == 4 + (4 - groups_at_first(tiny_qwen2)) and rollout.discarded == deck.position - 4


def groups_at_first(tiny_qwen2: Any) -> int:
    return groups_that_teach(rolled(0, tiny_qwen2)[0])


class Blind:
    """A reward model that can read no wrong answer and scores all others alike."""

    longest = 9

    @property
    def reader(self) -> Any:
        return self

    def forged(self, text: str) -> bool:
        return "-1" in text

    def read(self, prompt: str, text: str) -> dict[str, list[int]]:
        return {"input_ids": [1]}

    def score(self, rows: Sequence[Any]) -> list[float]:
        return [0.0] * len(rows)


def test_what_a_reward_model_cannot_read_is_counted_once_and_of_the_kept_groups(tiny_qwen2: Any) -> None:
    for refill in (0, 1, 6):
        rollout, _, _ = rolled(refill, tiny_qwen2, Blind())
        unread = sum("-1" in completion.text for completion in rollout.sampled)
        assert rollout.measures()["unread_helpful"] == unread > 0, refill
