"""The card of an exported trace set: what is in it, how it was made, what was kept out, and under which licences.

It tells what the set's own funnel and ledger say and, where the set lies in a run, what the run's recipe and manifest
say. It names hub models and data sets whole, but never where something lies on this machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from distill.card import hub_name, sources
from distill.errors import UserError
from distill.licences import licence_of, licence_of_data, llama_terms
from distill.manifest import surroundings
from distill.messages import COLUMNS
from distill.recipe import Recipe, SampleStage
from distill.recipe_file import load_recipe
from distill.runs import read_json
from distill.shards import read_rows
from teacher.funnel import as_lines
from teacher.trace_set import LEDGER

UNKNOWN = "unknown"  # the hub's word
_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))


class Exported(NamedTuple):
    """What was written: ``traces`` in files that fit ``pattern``; ``all``: rejected ones too."""

    traces: int
    pattern: str
    all: bool


class Origin(NamedTuple):
    """Where a set comes from.

    Attributes:
        teachers: names on the rows and the hub names that they stand for.
        models: what the teacher was made from, itself where it was given: hub names, or what they are called.
        data: the problems, or the set that was imported: a hub name, or what it is called; None: the built-in world.
        licence: the hub's word for the licence of the export.
        run: facts of the run that made it.
    """

    teachers: dict[str, str]
    models: list[str]
    data: str | None
    licence: str
    run: dict[str, object]


def origin_of(folder: Path, funnel: Mapping[str, Any], licence: str | None) -> Origin:
    """What is known of a set's origin.

    Args:
        licence: as whoever publishes it says; None: the one that all its parts are known to have, else `UNKNOWN`.
    """
    facts = funnel["facts"]
    teachers: dict[str, str] = {}
    models: list[str] = []
    told = str(facts.get("imported from", facts.get("problems", "unknown")))
    data: str | None = hub_name(told) or told
    run: dict[str, object] = {}
    rewritten: str | None = None
    if found := _run_of(folder):
        recipe, stage, manifest = found
        behind = recipe.harvests(stage.makes)  # of a rewritten set those who wrote it first, too
        written = [name for harvest in behind for part in sources(recipe, harvest.model) for name in part]
        entries = dict.fromkeys(written)
        paths = {name: recipe.models[name].path for name in entries}
        # Those that are built at random are of nobody.
        models = [hub_name(path) or Path(path).name for path in paths.values() if path is not None]
        if (hub := hub_name(paths.get(stage.model))) is not None:
            teachers[stage.model] = hub
        asked = recipe.problems[stage.problems]
        data = None if asked.path is None else hub_name(asked.path) or Path(asked.path).name
        if (given := recipe.given_traces(stage.makes)) is not None:
            rewritten = hub_name(recipe.traces[given].path) or given
        run = {"recipe": recipe.name, "run's seed": recipe.seed, "sampled with": _ran_with(manifest)}
    known = {licence_of(name).id for name in models} | {
        licence_of_data(one) for one in (data, rewritten) if one
    }
    agreed = next(iter(known)) if len(known) == 1 else None
    return Origin(teachers, models, data, licence or agreed or UNKNOWN, run)


def _run_of(folder: Path) -> tuple[Recipe, SampleStage, dict[str, Any]] | None:
    """The recipe of the run that a set lies in, the stage that made it, and the run's manifest."""
    run = folder.absolute().parent.parent
    if not (run / "recipe.yaml").is_file():
        return None
    try:
        recipe = load_recipe(run / "recipe.yaml")
    except UserError:  # of another version, or of something else
        return None
    stage = recipe.maker(folder.absolute().name)
    return (recipe, stage, read_json(run / "manifest.json") or {}) if isinstance(stage, SampleStage) else None


def _ran_with(manifest: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
    where = [
        manifest.get("device"),
        f"Python {manifest['python']}" if "python" in manifest else None,
        versions,
    ]
    return ", ".join(str(one) for one in where if one) or "unknown"


# -------------------------------------------------------------------------------- the card


def set_card(name: str, folder: Path, funnel: Mapping[str, Any], origin: Origin, exported: Exported) -> str:
    """The whole README.md.

    Args:
        folder: of the trace set, for its ledger.
    """
    kept, total = funnel["kept"], funnel["input"]
    what = "every trace that was read, kept or not" if exported.all else "the traces that passed its filters"
    facts = funnel["facts"]
    teacher = str(facts.get("teacher", ""))
    whose = (
        f"written by `{origin.teachers.get(teacher, teacher)}`"
        if teacher
        else f"imported from `{origin.data}`"
    )
    about = (
        f"{exported.traces:,} traces of reasoning in messages form, {whose}, made with the toolkit "
        f"`distill`: {what} ({kept['traces']:,} kept of {total['traces']:,}, for {kept['problems']:,} of "
        f"{total['problems']:,} problems). Some are shown, with what each filter rejected, in `samples.html`."
    )
    header = yaml.safe_dump(_header(funnel, origin, exported), sort_keys=False, allow_unicode=True, width=120)
    rejected = ' (here all: `traces.filter(lambda row: row["kept"])`)' if exported.all else ""
    parts = [
        f"---\n{header}---\n# {name}",
        about,
        "## Use",
        f'```python\nfrom datasets import load_dataset\n\ntraces = load_dataset("{PLACE}", split="train")\n```\n\n'
        f"TRL's `SFTTrainer` takes `messages` as they are{rejected}; so does `distill` itself: "
        f"`traces: {{mine: {{path: {PLACE}}}}}` in a recipe, or `distill traces import {PLACE} --out DIR`.",
        "## Columns",
        _table(COLUMNS),
        "## How it was made",
        _table(_facts(funnel, origin)),
        "## Funnel",
        "```\n" + "\n".join(as_lines(dict(funnel))) + "\n```",
        "## Contamination",
        contamination(folder, funnel),
        "## Licences",
        _licences(origin),
    ]
    return "\n\n".join(parts) + "\n"


#: What stands in the card for the place of the set, until it is published somewhere.
PLACE = "PATH_OR_HUB_NAME"


def _header(funnel: Mapping[str, Any], origin: Origin, exported: Exported) -> dict[str, Any]:
    """What the hub reads."""
    language = funnel["settings"]["filters"].get("language")
    size = next((words for bound, words in _SIZES if exported.traces < bound), "10M<n<100M")
    header: dict[str, Any] = {
        "license": origin.licence,
        "language": [language["target"]] if language and not exported.all else None,
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": ["reasoning", "distillation", "synthetic", "chain-of-thought"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": exported.pattern}],
            }
        ],
    }
    return {key: value for key, value in header.items() if value}


def _facts(funnel: Mapping[str, Any], origin: Origin) -> dict[str, object]:
    settings = funnel["settings"]
    switched_on = {
        name: value for name, value in settings["filters"].items() if value not in (None, False, [])
    }
    versions = surroundings()["versions"]
    return {
        **funnel["facts"],
        **origin.run,
        "filters": ", ".join(f"{name}: {_short(value)}" for name, value in switched_on.items()) or "none",
        "kept per problem": settings["keep_per_problem"] or "all that pass",
        "exported with": f"distill {versions.get('distill', 'of a checkout')}, pyarrow {versions.get('pyarrow')}",
    }


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(one)}" for name, one in value.items() if one is not None)
    return str(value).lower() if isinstance(value, bool) else str(value)


def contamination(folder: Path, funnel: Mapping[str, Any]) -> str:
    """What the ledger says: overlaps with each suite that the set was compared with."""
    suites = funnel.get("suites", {})
    if not suites:
        return "Compared with no evaluation suite: nothing is known of overlaps."
    traces: dict[str, set[str]] = defaultdict(set)
    problems: dict[str, set[str]] = defaultdict(set)
    if (folder / LEDGER).exists():
        for row in read_rows(folder / LEDGER):
            traces[row["suite"]].add(row["trace"])
            problems[row["suite"]].add(row["problem_id"])
    kept_out = funnel["settings"]["filters"].get("decontaminate", [])
    rows = [
        "| suite | its texts (hash) | traces that overlap | its problems concerned | kept out |",
        "|:--|:--|--:|--:|:--|",
    ]
    rows += [
        f"| {suite} | {identity} | {len(traces[suite]):,} | {len(problems[suite]):,} | "
        f"{'yes' if suite in kept_out else 'no'} |"
        for suite, identity in suites.items()
    ]
    return (
        "\n".join(rows)
        + "\n\nEach overlap, with its words, is told in `contamination.jsonl`. Translations, paraphrases and "
        "quotations shorter than ten words are not found."
    )


def _licences(origin: Origin) -> str:
    lines = [f"- this set: {origin.licence}"]
    if origin.licence == UNKNOWN:
        lines[0] += " (its parts do not settle it; whoever publishes it says with `--licence`)"
    lines += [f"- model `{name}`: {licence_of(name).words}" for name in origin.models]
    if origin.data is None:
        lines.append("- problems of the toolkit's built-in world: nothing of others is in them")
    else:
        known = licence_of_data(origin.data)
        lines.append(f"- data `{origin.data}`: {known or 'see where it is from'}")
    if terms := llama_terms(origin.models):
        lines.append(
            f"- {terms.display}. {terms.notice} Whoever trains a model on these texts and distributes it must give it "
            f'a name that begins with "{terms.prefix}", and show these words.'
        )
    return "\n".join(lines)


def _table(rows: Mapping[str, object]) -> str:
    # A pipe or a line break would end the table's cell: instructions hold both.
    cells = {name: str(value).replace("|", "\\|").replace("\n", "<br>") for name, value in rows.items()}
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells.items())])


def published(card: str, repository: str) -> str:
    """The card with the repository's name where its place was not known yet."""
    return card.replace(PLACE, repository)
