"""The same problems asked again and again while a policy learns, so that a change of its reasoning can be read.

Each look draws one sample of each problem, at the stage's temperature and with the same random numbers as the look
before: what changes in a text is the policy. Training never sees these samples, and no random number of its own is
drawn for them: its weights and its metrics are the same to the bit without them.

Legend: F followed problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.chat import KNOWN_TAGS, ChatFormat
from distill.generate.engine import Engine, Instruction, build_requests, in_order
from distill.recipe import GrpoStage
from distill.recipe_parts import Sampling
from distill.recipe_rl import looks, tokens_at
from distill.records import Completion, Problem, sample_seed
from distill.runs import MetricsLog
from distill.training.world import ALONE, World
from distill.verify import Response, check_many
from teacher.judges import Judges
from teacher.rewards import UNGRADED, Answered, score
from teacher.rollout import Deck

FILE = "followed.jsonl"


class Following:
    """A stage's followed problems: the first ones that it is trained on, which the run's seed decides."""

    def __init__(
        self,
        stage: GrpoStage,
        engine: Engine,
        chat: ChatFormat,
        instruction: Instruction,
        problems: Sequence[Problem],
        *,
        folder: Path,
        seed: int,
        judges: Judges | None = None,
        world: World = ALONE,
    ) -> None:
        self._stage, self._engine, self._chat = stage, engine, chat
        self._judges = judges = judges or Judges(stage.rewards, {})
        asked = sum(judges.is_asked(one, 0) for one in problems)
        self._problems = Deck(problems, seed).draw(
            min(stage.follow.problems, asked), lambda one: judges.is_asked(one, 0)
        )
        self._requests = build_requests(
            self._problems, 1, chat, sample_seed(seed, f"{stage.name}/followed", 0), instruction
        )
        self._looks = set(looks(stage.follow.every, stage.steps, stage.steps_per_rollout))
        # What looks at a whole group of answers has nothing to say of one.
        self._weights = stage.rewards.model_copy(update={"own": {}, "length": 0.0})
        self._log = MetricsLog(folder / FILE)
        self._seen = -1
        self._first = world.rank == 0  # of several processes one looks: all hold the whole policy meanwhile

    def rewind(self, updates: int) -> None:
        """Drop what a resumed stage will see again: a look at these many updates comes after their checkpoint."""
        if self._first:
            self._log.rewind(updates - 1)

    def due(self, updates: int) -> bool:
        """Whether the policy is looked at after so many updates."""
        return self._first and bool(self._problems) and updates in self._looks and updates > self._seen

    def look(self, updates: int) -> None:
        """Where one is due, ask the policy as the engine holds it, and write down what it says.

        A row has ``step``, the updates that made the policy, the problem, and the answer's ``text``, ``tokens`` and
        ``finish_reason``; ``right`` and ``reward`` are None where nothing can tell. The reward is without ``own`` and
        ``length``, which look at groups.

        Raises:
            RunFailed: the engine is lost, or a reward model gave no finite number.
        """
        if not self.due(updates):
            return
        self._seen = updates  # two rollouts may be of one policy, where they are sampled ahead
        limit = tokens_at(self._stage.max_tokens, updates)
        drawn = Sampling(temperature=self._stage.temperature, top_p=1.0, max_tokens=limit)
        sampled_F = in_order(self._requests, self._engine.generate(self._requests, drawn))
        for row in self._judged(sampled_F, limit, updates):
            self._log.append(row)

    def _judged(self, sampled_F: Sequence[Completion], limit: int, updates: int) -> list[dict[str, Any]]:
        tags, soft = self._chat.tags, self._stage.overlong.soft
        texts = [completion.prefill + completion.text for completion in sampled_F]
        responses = [
            Response(problem, text, completion.finish_reason)
            for problem, text, completion in zip(self._problems, texts, sampled_F, strict=True)
        ]
        answers_F1 = [
            [Answered(one.problem, one.text, completion.tokens, completion.finish_reason, judgement, tags)]
            for one, completion, judgement in zip(
                responses, sampled_F, check_many(responses, tags=(tags, *KNOWN_TAGS)), strict=True
            )
        ]
        judged = self._judges.judge(answers_F1, updates)
        scores = score(answers_F1, self._weights, None, (limit, soft) if soft else None, judged)
        rows = []
        for place, (answer,) in enumerate(answers_F1):
            graded = bool(scores.graded_PG[place, 0])
            rows.append(
                {
                    "step": updates,
                    "problem_id": answer.problem.id,
                    "problem": answer.problem.problem,
                    "right": None if answer.judgement.verdict in UNGRADED else answer.right,
                    "reward": float(scores.rewards_PG[place, 0]) if graded else None,
                    "finish_reason": answer.finish_reason.value,
                    "tokens": answer.tokens,
                    "text": answer.text,
                }
            )
        return rows
