"""What a recipe says of rewards that are learnt or given by people: preference pairs, reward models, human scores.

What each computes stands in `teacher/reward_training.py`, `teacher/judges.py` and `teacher/human.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distill.recipe_parts import Fields, Memory, Optimiser, Schedule
from distill.recipe_types import Count, Name, Number, Place, Positive, Section, Whole

#: Tokens of a prompt with its answer: DeepSeek-R1's; cut to what a model reads, as long as nobody writes it.
R1_LENGTH = 8192


class PairSource(Section):
    """Judged answers from a JSONL or Parquet file or a hub data set: ``prompt, chosen, rejected``.

    For pointwise training ``prompt, response, label``, the label true (1) for a good answer and false (0) for a bad
    one. ``fields`` maps our names to the source's, as for problems.
    """

    path: Place
    split: str = "train"
    fields: Fields = {}
    limit: Count | None = None


class RewardStage(Section):
    """Trains a reward model, a sequence classifier with one score, from judged answers.

    ``objective: pairwise`` learns from comparisons (Bradley-Terry), ``pointwise`` from single answers labelled good or
    bad. ``held_out`` is the share of prompts that are never trained on and measure it. The defaults are DeepSeek-R1's
    helpfulness model (arXiv 2501.12948v2, section 3.1): batches of 256, rate 6e-6, one epoch, 8,192 tokens.
    """

    name: Name
    kind: Literal["reward"]
    model: str
    pairs: PairSource
    makes: Name
    objective: Literal["pairwise", "pointwise"] = "pairwise"
    held_out: Annotated[Number, Field(ge=0, lt=1)] = 0.02
    epochs: Positive = 1.0
    learning_rate: Positive = 6e-6
    batch_size: Count = 256
    schedule: Schedule = Schedule(kind="constant")
    optimiser: Optimiser = Optimiser()
    memory: Memory = Memory()
    max_length: Count = R1_LENGTH
    micro_batch_tokens: Count = 32768
    checkpoint_every: Count = 50


class RewardModel(Section):
    """A sequence classifier with one score, as a reward of GRPO; no gradient goes through it.

    ``on``: what it reads beside the problem: the final ``answer`` (helpfulness), or the ``whole`` text (safety).
    ``problems``: it judges those of kind ``open``, which no rule can, or ``all``. Before update ``from_step`` it is
    silent.
    """

    model: str
    weight: Number = 1.0
    on: Literal["answer", "whole"] = "answer"
    problems: Literal["open", "all"] = "open"
    from_step: Whole = 0


class HumanScores(Section):
    """Scores of people as a reward: a file of rows ``problem_id, score`` and the ``response`` or its ``sha256``."""

    path: Place
    weight: Number = 1.0
    fields: Fields = {}
