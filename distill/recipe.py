"""What a recipe may say: the schema of the one YAML file that describes a whole run.

Numbers may be written `1e-4` or `2e9` (PyYAML reads those as text). Relative paths are relative to the current folder.
How a file is found, overridden and checked stands in `recipe_file.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from distill.errors import UserError
from distill.recipe_parts import (
    DEFAULT_LENGTH,
    Amount,
    Collect,
    Engine,
    Filters,
    FixedCollect,
    Hardware,
    LocalEngine,
    Lora,
    Memory,
    ModelSource,
    Optimiser,
    PolicyEngine,
    ProblemSource,
    Role,
    Sampling,
    Schedule,
    ServerEngine,
    SuiteSource,
    Thought,
    TraceSource,
)
from distill.recipe_rewards import RewardStage
from distill.recipe_rl import (
    Advantage,
    Aggregate,
    Clip,
    Correction,
    Follow,
    Kl,
    Overlong,
    Preset,
    Ratio,
    Reference,
    Rewards,
    TokenLimit,
    with_preset,
)
from distill.recipe_types import (
    Count,
    Name,
    Place,
    Positive,
    Section,
    Shard,
    Whole,
)

# -------------------------------------------------------------------------------- stages


class SftStage(Section):
    """Supervised fine-tuning on traces; the loss counts the response only. ``batch_size`` is traces an update.

    ``traces``: how often an epoch sees each trace of a set (``1``), or how many (``{count: 600000}``).
    """

    name: Name
    kind: Literal["sft"]
    model: str
    traces: Annotated[dict[str, Amount], Field(min_length=1)]
    makes: Name
    role: Role = "student"
    method: Literal["full", "lora", "qlora"] = "full"
    lora: Lora | None = None
    memory: Memory = Memory()
    epochs: Positive = 2.0
    learning_rate: Positive = 1e-4
    batch_size: Count = 64
    schedule: Schedule = Schedule()
    optimiser: Optimiser = Optimiser()
    max_length: Count = DEFAULT_LENGTH
    micro_batch_tokens: Count = 32768
    checkpoint_every: Count = 100


class GrpoStage(Section):
    """Group relative policy optimisation (Shao et al. 2024; DeepSeek-R1).

    ``steps`` counts updates. A rollout draws ``problems_per_step * steps_per_rollout`` problems with
    ``samples_per_problem`` completions each and is then used for ``steps_per_rollout`` updates. With ``refill``, groups
    whose rewards are all equal are discarded and other problems drawn for them, at most so many times a rollout.
    ``preset`` sets the words of a paper; what the stage says itself goes before it. ``max_tokens`` may be
    ``[[0, 32768], [8200, 65536]]``: from which update on how many. ``asynchronous``: a copy of the policy samples the
    next rollout while this one is learnt from, so samples are one rollout old; it needs a ``correction``.
    """

    name: Name
    kind: Literal["grpo"]
    preset: Preset | None = None
    model: str
    problems: str
    makes: Name
    role: Role = "teacher"
    method: Literal["full", "lora", "qlora"] = "full"
    lora: Lora | None = None
    memory: Memory = Memory()
    steps: Count
    learning_rate: Positive = 3e-6
    schedule: Schedule = Schedule(kind="constant")
    optimiser: Optimiser = Optimiser()
    problems_per_step: Count = 32
    samples_per_problem: Annotated[Whole, Field(ge=2)] = 16
    steps_per_rollout: Count = 1
    refill: Annotated[Whole, Field(ge=0)] = 0
    temperature: Positive = 1.0
    max_tokens: TokenLimit = DEFAULT_LENGTH
    rewards: Rewards = Rewards()
    overlong: Overlong = Overlong()
    advantage: Advantage = Advantage()
    aggregate: Aggregate = "sequence_mean"
    ratio: Ratio = "token"
    clip: Clip = Clip()
    kl: Kl = Kl()
    reference: Reference = Reference()
    correction: Correction = Correction()
    follow: Follow = Follow()
    engine: PolicyEngine = LocalEngine()
    asynchronous: bool = False
    micro_batch_tokens: Count = 32768
    checkpoint_every: Count = 50

    @model_validator(mode="before")
    @classmethod
    def _over_its_preset(cls, section: object) -> object:
        return with_preset(section)


class Rewrite(Section):
    """The kept traces of the set ``traces``, each given to a sample stage's model to be written anew.

    ``prompt`` is what the model is told, with ``{problem}`` and ``{response}``, the whole text, where they go.
    """

    traces: str
    prompt: str


class SampleStage(Section):
    """Rejection sampling: a teacher answers every problem several times; verified, well-formed traces are kept.

    ``shard: 3/16`` takes the third of sixteen parts of the problems, cut by the hashes of their ids. With ``rewrite``
    the model writes traces of these problems anew, each ``samples`` times, instead of answering.
    """

    name: Name
    kind: Literal["sample"]
    model: str
    problems: str
    rewrite: Rewrite | None = None
    makes: Name
    sampling: Sampling = Sampling()
    collect: Collect = FixedCollect()
    filters: Filters = Filters()
    engine: Engine = LocalEngine()
    shard: Shard | None = None


class Judge(Section):
    """What compares answers to open problems with a baseline's: ``model`` is its name, at its server too.

    ``baseline``: a JSONL file of rows ``instruction, output``; None: the problems' references are the answers to beat.
    """

    model: str
    engine: ServerEngine
    baseline: Place | None = None
    sampling: Sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=2048)


class EvalStage(Section):
    """Every model on every suite; ``samples`` (k) and ``sampling`` replace each suite's own protocol.

    ``judge`` gives suites of open problems a win rate.
    """

    name: Name
    kind: Literal["eval"]
    models: Annotated[list[str], Field(min_length=1)]
    suites: Annotated[list[str], Field(min_length=1)]
    samples: Count | None = None
    sampling: Sampling | None = None
    engine: Engine = LocalEngine()
    judge: Judge | None = None


class CompareStage(Section):
    """Paired comparison of everything an eval stage measured, and the report.

    ``published``: models whose published figures stand beside the results (`eval/published.yaml` has their names), or
    for some measured models the published one of each.
    """

    name: Name
    kind: Literal["compare"]
    results: str
    published: list[str] | dict[Name, str] = []


Stage = SftStage | GrpoStage | RewardStage | SampleStage | EvalStage | CompareStage

#: Those that make a model out of another; a reward model writes no texts.
Trains = SftStage | GrpoStage | RewardStage


class Recipe(Section):
    """A whole run: what exists before it, and its stages in order."""

    name: Name
    seed: Whole = 0
    models: dict[Name, ModelSource] = {}
    problems: dict[Name, ProblemSource] = {}
    traces: dict[Name, TraceSource] = {}
    suites: dict[Name, SuiteSource] = {}
    hardware: Hardware | None = None
    stages: Annotated[list[Annotated[Stage, Field(discriminator="kind")]], Field(min_length=1)]

    @property
    def hourly(self) -> float | None:
        """The price of an hour of all GPUs, where the recipe tells it."""
        machine = self.hardware
        if machine is None or machine.hourly is None:
            return None
        return machine.hourly * machine.gpus * machine.nodes

    def stage(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            UserError: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.stages)
        raise UserError("stage", name, "there is no stage of that name", f"known: {known}")

    def maker(self, model_or_traces: str) -> Trains | SampleStage | None:
        """The stage that makes this name, or None when it exists before the run."""
        for stage in self.stages:
            if isinstance(stage, Trains | SampleStage) and stage.makes == model_or_traces:
                return stage
        return None

    def harvests(self, traces: str | None) -> list[SampleStage]:
        """The stages behind a trace set: the one that made it, before it the one whose traces it rewrote, and so on."""
        found: list[SampleStage] = []
        while traces is not None and isinstance(maker := self.maker(traces), SampleStage):
            found.append(maker)
            traces = maker.rewrite.traces if maker.rewrite else None
        return found

    def given_traces(self, traces: str) -> str | None:
        """The set of the ``traces:`` section that this one is, or was rewritten from; None: a model was asked."""
        for harvest in self.harvests(traces):
            if harvest.rewrite is None:
                return None
            traces = harvest.rewrite.traces
        return traces

    def parts(self, problems: str) -> list[ProblemSource]:
        """The sources of a set of problems: those of its ``sets``, or its own."""
        source = self.problems[problems]
        return [self.problems[name] for name in source.sets] if source.sets else [source]

    def source_model(self, model: str) -> str:
        """The model of the ``models:`` section that this one descends from (itself, when it stands there)."""
        while isinstance(maker := self.maker(model), Trains):
            model = maker.model
        return model

    def engines(self, source: str) -> set[str]:
        """What runs a model of the ``models:`` section or one made of it: ``training``, ``scoring``, or an engine."""
        found: set[str] = set()
        for stage in self.stages:
            match stage:
                case SftStage():
                    used, by = [stage.model], {"training"}
                case RewardStage():
                    used, by = [stage.model], {"training"}
                case GrpoStage():
                    used, by = [stage.model], {"training", stage.engine.kind}
                    if source in [one.model for one in stage.rewards.models.values()]:
                        found.add("scoring")
                case SampleStage():
                    used, by = [stage.model], {stage.engine.kind}
                case EvalStage():
                    used, by = stage.models, {stage.engine.kind}
                case _:
                    continue
            if source in map(self.source_model, used):
                found |= by
        return found

    def role(self, model: str) -> Role:
        """The role of a model, made or given."""
        maker = self.maker(model)
        if isinstance(maker, SftStage | GrpoStage):
            return maker.role
        return self.models[model].role

    def think(self, model: str) -> Thought:
        """The thought tags of a model: a made model keeps its ancestor's."""
        return self.models[self.source_model(model)].think

    def base(self, model: str) -> str | None:
        """The nearest ancestor of role base, from which a student's gap closed is measured; None for a base."""
        while isinstance(maker := self.maker(model), SftStage | GrpoStage):
            model = maker.model
            if self.role(model) == "base":
                return model
        return None

    def to_yaml(self) -> str:
        """The recipe with every default written out."""
        plain = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)
