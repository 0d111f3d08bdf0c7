"""The words of a `grpo` stage's objective: each is one choice, independent of the others.

What each computes stands with its formula in `teacher/rewards.py`, `advantages.py` and `losses.py`. A preset is a set
of such words under the name of the paper that chose them; what a recipe writes itself goes before it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from distill.errors import UserError
from distill.recipe_filters import LANGUAGE_CODES
from distill.recipe_rewards import HumanScores, RewardModel
from distill.recipe_types import Count, Name, NonNegative, Number, Positive, Section, Share, Whole


def _importable(name: str) -> str:
    module, colon, function = name.partition(":")
    if not (colon and function.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ValueError("is no import path: MODULE:FUNCTION")
    return name


ImportPath = Annotated[str, AfterValidator(_importable)]
Aggregate = Literal["sequence_mean", "token_mean", "constant"]
Ratio = Literal["token", "sequence", "geometric"]
Estimator = Literal["k1", "k2", "k3"]


class Rewards(Section):
    """Weights of the rewards, which are added. R1-Zero: accuracy and format, both 1; later stages add language.

    ``accuracy`` and ``format`` earn 0 or 1; ``language`` the share of the thought's words in ``target``;
    ``repetition`` the share of the text that has not stood in it before; ``length`` -0.5 to 0.5 by how short a right
    answer is among its group's. ``own`` are functions by import path (signature: `teacher.rewards.Own`). ``models`` are
    reward models, ``human`` scores that people gave.
    """

    accuracy: NonNegative = 1.0
    format: NonNegative = 1.0
    language: NonNegative = 0.0
    target: Literal[tuple(LANGUAGE_CODES)] = "en"  # type: ignore[valid-type]
    repetition: NonNegative = 0.0
    length: NonNegative = 0.0
    own: dict[ImportPath, Number] = {}
    models: dict[Name, RewardModel] = {}
    human: HumanScores | None = None


class Advantage(Section):
    """Reward minus ``baseline``, divided by the group's standard deviation or (``none``, Dr. GRPO) by nothing.

    The baseline is the group's mean, or the mean of the group's others (``leave_one_out``, RLOO).
    """

    baseline: Literal["group_mean", "leave_one_out"] = "group_mean"
    scale: Literal["group_std", "none"] = "group_std"


class Clip(Section):
    """The ratio is clipped to [1 - low, 1 + high]; ``low`` from 1 on clips nothing (R1's first RL stage has 10).

    ``kind``: ``ppo`` takes the worse of the clipped and the plain ratio; ``cispo`` weighs the log-probability by the
    clipped ratio, so that no token loses its gradient; ``none`` does not clip.
    """

    kind: Literal["ppo", "cispo", "none"] = "ppo"
    low: Positive = 0.2
    high: Positive = 0.2


class Kl(Section):
    """Weight of the divergence from the reference model, how it is estimated, and where it acts.

    ``term: loss`` adds it to each token's loss, ``term: reward`` takes a completion's sum from its reward. ``unbiased``
    weighs a loss's estimate by the ratio, so that its gradient is that of the divergence (DeepSeek-V3.2).
    """

    coefficient: NonNegative = 0.001
    estimator: Estimator = "k3"
    term: Literal["loss", "reward"] = "loss"
    unbiased: bool = False


class Reference(Section):
    """The KL's reference model; every ``refresh_every`` updates it moves to the policy (None: never).

    ``mix`` is the policy's share in what it becomes: 1 replaces it (R1), less is a moving average.
    """

    refresh_every: Count | None = None
    mix: Annotated[Share, Field(gt=0)] = 1.0


class Overlong(Section):
    """Completions that the token limit ends: ``mask`` leaves them out of the loss (DAPO, sec. 3.4).

    ``soft``: over the last so many tokens before the limit the reward falls by 1 in a straight line (DAPO, eq. 13).
    """

    mask: bool = False
    soft: Count | None = None


class Correction(Section):
    """Weighs the surrogate by trainer over sampler probability, where the two differ (other kernels, older weights).

    ``truncate`` cuts the weight at ``limit`` (TIS, Yao et al. 2025); ``mask`` gives a token outside
    [1 / limit, limit] none.
    """

    kind: Literal["none", "truncate", "mask"] = "none"
    limit: Annotated[Number, Field(gt=1)] = 2.0


class Follow(Section):
    """One answer each to the same ``problems`` problems, kept every ``every`` updates to be read, never learnt from.

    ``problems: 0`` keeps none. ``every: None``: ten times in the stage.
    """

    problems: Annotated[Whole, Field(ge=0)] = 4
    every: Count | None = None


Preset = Literal["grpo-r1", "dapo", "dr-grpo", "gspo"]

#: What each preset sets. Words that a paper does not tell are left to the defaults; so are rates and batch sizes but
#: for R1's, which is a recipe as a whole.
PRESETS: dict[str, dict[str, Any]] = {
    # DeepSeek-R1 (arXiv 2501.12948v2, sections 2.1, 3.2.1 and B.4.1). The clip range is its first RL stage's: for Zero
    # none is stated. The printed ratio is the whole output's; `token` is DeepSeekMath's and ours.
    "grpo-r1": {
        "learning_rate": 3e-6,
        "schedule": {"kind": "constant"},
        "problems_per_step": 32,
        "samples_per_problem": 16,
        "steps_per_rollout": 16,
        "temperature": 1.0,
        "max_tokens": 32768,
        "rewards": {"accuracy": 1.0, "format": 1.0},
        "advantage": {"baseline": "group_mean", "scale": "group_std"},
        "ratio": "token",
        "aggregate": "sequence_mean",
        "clip": {"kind": "ppo", "low": 10.0, "high": 10.0},
        "kl": {"coefficient": 0.001, "estimator": "k3", "term": "loss"},
        "reference": {"refresh_every": 400, "mix": 1.0},
    },
    # DAPO (Yu et al. 2025, arXiv 2503.14476, sections 3 and 4.1): 16,384 tokens expected, 4,096 more punished softly.
    # Its right answers earn 1 and its wrong ones -1 (eq. 7): 2 and 0 are the same to the advantage, also beside the
    # punishment. How often its sampling goes on is not bounded there; the bound is ours.
    "dapo": {
        "max_tokens": 20480,
        "rewards": {"accuracy": 2.0, "format": 0.0},
        "advantage": {"baseline": "group_mean", "scale": "group_std"},
        "ratio": "token",
        "aggregate": "token_mean",
        "clip": {"kind": "ppo", "low": 0.2, "high": 0.28},
        "kl": {"coefficient": 0.0},
        "overlong": {"soft": 4096},
        "refill": 4,
    },
    # Dr. GRPO (Liu et al. 2025, arXiv 2503.20783, section 3.2): no division, neither by length nor by the deviation.
    "dr-grpo": {
        "rewards": {"accuracy": 1.0, "format": 0.0},
        "advantage": {"baseline": "group_mean", "scale": "none"},
        "ratio": "token",
        "aggregate": "constant",
        "clip": {"kind": "ppo", "low": 0.2, "high": 0.2},
        "kl": {"coefficient": 0.0},
    },
    # GSPO (Zheng et al. 2025, arXiv 2507.18071, sections 4.1 and 5.1).
    "gspo": {
        "advantage": {"baseline": "group_mean", "scale": "group_std"},
        "ratio": "geometric",
        "aggregate": "sequence_mean",
        "clip": {"kind": "ppo", "low": 3e-4, "high": 4e-4},
        "kl": {"coefficient": 0.0},
    },
}


def with_preset(stage: Any) -> Any:
    """A stage's own settings over those of its preset, section by section; unchanged where it names none."""
    named = stage.get("preset") if isinstance(stage, dict) else None
    preset = PRESETS.get(named) if isinstance(named, str) else None
    if preset is None:
        return stage
    merged = dict(preset)
    for key, value in stage.items():
        below = preset.get(key)
        merged[key] = below | value if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


#: Tokens a completion may take: a number, or [update, tokens] pairs that each hold from that update on (R1-Zero:
#: 32,768, from update 8,200 on 65,536). What holds at a rollout's first update holds for the rollout.
TokenLimit = Count | list[tuple[Whole, Count]]


def tokens_at(limit: int | list[tuple[int, int]], update: int) -> int:
    """The limit that holds in that update, counted from 0."""
    if isinstance(limit, int):
        return limit
    return [tokens for begin, tokens in limit if begin <= update][-1]


def most_tokens(limit: int | list[tuple[int, int]]) -> int:
    """The largest limit that will hold."""
    return limit if isinstance(limit, int) else max(tokens for _, tokens in limit)


LOOKS = 10  # at followed problems, in a stage whose recipe does not say how often


def looks(every: int | None, steps: int, per_rollout: int) -> list[int]:
    """After how many updates followed problems are asked: at the first rollout from each ``every`` on, and last."""
    every = every or math.ceil(steps / LOOKS)
    begins = range(0, steps, per_rollout)
    return [*(begin for begin in begins if (begin - per_rollout) // every != begin // every), steps]


# ------------------------------------------------------------------------------------ what cannot be meant


def check_rewards(at: str, rewards: Rewards, overlong: Overlong, limit: int | list[tuple[int, int]]) -> None:
    """That there is something to learn, and limits of tokens that can hold.

    Raises:
        UserError: otherwise.
    """
    built_in = (rewards.accuracy, rewards.format, rewards.language, rewards.repetition, rewards.length)
    taken = ("accuracy", "format", "language", "repetition", "length", "overlong", "human", *rewards.own)
    for name in rewards.models:
        if name in taken:
            reason = "is the name of another reward"
            raise UserError(f"{at}.rewards.models.{name}", None, reason, "give it a name of its own")
    learnt = [one.weight for one in rewards.models.values()]
    learnt += [rewards.human.weight] if rewards.human else []
    if not any((*built_in, *rewards.own.values(), *learnt)):
        raise UserError(
            f"{at}.rewards", None, "every weight is 0, nothing can be learnt", "weigh one above 0"
        )
    if rewards.human and not rewards.human.weight:
        remedy = "weigh it, or drop it: it would leave all that nobody scored ungraded"
        raise UserError(f"{at}.rewards.human.weight", 0, "has no effect on the rewards", remedy)
    if not isinstance(limit, int):
        begins = [begin for begin, _ in limit]
        if not begins or begins[0] != 0 or begins != sorted(set(begins)):
            reason = "does not begin at update 0 and go up"
            raise UserError(f"{at}.max_tokens", limit, reason, "write [[0, 32768], [8200, 65536]]")
    check_soft(at, overlong, limit)


def check_soft(at: str, overlong: Overlong, limit: int | list[tuple[int, int]]) -> None:
    """That completions may have more tokens than are punished softly.

    Raises:
        UserError: they may not.
    """
    least = limit if isinstance(limit, int) else min(tokens for _, tokens in limit)
    if overlong.soft is not None and overlong.soft > least:
        reason = f"is more than the {least} tokens of a completion"
        raise UserError(f"{at}.overlong.soft", overlong.soft, reason, "lower it, or raise max_tokens")


def check_reached(at: str, stage: Any) -> None:
    """That what is to change along the way does so before the last rollout of a `grpo` stage begins.

    Raises:
        UserError: a limit of tokens or a reward model would never be taken.
    """
    starts = range(0, stage.steps, stage.steps_per_rollout)
    told = f"the last of its rollouts begins at update {starts[-1]}"
    if not isinstance(stage.max_tokens, int):
        ends = [begin for begin, _ in stage.max_tokens[1:]] + [stage.steps]
        for (begin, tokens), end in zip(stage.max_tokens, ends, strict=True):
            if not any(begin <= update < end for update in starts):
                reason = f"[{begin}, {tokens}] never holds: no rollout begins while it does, {told}"
                raise UserError(f"{at}.max_tokens", stage.max_tokens, reason, "drop it, or train longer")
    for name, one in stage.rewards.models.items():
        if one.from_step > starts[-1]:
            key = f"{at}.rewards.models.{name}.from_step"
            raise UserError(key, one.from_step, f"is never asked: {told}", "lower it, or train longer")


def check_words(at: str, kl: Kl, reference: Reference, adapters: bool) -> None:
    """That no word is set which could not act; ``adapters``: they alone are trained.

    Raises:
        UserError: one is.
    """
    if reference.mix != 1 and reference.refresh_every is None:
        reason = "has no effect without refresh_every"
        raise UserError(f"{at}.reference.mix", reference.mix, reason, "say how often, or drop it")
    if reference.mix != 1 and adapters:
        reason = "would average adapters, which is no average of the models"
        raise UserError(f"{at}.reference.mix", reference.mix, reason, "use `method: full`, or drop it")
    if kl.unbiased and kl.term == "reward":
        reason = "has no effect on a term of the reward, which has no gradient"
        raise UserError(f"{at}.kl.unbiased", True, reason, "drop it, or use `term: loss`")
