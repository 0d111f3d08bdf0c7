"""What a recipe may say: the schema of the one YAML file that describes a whole run.

Numbers may be written `1e-4` or `2e9` (PyYAML reads those as text). Relative paths are relative to the current folder.
How a file is found, overridden and checked stands in `recipe_file.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import yaml
from pydantic import Discriminator, Field, Tag

from distill.errors import UserError
from distill.recipe_types import (
    Count,
    Decay,
    Name,
    NonNegative,
    Number,
    Place,
    Positive,
    Section,
    Share,
    Whole,
)
from distill.records import Kind

Role = Literal["base", "teacher", "student", "baseline"]
Family = Literal["chains", "functions"]

#: Of every ``max_tokens`` and ``max_length``: cut to what the model's context has room for; another number must fit.
DEFAULT_LENGTH = 32768


# -------------------------------------------------------------------------------- what exists before


class Thought(Section):
    """A model's thought tags; ``prefill: true`` adds the opening one to each prompt whose template does not."""

    open: Annotated[str, Field(min_length=1)] = "<think>"
    close: Annotated[str, Field(min_length=1)] = "</think>"
    prefill: bool = False


class Architecture(Section):
    """A randomly initialised model, built from its configuration alone."""

    architecture: Literal["qwen2", "llama"] = "qwen2"
    hidden: Count
    layers: Count
    heads: Count
    kv_heads: Count | None = None
    intermediate: Count | None = None
    max_length: Count = 2048


class ModelSource(Section):
    """A model that exists before the run (``path``: hub name or folder) or is built at random (``build``).

    ``tokenizer``: ``world`` (the built-in one), a hub name or a folder; by default the model's own.
    ``chat_template``: a Jinja file, for tokenizers that bring none or the wrong one.
    ``max_length`` and ``rope_theta`` replace those of a loaded configuration (a 4k base trained on 32k traces).
    """

    path: Place | None = None
    build: Architecture | None = None
    tokenizer: Place | None = None
    chat_template: Place | None = None
    role: Role = "base"
    think: Thought = Thought()
    max_length: Count | None = None
    rope_theta: Positive | None = None


class Taken(Section):
    """Our field taken out of a longer one of the source: the last ``\\boxed{}`` or what follows ``####``."""

    from_: str = Field(alias="from")
    extract: Literal["boxed", "hash"]


def _spelling(value: Any) -> str:
    return "taken" if isinstance(value, dict | Taken) else "plain"


#: Our field's name to the source's. The branch is chosen by what is written, so a mistake is told of that branch.
Fields = dict[
    str, Annotated[Annotated[str, Tag("plain")] | Annotated[Taken, Tag("taken")], Discriminator(_spelling)]
]


class WorldProblems(Section):
    """Problems of the built-in world: ``count`` of each family, from the train or the (disjoint) test split."""

    families: list[Family] = ["chains", "functions"]
    split: Literal["train", "test"] = "train"
    count: Count


class ProblemSource(Section):
    """Problems from a JSONL/Parquet file or a hub data set (``path``), or from the built-in world.

    ``instruction`` is what a model is told, with ``{problem}`` where the problem goes; traces keep the bare problem.
    """

    path: Place | None = None
    split: str = "train"
    world: WorldProblems | None = None
    kind: Kind = "math"
    fields: Fields = {}
    instruction: str | None = None
    limit: Count | None = None


class WorldTraces(Section):
    """Traces of the built-in world with known flaws: the honest stand-in for pre-training.

    ``wrong_steps``: share of reasoning steps replaced by wrong ones; ``missing_tags``: share of traces without tags.
    """

    families: list[Family] = ["chains", "functions"]
    count: Count
    wrong_steps: Share
    missing_tags: Share


class TraceSource(Section):
    """Traces from a file or hub data set with ``fields`` problem and response, or from the built-in world."""

    path: Place | None = None
    split: str = "train"
    world: WorldTraces | None = None
    fields: Fields = {}


class SuiteSource(Section):
    """An own suite, or a local copy of a known one (then only ``path`` and ``fields`` are needed)."""

    path: Place | None = None
    world: WorldProblems | None = None
    split: str = "test"
    kind: Kind | None = None
    fields: Fields = {}
    instruction: str | None = None
    limit: Count | None = None


# -------------------------------------------------------------------------------- parts of stages


class Sampling(Section):
    """How completions are drawn; ``max_tokens`` counts generated tokens."""

    temperature: NonNegative = 0.6
    top_p: Annotated[Number, Field(gt=0, le=1)] = 0.95
    max_tokens: Count = DEFAULT_LENGTH


class Engine(Section):
    """What generates: ``local`` is plain torch on the device found. ``max_rows`` completions run side by side."""

    kind: Literal["local"] = "local"
    max_rows: Count = 256


class Schedule(Section):
    """Learning rate over the run: linear ``warmup`` (share of steps), then cosine to ``final`` (share of peak)."""

    kind: Literal["constant", "cosine"] = "cosine"
    warmup: Share = 0.0
    final: Share = 0.1


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021) on the named linear layers; ``all-linear`` means each but the head."""

    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Decay = 0.0
    targets: list[str] | Literal["all-linear"] = "all-linear"


class Optimiser(Section):
    """AdamW as both kinds of training use it; ``max_grad_norm`` clips the global norm."""

    weight_decay: NonNegative = 0.0
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    max_grad_norm: Positive = 1.0


class Rewards(Section):
    """Weights of the rewards, each 0 or 1 a completion: right answer, well-formed thought. R1-Zero: both 1."""

    accuracy: NonNegative = 1.0
    format: NonNegative = 1.0


class Advantage(Section):
    """Reward minus group mean, divided by the group's standard deviation or (``none``, Dr. GRPO) by nothing."""

    scale: Literal["group_std", "none"] = "group_std"


class Clip(Section):
    """The ratio is clipped to [1 - low, 1 + high]; ``low`` from 1 on clips nothing (R1's first RL stage has 10)."""

    low: Positive = 0.2
    high: Positive = 0.2


class Kl(Section):
    """Weight of the k3 estimate of the divergence from the reference model, a term of the loss."""

    coefficient: NonNegative = 0.001


class Reference(Section):
    """The KL's reference model; every ``refresh_every`` updates the policy replaces it (None: never)."""

    refresh_every: Count | None = None


class Collect(Section):
    """Fixed rejection sampling: ``samples`` completions of each problem, at most ``keep_per_problem`` kept."""

    samples: Count = 8
    keep_per_problem: Count | None = None


class Filters(Section):
    """What a trace must pass to be kept, in the order in which the funnel shows them."""

    finished: bool = True
    verified: bool = True
    format: bool = True
    max_tokens: Count | None = None
    duplicates: bool = True


# -------------------------------------------------------------------------------- stages


class SftStage(Section):
    """Supervised fine-tuning on traces; the loss counts the response only. ``batch_size`` is traces an update."""

    name: Name
    kind: Literal["sft"]
    model: str
    traces: Annotated[dict[str, Positive], Field(min_length=1)]
    makes: Name
    role: Role = "student"
    method: Literal["full", "lora"] = "full"
    lora: Lora | None = None
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
    ``samples_per_problem`` completions each and is then used for ``steps_per_rollout`` updates.
    """

    name: Name
    kind: Literal["grpo"]
    model: str
    problems: str
    makes: Name
    role: Role = "teacher"
    steps: Count
    learning_rate: Positive = 3e-6
    schedule: Schedule = Schedule(kind="constant")
    optimiser: Optimiser = Optimiser()
    problems_per_step: Count = 32
    samples_per_problem: Annotated[Whole, Field(ge=2)] = 16
    steps_per_rollout: Count = 1
    temperature: Positive = 1.0
    max_tokens: Count = DEFAULT_LENGTH
    rewards: Rewards = Rewards()
    advantage: Advantage = Advantage()
    aggregate: Literal["sequence_mean", "token_mean"] = "sequence_mean"
    clip: Clip = Clip()
    kl: Kl = Kl()
    reference: Reference = Reference()
    engine: Engine = Engine()
    micro_batch_tokens: Count = 32768
    checkpoint_every: Count = 50


class SampleStage(Section):
    """Rejection sampling: a teacher answers every problem several times; verified, well-formed traces are kept."""

    name: Name
    kind: Literal["sample"]
    model: str
    problems: str
    makes: Name
    sampling: Sampling = Sampling()
    collect: Collect = Collect()
    filters: Filters = Filters()
    engine: Engine = Engine()


class EvalStage(Section):
    """Every model on every suite; ``samples`` (k) and ``sampling`` replace each suite's own protocol."""

    name: Name
    kind: Literal["eval"]
    models: Annotated[list[str], Field(min_length=1)]
    suites: Annotated[list[str], Field(min_length=1)]
    samples: Count | None = None
    sampling: Sampling | None = None
    engine: Engine = Engine()


class CompareStage(Section):
    """Paired comparison of everything an eval stage measured, and the report."""

    name: Name
    kind: Literal["compare"]
    results: str


Stage = SftStage | GrpoStage | SampleStage | EvalStage | CompareStage


class Recipe(Section):
    """A whole run: what exists before it, and its stages in order."""

    name: Name
    seed: Whole = 0
    models: dict[Name, ModelSource] = {}
    problems: dict[Name, ProblemSource] = {}
    traces: dict[Name, TraceSource] = {}
    suites: dict[Name, SuiteSource] = {}
    stages: Annotated[list[Annotated[Stage, Field(discriminator="kind")]], Field(min_length=1)]

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

    def maker(self, model_or_traces: str) -> SftStage | GrpoStage | SampleStage | None:
        """The stage that makes this name, or None when it exists before the run."""
        for stage in self.stages:
            if isinstance(stage, SftStage | GrpoStage | SampleStage) and stage.makes == model_or_traces:
                return stage
        return None

    def source_model(self, model: str) -> str:
        """The model of the ``models:`` section that this one descends from (itself, when it stands there)."""
        while isinstance(maker := self.maker(model), SftStage | GrpoStage):
            model = maker.model
        return model

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
