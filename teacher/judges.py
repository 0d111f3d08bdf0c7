"""Rewards that no rule computes: reward models, asked in batches without gradient, and scores that people gave.

    reward_NAME = the reward model's score of (problem, answer)          DeepSeek-R1 (arXiv 2501.12948v2), section 3.2.2
    on: answer    the final answer, thought left out (helpfulness)       the same, section 2.2.2 and 3.1
    on: whole     prefill and completion as they stand (safety)

What no reward model can read (no final answer, as where a thought never ends; longer than it reads; a text of which its
chat template drops a part; one that spells a token between turns, with which an answer could end its turn and be
praised in another) gets the score of its group that earns the least: the lowest, or the highest where the weight is
negative; 0 where there is none. It is counted as ``unread_NAME``.

Deviations: R1 does not say what becomes of these, nor how scores are scaled. Ours are raw, so that a weight has the
units of its model's scores; the advantage's division by the group's deviation evens that out only where nothing else is
rewarded. What is judged is the problem as the model was asked it, without the recipe's instruction.

Legend: P problems, G samples per problem.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from distill.chat import KNOWN_TAGS, split_thought
from distill.errors import RunFailed, UserError
from distill.models.classifiers import LostText, Row, Scorer
from distill.recipe_rewards import RewardModel
from distill.recipe_rl import Rewards
from distill.records import Problem
from teacher.human import Scored, score_of
from teacher.rewards import HUMAN, Answered, Judged


class Judges:
    """A stage's reward models and people's scores.

    Args:
        scorers: the reward model of each name in ``rewards.models``.
        human: people's scores by problem and text, as `human.human_scores` reads them.
    """

    def __init__(
        self,
        rewards: Rewards,
        scorers: Mapping[str, Scorer],
        human: Scored | None = None,
    ) -> None:
        self._rewards, self._scorers, self._human = rewards, scorers, human

    def can_judge(self, problem: Problem, update: int) -> bool:
        """Whether an open problem is rewarded in that update by anything that looks at its answer."""
        rewards = self._rewards
        if any(rewards.own.values()) or (rewards.human and rewards.human.weight):
            return True
        return any(_is_for(one, problem, update) for one in rewards.models.values())

    def is_asked(self, problem: Problem, update: int) -> bool:
        """Whether a stage asks that problem in that update: rules decide it, or something looks at its answer."""
        return problem.kind != "open" or self.can_judge(problem, update)

    def judge(self, answers_PG: Sequence[list[Answered]], update: int) -> Judged:
        """What every judge says of these groups in that update.

        Raises:
            RunFailed: a reward model gave no finite number.
        """
        scores_PG: dict[str, torch.Tensor] = {}
        unread_P: dict[str, torch.Tensor] = {}
        for name, one in self._rewards.models.items():
            if update >= one.from_step and one.weight:
                scores_PG[name], unread_P[name] = self._scores(name, one, answers_PG, update)
        if self._human is not None:
            rows = [[score_of(self._human, answer) for answer in group] for group in answers_PG]
            scores_PG[HUMAN] = torch.tensor(rows, dtype=torch.float64)
        return Judged(scores_PG, unread_P)

    def _scores(
        self, name: str, one: RewardModel, answers_PG: Sequence[list[Answered]], update: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One reward model's scores, (P, G), and how many answers of each group it could not read, (P,)."""
        scorer, found = self._scorers[name], torch.full((len(answers_PG), len(answers_PG[0])), math.nan)
        found = found.to(torch.float64)
        rows: list[Row] = []
        places: list[tuple[int, int]] = []
        asked = [number for number, group in enumerate(answers_PG) if _is_for(one, group[0].problem, update)]
        for number in asked:
            for sample, answer in enumerate(answers_PG[number]):
                if (row := _readable(scorer, one, answer)) is not None:
                    rows.append(row)
                    places.append((number, sample))
        for (number, sample), value in zip(places, scorer.score(rows), strict=True):
            if not math.isfinite(value):
                raise RunFailed(
                    f"the reward model `{name}` gave {value}: its weights or its precision are amiss"
                )
            found[number, sample] = value
        unread_P = torch.zeros(len(answers_PG), dtype=torch.long)
        for number in asked:
            unread_P[number] = found[number].isnan().sum()
            told = [value for value in found[number].tolist() if not math.isnan(value)]
            worst = (min if one.weight > 0 else max)(told, default=0.0)  # what earns the least
            found[number] = found[number].nan_to_num(worst)
        return found, unread_P


def check_judged(at: str, rewards: Rewards, problems: Sequence[Problem]) -> None:
    """Refuse problems that nothing rewards in the first update, and reward models that none of them is for.

    Raises:
        UserError: otherwise.
    """
    judges = Judges(rewards, {})
    if not any(judges.is_asked(one, 0) for one in problems):
        reason = "are all of kind open, and nothing looks at their answers in the first update"
        raise UserError(f"{at}.rewards", None, reason, "add `own`, or `models` without `from_step`")
    for name, one in rewards.models.items():
        if not any(_is_for(one, problem, one.from_step) for problem in problems):
            reason = (
                "has no effect: no problem is of kind open" if one.weight else "has no effect with weight 0"
            )
            remedy = "write `problems: all`, add open problems, or drop it"
            raise UserError(f"{at}.rewards.models.{name}", None, reason, remedy)


def _is_for(one: RewardModel, problem: Problem, update: int) -> bool:
    """Whether a reward model judges that problem's answers in that update."""
    meant = one.problems == "all" or problem.kind == "open"
    return bool(meant and one.weight and update >= one.from_step)


def _readable(scorer: Scorer, one: RewardModel, answer: Answered) -> Row | None:
    """What a reward model reads of an answer; None where it cannot."""
    parts = split_thought(answer.text, (answer.tags, *KNOWN_TAGS))
    text = parts.answer if one.on == "answer" else answer.text
    if text is None or not text.strip() or scorer.reader.forged(text):
        return None
    try:
        row = scorer.reader.read(answer.problem.problem, text.strip() if one.on == "answer" else text)
    except LostText:
        return None
    return row if len(row["input_ids"]) <= scorer.reader.longest else None
