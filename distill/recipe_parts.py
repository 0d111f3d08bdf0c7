"""The parts of a recipe: what exists before a run, the machine it runs on, and the sections that stages share.

Stages and the recipe as a whole stand in `recipe.py`. Numbers may be written `1e-4` or `2e9` (PyYAML reads those as
text). Relative paths are relative to the current folder.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from distill.errors import UserError
from distill.recipe_filters import Filters as Filters  # a part like those below, in a file of its own
from distill.recipe_types import Count, Day, Decay, NonNegative, Number, Place, Positive, Section, Share
from distill.records import Kind

Role = Literal["base", "teacher", "student", "baseline"]
Family = Literal["chains", "functions"]
WorldLanguage = Literal["en", "zh"]

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
    """Our field taken out of a longer one of the source.

    Out of a text: the last ``\\boxed{}``, or what follows ``####``. Out of a conversation (a list of turns): what its
    ``user`` asks, or what its ``assistant`` says.
    """

    from_: str = Field(alias="from")
    extract: Literal["boxed", "hash", "user", "assistant"]


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
    """Problems from a JSONL/Parquet file, a hub data set (``path``: NAME:CONFIG@REVISION), or the built-in world.

    Or ``rows``, the problems themselves, each with the fields that a file's row would have; or ``sets``, the names of
    other sets that a grpo stage takes together, each with its own kind and instruction.

    ``instruction`` is what a model is told, with ``{problem}`` where the problem goes; traces keep the bare problem.
    ``agreement``: rows may lack a reference; a harvest takes the answer that more than this share of a problem's first
    samples give.
    """

    path: Place | None = None
    split: str = "train"
    world: WorldProblems | None = None
    rows: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    sets: Annotated[list[str], Field(min_length=1)] | None = None
    kind: Kind = "math"
    fields: Fields = {}
    instruction: str | None = None
    limit: Count | None = None
    agreement: Share | None = None


class WorldTraces(Section):
    """Traces of the built-in world with known flaws: the honest stand-in for pre-training.

    ``wrong_steps``: share of reasoning steps replaced by wrong ones; ``missing_tags``: share of traces without tags.
    ``languages``: in words instead of signs, each step in one of these languages, drawn by its share (chains only).
    """

    families: list[Family] = ["chains", "functions"]
    count: Count
    wrong_steps: Share
    missing_tags: Share
    languages: dict[WorldLanguage, Share] | None = None

    @model_validator(mode="after")
    def _can_be_worded(self) -> WorldTraces:
        if self.languages is not None:
            if not math.isclose(sum(self.languages.values()), 1):
                raise ValueError(
                    f"languages: the shares add up to {sum(self.languages.values()):g}, not to 1"
                )
            if self.families != ["chains"]:
                raise ValueError("languages: only steps of chains can be worded; write `families: [chains]`")
        return self


class TraceSource(Section):
    """Traces from a file or hub data set with ``fields`` problem and response, or from the built-in world.

    ``each`` names columns of lists, side by side, whose places become rows; ``where`` the values that a row must have;
    ``rewrite`` texts to replace in responses, in this order. See `trace_rows`.
    """

    path: Place | None = None
    split: str = "train"
    world: WorldTraces | None = None
    fields: Fields = {}
    each: list[str] = []
    where: dict[str, bool | int | float | str] = {}
    rewrite: dict[Annotated[str, Field(min_length=1)], str] = {}


class Portion(Section):
    """So many traces of a set in each epoch, the same in each; ``repeat``: a set that has fewer gives some again."""

    count: Count
    repeat: bool = False


def _amount(value: Any) -> str:
    return "portion" if isinstance(value, dict | Portion) else "times"


#: How much of a trace set an epoch sees: each trace so many times, or a number of traces.
Amount = Annotated[
    Annotated[Positive, Tag("times")] | Annotated[Portion, Tag("portion")], Discriminator(_amount)
]


class SuiteSource(Section):
    """An own suite, or a local copy of a known one (then only ``path`` and ``fields`` are needed).

    ``record`` is an own suite's YAML file, as `distill suites NAME` prints those that ship. ``release`` and the days
    ``since`` and ``until`` (``any``: no limit) choose among a dated suite's problems.
    """

    record: Place | None = None
    path: Place | None = None
    world: WorldProblems | None = None
    split: str = "test"
    kind: Kind | None = None
    fields: Fields = {}
    instruction: str | None = None
    limit: Count | None = None
    release: str | None = None
    since: Day | None = None
    until: Day | None = None


class Hardware(Section):
    """The machine that a recipe is for: ``gpus`` on each of ``nodes``; ``hourly`` is the price of one GPU's hour.

    ``gpu`` is a name of `distill plan`'s table (``h100-80gb``, ``a100-80gb``, ``rtx4090-24gb``, ...) or ``cpu``.
    """

    gpus: Count = 1
    nodes: Count = 1
    gpu: str = "h100-80gb"
    hourly: NonNegative | None = None


# -------------------------------------------------------------------------------- parts of stages


class Sampling(Section):
    """How completions are drawn; ``max_tokens`` counts generated tokens."""

    temperature: NonNegative = 0.6
    top_p: Annotated[Number, Field(gt=0, le=1)] = 0.95
    max_tokens: Count = DEFAULT_LENGTH


class LocalEngine(Section):
    """Plain torch in this process, on the device found. ``max_rows`` completions run side by side."""

    kind: Literal["local"] = "local"
    max_rows: Count = 256


class VllmEngine(Section):
    """vLLM in this process: ``data_parallel`` copies of the model, each split over ``tensor_parallel`` GPUs.

    ``memory`` is the share of a GPU's memory that it takes; in a `grpo` stage, of what the trainer leaves there.
    ``max_length`` counts tokens of prompt and completion (None: as many as the model reads); a smaller one leaves room
    for more rows.
    """

    kind: Literal["vllm"]
    tensor_parallel: Count = 1
    data_parallel: Count = 1
    memory: Annotated[Number, Field(gt=0, le=1)] = 0.9
    max_length: Count | None = None


class PolicyVllm(VllmEngine):
    """vLLM as the sampler of a policy in training: in the trainer's process and on its device, in turns with it.

    ``apart``: in ``data_parallel`` processes of its own instead, each on one of the GPUs after the trainer's.
    """

    apart: bool = False


class ServerEngine(Section):
    """OpenAI-compatible endpoints that serve the model; requests are spread over all ``urls``.

    ``served`` is the model's name there (None: the only one that the endpoint lists). ``prompts``: token ids, or
    messages that the endpoint puts into its own template. Of all requests ``concurrency`` are open at a time and
    ``requests_per_minute`` begin; none begins while prompts and answers exceed ``tokens_per_minute``. After ``timeout``
    seconds of silence a request is put again; an answer that is not streamed is all silence until it is there. ``key``
    is the NAME of the environment variable that holds the API key.
    """

    kind: Literal["server"]
    urls: str | Annotated[list[str], Field(min_length=1)]
    served: str | None = None
    prompts: Literal["ids", "messages"] = "ids"
    concurrency: Count = 64
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    timeout: Positive = 1800.0
    key: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None


#: Settings of a server that say how it is reached and not what it answers: changing them makes no stage due again.
ENDPOINT = frozenset({"urls", "concurrency", "requests_per_minute", "tokens_per_minute", "timeout", "key"})


def _engine_kind(value: Any) -> str:
    return str(value.get("kind", "local") if isinstance(value, dict) else getattr(value, "kind", "local"))


#: What generates. Without a kind it is ``local``.
Engine = Annotated[
    Annotated[LocalEngine, Tag("local")]
    | Annotated[VllmEngine, Tag("vllm")]
    | Annotated[ServerEngine, Tag("server")],
    Discriminator(_engine_kind),
]


#: What samples from a policy in training: itself, or vLLM beside it.
PolicyEngine = Annotated[
    Annotated[LocalEngine, Tag("local")] | Annotated[PolicyVllm, Tag("vllm")], Discriminator(_engine_kind)
]


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

    def check_rank(self, key: str, width: int | None) -> None:
        """Refuse, as a UserError, a rank above a model's ``width`` (None: not known): it is full training for more."""
        if width is not None and self.rank > width:
            reason = (
                f"is more than the model's width of {width}: adapters would outweigh the matrices beside them"
            )
            raise UserError(key, self.rank, reason, "use 8 to 128, or `method: full`")


class Optimiser(Section):
    """AdamW as both kinds of training use it; ``max_grad_norm`` clips the global norm."""

    weight_decay: NonNegative = 0.0
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    max_grad_norm: Positive = 1.0


class Memory(Section):
    """What fine-tuning gives up for memory.

    ``activations``: ``keep`` them all, ``recompute`` each layer's in the backward pass, or ``offload`` to the host even
    what that keeps, the layers' inputs. ``weights`` of full fine-tuning: ``float32`` masters with products in bf16, or
    ``bfloat16`` alone, rounded at random so that small updates are not lost. ``moments`` of AdamW: ``float32``, or
    ``8bit`` in pages that can leave the GPU (bitsandbytes).
    """

    activations: Literal["keep", "recompute", "offload"] = "keep"
    weights: Literal["float32", "bfloat16"] = "float32"
    moments: Literal["float32", "8bit"] = "float32"


class FixedCollect(Section):
    """``samples`` completions of each problem, at most ``keep_per_problem`` kept (None: all that pass).

    ``abort_runaway`` ends a completion that has fallen into a loop (see `loops.is_runaway`). ``price`` is money for a
    million generated tokens.
    """

    strategy: Literal["fixed"] = "fixed"
    samples: Count = 8
    keep_per_problem: Count | None = None
    abort_runaway: bool = True
    price: NonNegative | None = None


class AdaptiveCollect(Section):
    """Rounds: ``first`` samples of every problem, then more where they are worth their tokens, ``most`` in all.

    A further trace of a problem is worth ``worth`` times what a kept one has taken so far on average; a first one is
    worth so much that no more than the share ``forgo`` of what ``most`` samples would cover is lost. A round asks for
    each sample that will be needed with a chance of ``needed`` or more. Budgets are looked at between rounds:
    ``budget_cost`` is money, by ``price`` or by the hours of the recipe's hardware.
    """

    strategy: Literal["adaptive"]
    first: Count = 4
    most: Count = 16
    keep_per_problem: Count = 2
    worth: Positive = 1.5
    forgo: Share = 0.0075
    needed: Annotated[Number, Field(gt=0, le=1)] = 0.9
    budget_tokens: Positive | None = None
    budget_hours: Positive | None = None
    budget_cost: Positive | None = None
    abort_runaway: bool = True
    price: NonNegative | None = None


def _strategy(value: Any) -> str:
    fixed = "fixed"
    return str(value.get("strategy", fixed) if isinstance(value, dict) else getattr(value, "strategy", fixed))


#: How many samples each problem gets. Without a strategy it is ``fixed``.
Collect = Annotated[
    Annotated[FixedCollect, Tag("fixed")] | Annotated[AdaptiveCollect, Tag("adaptive")],
    Discriminator(_strategy),
]


def most_samples(collect: FixedCollect | AdaptiveCollect, at_first: bool = False) -> int:
    """How many samples a problem can get; ``at_first``: how many each gets whatever they are."""
    if isinstance(collect, FixedCollect):
        return collect.samples
    return collect.first if at_first else collect.most
