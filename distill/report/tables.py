"""The report's tables as plain data, from which page and Markdown are both written, so that the two cannot differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distill.recipe import GrpoStage, SftStage
from distill.report.gather import RunReport
from distill.report.words import (
    DASH,
    RANGE,
    TIMES,
    as_published,
    count,
    duration,
    fraction,
    interval,
    p_value,
    published_protocol,
    published_scores,
    rating,
    signed,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, and beside it (smaller, quieter) what belongs to it: an interval, an origin."""

    main: str
    aside: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns whose names end in `*` hold words and are set left (the star is not shown); all others hold numbers."""

    columns: list[str]
    rows: list[list[Cell | str]] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)  # of each row, for its colour; empty: no colours


def results_table(run: RunReport) -> Table:
    """One row a model, one column a suite: pass@1 with its 95% interval."""
    table = Table(["model*", *run.suites, "parameters"])
    for model in run.models:
        cells: list[Cell | str] = [Cell(model.name, f"{model.role}; {model.made_by}")]
        for suite in run.suites:
            found = model.suites.get(suite)
            cells.append(Cell(fraction(found["pass@1"]), interval(found["ci95"])) if found else DASH)
        table.rows.append([*cells, count(model.params)])
        table.roles.append(model.role)
    scores = {suite: published_scores(run, suite) for suite in run.suites}
    for key in dict.fromkeys(key for found in scores.values() for key in found):
        name, version = key
        values: list[Cell | str] = [fraction(scores[suite].get(key)) for suite in run.suites]
        aside = f"published, {version}" if version else "published"
        table.rows.append([Cell(name, aside), *values, DASH])
        table.roles.append("published")
    return table


def pipeline_table(run: RunReport) -> Table:
    """The models of a pipeline in the order of the recipe, as DeepSeek-R1's Table 3: what each stage changed.

    Empty without two teachers or more, one made from the other or after it. Of each suite pass@1, format, and language:
    the mean share of a thought's words that are in the question's language.
    """
    order = [stage.makes for stage in run.recipe.stages if isinstance(stage, SftStage | GrpoStage)]
    by_name = {model.name: model for model in run.models}
    teachers = [name for name in order if name in by_name and by_name[name].role == "teacher"]
    bases = {run.recipe.base(name) for name in teachers}
    table = Table(["model*"])
    if len(teachers) < 2:
        return table
    for suite in run.suites:
        table.columns.extend((f"{suite}: pass@1", "format", "language"))
    for model in (by_name[name] for name in order if name in by_name and name in {*bases, *teachers}):
        cells: list[Cell | str] = [Cell(model.name, model.made_by)]
        for suite in run.suites:
            found = model.suites.get(suite) or {}
            aside = interval(found["ci95"]) if found.get("ci95") else ""
            cells.append(Cell(fraction(found.get("pass@1")), aside))
            cells += [fraction(found.get("format")), fraction(found.get("thought_language"))]
        table.rows.append(cells)
        table.roles.append(model.role)
    return table


def published_table(run: RunReport) -> Table:
    """Each published number beside the measured one, with its source and what keeps the two apart."""
    table = Table(["published*", "suite*", "value", "measured", "verdict*", "protocol*"])
    for row in run.published:
        shown = fraction if row.get("unit") == "percent" else rating
        where = ", ".join(str(row[key]) for key in ("source", "version") if row.get(key))
        beside = [row.get("measured_model") or "", RANGE.join(map(shown, row.get("ci95") or ()))]
        table.rows.append(
            [
                Cell(row["published_model"], where),
                Cell(row["suite"], row["metric"]),
                shown(as_published(row)),
                Cell(shown(row.get("measured")), ", ".join(part for part in beside if part)),
                Cell(row["verdict"], row.get("why") or ""),
                Cell("", published_protocol(row)),
            ]
        )
        table.roles.append("published")
    return table


def details_table(run: RunReport, suite: str) -> Table:
    """What else was measured on one suite."""
    columns = [
        "model*",
        "pass@1",
        "problems \u00d7 samples",
        "cons@k",
        "format",
        "truncated",
        "tokens each",
        "per right answer",
    ]
    more = [
        (name, shown)
        for name, shown in MORE
        if any((model.suites.get(suite) or {}).get(name) is not None for model in run.models)
    ]
    table = Table([*columns, *(name.replace("_", " ") for name, _ in more)])
    for model in run.models:
        if found := model.suites.get(suite):
            table.rows.append(
                [
                    model.name,
                    Cell(fraction(found["pass@1"]), interval(found["ci95"])),
                    f"{found['n']:,} {TIMES} {found['k']}",
                    fraction(found.get("cons@k")),
                    fraction(found.get("format")),
                    fraction(found.get("truncated")),
                    count(found.get("mean_tokens")),
                    count(found.get("tokens_per_correct")),
                    *(shown(found.get(name)) for name, shown in more),
                ]
            )
            table.roles.append(model.role)
    return table


def _rating(found: dict[str, Any] | None) -> Cell | str:
    if not found:
        return DASH
    bounds = RANGE.join(map(rating, found.get("ci95") or ()))
    percentile = found.get("percentile")
    aside = [bounds, f"percentile {fraction(percentile)}" if percentile is not None else ""]
    return Cell(rating(found["value"]), "; ".join(part for part in aside if part))


def _win_rate(found: dict[str, Any] | None) -> Cell | str:
    """The judge stands beside it: win rates of two judges are two different things."""
    if not found:
        return DASH
    controlled = found.get("length_controlled")
    parts = [
        interval(found["ci95"]) if found.get("ci95") else "",
        f"length-controlled (ours) {fraction(controlled)}" if controlled is not None else "",
        f"judge {found['judge']}" if found.get("judge") else "",
        found.get("note") or "",
    ]
    return Cell(fraction(found["value"]), "; ".join(part for part in parts if part))


#: What only some suites have, and how a table shows it.
MORE: tuple[tuple[str, Callable[[Any], Cell | str]], ...] = (
    ("language", fraction),
    ("thought_language", fraction),
    ("rating", _rating),
    ("win_rate", _win_rate),
)


def differences_table(run: RunReport) -> Table:
    """Every paired difference."""
    tested = any(row.get("p") is not None for row in run.comparisons)
    more = ["p", "detectable"] if tested else []
    table = Table(["models*", "suite*", "difference", "95% interval", *more, "told apart*"])
    for row in run.comparisons:
        apart = "yes" if row["distinguishable"] else "no"
        cells = [
            f"{row['a']} {DASH} {row['b']}",
            row["suite"],
            signed(row["difference"]),
            interval(row["ci95"]),
            *([p_value(row.get("p")), fraction(row.get("detectable"))] if tested else []),
            apart,
        ]
        table.rows.append(list(cells))
        table.roles.append(run.role(row["a"]))
    return table


def cost_table(run: RunReport) -> Table:
    """Tokens each model took: by itself, and with its teacher's training and sampling counted in.

    A base, and whatever was given, has dashes: it took something, which is not counted here (see `words.cost_notes`).
    """
    table = Table(
        [
            "model*",
            "generated",
            "trained",
            "together",
            "generated, with teacher",
            "trained, with teacher",
            "together, with teacher",
        ]
    )
    for model in run.models:
        if not model.cost:
            continue
        if model.role == "base" or run.recipe.maker(model.name) is None:
            table.rows.append([model.name, *[DASH] * (len(table.columns) - 1)])
            table.roles.append(model.role)
            continue
        cells: list[Cell | str] = [model.name]
        for cost in (model.cost, model.cost.get("with_teacher") or {}):
            numbers = [cost.get("generated_tokens"), cost.get("trained_tokens")]
            known = [number for number in numbers if number is not None]
            cells += [*(count(number) for number in numbers), count(sum(known) if known else None)]
        table.rows.append(cells)
        table.roles.append(model.role)
    return table


def stages_table(run: RunReport) -> Table:
    """What ran, in order."""
    table = Table(["stage*", "kind*", "makes*", "time", "generated tokens", "trained tokens"])
    for stage in run.stages:
        tokens = [
            count(number) if number else DASH for number in (stage.generated_tokens, stage.trained_tokens)
        ]
        table.rows.append([stage.name, stage.kind, stage.makes or DASH, duration(stage.seconds), *tokens])
    return table


def funnel_table(run: RunReport, name: str) -> Table:
    """From what was sampled to what was kept; every filter's loss."""
    funnel = run.funnels[name]
    table = Table(["filter*", "removed", "removed tokens", "left", "left tokens"])
    total = funnel["input"]
    table.rows.append(["sampled", DASH, DASH, f"{total['traces']:,}", count(total["tokens"])])
    for step in funnel["steps"]:
        table.rows.append(
            [
                step["filter"],
                f"{step['removed']:,}",
                count(step["removed_tokens"]),
                f"{step['left']:,}",
                count(step["left_tokens"]),
            ]
        )
    removed, removed_tokens = removed_in_all(run, name)
    kept = funnel["kept"]
    table.rows.append(
        ["kept", f"{removed:,}", count(removed_tokens), f"{kept['traces']:,}", count(kept["tokens"])]
    )
    return table


def funnel_note(run: RunReport, name: str) -> str:
    """Whether the funnel adds up (no reader should have to check), and how many problems the kept ones answer."""
    funnel = run.funnels[name]
    removed, _ = removed_in_all(run, name)
    total, kept = funnel["input"], funnel["kept"]
    adds_up = kept["traces"] + removed == total["traces"]
    sum_words = f"{kept['traces']:,} kept + {removed:,} removed = {kept['traces'] + removed:,}"
    sum_words += (
        " sampled." if adds_up else f", but {total['traces']:,} were sampled: THE FUNNEL DOES NOT ADD UP."
    )
    verdicts = ", ".join(
        f"{number:,} {name.replace('_', ' ')}" for name, number in sorted(funnel.get("verdicts", {}).items())
    )
    problems = f" Kept traces answer {kept['problems']:,} of {total['problems']:,} problems."
    return sum_words + problems + (f" Verdicts: {verdicts}." if verdicts else "")


def removed_in_all(run: RunReport, name: str) -> tuple[int, int]:
    """Traces and tokens that all filters removed together."""
    steps = run.funnels[name]["steps"]
    return sum(step["removed"] for step in steps), sum(step["removed_tokens"] for step in steps)
