"""A recipe's stages in order: what each reads and writes, what is finished, what has to be done again.

A stage is finished when its marker carries the hash of its resolved section and of everything that it reads, so a
change anywhere upstream makes it due again. Nothing heavy is imported before a stage that is due needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.inputs import HASHED_BYTES, Inputs, fingerprints
from distill.places import check_belongs
from distill.recipe import CompareStage, EvalStage, GrpoStage, Recipe, SampleStage, SftStage, Stage
from distill.runs import RunFolder, finished_stages, hash_path


def run_recipe(recipe: Recipe, out: Path, chosen: Sequence[Stage] | None = None) -> Path | None:
    """Run the stages that are due; returns the report's path when a compare stage has written one.

    Args:
        out: the run folder; made, or continued.
        chosen: only these stages; None means all. What they read must have been made.

    Raises:
        UserError: the input is wrong; nothing was written.
        RunFailed: the run broke on the way; it can be started again.
    """
    stages = list(recipe.stages if chosen is None else chosen)
    prints = fingerprints(recipe)
    check_belongs(out, recipe)
    markers = finished_stages(out)
    done = {name for name, marker in markers.items() if marker["fingerprint"] == prints.get(name)}
    due = [stage for stage in stages if stage.name not in done]
    inputs = Inputs(recipe)
    _check_order(recipe, due, done, markers.keys() - done)
    inputs.check(due)
    with RunFolder.open(out, recipe) as run:
        chain = Chain(recipe, run, prints, inputs)
        for stage in stages:
            chain.do(stage)
        report = run.report_folder / "index.html"
        return (
            report if report.is_file() and any(isinstance(stage, CompareStage) for stage in stages) else None
        )


def _check_order(recipe: Recipe, due: Sequence[Stage], done: set[str], stale: set[str]) -> None:
    """Chosen stages may stand on others that were never run: refuse, before anything is written.

    A stage that is itself due counts as run for those after it.
    """
    ready = set(done)
    for stage in due:
        for name in _upstream(recipe, stage):
            if name not in ready:
                state = (
                    "out of date: its section or what it reads has changed"
                    if name in stale
                    else "not finished"
                )
                reason = f"stands on stage `{name}`, which is {state}"
                remedy = f"run it first (--only {name}), or the whole recipe"
                raise UserError(f"stages.{stage.name}", None, reason, remedy)
        ready.add(stage.name)


def _upstream(recipe: Recipe, stage: Stage) -> list[str]:
    """The stages that make what this one reads."""
    makers = [maker.name for name in Inputs.read_by(stage) if (maker := recipe.maker(name))]
    return [*makers, stage.results] if isinstance(stage, CompareStage) else makers


def stages_towards(recipe: Recipe, role: str) -> list[Stage]:
    """The training stages that make the models of a role, and those that make what these start from, in order."""
    wanted: set[str] = set()
    for stage in recipe.stages:
        if isinstance(stage, SftStage | GrpoStage) and stage.role == role:
            maker: Any = stage
            while isinstance(maker, SftStage | GrpoStage):
                wanted.add(maker.name)
                maker = recipe.maker(maker.model)
    if not wanted:
        raise UserError(
            "RECIPE",
            recipe.name,
            f"no stage makes a model of role {role}",
            f"write `role: {role}` on a sft or grpo stage",
        )
    return [stage for stage in recipe.stages if stage.name in wanted]


class Chain:
    """The stages of one run, done one after another."""

    def __init__(self, recipe: Recipe, run: RunFolder, prints: dict[str, str], inputs: Inputs) -> None:
        self.recipe, self.run, self.prints, self.inputs = recipe, run, prints, inputs
        self._built: set[str] = set()

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
            "sft": self._sft, "grpo": self._grpo, "sample": self._sample, "eval": self._eval, "compare": self._compare,
        }  # fmt: skip
        counts = work[stage.kind](self.inputs.fitted(stage.name))
        inputs = {name: self.prints[name] for name in _upstream(self.recipe, stage)}
        outputs = {self._key(path): hash_path(path) for path in self._makes(stage)}
        self.run.finish(stage.name, counts, inputs, outputs)
        self.run.write_manifest(**self.device.describe())

    def _key(self, path: Path) -> str:
        return path.relative_to(self.run.path).as_posix()

    def _intact(self, stage: Stage, marker: dict[str, Any]) -> bool:
        """Whether what a finished stage made is there as it was: by content, or by time where that is much to read."""
        finished = datetime.fromisoformat(marker["finished_at"]).timestamp() + 1
        for path in self._makes(stage):
            files = [file.stat() for file in path.rglob("*") if file.is_file()]
            if not files:
                return False
            if sum(file.st_size for file in files) > HASHED_BYTES:
                if max(file.st_mtime for file in files) > finished:
                    return False
            elif marker["outputs"].get(self._key(path)) != hash_path(path):
                return False
        return True

    def _makes(self, stage: Stage) -> list[Path]:
        """The folders that a stage writes outside its own."""
        match stage:
            case SftStage() | GrpoStage():
                return [self.run.model_folder(stage.makes)]
            case SampleStage():
                return [self.run.traces_folder(stage.makes)]
            case EvalStage():
                return [
                    self.run.results_folder(model, suite) for model in stage.models for suite in stage.suites
                ]
        return [self.run.report_folder]

    # ------------------------------------------------------------------------------------------ models

    def _load(self, name: str, *, train: bool = False) -> Any:
        from distill import models

        source = self.recipe.models[self.recipe.source_model(name)]
        return models.load(name, self._place(name), source, self.device, train=train)

    def _place(self, name: str) -> str | Path:
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

    def _engine(self, loaded: Any, max_rows: int) -> Any:
        from distill.generate.local import LocalEngine

        return LocalEngine(loaded, self.device, max_rows)

    # ------------------------------------------------------------------------------------------ stages

    def _sft(self, stage: SftStage) -> dict[str, Any]:
        from distill import models
        from distill.student.audit import audit
        from distill.student.mixture import mix
        from distill.student.sft import fine_tune

        traces = {name: self._traces(name) for name in stage.traces}
        harvests = [
            maker for name in stage.traces if isinstance(maker := self.recipe.maker(name), SampleStage)
        ]
        loaded = self._load(stage.model, train=True)
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
        # Again after a kill, as it is quick; the row was shown before the first step.
        checked = audit(
            stage, loaded, mixture, key=f"models.{self.recipe.source_model(stage.model)}",
            show=not (folder / "checkpoints").exists(),
        )  # fmt: skip
        if stage.method == "lora":
            loaded = models.with_lora(loaded, stage.lora, self.recipe.seed)
        counts = fine_tune(
            stage, loaded, self.device, mixture, folder=folder,
            fingerprint=self.prints[stage.name], seed=self.recipe.seed, saved=lambda: self.run.tick(stage.name),
        )  # fmt: skip
        models.save(loaded, self.run.model_folder(stage.makes))
        return counts | {"max_length": stage.max_length, "checked": checked}

    def _traces(self, name: str) -> list[Any]:
        from distill.traces import load_traces, read_made_traces

        if name in self.recipe.traces:
            return load_traces(name, self.recipe.traces[name], self.recipe.seed)
        return read_made_traces(self.run.traces_folder(name))

    def _grpo(self, stage: GrpoStage) -> dict[str, Any]:
        from distill import models
        from teacher.grpo import train

        loaded = self._load(stage.model, train=True)
        counts = train(
            stage, loaded, self.device, self.inputs.problems(stage.problems), self.inputs.instruction(stage.problems),
            folder=self.run.stage_folder(stage.name), fingerprint=self.prints[stage.name], seed=self.recipe.seed,
            saved=lambda: self.run.tick(stage.name),
        )  # fmt: skip
        models.save(loaded, self.run.model_folder(stage.makes))
        return counts | {"max_tokens": stage.max_tokens}

    def _sample(self, stage: SampleStage) -> dict[str, Any]:
        from teacher.harvest import harvest

        loaded = self._load(stage.model)
        return harvest(
            stage=stage, engine=self._engine(loaded, stage.engine.max_rows), chat=loaded.chat,
            problems=self.inputs.problems(stage.problems), instruction=self.inputs.instruction(stage.problems),
            teacher_name=stage.model, folder=self.run.traces_folder(stage.makes), seed=self.recipe.seed,
            chunk_rows=stage.engine.max_rows,
        )  # fmt: skip

    def _eval(self, stage: EvalStage) -> dict[str, Any]:
        from eval.runner import Examinee, evaluate

        generated = 0
        for model in stage.models:
            loaded = self._load(model)
            maker = self.recipe.maker(model)
            print_ = self.prints[maker.name] if maker else self.prints[f"models.{model}"]
            examinee = Examinee(model, self.recipe.role(model), loaded.parameters, print_)
            for name in stage.suites:
                suite = self.inputs.exam(stage.name, name)
                summary = evaluate(
                    examinee, suite, self.inputs.suite_problems(name), chat=loaded.chat,
                    engine=self._engine(loaded, stage.engine.max_rows), folder=self.run.results_folder(model, name),
                    seed=self.recipe.seed, chunk_rows=stage.engine.max_rows,
                )  # fmt: skip
                generated += summary["tokens"]
                self.run.tick(stage.name)
        return {"generated_tokens": generated, "trained_tokens": 0}

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
        )
        write_report(self.run.path, self.recipe, comparison)
        return {"generated_tokens": 0, "trained_tokens": 0}

    def _cost(self, model: str) -> dict[str, Any]:
        """Tokens generated and trained on the way from a model's base to it, alone and with its teachers' cost.

        Trained tokens are those in the loss: responses, never prompts. What made the base is not counted, and a stage
        that serves several is counted once.
        """
        own, teachers = self._ancestry(model)
        return {**self._tokens(own), "with_teacher": self._tokens(own | teachers)}

    def _ancestry(self, model: str) -> tuple[set[str], set[str]]:
        """The stages between a model's base and the model, and those that made the traces it learnt from."""
        own: set[str] = set()
        teachers: set[str] = set()
        maker = self.recipe.maker(model)
        while isinstance(maker, SftStage | GrpoStage) and self.recipe.role(maker.makes) != "base":
            own.add(maker.name)
            for name in maker.traces if isinstance(maker, SftStage) else ():
                harvest = self.recipe.maker(name)
                if isinstance(harvest, SampleStage):
                    teachers |= {harvest.name}.union(*self._ancestry(harvest.model))
            maker = self.recipe.maker(maker.model)
        return own, teachers

    def _tokens(self, stages: set[str]) -> dict[str, int]:
        counts = [(self.run.finished(stage) or {"counts": {}})["counts"] for stage in stages]
        return {
            key: sum(count.get(key, 0) for count in counts) for key in ("generated_tokens", "trained_tokens")
        }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
