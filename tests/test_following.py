"""The same problems followed while a policy learns: training does not notice, a resume leaves no trace."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import teacher.rollout
from distill.device import Device
from distill.fingerprints import fingerprints
from distill.models import load
from distill.recipe import GrpoStage
from distill.recipe_file import find_recipe, load_recipe
from distill.recipe_parts import ModelSource
from distill.recipe_rl import looks
from distill.records import Problem
from distill.runs import MetricsLog
from teacher import grpo
from teacher.following import FILE
from teacher.rewards import Scores

CPU = Device("cpu", "cpu", False)
PROBLEMS = [Problem(id=f"p{n}", kind="math", problem=f"{n}+{n}", reference=str(2 * n)) for n in range(7)]


@pytest.fixture
def trained(tiny_qwen2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train the tiny model, rewarded for texts of odd length: weights, metrics, what was followed, counts."""

    def odd(answers_PG: Any, *_: Any) -> Scores:
        rewards = [[len(one.text) % 2 for one in answers] for answers in answers_PG]
        rewards_PG = torch.tensor(rewards, dtype=torch.float64)
        return Scores(rewards_PG, {"accuracy": rewards_PG}, torch.ones_like(rewards_PG, dtype=torch.bool))

    monkeypatch.setattr(teacher.rollout, "score", odd)
    monkeypatch.setenv("DISTILL_QUIET", "1")
    numbers = itertools.count()

    def train(folder: Path | None = None, problems: list[Problem] = PROBLEMS, **changes: Any) -> Any:
        torch.set_num_threads(1)
        folder = folder or tmp_path / str(next(numbers))
        loaded = load(
            "m", tiny_qwen2.folder, ModelSource(path=str(tiny_qwen2.folder)), CPU, dtype=torch.float32
        )
        settings: dict[str, Any] = {
            "name": "zero", "kind": "grpo", "model": "m", "problems": "p", "makes": "t", "steps": 4,
            "learning_rate": 3e-3, "problems_per_step": 2, "samples_per_problem": 3, "max_tokens": 8,
            "checkpoint_every": 1, "follow": {"problems": 2, "every": 1},
        }  # fmt: skip
        counts = grpo.train(
            GrpoStage.model_validate(settings | changes), loaded, CPU, problems, None,
            folder=folder, fingerprint="f", seed=3, saved=lambda: None,
        )  # fmt: skip
        rows = [
            {key: row[key] for key in row if not key.startswith("seconds")}
            for row in MetricsLog.read(folder / "metrics.jsonl")
        ]
        return loaded.model.state_dict(), rows, MetricsLog.read(folder / FILE), counts

    return train


def test_training_is_the_same_to_the_bit_whether_or_not_problems_are_followed(trained: Any) -> None:
    followed, rows, kept, counts = trained()
    alone, rows_alone, none, counts_alone = trained(follow={"problems": 0})
    assert len(kept) == 10 and none == []
    assert all(torch.equal(followed[name], alone[name]) for name in alone)
    assert rows == rows_alone and counts == counts_alone


def test_the_same_problems_are_asked_and_only_the_policy_changes(trained: Any) -> None:
    _, _, kept, _ = trained(learning_rate=3e-2)
    assert [row["step"] for row in kept] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    first, second = kept[0]["problem_id"], kept[1]["problem_id"]
    assert first != second and [row["problem_id"] for row in kept] == [first, second] * 5
    by_text = {row["problem_id"]: row["problem"] for row in kept}
    assert by_text == {one.id: one.problem for one in PROBLEMS if one.id in by_text}
    assert len({row["text"] for row in kept if row["problem_id"] == first}) > 1, (
        "the policy learnt something else"
    )
    _, _, still, _ = trained(learning_rate=1e-30)
    assert len({row["text"] for row in still if row["problem_id"] == first}) == 1, (
        "same weights, same numbers"
    )
    assert still[0]["text"] == kept[0]["text"]


def test_rows_tell_what_the_stage_would_have_told(trained: Any) -> None:
    _, _, kept, _ = trained(steps=1, rewards={"accuracy": 1, "format": 1, "repetition": 0.5})
    for row in kept:
        assert row["right"] is False and 0 <= row["reward"] <= 0.5 and 0 < row["tokens"] <= 8
        assert row["finish_reason"] in ("stop", "length")
    stories = [Problem(id=f"s{n}", kind="open", problem=f"Tell {n}") for n in range(3)]
    rewards = {"format": 1, "own": {"teacher.stories:varied": 1}}
    _, _, told, _ = trained(problems=stories, steps=1, rewards=rewards)
    assert told and all(row["right"] is None and row["reward"] is None for row in told), (
        "own functions see groups"
    )


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"follow": {"every": 3}, "steps": 8}, [0, 3, 6, 8]),
        ({"follow": {"every": 3}, "steps": 8, "steps_per_rollout": 2}, [0, 4, 6, 8]),
        ({"steps": 12, "steps_per_rollout": 3}, [0, 3, 6, 9, 12]),
        ({"steps": 200}, [*range(0, 200, 20), 200]),
    ],
)
def test_looks_fall_on_rollouts_and_on_the_end(changes: Any, steps: list[int]) -> None:
    settings = {"name": "zero", "kind": "grpo", "model": "m", "problems": "p", "makes": "t"} | changes
    stage = GrpoStage.model_validate(settings)
    assert looks(stage.follow.every, stage.steps, stage.steps_per_rollout) == steps


def test_with_fewer_problems_than_asked_for_each_is_followed_once(trained: Any) -> None:
    _, _, kept, _ = trained(steps=1, follow={"problems": 9})
    assert [row["step"] for row in kept] == [0] * 7 + [1] * 7
    assert len({row["problem_id"] for row in kept}) == 7


def test_a_resumed_run_followed_what_the_undisturbed_one_did(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after a look that the resumed run makes again, with a line that was torn."""
    _, _, kept, _ = trained(checkpoint_every=2)
    calls = itertools.count(1)
    real = grpo.Following.look

    def stops(*arguments: Any) -> None:
        real(*arguments)
        if next(calls) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(grpo.Following, "look", stops)
        trained(tmp_path / "resumed", checkpoint_every=2)
    with (tmp_path / "resumed" / FILE).open("a") as file:
        file.write('{"step": 9, "te')
    _, _, resumed, _ = trained(tmp_path / "resumed", checkpoint_every=2)
    assert resumed == kept


def test_whom_one_follows_makes_no_stage_due() -> None:
    raw = load_recipe(find_recipe("quickstart-r1"))
    stages = [
        one.model_copy(update={"follow": one.follow.model_copy(update={"problems": 9})})
        if isinstance(one, GrpoStage)
        else one
        for one in raw.stages
    ]
    assert fingerprints(raw) == fingerprints(raw.model_copy(update={"stages": stages}))


def test_open_problems_that_nothing_rewards_yet_are_passed_over_as_training_passes_them(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reward models that begin later leave open problems out of the first rollouts; those asked are followed."""
    drawn: list[str] = []
    real = teacher.rollout.Deck.draw

    def draw(self: Any, count: int, *wanted: Any) -> list[Problem]:
        found = real(self, count, *wanted)
        drawn.extend(one.id for one in found)
        return found

    monkeypatch.setattr(teacher.rollout.Deck, "draw", draw)
    stories = [Problem(id=f"s{n}", kind="open", problem=f"Tell {n}") for n in range(20)]
    _, _, kept, _ = trained(problems=[*stories, *PROBLEMS[:3]], follow={"problems": 4, "every": 4}, steps=1)
    followed = [row["problem_id"] for row in kept if row["step"] == 0]
    assert len(followed) == 3 == len(set(followed)) and not set(followed) & {one.id for one in stories}
    assert drawn[3:5] == followed[:2], "the first that it is trained on"
