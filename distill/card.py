"""A model's card: the README.md of its folder, as the Hugging Face hub reads it.

It is written with the weights, from what the run folder holds then. Its evaluation alone is written again when the
model has been measured, so all else stays what was true when the model was made. It travels with the model: it names
hub models and data sets whole, but never where something lies on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from distill.card_results import BEGIN, END, evaluation
from distill.licences import Llama, licence_of, llama_terms, may_be_llama, name_to_publish
from distill.recipe import GrpoStage, Recipe, SampleStage, SftStage
from distill.recipe_parts import Lora, ModelSource, Portion, ProblemSource, TraceSource
from distill.runs import ADAPTER, CARD_FILES, read_json, write_text_atomic

CARD = CARD_FILES[0]
#: What stands in the card's example for the place of the model, until it is published somewhere.
HERE = "PATH_OR_HUB_NAME"


class Made(NamedTuple):
    """A model that a stage has made: ``stage`` as it was run, ``ran_with`` as the manifest has it."""

    stage: SftStage | GrpoStage
    fingerprint: str
    counts: Mapping[str, Any]
    ran_with: Mapping[str, Any]


def cards(run_path: Path, recipe: Recipe, made: Made) -> dict[str, str]:
    """The cards of a made model, by their paths in its folder; its adapters, where it has some, have their own."""
    found = {CARD: _card(run_path, recipe, made, adapter=False)}
    if has_adapter(made.stage):
        found[f"{ADAPTER}/{CARD}"] = _card(run_path, recipe, made, adapter=True)
    return found


def has_adapter(stage: SftStage | GrpoStage) -> bool:
    """Whether the stage trains low-rank adapters."""
    return stage.method != "full"


def refresh(
    run_path: Path, model: str, fingerprint: str, comparison: Mapping[str, Any] | None = None
) -> None:
    """Write the evaluation of a made model's cards anew; a card whose marks somebody removed is left as it is.

    Args:
        fingerprint: of the stage that made it; results of other weights are not told.
        comparison: what `eval.compare.compare` found, when it has.
    """
    folder = run_path / "models" / model
    told = evaluation(run_path, model, fingerprint, comparison)
    for file in (folder / CARD, folder / ADAPTER / CARD):
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        new = before + told + after
        if begin and end and new != text:
            write_text_atomic(file, new)


def published(text: str, repository: str) -> str:
    """A card as it stands in a hub repository ``USER/NAME``: under that name, with an example that can be run."""
    name = repository.rpartition("/")[2]
    return re.sub(r"(?m)^# .*$", f"# {name}", text, count=1).replace(HERE, repository)


# -------------------------------------------------------------------------------- what it stands on


def hub_name(path: str | None) -> str | None:
    """The hub name that a recipe's ``path`` is, without configuration and revision of a data set; None: it is local."""
    if path is None or Path(path).exists():
        return None
    if Path(path).suffix in (".jsonl", ".json", ".parquet"):
        return None  # a file that was there when it was read
    found = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?::[\w.-]+)?(?:@[\w./-]+)?", path)
    return found[1] if found and not path.startswith((".", "~")) else None


def sources(recipe: Recipe, model: str) -> tuple[list[str], list[str]]:
    """Entries of ``models:`` whose weights are in a model, and those of which only outputs were learnt from."""
    base, teachers = recipe.source_model(model), []
    while isinstance(maker := recipe.maker(model), SftStage | GrpoStage):
        for traces in maker.traces if isinstance(maker, SftStage) else ():
            for harvest in recipe.harvests(traces):
                teachers += [name for part in sources(recipe, harvest.model) for name in part]
        model = maker.model
    return [base], [name for name in dict.fromkeys(teachers) if name != base]


def terms_of(recipe: Recipe, model: str) -> Llama | None:
    """The Llama licence that a made model stands under, if it does."""
    return llama_terms([_called(recipe.models[name]) for part in sources(recipe, model) for name in part])


def _data_sets(recipe: Recipe, model: str) -> list[str]:
    """Hub data sets that a model, or a teacher of its, learnt from: traces and the problems that were asked."""
    found: list[str | None] = []
    while isinstance(maker := recipe.maker(model), SftStage | GrpoStage):
        if isinstance(maker, GrpoStage):
            found += [hub_name(part.path) for part in recipe.parts(maker.problems)]
        for name in maker.traces if isinstance(maker, SftStage) else ():
            for harvest in recipe.harvests(name):
                asked = recipe.problems[harvest.problems]
                found += [hub_name(asked.path), *_data_sets(recipe, harvest.model)]
            if (given := recipe.given_traces(name)) is not None:
                found.append(hub_name(recipe.traces[given].path))
        model = maker.model
    return [name for name in dict.fromkeys(found) if name]


def _called(source: ModelSource) -> str:
    """A given model's hub name, or what its folder is called."""
    return hub_name(source.path) or (Path(source.path).name if source.path else "")


def _origin(recipe: Recipe, model: str) -> str:
    """Where a model comes from, back to what existed before the run."""
    maker = recipe.maker(model)
    if isinstance(maker, SftStage | GrpoStage):
        what = f"on {', '.join(maker.traces)}" if isinstance(maker, SftStage) else f"on {maker.problems}"
        return f"`{model}`, made in the same run ({maker.kind} {what}) from {_origin(recipe, maker.model)}"
    source = recipe.models[model]
    if source.build is not None:
        build = source.build
        shape = f"{build.architecture}, hidden {build.hidden}, layers {build.layers}"
        return f"random weights (`{model}` in the recipe: {shape})"
    local = "" if hub_name(source.path) else "a local folder, "
    return f"`{_called(source)}` ({local}`{model}` in the recipe)"


# -------------------------------------------------------------------------------- the parts


def _card(run_path: Path, recipe: Recipe, made: Made, *, adapter: bool) -> str:
    stage = made.stage
    bases, teachers = (
        [_called(recipe.models[name]) for name in part] for part in sources(recipe, stage.makes)
    )
    terms = llama_terms(bases + teachers)
    kind = "LoRA adapters of a model" if adapter else "A model"
    about = (
        f"{kind} in the role of {stage.role}, made by stage `{stage.name}` ({stage.kind}) of the recipe "
        f"`{recipe.name}` with the toolkit `distill`."
    )
    taught = [f"- teacher of `{name}`: {told}" for name, told in _teachers(recipe, stage)]
    parts = [
        f"---\n{_dump(_front(recipe, stage, adapter))}---\n# {stage.makes}",
        f"**{terms.display}**" if terms else "",
        about,
        "## Use",
        _use(recipe, stage, adapter),
        "## Made from",
        "\n".join([f"- base: {_origin(recipe, stage.model)}", *taught]),
        "## Data",
        _data(run_path, recipe, made),
        "## Training",
        f"The stage, with every default written out:\n\n```yaml\n{_dump(_plain(stage))}```",
        _ran_with(recipe, made),
        "## Evaluation",
        evaluation(run_path, stage.makes, made.fingerprint),
        "## Licence and attribution",
        _licence(stage.makes, bases, teachers, _data_sets(recipe, stage.makes)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(recipe: Recipe, stage: SftStage | GrpoStage, adapter: bool) -> dict[str, Any]:
    """What the hub reads; what is not known is left out."""
    source = recipe.models[recipe.source_model(stage.makes)]
    base = hub_name(source.path)
    distilled = isinstance(stage, SftStage) and bool(_teachers(recipe, stage))
    tags = ["reasoning", stage.kind, *(["distillation"] if distilled else [])]
    front = {
        "license": licence_of(base).id if base else None,
        "base_model": base,
        "base_model_relation": ("adapter" if adapter else "finetune") if base else None,
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [*tags, *(["lora"] if has_adapter(stage) else [])],
        "datasets": _data_sets(recipe, stage.makes),
    }
    return {key: value for key, value in front.items() if value}


def _use(recipe: Recipe, stage: SftStage | GrpoStage, adapter: bool) -> str:
    source = recipe.models[recipe.source_model(stage.makes)]
    changes = {"max_position_embeddings": source.max_length, "rope_theta": source.rope_theta}
    changed = [f"{key} {value:g}" for key, value in changes.items() if value]
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    if adapter:
        base = hub_name(recipe.models[stage.model].path) if stage.model in recipe.models else None
        lines = ["from peft import PeftModel", lines[0].replace("import", "import AutoConfig,"), ""]
        lines.append(f'config = AutoConfig.from_pretrained("{base or "PATH_OF_THE_BASE"}")')
        if source.max_length:
            lines.append(f"config.max_position_embeddings = {source.max_length}")
        if source.rope_theta:
            lines.append(f'config.rope_parameters["rope_theta"] = {source.rope_theta:g}')
        lines.append(
            f'base = AutoModelForCausalLM.from_pretrained("{base or "PATH_OF_THE_BASE"}", config=config)'
        )
        lines.append(f'model = PeftModel.from_pretrained(base, "{HERE}")')
    else:
        lines.append(f'model = AutoModelForCausalLM.from_pretrained("{HERE}")')
    lines.append(f'tokenizer = AutoTokenizer.from_pretrained("{HERE}")')
    where = "above, as adapters cannot bring it along" if adapter else "in config.json"
    context = f" The base's context was changed ({', '.join(changed)}), {where}." if changed else ""
    think = source.think
    thoughts = (
        f"Prompts go through the chat template. Thoughts stand between `{think.open}` and `{think.close}`"
        + (f"; each prompt ends with `{think.open}`." if think.prefill else ".")
    )
    return "```python\n" + "\n".join(lines) + "\n```\n\n" + thoughts + context


def _teachers(recipe: Recipe, stage: SftStage | GrpoStage) -> list[tuple[str, str]]:
    """The teacher of each sampled trace set that a stage learns from."""
    found = []
    for name in stage.traces if isinstance(stage, SftStage) else ():
        found += [(harvest.makes, _origin(recipe, harvest.model)) for harvest in recipe.harvests(name)]
    return found


def _data(run_path: Path, recipe: Recipe, made: Made) -> str:
    stage, counts = made.stage, made.counts
    trained, generated = counts.get("trained_tokens", 0), counts.get("generated_tokens", 0)
    if isinstance(stage, GrpoStage):
        place = ", ".join(dict.fromkeys(map(_place, recipe.parts(stage.problems))))
        return (
            f"Problems `{stage.problems}` from {place}, without any solution shown: {stage.steps:,} updates, "
            f"{generated:,} tokens generated, {trained:,} trained on."
        )
    rows = [
        "| trace set | weight | from | traces | tokens | seen in an epoch |",
        "|:--|--:|:--|--:|--:|--:|",
    ]
    notes = []
    for name, weight in stage.traces.items():
        read = counts.get("traces_read", {}).get(name, {})
        numbers = [f"{read[key]:,}" if read.get(key) else "not counted" for key in ("traces", "tokens")]
        part = counts.get("mixture", {}).get(name, {})
        numbers.append(f"{part['each_epoch']:,}" if part else "not counted")
        amount = f"{weight.count:,} traces" if isinstance(weight, Portion) else f"{weight:g}"
        rows.append(f"| {name} | {amount} | {_trace_origin(recipe, name)} | {' | '.join(numbers)} |")
        notes += _mixed(name, part)
        if funnel := read_json(run_path / "traces" / name / "funnel.json"):
            notes.append(f"- `{name}`: {_funnel(funnel)}")
    left_out = [f"{count:,} {reason}" for reason, count in counts.get("left_out", {}).items()]
    notes.append(f"- left out of training: {', '.join(left_out) if left_out else 'nothing'}")
    notes.append(
        f"- trained on: {counts.get('examples', 0):,} examples in {counts.get('steps', 0):,} updates, "
        f"{trained:,} tokens in the loss (responses only)"
    )
    return "\n".join(rows) + "\n\n" + "\n".join(notes)


def _place(source: ProblemSource) -> str:
    if source.rows:
        return "the recipe itself"
    return "the built-in world" if source.world else hub_name(source.path) or Path(str(source.path)).name


def _mixed(name: str, part: Mapping[str, int]) -> list[str]:
    """What a set lacked of the traces that were wanted, and what it had in common with itself and earlier ones."""
    notes = []
    if part.get("duplicates"):
        notes.append(
            f"- `{name}`: {part['duplicates']:,} traces that an earlier one says already were left out"
        )
    if part.get("usable", 0) < part.get("wanted", 0):
        again = f"{part['repeated']:,} were seen again" if part["repeated"] else "none was repeated"
        notes.append(
            f"- `{name}`: {part['usable']:,} usable traces of the {part['wanted']:,} wanted; {again}"
        )
    return notes


def _trace_origin(recipe: Recipe, name: str) -> str:
    harvest = recipe.maker(name)
    if isinstance(harvest, SampleStage):
        asked = f"to rewrite {harvest.rewrite.traces}" if harvest.rewrite else harvest.problems
        return f"`{harvest.model}`, asked {asked}"
    source: TraceSource = recipe.traces[name]
    if (world := source.world) is not None:
        flaws = f"{world.wrong_steps:g} of steps wrong, {world.missing_tags:g} without tags"
        flawed = world.wrong_steps or world.missing_tags
        return f"the built-in world{f', on purpose with flaws ({flaws})' if flawed else ''}"
    return hub_name(source.path) or Path(str(source.path)).name


def _funnel(funnel: Mapping[str, Any]) -> str:
    total, kept = funnel["input"], funnel["kept"]
    removed = [f"{step['filter']} {step['removed']:,}" for step in funnel["steps"] if step["removed"]]
    return (
        f"kept {kept['traces']:,} of {total['traces']:,} traces, for {kept['problems']:,} of {total['problems']:,} "
        f"problems; removed by filter: {', '.join(removed) if removed else 'none'}"
    )


def _ran_with(recipe: Recipe, made: Made) -> str:
    ran = made.ran_with
    versions = ", ".join(f"{name} {version}" for name, version in ran.get("versions", {}).items())
    git = ran.get("git")
    commit = f" (commit {git['commit'][:12]}{', changed' if git['changed'] else ''})" if git else ""
    where = f"{ran.get('device', 'unknown')}, {ran.get('precision', 'unknown')}"
    return (
        f"- seed: {recipe.seed}\n- device and precision: {where}\n"
        f"- versions: Python {ran.get('python', 'unknown')}, {versions}{commit}"
    )


def _licence(made: str, bases: list[str], teachers: list[str], data_sets: list[str]) -> str:
    lines = [f"- base `{name}`: {licence_of(name).words}" for name in bases if name]
    lines += [f"- teacher `{name}`: {licence_of(name).words}" for name in teachers if name]
    lines += [f"- data set `{name}`: see its card" for name in data_sets]
    if terms := llama_terms(bases + teachers):
        lines.append(
            f"- {terms.display}. {terms.notice} That licence asks for a copy of it beside the model, for these words "
            f'where the model is shown, and for a name that begins with "{terms.prefix}".'
        )
        if (name := name_to_publish(made, terms)) != made:
            lines.append(
                f"- `{made}` does not begin so: published, it must have a name that does, such as `{name}`."
            )
    for name in may_be_llama(bases + teachers):
        lines.append(
            f"- `{name}`: if it comes from one of Meta's Llama 3 models, the name of this one must begin with "
            '"Llama" and "Built with Llama" be displayed; see its card.'
        )
    return "\n".join(lines) or "Random weights and data of the built-in world: nothing of others is in it."


def _plain(stage: SftStage | GrpoStage) -> dict[str, Any]:
    if has_adapter(stage):
        stage = stage.model_copy(update={"lora": stage.lora or Lora()})
    return stage.model_dump(mode="json", by_alias=True, exclude_none=True)


def _dump(value: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=120))
