"""Reads a run folder into the plain data that the report is written from. What is missing is told, never an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.errors import RunFailed
from distill.recipe import CompareStage, GrpoStage, Recipe, SampleStage, SftStage
from distill.recipe_rewards import RewardStage
from distill.report.excerpts import SuiteExcerpt, TraceExcerpt, choose_answers, choose_traces
from distill.report.followed import Followed, choose_followed
from distill.runs import MetricsLog
from distill.shards import read_parquet, read_rows

#: The order in which models are told: what there was, what it became, what it taught, what it is held against.
ROLE_ORDER = ("base", "teacher", "student", "baseline")


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage: what it is, what it made, what it took (None, 0: not finished), its metrics rows, whom it followed."""

    name: str
    kind: str
    makes: str | None
    seconds: float | None
    generated_tokens: int
    trained_tokens: int
    metrics: list[dict[str, Any]]
    followed: list[Followed]


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One compared model: `origin` says in words how it was made; `suites` and `cost` are those of `eval.compare`."""

    name: str
    role: str
    params: int | None
    origin: str | None
    made_by: str
    suites: dict[str, dict[str, Any]]
    cost: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunReport:
    """Everything that the report says, in the order in which it says it.

    ``rates`` holds, for each suite and model, the share of each problem's graded samples that are right.
    """

    recipe: Recipe
    manifest: dict[str, Any]
    stages: list[StageReport]
    models: list[ModelReport]
    suites: list[str]
    comparisons: list[dict[str, Any]]
    gap_closed: list[dict[str, Any]]
    protocols: dict[str, dict[str, Any]]
    funnels: dict[str, dict[str, Any]]
    traces: dict[str, TraceExcerpt]
    answers: dict[str, SuiteExcerpt]
    published: list[dict[str, Any]]
    findings: list[str]
    rates: dict[str, dict[str, dict[str, float]]]
    absent: list[str]

    def role(self, model: str) -> str:
        """The role of a model: as compared, else as in the recipe, else `base`."""
        for known in self.models:
            if known.name == model:
                return known.role
        trained = isinstance(self.recipe.maker(model), SftStage | GrpoStage)
        return self.recipe.role(model) if trained or model in self.recipe.models else "base"


def gather(run_path: Path, recipe: Recipe, comparison: dict[str, Any]) -> RunReport:
    """Read what there is of a run.

    Args:
        run_path: the run folder.
        recipe: the recipe it runs.
        comparison: what `eval.compare.compare` found; `{}` when nothing was compared.
    """
    absent: list[str] = []
    stages = [_stage(run_path, number, recipe, absent) for number in range(1, len(recipe.stages) + 1)]
    models = _models(recipe, comparison.get("models", {}))
    if not models:
        absent.append("No model was compared: the run has no results yet.")
    suites = list(dict.fromkeys(suite for model in models for suite in model.suites))
    made = [stage.makes for stage in recipe.stages if isinstance(stage, SampleStage)]
    funnels = {name: _read_json(run_path / "traces" / name / "funnel.json", absent) for name in made}
    traces = {name: choose_traces(_traces(run_path / "traces" / name, absent), recipe) for name in made}
    return RunReport(
        recipe=recipe,
        manifest=_read_json(run_path / "manifest.json", absent),
        stages=stages,
        models=models,
        suites=suites,
        comparisons=comparison.get("comparisons", []),
        gap_closed=comparison.get("gap_closed", []),
        protocols={suite: _protocol(models, suite) for suite in suites},
        funnels={name: funnel for name, funnel in funnels.items() if funnel},
        traces={name: excerpt for name, excerpt in traces.items() if excerpt.rows},
        answers={
            suite: choose_answers(
                {
                    model.name: _responses(run_path / "results" / model.name / suite, absent)
                    for model in models
                    if suite in model.suites
                },
                recipe,
            )
            for suite in suites
        },
        published=comparison.get("published") or [],
        findings=comparison.get("findings") or [],
        rates={
            suite: {
                model.name: _rates(run_path / "results" / model.name / suite / "summary.json")
                for model in models
                if suite in model.suites
            }
            for suite in suites
        },
        absent=absent,
    )


def _stage(run_path: Path, number: int, recipe: Recipe, absent: list[str]) -> StageReport:
    stage = recipe.stages[number - 1]
    folder = run_path / "stages" / f"{number:02}-{stage.name}"
    # The compare stage writes the report, so while that is written its own marker cannot be there.
    told = [] if isinstance(stage, CompareStage) else absent
    finished = _read_json(folder / "finished.json", told)
    counts = finished.get("counts", {})
    metrics = followed = list[dict[str, Any]]()
    if isinstance(stage, SftStage | GrpoStage | RewardStage):
        metrics = _log(run_path, folder / "metrics.jsonl", "metrics", absent)
    if isinstance(stage, GrpoStage) and stage.follow.problems:
        followed = _log(run_path, folder / "followed.jsonl", "followed answers", absent)
    return StageReport(
        name=stage.name,
        kind=stage.kind,
        makes=getattr(stage, "makes", None),
        seconds=finished.get("seconds"),
        generated_tokens=counts.get("generated_tokens", 0),
        trained_tokens=counts.get("trained_tokens", 0),
        metrics=metrics,
        followed=choose_followed(followed),
    )


def _log(run_path: Path, file: Path, what: str, absent: list[str]) -> list[dict[str, Any]]:
    """The rows of a stage's log; where there are none, a line in `absent`."""
    stage = file.parent.name.partition("-")[2]
    try:
        rows = MetricsLog.read(file)
    except RunFailed as error:
        absent.append(f"Stage {stage} has no readable {what} ({_inside(run_path, error)}).")
        return []
    if not rows:
        absent.append(f"Stage {stage} has no {what}.")
    return rows


def _models(recipe: Recipe, found: dict[str, dict[str, Any]]) -> list[ModelReport]:
    models = [
        ModelReport(
            name=name,
            role=model.get("role", "base"),
            params=model.get("params"),
            origin=model.get("origin"),
            made_by=how_made(recipe, name),
            suites=model.get("suites", {}),
            cost=model.get("cost") or {},
        )
        for name, model in found.items()
    ]
    return sorted(models, key=lambda model: _rank(model.role))  # stable: within a role as compared


def how_made(recipe: Recipe, model: str) -> str:
    """How a model came to be, in words that do not make more of it than it is."""
    stage = recipe.maker(model)
    if isinstance(stage, GrpoStage):
        words = f"GRPO as {stage.preset}" if stage.preset else "GRPO"
        return f"{words} on {stage.problems}, {stage.steps:,} steps, from {stage.model}"
    if isinstance(stage, SftStage):
        worlds = {name: recipe.traces[name].world for name in stage.traces if name in recipe.traces}
        flaws = [
            f"{name}: {world.wrong_steps:g} of steps wrong, {world.missing_tags:g} without tags"
            + "".join(
                f", {share:g} of steps in {language}" for language, share in (world.languages or {}).items()
            )
            for name, world in worlds.items()
            if world and (world.wrong_steps or world.missing_tags or world.languages)
        ]
        if flaws:
            shares = "; ".join(flaws)
            return f"SFT on deliberately unreliable traces ({shares}), standing in for pre-training"
        return f"SFT on {', '.join(stage.traces)}, {stage.epochs:g} epochs, from {stage.model}"
    source = recipe.models.get(model)
    if source is None:
        return "from elsewhere"
    if source.path is None:
        return "randomly initialised"
    # A report travels: it names a hub model whole, but never where a folder lies on this machine.
    return f"given: {Path(source.path).name if Path(source.path).is_absolute() else source.path}"


def _rank(role: str) -> int:
    return ROLE_ORDER.index(role) if role in ROLE_ORDER else len(ROLE_ORDER)


def _protocol(models: list[ModelReport], suite: str) -> dict[str, Any]:
    """The protocol of a suite; `eval.compare` has already refused models that were measured by different ones."""
    return next((model.suites[suite].get("protocol") or {} for model in models if suite in model.suites), {})


def _traces(folder: Path, absent: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of a trace set, from Parquet once it is finished, else from its shards."""
    files = sorted(folder.glob("*.parquet")) or sorted(folder.glob("shard-*.jsonl"))
    if not files:
        absent.append(f"Trace set {folder.name} has no rows on disk.")
    for file in files:
        try:
            if file.suffix == ".parquet":
                yield from (trace.model_dump(mode="json") for trace in read_parquet(file))
            else:
                yield from read_rows(file)
        except RunFailed as error:
            absent.append(f"Trace set {folder.name} was read in part ({_inside(folder, error)}).")


def _responses(folder: Path, absent: list[str]) -> Iterator[dict[str, Any]]:
    file = folder / "responses.jsonl"
    where = f"{folder.parent.name} on {folder.name}"
    if not file.is_file():
        absent.append(f"The answers of {where} are not on disk.")
        return
    try:
        yield from read_rows(file)
    except RunFailed as error:
        absent.append(f"The answers of {where} were read in part ({_inside(folder, error)}).")


def _rates(path: Path) -> dict[str, float]:
    """For each problem the share of its graded samples that are right; of what cannot be read nothing.

    A summary that is not there is no loss to tell: what it says of the model was compared, and stands in the report.
    """
    rows = _read_json(path, []).get("problems") or []
    return {row["id"]: row["correct"] / row["samples"] for row in rows if row["samples"]}


def _read_json(path: Path, absent: list[str]) -> dict[str, Any]:
    """A JSON object, or an empty one and a line in `absent`."""
    where = "/".join(path.parts[-3:]) if path.name != "manifest.json" else path.name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        absent.append(f"{where} is not there (yet).")
        return {}
    except ValueError:
        absent.append(f"{where} is no JSON.")
        return {}
    return found if isinstance(found, dict) else {}


def _inside(folder: Path, error: RunFailed) -> str:
    """An error's words without the machine's own path, which has no place in a report that travels."""
    return str(error).replace(f"{folder}/", "")
