"""Presets and the words of a grpo stage: what they set, what goes before them, and what cannot be meant."""

from __future__ import annotations

from typing import Any

import pytest

from distill.errors import UserError
from distill.recipe import GrpoStage
from distill.recipe_file import parse_recipe
from distill.recipe_rl import PRESETS, most_tokens, tokens_at

STAGE = {
    "name": "zero",
    "kind": "grpo",
    "model": "base",
    "problems": "train",
    "makes": "teacher",
    "steps": 32,
}


def stage_of(**changes: Any) -> GrpoStage:
    return GrpoStage.model_validate(STAGE | changes)


def recipe_of(**changes: Any) -> Any:
    return parse_recipe(
        {
            "name": "rl",
            "models": {"base": {"path": "somewhere"}},
            "problems": {"train": {"path": "problems.jsonl"}},
            "stages": [STAGE | changes],
        }
    )


def test_r1s_preset_holds_the_papers_numbers() -> None:
    """arXiv 2501.12948v2: 32 questions x 16 outputs a step, 8,192 outputs a rollout in 16 mini-batches of 512."""
    stage = stage_of(preset="grpo-r1")
    assert stage.learning_rate == 3e-6 and stage.kl.coefficient == 0.001
    outputs = stage.problems_per_step * stage.samples_per_problem
    assert outputs == 512 and outputs * stage.steps_per_rollout == 8192 and stage.steps_per_rollout == 16
    assert stage.reference.refresh_every == 400 and stage.reference.mix == 1
    assert (stage.clip.low, stage.clip.high) == (10, 10) and stage.temperature == 1
    assert stage.rewards.accuracy == stage.rewards.format == 1 and stage.advantage.scale == "group_std"
    assert stage.kl.estimator == "k3" and stage.kl.term == "loss" and stage.aggregate == "sequence_mean"


def test_presets_differ_where_their_papers_do() -> None:
    dapo, dr, gspo = (stage_of(preset=name) for name in ("dapo", "dr-grpo", "gspo"))
    assert (dapo.clip.low, dapo.clip.high, dapo.aggregate) == (0.2, 0.28, "token_mean")
    assert dapo.kl.coefficient == 0 and dapo.refill > 0 and dapo.overlong.soft == 4096
    # A right answer is worth two whole punishments: DAPO's eq. 7 gives 1 to right and -1 to wrong ones.
    assert dapo.rewards.accuracy == 2
    assert dr.advantage.scale == "none" and dr.aggregate == "constant" and dr.kl.coefficient == 0
    assert (gspo.ratio, gspo.clip.low, gspo.clip.high) == ("geometric", 3e-4, 4e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_parses_and_is_kept_by_its_own_yaml(preset: str) -> None:
    recipe = recipe_of(preset=preset)
    again = parse_recipe(__import__("yaml").safe_load(recipe.to_yaml()))
    assert again == recipe and recipe.stages[0].preset == preset


def test_what_the_recipe_says_goes_before_its_preset() -> None:
    stage = stage_of(preset="grpo-r1", learning_rate=1e-4, clip={"high": 5}, kl={"coefficient": 0})
    assert stage.learning_rate == 1e-4 and (stage.clip.low, stage.clip.high) == (10, 5)
    assert stage.kl.coefficient == 0 and stage.reference.refresh_every == 400


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(UserError, match=r"stages\.zero\.preset") as error:
        recipe_of(preset="grpo-r2")
    assert "grpo-r1" in str(error.value)


def test_a_limit_that_grows() -> None:
    limit = stage_of(max_tokens=[[0, 100], [16, "2e2"]]).max_tokens
    assert [tokens_at(limit, update) for update in (0, 15, 16, 99)] == [100, 100, 200, 200]
    assert most_tokens(limit) == 200 and tokens_at(7, 3) == most_tokens(7) == 7


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"rewards": {"accuracy": 0, "format": 0}}, "rewards", "every weight is 0"),
        ({"rewards": {"own": {"no path": 1.0}}}, "rewards.own", "MODULE:FUNCTION"),
        ({"rewards": {"target": "xx"}}, "rewards.target", "en"),
        ({"max_tokens": [[1, 10]]}, "max_tokens", "update 0"),
        ({"max_tokens": [[0, 10], [4, 20], [4, 30]]}, "max_tokens", "go up"),
        ({"max_tokens": []}, "max_tokens", "update 0"),
        ({"max_tokens": 100, "overlong": {"soft": 101}}, "overlong.soft", "more than the 100"),
        ({"reference": {"mix": 0.6}}, "reference.mix", "refresh_every"),
        ({"reference": {"mix": 0, "refresh_every": 5}}, "reference.mix", "greater"),
        (
            {"method": "lora", "reference": {"mix": 0.5, "refresh_every": 5}},
            "reference.mix",
            "average adapters",
        ),
        ({"lora": {"rank": 4}}, "lora", "method: full"),
        ({"method": "lora", "lora": {"dropout": 0.1}}, "lora.dropout", "two models"),
        ({"kl": {"term": "reward", "unbiased": True}}, "kl.unbiased", "no gradient"),
        ({"correction": {"kind": "mask", "limit": 1}}, "correction.limit", "greater"),
        ({"clip": {"kind": "soft"}}, "clip.kind", "ppo"),
        ({"preset": ["dapo"]}, "preset", "grpo-r1"),
        ({"preset": {"dapo": 1}}, "preset", "grpo-r1"),
        ({"max_tokens": [[0, 10], [32, 20]]}, "max_tokens", "never holds"),
        ({"max_tokens": [[0, 10], [17, 20]], "steps_per_rollout": 16}, "max_tokens", "never holds"),
        (
            {"max_tokens": [[0, 10], [3, 20], [5, 40]], "steps_per_rollout": 16},
            "max_tokens",
            "[3, 20] never holds",
        ),
        ({"rewards": {"models": {"rm": {"model": "base", "from_step": 32}}}}, "rm.from_step", "never asked"),
        (
            {"rewards": {"models": {"rm": {"model": "base", "from_step": 17}}}, "steps_per_rollout": 16},
            "rm.from_step",
            "never asked",
        ),
        ({"rewards": {"human": {"path": "s.jsonl", "weight": 0}}}, "human.weight", "no effect"),
    ],
)
def test_what_cannot_be_meant(changes: dict[str, Any], key: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        recipe_of(**changes)
    assert key in str(error.value) and says in str(error.value), str(error.value)


def test_an_engine_that_cannot_hold_a_policy_is_not_proposed() -> None:
    with pytest.raises(UserError) as error:
        recipe_of(engine={"kind": "server"})
    assert error.value.key.endswith("engine.kind") and error.value.remedy == "known: local, vllm"


def test_what_is_reached_at_the_last_rollout_may_be_meant() -> None:
    models = {"models": {"rm": {"model": "base", "from_step": 16}}}
    stage = recipe_of(max_tokens=[[0, 10], [16, 20]], steps_per_rollout=16, rewards=models).stages[0]
    assert stage.rewards.models["rm"].from_step == 16
    assert tokens_at(stage.max_tokens, 16) == 20


def test_an_own_reward_alone_is_something_to_learn() -> None:
    recipe = recipe_of(rewards={"accuracy": 0, "format": 0, "own": {"stories:creative": 1.0}})
    assert recipe.stages[0].rewards.own == {"stories:creative": 1.0}
