"""The report's tables as plain data, from which page and Markdown are both written, so that the two cannot differ."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill.report.gather import RunReport
from distill.report.words import DASH, TIMES, count, duration, fraction, interval, signed


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
    table = Table(columns)
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
                ]
            )
            table.roles.append(model.role)
    return table


def differences_table(run: RunReport) -> Table:
    """Every paired difference."""
    table = Table(["models*", "suite*", "difference", "95% interval", "told apart*"])
    for row in run.comparisons:
        apart = "yes" if row["distinguishable"] else "no"
        cells = [
            f"{row['a']} {DASH} {row['b']}",
            row["suite"],
            signed(row["difference"]),
            interval(row["ci95"]),
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
