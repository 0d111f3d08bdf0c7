"""What a recipe's stages read: loaded once, checked before anything is written, and fingerprinted.

Lives beside the stages' rooms, above problems and suites; heavy libraries are imported only where a stage needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.recipe import CompareStage, EvalStage, GrpoStage, Recipe, SampleStage, SftStage, Stage
from distill.records import Problem
from distill.runs import fingerprint, hash_path


class Inputs:
    """Everything that exists before the run, each thing loaded when first asked for."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.problems = cache(self._problems)
        self.suite_problems = cache(self._suite_problems)

    @staticmethod
    def read_by(stage: Stage) -> list[str]:
        """Names of the models and traces that a stage reads."""
        match stage:
            case SftStage():
                return [stage.model, *stage.traces]
            case GrpoStage() | SampleStage():
                return [stage.model]
            case EvalStage():
                return list(stage.models)
        return []

    def _problems(self, name: str) -> list[Problem]:
        from distill.problems import load_problems

        return load_problems(name, self.recipe.problems[name], self.recipe.seed)

    def instruction(self, problems: str) -> str | None:
        """What a model is told around each problem of a set."""
        return self.recipe.problems[problems].instruction

    def suite(self, name: str) -> Any:
        """A suite by name, the recipe's own entry first."""
        from distill.suites import find_suite

        return find_suite(name, self.recipe.suites)

    def _suite_problems(self, name: str) -> list[Problem]:
        from distill.suites import load_suite

        return load_suite(self.suite(name), self.recipe.seed)

    def check(self, stages: Sequence[Stage]) -> None:
        """Load every input of these stages that is small, and look at the rest, before anything is written.

        Problem sets, suites and the world's traces are read whole, tokenizers loaded with their EOS and chat template,
        trace files found. Weights and rows of trace files are first read by their stages.

        Raises:
            UserError: something is missing or unusable.
        """
        for stage in stages:
            if isinstance(stage, GrpoStage | SampleStage):
                self.problems(stage.problems)
            if isinstance(stage, EvalStage):
                for name in stage.suites:
                    self.suite_problems(name)
            for name in self.read_by(stage):
                if name in self.recipe.traces:
                    self._check_traces(name)
                elif name in self.recipe.models:
                    self._check_model(name)

    def _check_traces(self, name: str) -> None:
        from distill.world import make_traces

        source = self.recipe.traces[name]
        _check_trace_file(f"traces.{name}.path", source.path)
        if source.world is not None:
            make_traces(source.world, self.recipe.seed)  # that the world has so many

    def _check_model(self, name: str) -> None:
        from distill.models import check_source

        check_source(name, self.recipe.models[name])


def _check_trace_file(key: str, path: str | None) -> None:
    looks_like_a_file = path is not None and Path(path).suffix in (".jsonl", ".json", ".parquet")
    if path is not None and looks_like_a_file and not Path(path).is_file():
        raise UserError(key, path, "no such file", "give a JSONL or Parquet file, a folder or a hub name")


HASHED_BYTES = 4 << 30  # a few seconds' reading


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """A hash for each stage (of its section, the seed and all that it reads) and for each given model.

    Local data files count by their content, and so do local model folders of up to HASHED_BYTES; larger ones count by
    the names, sizes and times of change of their files and the text of their config. A hub name counts as itself, so a
    hub data set that changes is not noticed.
    """
    prints: dict[str, str] = {}
    for name, model in recipe.models.items():
        prints[f"models.{name}"] = fingerprint(
            model,
            recipe.seed,
            _model_folder(model.path),
            _model_folder(model.tokenizer),
            _file(model.chat_template),
        )
    for stage in recipe.stages:
        read: list[Any] = []
        for name in Inputs.read_by(stage):
            maker = recipe.maker(name)
            if maker is not None:
                read.append(prints[maker.name])
            elif name in recipe.models:
                read.append(prints[f"models.{name}"])
            else:
                read.append([recipe.traces[name], _file(recipe.traces[name].path)])
        if isinstance(stage, GrpoStage | SampleStage):
            read.append([recipe.problems[stage.problems], _file(recipe.problems[stage.problems].path)])
        if isinstance(stage, EvalStage):
            sources = [recipe.suites.get(name) for name in stage.suites]
            read.extend([source, _file(source.path if source else None)] for source in sources)
        if isinstance(stage, CompareStage):
            read.append(prints[stage.results])
        prints[stage.name] = fingerprint(recipe.seed, stage, read)
    return prints


def _file(path: str | None) -> str | None:
    return hash_path(Path(path)) if path is not None and Path(path).exists() else None


def _model_folder(path: str | None) -> Any:
    if path is None or not Path(path).is_dir():
        return None
    files = sorted(file for file in Path(path).iterdir() if file.is_file())
    if sum(file.stat().st_size for file in files) <= HASHED_BYTES:
        return [(file.name, hash_path(file)) for file in files]
    config = Path(path, "config.json")
    told = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return [told, config.read_text(encoding="utf-8") if config.is_file() else None]
