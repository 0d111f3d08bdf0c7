"""The card of a reward model: what it was made from and on, what it measures, how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from distill.card import CARD, HERE, hub_name, sources, terms_of
from distill.licences import licence_of
from distill.recipe import Recipe
from distill.recipe_rewards import RewardStage


def reward_card(
    recipe: Recipe, stage: RewardStage, counts: Mapping[str, Any], ran_with: Mapping[str, Any]
) -> dict[str, str]:
    """The card by its path in the model's folder."""
    source = recipe.models[sources(recipe, stage.makes)[0][0]]
    base, data = hub_name(source.path), hub_name(stage.pairs.path)
    front = {
        "license": licence_of(base).id if base else None,
        "base_model": base,
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "reward"],
        "datasets": [data] if data else None,
    }
    called = base or (Path(source.path).name if source.path else "random weights")
    judged = "comparisons of two answers" if stage.objective == "pairwise" else "single answers, good or bad"
    meaning = (
        "The score has no unit: only differences between answers to one prompt mean something."
        if stage.objective == "pairwise"
        else "The score's sigmoid is the probability of a good answer."
    )
    parts = [
        f"---\n{_dump({key: value for key, value in front.items() if value})}---\n# {stage.makes}",
        f"A reward model, made by stage `{stage.name}` of the recipe `{recipe.name}` with the toolkit `distill`: a "
        f"sequence classifier with one score, trained on {judged}. {meaning}",
        "## Use",
        _use(),
        "## Made from",
        f"- base: `{called}` (`{stage.model}` in the recipe)\n- judged answers: {data or Path(stage.pairs.path).name}"
        f"\n- trained on: {counts['examples']:,} rows in {counts['steps']:,} updates, "
        f"{counts['trained_tokens']:,} tokens\n- left out: "
        + (", ".join(f"{count:,} {reason}" for reason, count in counts["left_out"].items()) or "nothing"),
        "## Measured on prompts that were not trained on",
        _measured(counts["held_out"]),
        "## Licence and attribution",
        _licence(recipe, stage, base, data),
        "## Training",
        f"```yaml\n{_dump(stage.model_dump(mode='json', by_alias=True, exclude_none=True))}```",
        f"- seed: {recipe.seed}\n- device and precision: {ran_with.get('device', 'unknown')}, "
        f"{ran_with.get('precision', 'unknown')}",
    ]
    return {CARD: "\n\n".join(parts) + "\n"}


def _use() -> str:
    lines = [
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        f'model = AutoModelForSequenceClassification.from_pretrained("{HERE}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{HERE}")',
        'turns = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWER}]',
        'inputs = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)',
        "score = model(**inputs).logits[0, 0]",
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _licence(recipe: Recipe, stage: RewardStage, base: str | None, data: str | None) -> str:
    lines = [f"- base `{base}`: {licence_of(base).words}"] if base else []
    lines += [f"- data set `{data}`: see its card"] if data else []
    if terms := terms_of(recipe, stage.model):
        lines.append(
            f'- {terms.display}. {terms.notice} Published, its name must begin with "{terms.prefix}".'
        )
    return "\n".join(lines) or "The base and the judged answers are not from the hub: see whose they are."


def _measured(held_out: Mapping[str, Any]) -> str:
    if not held_out:
        return "Nothing was held out."
    low, high = held_out["ci95"]
    told = (
        f"Right on {held_out['accuracy']:.3f} of n = {held_out['n']:,} rows (95 % interval {low:.3f} to {high:.3f}), "
        f"loss {held_out['loss']:.3f}."
    )
    if "longer" in held_out:
        told += f" Choosing the longer answer would be right on {held_out['longer']:.3f}."
    return told


def _dump(value: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=120))
