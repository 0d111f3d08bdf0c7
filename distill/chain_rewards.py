"""What a chain does for rewards: trains reward models, and a policy by GRPO, which may ask them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distill.card_reward import reward_card
from distill.recipe import GrpoStage, Recipe
from distill.recipe_parts import ModelSource
from distill.recipe_rewards import RewardStage
from distill.records import Problem

if TYPE_CHECKING:
    from distill.chain import Chain


def train_reward_model(chain: Chain, stage: RewardStage) -> dict[str, Any]:
    """Train a stage's reward model and save it with its card; the stage's counts."""
    import torch

    from distill import models
    from teacher.preferences import prepare
    from teacher.reward_training import train_reward

    causal = chain.load(stage.model, torch.float32)
    reader = models.Reader(causal.chat.tokenizer, stage.max_length)
    preferences = prepare(chain.inputs.judged(stage.name), reader, stage)
    classifier = models.from_causal(causal, chain.recipe.seed)
    chat = causal.chat
    del causal  # its body is the classifier's now; its head would take a vocabulary's memory
    counts = train_reward(
        stage, classifier, reader, chain.device, preferences,
        folder=chain.run.stage_folder(stage.name), fingerprint=chain.prints[stage.name], seed=chain.recipe.seed,
        saved=lambda: chain.run.tick(stage.name),
    )  # fmt: skip
    texts = reward_card(chain.recipe, stage, counts, chain.device.describe())
    made = models.LoadedModel(stage.makes, classifier, chat)
    models.save(made, chain.run.model_folder(stage.makes), texts)
    return counts


def teach(
    chain: Chain, stage: GrpoStage, loaded: Any, settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train a policy that was started, by GRPO: the counts, and its weights where ``give_weights`` is set."""
    from distill.training.world import ALONE, gathered
    from teacher.grpo import train

    give_weights = settings.pop("give_weights", False)
    inputs = chain.inputs
    counts = train(
        stage, loaded, chain.device, inputs.problems(stage.problems), inputs.instruction(stage.problems),
        folder=chain.run.stage_folder(stage.name), fingerprint=chain.prints[stage.name], seed=chain.recipe.seed,
        judges=judges(chain, stage), **settings,
    )  # fmt: skip
    if not give_weights:
        return counts, {}
    weights = {name: one for name, one in loaded.model.named_parameters() if one.requires_grad}
    return counts, gathered(weights, settings.get("world", ALONE))


def judges(chain: Chain, stage: GrpoStage) -> Any:
    """What judges a GRPO stage's answers besides rules: its reward models, on the device, and people's scores."""
    from distill import models
    from teacher.human import human_scores
    from teacher.judges import Judges

    scorers = {
        name: models.load_scorer(one.model, scorer_source(chain, one.model), chain.device)
        for name, one in stage.rewards.models.items()
    }
    human = stage.rewards.human
    scored = human_scores(f"stages.{stage.name}.rewards.human", human) if human else None
    return Judges(stage.rewards, scorers, scored)


def scorer_source(chain: Chain, model: str) -> ModelSource:
    """Where a reward model lies: one that a stage has made brings its own tokenizer and template."""
    if model in chain.recipe.models:
        return chain.recipe.models[model]
    return ModelSource(path=str(chain.run.model_folder(model)))


def check_judges(recipe: Recipe, stage: GrpoStage, problems: Sequence[Problem]) -> None:
    """That reward models are ones, people's scores are there, and something rewards the problems from the start on.

    Raises:
        UserError: otherwise.
    """
    from distill.models import check_reads, check_scorer
    from teacher.human import check_scored, human_scores
    from teacher.judges import check_judged

    for judge in stage.rewards.models.values():
        if judge.model in recipe.models:
            check_scorer(judge.model, recipe.models[judge.model])
        source = recipe.source_model(judge.model)
        check_reads(source, recipe.models[source], thoughts=judge.on == "whole")
    if human := stage.rewards.human:
        at = f"stages.{stage.name}.rewards.human"
        check_scored(at, human.path, human_scores(at, human), problems)
    check_judged(f"stages.{stage.name}", stage.rewards, problems)
