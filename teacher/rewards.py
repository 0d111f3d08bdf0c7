"""What a completion earns: 0 or 1 for a right answer, 0 or 1 for a well-formed thought, weighted and added.

DeepSeek-R1-Zero uses these two alone, with equal weight (Nature version, eq. 4). The accuracy reward is the verifier's
verdict, the format reward the one rule of `distill.chat.is_well_formed`.

Legend: P problems, G samples per problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from distill.chat import ThoughtTags, is_well_formed
from distill.recipe_parts import Rewards
from distill.records import Verdict
from distill.verify import Judgement

#: The grader's own fault: says nothing about the completion.
UNGRADED = frozenset({Verdict.ERROR, Verdict.BAD_REFERENCE, Verdict.UNVERIFIED})


class Scores(NamedTuple):
    """``rewards_PG`` is the weighted sum; an ungraded sample holds its group's mean, so that its advantage is zero."""

    rewards_PG: torch.Tensor
    accuracy_PG: torch.Tensor
    format_PG: torch.Tensor
    graded_PG: torch.Tensor
    ungraded: int


def score(
    texts: Sequence[str], judgements: Sequence[Judgement], samples: int, tags: ThoughtTags, weights: Rewards
) -> Scores:
    """Rewards of P x G completions given group by group, in float64.

    Args:
        texts: prefill + completion of each.
        samples: G.
    """
    correct_PG = _groups([judgement.verdict is Verdict.CORRECT for judgement in judgements], samples)
    formed_PG = _groups([is_well_formed(text, tags) for text in texts], samples)
    graded_PG = _groups([judgement.verdict not in UNGRADED for judgement in judgements], samples)
    rewards_PG = weights.accuracy * correct_PG + weights.format * formed_PG
    graded_sum_P1 = (rewards_PG * graded_PG).sum(1, keepdim=True)
    mean_P1 = graded_sum_P1 / graded_PG.sum(1, keepdim=True).clamp(min=1)
    rewards_PG = torch.where(graded_PG.bool(), rewards_PG, mean_P1)
    return Scores(rewards_PG, correct_PG, formed_PG, graded_PG.bool(), int((graded_PG == 0).sum()))


def _groups(values: Sequence[bool], samples: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, samples)
