"""What a stage's results depend on, as one hash: where it changes, the stage and all that build on it are due again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.inputs import Inputs
from distill.recipe import CompareStage, EvalStage, GrpoStage, Recipe, SampleStage, Stage
from distill.recipe_parts import ENDPOINT, AdaptiveCollect, ServerEngine, SuiteSource
from distill.recipe_rewards import RewardStage
from distill.runs import CARD_FILES, fingerprint, hash_path

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
        if isinstance(stage, RewardStage):
            read.append(_file(stage.pairs.path))
        if isinstance(stage, GrpoStage) and stage.rewards.human:
            read.append(_file(stage.rewards.human.path))
        if isinstance(stage, GrpoStage | SampleStage):
            read += [[part, _file(part.path)] for part in recipe.parts(stage.problems)]
        if isinstance(stage, EvalStage | SampleStage):
            named = stage.suites if isinstance(stage, EvalStage) else stage.filters.decontaminate
            sources = [recipe.suites.get(name) for name in named]
            if isinstance(stage, SampleStage) and isinstance(stage.collect, AdaptiveCollect):
                read += [recipe.hardware] if stage.collect.budget_cost is not None else []
            read.extend(
                [source, _file(source.path if source else None), *_own_record(source)] for source in sources
            )
            if isinstance(stage, EvalStage) and stage.judge is not None:
                read.append(_file(stage.judge.baseline))
        if isinstance(stage, CompareStage):
            read.append(prints[stage.results])
        prints[stage.name] = fingerprint(recipe.seed, _deciding(stage), read)
    return prints


def _deciding(stage: Stage) -> Any:
    """Of a stage's section what decides its results: not where a server is found, nor whose answers are followed."""
    if isinstance(stage, GrpoStage):
        return stage.model_dump(mode="json", by_alias=True, exclude={"follow"})
    judged = isinstance(stage, EvalStage) and stage.judge is not None
    served = isinstance(stage, SampleStage | EvalStage) and isinstance(stage.engine, ServerEngine)
    if not (judged or served):
        return stage
    hidden: dict[str, Any] = {"engine": set(ENDPOINT)} if served else {}
    return stage.model_dump(
        mode="json", exclude=hidden | ({"judge": {"engine": set(ENDPOINT)}} if judged else {})
    )


def _own_record(source: SuiteSource | None) -> list[str | None]:
    """Hashes of an own suite's record and of the data that it names."""
    if source is None or source.record is None:
        return []
    from distill.suites.record import read_record

    return [_file(source.record), _file(read_record(Path(source.record)).data.path)]


def _file(path: str | None) -> str | None:
    return hash_path(Path(path)) if path is not None and Path(path).exists() else None


def _model_folder(path: str | None) -> Any:
    if path is None or not Path(path).is_dir():
        return None
    files = sorted(file for file in Path(path).iterdir() if file.is_file() and file.name not in CARD_FILES)
    if sum(file.stat().st_size for file in files) <= HASHED_BYTES:
        return [(file.name, hash_path(file)) for file in files]
    config = Path(path, "config.json")
    told = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return [told, config.read_text(encoding="utf-8") if config.is_file() else None]
