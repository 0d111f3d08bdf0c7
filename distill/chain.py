"""A recipe's stages in order: what each reads and writes, what is finished, what has to be done again.

A stage is finished when its marker carries the hash of its resolved section and of everything that it reads, so a
change anywhere upstream makes it due again. Nothing heavy is imported before a stage that is due needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from distill import card, crew
from distill.fingerprints import HASHED_BYTES, fingerprints
from distill.inputs import Inputs
from distill.manifest import surroundings
from distill.order import ancestry, check_machine, check_order, upstream
from distill.places import check_belongs
from distill.recipe import CompareStage, EvalStage, GrpoStage, Recipe, SampleStage, SftStage, Stage, Trains
from distill.recipe_checks import samples_apart
from distill.recipe_parts import Engine
from distill.recipe_rewards import RewardStage
from distill.recipe_rl import most_tokens
from distill.runs import CARD_FILES, RunFolder, finished_stages, hash_path


def run_recipe(recipe: Recipe, out: Path, chosen: Sequence[Stage] | None = None) -> Path | None:
    """Run the stages that are due; returns the report's path when a compare stage has written one.

    Args:
        out: the run folder; made, or continued.
        chosen: only these stages; None means all. What they read must have been made.

    Raises:
        UserError: the input is wrong; nothing was written.
        RunFailed: the run broke on the way; it can be started again.
    """
    if crew.follows():
        crew.follow(out)
        return None
    stages = list(recipe.stages if chosen is None else chosen)
    prints = fingerprints(recipe)
    check_belongs(out, recipe)
    markers = finished_stages(out)
    done = {name for name, marker in markers.items() if marker["fingerprint"] == prints.get(name)}
    due = [stage for stage in stages if stage.name not in done]
    inputs = Inputs(recipe)
    check_order(recipe, due, done, markers.keys() - done)
    check_machine(recipe, due)
    inputs.check(due)
    with RunFolder.open(out, recipe) as run:
        chain = Chain(recipe, run, prints, inputs)
        for stage in stages:
            chain.do(stage)
        crew.dismiss()
        report = run.report_folder / "index.html"
        return (
            report if report.is_file() and any(isinstance(stage, CompareStage) for stage in stages) else None
        )


class Chain:
    """The stages of one run, done one after another."""

    def __init__(
        self, recipe: Recipe, run: RunFolder, prints: dict[str, str], inputs: Inputs, guest: bool = False
    ) -> None:
        self.recipe, self.run, self.prints, self.inputs = recipe, run, prints, inputs
        self.guest = guest  # finds the models built, and the folder another's
        self._built: set[str] = set(recipe.models) if guest else set()

    @cached_property
    def device(self) -> Any:
        """Found when the first stage needs it: finding it loads torch."""
        from distill import models
        from distill.device import find_device

        return find_device(max(models.width(name, source) for name, source in self.recipe.models.items()))

    def do(self, stage: Stage) -> None:
        """Run one stage unless it is finished, and mark it."""
        number = f"{self.recipe.stages.index(stage) + 1}/{len(self.recipe.stages)} {stage.name}"
        marker = self.run.finished(stage.name)
        fresh = marker is not None and marker["fingerprint"] == self.prints[stage.name]
        intact = marker is not None and fresh and self._intact(stage, marker)
        if intact:
            _say(f"{number}: finished")
            if not self.run.in_manifest(stage.name):
                self.run.write_manifest(**self.device.describe())
            return
        if marker:
            changed = (
                "what it made has been changed or removed"
                if fresh
                else "its section or its inputs have changed"
            )
            _say(f"{number}: {changed}, so it is done again")
        resumed = self.run.begin(stage.name, self.prints[stage.name], self._makes(stage))
        _say(f"{number}: {'goes on' if resumed else 'starts'} ({stage.kind})")
        work: dict[str, Callable[[Any], dict[str, Any]]] = {
            "sft": self._sft, "grpo": self._grpo, "reward": self._reward, "sample": self._sample, "eval": self._eval,
            "compare": self._compare,
        }  # fmt: skip
        counts = work[stage.kind](self.inputs.fitted(stage.name))
        inputs = {name: self.prints[name] for name in upstream(self.recipe, stage)}
        outputs = {self._key(path): hash_path(path, _words(stage)) for path in self._makes(stage)}
        self.run.finish(stage.name, counts, inputs, outputs)
        self.run.write_manifest(**self.device.describe())

    def _key(self, path: Path) -> str:
        return path.relative_to(self.run.path).as_posix()

    def _intact(self, stage: Stage, marker: dict[str, Any]) -> bool:
        """Whether what a finished stage made is there as it was: by content, or by time where that is much to read."""
        finished = datetime.fromisoformat(marker["finished_at"]).timestamp() + 1
        for path in self._makes(stage):
            found = (file for file in path.rglob("*") if file.is_file() and file.name not in _words(stage))
            files = [file.stat() for file in found]
            if not files:
                return False
            if sum(file.st_size for file in files) > HASHED_BYTES:
                if max(file.st_mtime for file in files) > finished:
                    return False
            elif marker["outputs"].get(self._key(path)) != hash_path(path, _words(stage)):
                return False
        return True

    def _makes(self, stage: Stage) -> list[Path]:
        """The folders that a stage writes outside its own."""
        match stage:
            case SftStage() | GrpoStage() | RewardStage():
                return [self.run.model_folder(stage.makes)]
            case SampleStage():
                return [self.run.traces_folder(stage.makes)]
            case EvalStage():
                return [
                    self.run.results_folder(model, suite) for model in stage.models for suite in stage.suites
                ]
        return [self.run.report_folder]

    # ------------------------------------------------------------------------------------------ models

    def load(self, name: str, dtype: Any = None, **how: bool) -> Any:
        """A model of the recipe, given or made, on the device."""
        from distill import models

        source = self.recipe.models[self.recipe.source_model(name)]
        return models.load(name, self.place(name), source, self.device, dtype=dtype, **how)

    def place(self, name: str) -> str | Path:
        """Where a model lies; one that is built at random is built now, by its seed."""
        if self.recipe.maker(name) is not None:
            return self.run.model_folder(name)
        source = self.recipe.models[name]
        if source.path is not None:
            return source.path
        from distill import models

        folder = self.run.model_folder(name)
        if name not in self._built:  # what an earlier attempt left may be another architecture's
            models.build_folder(name, source, folder, self.recipe.seed)
            self._built.add(name)
        return folder

    def _engine(self, name: str, settings: Engine) -> tuple[Any, Any]:
        """What generates with a model, and the model's chat format."""
        from distill.generate.choice import choose

        source = self.recipe.models[self.recipe.source_model(name)]
        return choose(name, settings, source, self.place(name), lambda: (self.load(name), self.device))

    # ------------------------------------------------------------------------------------------ stages

    def _sft(self, stage: SftStage) -> dict[str, Any]:
        return self._trained(stage, {"max_length": stage.max_length})

    def _grpo(self, stage: GrpoStage) -> dict[str, Any]:
        return self._trained(stage, {"max_tokens": most_tokens(stage.max_tokens)})

    def _trained(self, stage: SftStage | GrpoStage, told: dict[str, Any]) -> dict[str, Any]:
        """Train a model, in one process or several, and save it; its counts, with what else is ``told``."""
        from distill import models

        processes = self._processes(stage)
        self.place(stage.model)  # built now, if it has to be, and not by each of several processes
        if crew.launched():
            counts, weights = crew.lead(self, stage)
            loaded = self.start(stage, whole=True)
            models.take_over(loaded, weights)
        elif processes == 1 and stage.method != "qlora":
            loaded = self.start(stage)
            counts, _ = self.tune(stage, loaded)
        else:
            if processes > 1:
                counts, weights = crew.train_together(processes, self.run, stage.name)
            else:
                counts, weights = self.tune(stage, self.start(stage), give_weights=True)
            loaded = self.start(stage, whole=True)  # neither in shards nor in four bits
            models.take_over(loaded, weights)
        counts |= told
        models.save(loaded, self.run.model_folder(stage.makes), self._cards(stage, counts))
        return counts

    def _processes(self, stage: SftStage | GrpoStage) -> int:
        """How many train together; one for each GPU (or, where the recipe says `gpu: cpu`, that many on the CPU)."""
        hardware = self.recipe.hardware
        if hardware is None or (isinstance(stage, GrpoStage) and samples_apart(stage)):
            return 1
        if self.device.kind == "cpu" and hardware.gpu != "cpu":
            _say(f"no GPU is here ({hardware.gpus} x {hardware.gpu} in the recipe): one process on the CPU")
            return 1
        return hardware.gpus

    def start(
        self, stage: SftStage | GrpoStage, *, whole: bool = False, empty: bool = False, sharded: bool = False
    ) -> Any:
        """The model of a training stage as it begins; ``whole``: to be saved, so neither quantised nor in bf16.

        What is only saved, or is about to be ``sharded``, stays on the host: no GPU has to hold all of it.
        """
        import torch

        from distill import models

        full = stage.method == "full"
        exact = full and stage.memory.weights == "float32"
        dtype = torch.float32 if exact or whole else torch.bfloat16 if full else None
        four_bit = stage.method == "qlora" and not whole
        how = {"four_bit": four_bit, "empty": empty, "on_host": whole or sharded}
        loaded = self.load(stage.model, dtype, **how)
        return loaded if full else models.with_lora(loaded, stage.lora, self.recipe.seed)

    def tune(self, stage: SftStage | GrpoStage, loaded: Any, **settings: Any) -> Any:
        """Train a model that was started; its counts, and its weights where ``give_weights`` is set.

        What else may be set stands at `fine_tune` and at `teacher.grpo.train`.
        """
        settings = {"saved": lambda: self.run.tick(stage.name)} | settings
        if isinstance(stage, SftStage):
            return self._fine_tune(stage, loaded, settings)
        from distill.chain_rewards import teach

        return teach(self, stage, loaded, settings)

    def _fine_tune(self, stage: SftStage, loaded: Any, settings: dict[str, Any]) -> Any:
        from distill import models
        from distill.student.audit import audit
        from distill.student.mixture import mix
        from distill.student.sft import fine_tune

        traces = {name: self._traces(name) for name in stage.traces}
        makers = map(self.recipe.maker, stage.traces)
        harvests = [maker for maker in makers if isinstance(maker, SampleStage)]
        mixture = mix(
            traces,
            stage.traces,
            loaded.chat,
            written_with=[models.tags_of(self.recipe.think(harvest.model)) for harvest in harvests],
            epochs=stage.epochs,
            max_length=stage.max_length,
            seed=self.recipe.seed,
        )
        folder = self.run.stage_folder(stage.name)
        checked = {}
        if not crew.follows():  # again after a kill, as it is quick; the row was shown before the first step
            checked = audit(
                stage, loaded, mixture, key=f"models.{self.recipe.source_model(stage.model)}",
                show=not (folder / "checkpoints").exists(),
            )  # fmt: skip
        tuned = fine_tune(
            stage, loaded, self.device, mixture, folder=folder,
            fingerprint=self.prints[stage.name], seed=self.recipe.seed, **settings,
        )  # fmt: skip
        return tuned._replace(counts=tuned.counts | {"traces_read": _sizes(traces), "checked": checked})

    def _traces(self, name: str) -> list[Any]:
        from distill.traces import load_traces, read_made_traces

        if name in self.recipe.traces:
            return load_traces(name, self.recipe.traces[name], self.recipe.seed)
        return read_made_traces(self.run.traces_folder(name))

    def _reward(self, stage: RewardStage) -> dict[str, Any]:
        from distill.chain_rewards import train_reward_model

        return train_reward_model(self, stage)

    def _sample(self, stage: SampleStage) -> dict[str, Any]:
        from teacher.harvest import harvest

        engine, chat = self._engine(stage.model, stage.engine)
        old = self._traces(stage.rewrite.traces) if stage.rewrite else []
        return harvest(
            stage=stage, engine=engine, chat=chat, problems=self.inputs.problems(stage.problems),
            instruction=self.inputs.instruction(stage.problems), teacher_name=stage.model, seed=self.recipe.seed,
            folder=self.run.traces_folder(stage.makes), suites=self.inputs.kept_out(stage.filters.decontaminate),
            hourly=self.recipe.hourly, agreement=self.recipe.problems[stage.problems].agreement, to_rewrite=old,
            reads=self.inputs.reads(stage.model, stage.engine) if stage.rewrite else None,
        )  # fmt: skip

    def _eval(self, stage: EvalStage) -> dict[str, Any]:
        generated = sum(self._examine(stage, model) for model in stage.models)
        self._refresh_cards(stage)
        return {"generated_tokens": generated, "trained_tokens": 0}

    def _examine(self, stage: EvalStage, model: str) -> int:
        """One model on every suite; returns its tokens. It is gone from memory before the next one comes."""
        from distill import models
        from eval.runner import Examinee, evaluate

        engine, chat = self._engine(model, stage.engine)
        maker = self.recipe.maker(model)
        print_ = self.prints[maker.name] if maker else self.prints[f"models.{model}"]
        parameters, generated = models.count_parameters(model, self.place(model)), 0
        examinee = Examinee(model, self.recipe.role(model), parameters, print_)
        for name in stage.suites:
            summary = evaluate(
                examinee, self.inputs.exam(stage.name, name), self.inputs.suite_problems(name), engine=engine,
                chat=chat, folder=self.run.results_folder(model, name), seed=self.recipe.seed,
                judge=self.inputs.judge(stage, name),
            )  # fmt: skip
            generated += summary["tokens"]
            self.run.tick(stage.name)
        return generated

    def _compare(self, stage: CompareStage) -> dict[str, Any]:
        from distill.report import write_report
        from eval.compare import compare, read_results

        exam = self.recipe.stage(stage.results)
        assert isinstance(exam, EvalStage)
        summaries = read_results(self._makes(exam))
        models = exam.models
        comparison = compare(
            summaries,
            {model: self.recipe.base(model) for model in models},
            {model: self._cost(model) for model in models},
            {model: self.recipe.role(model) for model in models},
            published=stage.published,
            places={name: source.path for name, source in self.recipe.models.items() if source.path},
        )
        write_report(self.run.path, self.recipe, comparison)
        self._refresh_cards(exam, comparison)
        return {"generated_tokens": 0, "trained_tokens": 0}

    # ------------------------------------------------------------------------------------------ words

    def _cards(self, stage: SftStage | GrpoStage, counts: dict[str, Any]) -> dict[str, str]:
        """The card of a model about to be saved, by its path in the model's folder."""
        ran_with = {**surroundings(), **self.device.describe()}
        return card.cards(
            self.run.path, self.recipe, card.Made(stage, self.prints[stage.name], counts, ran_with)
        )

    def _refresh_cards(self, exam: EvalStage, comparison: dict[str, Any] | None = None) -> None:
        """Tell the cards what was measured; before the stage's marker, so that a kill cannot come between."""
        for model in exam.models:
            maker = self.recipe.maker(model)
            if maker is not None:
                card.refresh(self.run.path, model, self.prints[maker.name], comparison)

    def _cost(self, model: str) -> dict[str, Any]:
        """Tokens generated and trained on the way from a model's base to it, alone and with its teachers' cost.

        Trained tokens are those in the loss: responses, never prompts. What made the base is not counted, and a stage
        that serves several is counted once.
        """
        own, teachers = ancestry(self.recipe, model)
        return {**self._tokens(own), "with_teacher": self._tokens(own | teachers)}

    def _tokens(self, stages: set[str]) -> dict[str, int]:
        counts = [(self.run.finished(stage) or {"counts": {}})["counts"] for stage in stages]
        return {
            key: sum(count.get(key, 0) for count in counts) for key in ("generated_tokens", "trained_tokens")
        }


def _words(stage: Stage) -> tuple[str, ...]:
    """Files in what a stage makes that later stages write again."""
    return CARD_FILES if isinstance(stage, Trains) else ()


def _sizes(traces: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, int]]:
    """How many traces and tokens were read of each set, for the card."""
    return {
        name: {"traces": len(rows), "tokens": sum(row.tokens for row in rows)}
        for name, rows in traces.items()
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
