"""What a completion earns: rule-based rewards, each a plain function of a group's answers, weighted and added.

    accuracy    1 where the verifier says CORRECT               DeepSeek-R1-Zero (Nature version, eq. 4)
    format      1 where the thought is well formed              the same; the one rule of `distill.chat.is_well_formed`
    language    share of the thought's words in the target      DeepSeek-R1, eq. 7; counted by `distill.language`
    repetition  1 - share of runs of ten words that stood before, or of text or thought that ends in a loop: whichever
                is more                                         as the harvest's filter measures both
    length      0.5 - (n - shortest) / (longest - shortest) of a right answer of n tokens, at most 0 of a wrong one
                                                                Kimi k1.5 (2025), section 2.3.3
    overlong    0 to -1 over the last `soft` tokens before the limit   DAPO (Yu et al. 2025), eq. 13

    NAME        a reward model's score, or a person's, as `judges.py` has them

A problem of kind `open` has no rule for its answer: `accuracy` tells nothing of it, and its samples are graded only
where something looks at the answer, an own function, a reward model that is asked for it or a person's score; `format`
and `language` are then added, as DeepSeek-R1's general data have them (eq. 8 to 10). Without such they are ungraded.
Where rules decide, reward models stay silent unless the recipe says `problems: all`: R1 has none for reasoning.

Deviations: `language` is earned by closed thoughts alone (R1 scores thoughts), and a thought without words, the paper's
0/0, earns none: else silence would be the surest way to it. `length` is 0 in a group of equal lengths and for open
problems, where Kimi's rule for wrong answers would punish all that is long.

What these do not protect from: a policy that writes a thought in the target language which has nothing to do with its
answer earns what an honest one does, and so does one that hides other languages in code or formulas, where no words are
counted. An answer is right by its value: where a problem is a sum, the sum itself, written as the answer, is accurate.

Legend: P problems, G samples per problem.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from distill.chat import KNOWN_TAGS, ThoughtState, ThoughtTags, is_well_formed, split_thought
from distill.errors import RunFailed, UserError
from distill.language import language_shares, share_of
from distill.recipe_rl import Rewards
from distill.records import FinishReason, Problem, Verdict
from distill.verify import Judgement
from teacher.measures import loop, repetition
from teacher.shingles import words

#: The grader's own fault: says nothing about the completion.
UNGRADED = frozenset({Verdict.ERROR, Verdict.BAD_REFERENCE, Verdict.UNVERIFIED})


@dataclass(frozen=True, slots=True)
class Answered:
    """One completion as rewards see it: ``text`` is prefill + completion, ``tokens`` counts the completion's."""

    problem: Problem
    text: str
    tokens: int
    finish_reason: FinishReason
    judgement: Judgement
    tags: ThoughtTags

    @property
    def right(self) -> bool:
        """Whether the verifier says CORRECT."""
        return self.judgement.verdict is Verdict.CORRECT

    @property
    def open(self) -> bool:
        """Whether no rule can say that it is right."""
        return self.judgement.verdict is Verdict.UNVERIFIED

    @property
    def thought(self) -> str:
        """The text of its thought; empty where there is none, or one that never ends."""
        parts = split_thought(self.text, (self.tags, *KNOWN_TAGS))
        return (parts.thought or "") if parts.state is ThoughtState.CLOSED else ""


#: The name of people's scores among the rewards.
HUMAN = "human"


class Judged(NamedTuple):
    """What reward models and people say of P groups, by name: NaN where one is not asked or has no score.

    ``unread_P`` counts, by reward model, the answers of each group that it was to judge and could not read.
    """

    scores_PG: dict[str, torch.Tensor]
    unread_P: dict[str, torch.Tensor]


#: A reward of a user's own: one group's answers in, one finite number for each out.
Own = Callable[[list[Answered]], Sequence[float]]


class Scores(NamedTuple):
    """``rewards_PG`` is the weighted sum; an ungraded sample holds its group's mean, so that its advantage is zero.

    ``parts_PG`` are the rewards that have a weight, unweighted, by name; accuracy and format always. NaN stands where
    one has nothing to say: accuracy of an open problem or where the grader failed, a judge that is not asked.
    """

    rewards_PG: torch.Tensor
    parts_PG: dict[str, torch.Tensor]
    graded_PG: torch.Tensor

    @property
    def ungraded(self) -> int:
        """How many samples the grader had no verdict on."""
        return int((~self.graded_PG).sum())


def score(
    answers_PG: Sequence[list[Answered]],
    weights: Rewards,
    own: dict[str, Own] | None = None,
    soft: tuple[int, int] | None = None,
    judged: Judged | None = None,
) -> Scores:
    """Rewards of P groups of G answers each, in float64.

    Args:
        own: the functions that ``weights.own`` names, of `load_own`.
        soft: the limit of tokens, and how many before it are punished; None: none is.
        judged: what reward models and people say; None: none is asked.

    Raises:
        RunFailed: a function of the user's own failed or gave no finite number for each answer.
    """
    told = weighed(weights)
    parts_PG = {
        name: _grouped([_values(name, answers_G, weights, own or {}) for answers_G in answers_PG])
        for name in dict.fromkeys(("accuracy", "format", *told))
    }
    if judged:
        parts_PG |= judged.scores_PG
        told |= {name: _weight(name, weights) for name in judged.scores_PG}
    graded_PG = _graded(answers_PG, weights, judged)
    if soft:
        late_PG = [[soft_overlong(answer.tokens, *soft) for answer in answers_G] for answers_G in answers_PG]
        parts_PG["overlong"] = _grouped(late_PG)
        told["overlong"] = 1.0
    terms = [weight * parts_PG[name].nan_to_num(0.0) for name, weight in told.items()]
    rewards_PG = _added(terms or [torch.zeros(graded_PG.shape, dtype=torch.float64)])
    return Scores(graded_mean(rewards_PG, graded_PG), parts_PG, graded_PG)


def _added(terms: list[torch.Tensor]) -> torch.Tensor:
    """The sum of (P, G) terms without the digits that are rounding, relative to the group's largest terms.

    Terms of both signs may nearly cancel: what is left of 0.1 + 0.2 - 0.3 is no reward, yet it differs from 0, and a
    division by the group's deviation would make a whole preference of it.
    """
    size_P1 = torch.stack([term.abs() for term in terms]).sum(0).amax(1, keepdim=True)
    grain_P1 = torch.exp2(torch.frexp(size_P1).exponent.double() - 44)  # of the 53 bits that a float64 has
    return (torch.stack(terms).sum(0) / grain_P1).round() * grain_P1


def _graded(answers_PG: Sequence[list[Answered]], weights: Rewards, judged: Judged | None) -> torch.Tensor:
    """Which samples something has judged: the verifier, or for open problems what the recipe has for them."""
    verdicts_PG = [[answer.judgement.verdict for answer in answers_G] for answers_G in answers_PG]
    graded_PG = torch.tensor([[one not in UNGRADED for one in verdicts_G] for verdicts_G in verdicts_PG])
    open_PG = torch.tensor([[one is Verdict.UNVERIFIED for one in verdicts_G] for verdicts_G in verdicts_PG])
    scores_PG = judged.scores_PG if judged else {}
    looked_PG = torch.full_like(graded_PG, any(weights.own.values()))
    for part_PG in scores_PG.values():
        looked_PG = looked_PG | ~part_PG.isnan()
    graded_PG = graded_PG | (open_PG & looked_PG)
    return graded_PG & ~scores_PG[HUMAN].isnan() if HUMAN in scores_PG else graded_PG


def _weight(name: str, weights: Rewards) -> float:
    if name == HUMAN and weights.human:
        return weights.human.weight
    return weights.models[name].weight


def weighed(rewards: Rewards) -> dict[str, float]:
    """The weight of each reward that has one, by its name in the metrics."""
    built_in = {
        "accuracy": rewards.accuracy,
        "format": rewards.format,
        "language": rewards.language,
        "repetition": rewards.repetition,
        "length": rewards.length,
    }
    return {name: weight for name, weight in (built_in | rewards.own).items() if weight}


def graded_mean(rewards_PG: torch.Tensor, graded_PG: torch.Tensor) -> torch.Tensor:
    """The rewards, those of ungraded samples replaced by the mean of their group's graded ones."""
    sum_P1 = (rewards_PG * graded_PG).sum(1, keepdim=True)
    mean_P1 = sum_P1 / graded_PG.sum(1, keepdim=True).clamp(min=1)
    return torch.where(graded_PG, rewards_PG, mean_P1)


def share_of_thought(thought: str, target: str) -> float:
    """The share of a thought's words in one language; 0 for a thought without words."""
    shares = language_shares(thought)
    return share_of(shares, target) if shares else 0.0


def soft_overlong(tokens: int, limit: int, soft: int) -> float:
    """0 up to ``limit - soft`` tokens, then down in a straight line to -1 at the limit (DAPO, eq. 13)."""
    return -min(1.0, max(0.0, (tokens - (limit - soft)) / soft))


def shorter_is_better(answers_G: list[Answered]) -> list[float]:
    """Kimi k1.5's length reward within one group: 0.5 to -0.5 of right answers, at most 0 of wrong ones."""
    shortest, longest = (pick(answer.tokens for answer in answers_G) for pick in (min, max))
    if shortest == longest:
        return [0.0] * len(answers_G)
    along = [0.5 - (answer.tokens - shortest) / (longest - shortest) for answer in answers_G]
    return [
        value if answer.right else min(0.0, value) for answer, value in zip(answers_G, along, strict=True)
    ]


def load_own(names: Sequence[str], key: str) -> dict[str, Own]:
    """The functions at these import paths; the current folder is looked in too.

    Args:
        key: of the recipe, for errors.

    Raises:
        UserError: there is no such module or function.
    """
    found: dict[str, Own] = {}
    for name in names:
        module, _, function = name.partition(":")
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        try:
            loaded = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            remedy = "name MODULE:FUNCTION that Python finds from this folder"
            raise UserError(key, name, f"cannot be imported: {error}", remedy) from error
        except (Exception, SystemExit) as error:  # it is the user's text: it may raise anything
            reason = f"cannot be imported: {type(error).__name__}: {error}"
            raise UserError(key, name, reason, "mend the module") from error
        if not callable(loaded):
            raise UserError(key, name, "is no function", "name a function of a list of answers")
        found[name] = loaded
    return found


def _values(name: str, answers_G: list[Answered], weights: Rewards, own: dict[str, Own]) -> list[float]:
    match name:
        case "accuracy":
            return [
                math.nan if answer.judgement.verdict in UNGRADED else float(answer.right)
                for answer in answers_G
            ]
        case "format":
            return [float(is_well_formed(answer.text, answer.tags)) for answer in answers_G]
        case "language":
            return [share_of_thought(answer.thought, weights.target) for answer in answers_G]
        case "repetition":
            return [
                1.0 - max(repetition(words(one.text)), loop(one.text), loop(one.thought)) for one in answers_G
            ]
        case "length":
            return [0.0] * len(answers_G) if answers_G[0].open else shorter_is_better(answers_G)
        case _:
            return _checked(name, answers_G, own[name])


def _checked(name: str, answers_G: list[Answered], function: Own) -> list[float]:
    """What a user's own function gives, or why it cannot be used."""
    then = "Mend the function; the run goes on from its last checkpoint."
    try:
        given = function(list(answers_G))  # a list of its own: it may sort it
        if isinstance(
            given, str | bytes | Mapping | Set
        ):  # each would give numbers that are not the answers'
            raise TypeError(f"it gave a {type(given).__name__}, and not a list of numbers")
        values = [float(value) for value in given]
    except (Exception, SystemExit) as error:
        raise RunFailed(f"the reward {name} failed: {type(error).__name__}: {error}", then) from error
    if len(values) != len(answers_G) or not all(map(math.isfinite, values)):
        raise RunFailed(f"the reward {name} gave {values} for {len(answers_G)} answers", then)
    return values


def _grouped(values: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
