"""What each stage of a recipe needs: bytes on a GPU, tokens, operations, hours, money."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from distill.plan.architectures import Shape, check_lora, shape_of
from distill.plan.engines import MOST_GPUS, MOST_ROWS, Generating
from distill.plan.fit import Settings, largest, nearest_change
from distill.plan.grpo import plan_grpo
from distill.plan.hardware import USABLE, Gpu, find_gpu
from distill.plan.memory import Training, host_bytes, training_parts
from distill.plan.reward import plan_reward
from distill.plan.sizes import Assumptions, count_problems, count_seen, count_traces, trace_tokens
from distill.plan.stage_plan import FEW_TRACES, LONGEST_ROW, StagePlan
from distill.plan.work import (
    PROMPT,
    VERDICT_SECONDS,
    compute_seconds,
    forward_flops,
    generate,
    training_flops,
)
from distill.recipe import CompareStage, EvalStage, GrpoStage, Recipe, SampleStage, SftStage, Stage
from distill.recipe_parts import (
    Engine,
    Hardware,
    Lora,
    ServerEngine,
    VllmEngine,
    most_samples,
)
from distill.recipe_rewards import RewardStage
from distill.suites import find_suite

MOST_ON_A_NODE = 8


class Planner:
    """A recipe on its machine; ``told`` collects what was assumed on the way."""

    def __init__(self, recipe: Recipe, assumed: Assumptions) -> None:
        self.recipe, self.assumed = recipe, assumed
        self.hardware = recipe.hardware or Hardware()
        self.gpu: Gpu = find_gpu(self.hardware)
        self.gpus = self.hardware.gpus * self.hardware.nodes
        self.usable = USABLE * self.gpu.memory
        self.device: Literal["cpu", "cuda"] = "cuda" if self.gpu.cuda else "cpu"
        self.shapes = cache(lambda name: shape_of(name, recipe.models[name]))
        elsewhere = ({"server"}, {"scoring"})
        self.computed = [name for name in recipe.models if recipe.engines(name) not in elsewhere]
        self.told: dict[str, None] = {}  # in order, each once
        if recipe.hardware is None:
            self.tell(f"hardware: one {self.gpu.name} assumed, as the recipe names no machine")

    def tell(self, text: str | None) -> None:
        """Note an assumption."""
        if text is not None:
            self.told[text] = None

    def stage(self, stage: Stage) -> StagePlan:
        """The needs of one stage."""
        match stage:
            case SftStage():
                plan = self._sft(stage)
            case GrpoStage():
                plan = plan_grpo(self, stage)
            case RewardStage():
                plan = StagePlan(stage.name, stage.kind, f"{stage.model}, {stage.objective}")
                plan_reward(self, stage, plan)
            case SampleStage():
                plan = self._sample(stage)
            case EvalStage():
                plan = self._eval(stage)
                if stage.judge is not None:
                    plan.notes.append("two judgements of each answer to an open problem are not in this plan")
            case CompareStage():
                plan = StagePlan(stage.name, stage.kind, f"reads {stage.results}")
        plan.usable = self.usable
        if plan.nearest and "hardware.gpus" in plan.nearest:
            plan.nearest |= self._machine(int(str(plan.nearest.pop("hardware.gpus"))))
        if self.hardware.hourly is not None:
            plan.money = plan.hours * self.gpus * self.hardware.hourly
        return plan

    def _machine(self, gpus: int) -> Settings:
        """What to write for so many GPUs in all, on as few nodes as hold them at 8 each."""
        each = max(number for number in range(1, MOST_ON_A_NODE + 1) if gpus % number == 0)
        wanted = {"hardware.gpus": each, "hardware.nodes": gpus // each}
        now = {"hardware.gpus": self.hardware.gpus, "hardware.nodes": self.hardware.nodes}
        return {key: value for key, value in wanted.items() if value != now[key]}

    def shape(self, model: str) -> Shape:
        """The shape of a model, given or made."""
        return self.shapes(self.recipe.source_model(model))

    def room(self, plan: StagePlan, models: Sequence[str], asked: int, prompt: int) -> int:
        """The length asked for, or what the models have room for behind a prompt."""
        for model in models:
            source = self.recipe.models[self.recipe.source_model(model)]
            context = source.max_length or self.shape(model).context
            room = context - min(prompt, context // 4)  # the prompts of short models are short
            if asked > room:
                asked = room
                plan.notes.append(f"lengths cut to {asked}: `{model}` reads {context} tokens")
        return asked

    # ---------------------------------------------------------------------------------------- training

    def _sft(self, stage: SftStage) -> StagePlan:
        shape = self.shape(stage.model)
        plan = StagePlan(stage.name, stage.kind, f"{stage.model}, {stage.method}", shape.parameters)
        longest = self.room(plan, [stage.model], stage.max_length, 0)
        memory = stage.memory
        now: Settings = {
            "micro_batch_tokens": stage.micro_batch_tokens,
            "memory.activations": memory.activations,
            "memory.moments": memory.moments,
            "memory.weights": memory.weights,
            "hardware.gpus": self.gpus,
            "method": stage.method,
        }
        check_lora(f"stages.{stage.name}.lora", stage.lora, shape)
        lora, whole_batch = stage.lora or Lora(), stage.batch_size * longest

        def training(settings: Settings) -> Training:
            values: dict[str, Any] = {key.rpartition(".")[2]: value for key, value in settings.items()}
            row = min(values.pop("micro_batch_tokens"), whole_batch)
            return Training(shape, row, device=self.device, lora=lora, **values)

        def fits(settings: Settings) -> bool:
            return sum(training_parts(training(settings)).values()) <= self.usable

        as_is = training(now)
        plan.trainable, plan.memory, plan.host = as_is.trainable, training_parts(as_is), host_bytes(as_is)
        plan.needs = sum(plan.memory.values())
        row = largest(lambda row: fits({**now, "micro_batch_tokens": row}), whole_batch)
        plan.largest = {"micro_batch_tokens": row}
        if plan.needs > self.usable:
            self._change_of_training(plan, now, stage.max_length, fits)
        self._train_work(plan, stage, as_is, longest)
        return plan

    def _change_of_training(self, plan: StagePlan, now: Settings, longest: int, fits: Any) -> None:
        """Smaller rows, less kept of activations, 8-bit moments, bf16 weights, more GPUs, adapters: in this order."""

        def after(key: str, values: Sequence[str]) -> Sequence[str]:
            return values[values.index(str(now[key])) + 1 :]

        rows = int(str(now["micro_batch_tokens"]))
        full = now["method"] == "full"
        cuda = self.device == "cuda"  # the 8-bit optimiser, bf16 and NF4 are for GPUs
        steps = [
            ("micro_batch_tokens", [longest] if longest < rows else []),
            ("memory.activations", after("memory.activations", ["keep", "recompute", "offload"])),
            ("memory.moments", after("memory.moments", ["float32", "8bit"]) if cuda else []),
            ("memory.weights", after("memory.weights", ["float32", "bfloat16"]) if full and cuda else []),
            ("hardware.gpus", self.more_gpus()),
            ("method", after("method", ["full", "lora", "qlora"] if cuda else ["full", "lora"])),
        ]
        plan.nearest = nearest_change(now, steps, fits)
        if plan.nearest and "hardware.gpus" in plan.nearest:
            here = [step for step in steps if not step[0].startswith("hardware.")]
            plan.on_this_machine = nearest_change(now, here, fits)
        for change in (plan.nearest, plan.on_this_machine):
            if change and "micro_batch_tokens" in change:
                others = {**now, **change}
                change["micro_batch_tokens"] = largest(
                    lambda row, others=others: fits({**others, "micro_batch_tokens": row}),  # type: ignore[misc]
                    rows,
                )

    def more_gpus(self) -> list[int]:
        doubled = [self.gpus << times for times in range(1, 11)]
        return [gpus for gpus in doubled if gpus <= MOST_GPUS] if self.device == "cuda" else []

    def _train_work(self, plan: StagePlan, stage: SftStage, training: Training, longest: int) -> None:
        for name, weight in stage.traces.items():
            counted = count_seen(self.recipe, name, weight, self.assumed)
            self.tell(counted.told)
            length = min(longest, trace_tokens(self.recipe, name, longest, self.assumed) + PROMPT)
            tokens = counted.rows * stage.epochs * length
            plan.trained_tokens += tokens
            plan.flops += training_flops(training, tokens, length)
        plan.hours = compute_seconds(plan.flops, self.gpu, self.gpus, self.assumed.mfu) / 3600
        if self.gpus > 1 and stage.batch_size < FEW_TRACES * self.gpus:
            each = stage.batch_size / self.gpus
            idle = "uneven lengths leave some waiting, which costs no time here"
            plan.notes.append(f"an update has {each:g} traces for each GPU: {idle}")

    def verdicts(self, kind: str, answers: int) -> float:
        return answers * VERDICT_SECONDS[kind] / (self.gpu.cores * self.gpus)

    # ---------------------------------------------------------------------------------------- generation

    def _sample(self, stage: SampleStage) -> StagePlan:
        source = self.recipe.problems[stage.problems]
        counted = count_problems("problems", stage.problems, source, self.assumed)
        if stage.rewrite:
            counted = count_traces(self.recipe, stage.rewrite.traces, self.assumed)
        self.tell(counted.told)
        samples = most_samples(stage.collect)
        if stage.collect.strategy == "adaptive":
            self.tell(
                f"stages.{stage.name}: all {samples} samples of each problem, where adaptive draws fewer"
            )
        if isinstance(stage.engine, ServerEngine):
            plan = StagePlan(stage.name, stage.kind, f"{stage.model}, at its endpoint")
            answers = counted.rows * samples
            self._ask_elsewhere(plan, answers, stage.sampling.max_tokens, source.kind)
            return plan
        shape = self.shape(stage.model)
        plan = StagePlan(stage.name, stage.kind, stage.model, shape.parameters)
        room = self.room(plan, [stage.model], stage.sampling.max_tokens, PROMPT)
        model = self._generating(shape, stage.engine, room)
        self._hold(plan, model)
        self._answer(plan, model, counted.rows, samples, source.kind)
        if stage.rewrite:
            read = trace_tokens(self.recipe, stage.rewrite.traces, LONGEST_ROW, self.assumed)
            flops = forward_flops(shape, counted.rows * read, read)
            plan.flops += flops
            plan.hours += compute_seconds(flops, self.gpu, self.gpus, self.assumed.mfu) / 3600
        return plan

    def _eval(self, stage: EvalStage) -> StagePlan:
        if isinstance(stage.engine, ServerEngine):
            return self._eval_elsewhere(stage)
        shapes = [self.shape(model) for model in stage.models]
        biggest = max(shapes, key=lambda shape: shape.parameters)
        plan = StagePlan(stage.name, stage.kind, ", ".join(stage.models), biggest.parameters)
        asked = [
            find_suite(name, self.recipe.suites).with_protocol(stage.samples, stage.sampling)
            for name in stage.suites
        ]
        longest = self.room(plan, stage.models, max(suite.sampling.max_tokens for suite in asked), PROMPT)
        widest = max(shapes, key=lambda shape: (shape.parameters, shape.cache))
        self._hold(plan, self._generating(widest, stage.engine, longest))
        for suite in asked:
            counted = count_problems("suites", suite.name, suite.source, self.assumed)
            self.tell(counted.told)
            room = min(longest, suite.sampling.max_tokens)
            for shape in shapes:
                model = self._generating(shape, stage.engine, room)
                self._answer(plan, model, counted.rows, suite.samples, suite.kind)
        return plan

    def _eval_elsewhere(self, stage: EvalStage) -> StagePlan:
        plan = StagePlan(stage.name, stage.kind, f"{', '.join(stage.models)}, at an endpoint")
        for name in stage.suites:
            suite = find_suite(name, self.recipe.suites).with_protocol(stage.samples, stage.sampling)
            counted = count_problems("suites", suite.name, suite.source, self.assumed)
            self.tell(counted.told)
            answers = len(stage.models) * counted.rows * suite.samples
            self._ask_elsewhere(plan, answers, suite.sampling.max_tokens, suite.kind)
        return plan

    def _ask_elsewhere(self, plan: StagePlan, answers: int, room: int, kind: str) -> None:
        """Tokens and verdicts; memory and hours of a server are its own."""
        plan.generated_tokens += answers * min(self.assumed.tokens_per_trace, room)
        plan.hours += self.verdicts(kind, answers) / 3600
        plan.notes = ["generated by a server: its memory, hours and price are not in this plan"]

    def _generating(self, shape: Shape, engine: Engine, room: int) -> Generating:
        assert not isinstance(engine, ServerEngine), "a server is no part of the machine"
        return Generating(shape, engine, room, self.gpu, self.gpus, self.usable)

    def _hold(self, plan: StagePlan, model: Generating) -> None:
        """The memory of generating: one copy of the model on as few GPUs as hold it with one row."""
        split = model.split
        if isinstance(model.engine, VllmEngine):
            self._hold_vllm(plan, model, split * model.copies)
            return
        plan.memory = model.parts(model.rows, split)
        plan.needs = sum(plan.memory.values())
        plan.largest = {"engine.max_rows": model.most_rows(LONGEST_ROW)}
        if split > self.gpus:
            plan.memory = model.parts(1, self.gpus)
            plan.needs = sum(plan.memory.values())
            plan.nearest = {"hardware.gpus": split}
        elif plan.needs > self.usable:
            plan.nearest = {"engine.max_rows": plan.largest["engine.max_rows"]}
        if split > 1:
            plan.notes.append(
                f"a copy of the model takes {split} GPUs; `engine: {{kind: local}}` holds it on one, so this needs "
                "an engine that splits models: kind vllm"
            )

    def _hold_vllm(self, plan: StagePlan, model: Generating, gpus: int) -> None:
        """vLLM takes its share of a GPU and fills it with rows; one row has to fit."""
        rows = model.most_rows(MOST_ROWS)
        plan.memory = model.parts(max(1, rows), model.split)
        plan.needs = sum(plan.memory.values())
        if not rows:
            plan.needs = max(plan.needs, self.usable + 1)  # what does not fit into its share does not fit
            plan.nearest = {"engine.tensor_parallel": model.narrowest}
        elif gpus > self.gpus:
            plan.notes.append(f"the engine takes {gpus} GPUs, the machine has {self.gpus}")
        plan.notes.append(f"{rows} rows side by side in each copy, as if each ran to its limit")

    def _answer(self, plan: StagePlan, model: Generating, problems: int, samples: int, kind: str) -> None:
        """Add one model's answers to one set of problems, and the verdicts on them."""
        length, answers = min(self.assumed.tokens_per_trace, model.room), problems * samples
        generated = generate(
            model.shape, self.gpu, prompts=problems, answers=answers, length=length, rows=model.rows,
            copies=model.copies, split=min(model.split, self.gpus), mfu=self.assumed.mfu,
        )  # fmt: skip
        plan.generated_tokens += answers * length
        plan.flops += generated.flops
        plan.hours += (generated.seconds + self.verdicts(kind, answers)) / 3600
