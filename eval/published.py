"""Figures that others have published, and where a measured result stands beside them.

`published.yaml` holds the cells. Each names its source, version and protocol; sources that disagree keep a cell each.
A measured result is held against a cell only where both answer one question: the same metric, on all problems of the
suite, sampled alike. Else the row says why they cannot be compared. The published figure has an error of its own that
its source does not give, so ``inside`` says that a result agrees with it, and outside does not prove it wrong.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from distill.errors import UserError
from distill.recipe_types import Section

FILE = Path(__file__).with_name("published.yaml")

Version = Literal["v1", "v2", "readme", "replication"]
Metric = Literal[
    "pass@1", "cons@64", "self_consistency", "rating", "percentile", "win_rate", "lc_win_rate", "resolved"
]
#: Metrics of which an evaluation of ours has a figure that means the same. A win rate depends on the judge, and
#: our length control is not AlpacaEval's: theirs and ours never stand in one row.
OURS = ("pass@1", "cons@64", "rating", "percentile")
#: A token limit that is lower by less than this share (a context that also holds the prompt) counts as the same.
LIMIT_SLACK = 0.05


class Protocol(Section):
    """How a figure was measured; what its source does not state is None. ``window``: first and last month of the
    problems (ours may be days)."""

    k: int | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    window: tuple[str, str] | None = None
    note: str = ""


class Cell(Section):
    """One figure as it was printed: ``source`` and ``protocol`` are names in the registry."""

    suite: str
    metric: Metric
    value: float
    unit: Literal["percent", "rating"]
    source: str = Field(min_length=1)
    version: Version
    protocol: str


class PublishedSuite(Section):
    """A suite as the sources call it: ``ours``, names of our suites with these problems; ``problems`` in all."""

    ours: list[str]
    problems: int | None


class Registry(Section):
    """`published.yaml`: what is published of each model, in cells."""

    suites: dict[str, PublishedSuite]
    sources: dict[str, str]
    protocols: dict[str, Protocol]
    models: dict[str, list[Cell]]


@cache
def registry(path: Path = FILE) -> Registry:
    """The registry; a cell without a source, or one that names what is not there, is refused.

    Raises:
        ValueError: the file is wrong, which is our mistake and not the user's.
    """
    try:
        found = Registry.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ValueError(f"{path.name}: {error}") from error
    for model, cells in found.models.items():
        for cell in cells:
            for known, name in (
                (found.suites, cell.suite), (found.sources, cell.source), (found.protocols, cell.protocol)
            ):  # fmt: skip
                if name not in known:
                    raise ValueError(f"{path.name}: {model} names {name!r}, which is not there")
        apart = [(cell.suite, cell.metric, cell.version, cell.source) for cell in cells]
        if twice := [one for one in apart if apart.count(one) > 1]:
            raise ValueError(f"{path.name}: {model} has two cells for {twice[0]}")
    return found


def check_names(key: str, names: Sequence[str]) -> None:
    """Refuse models of which nothing is published here.

    Raises:
        UserError: naming those that are called alike.
    """
    known = list(registry().models)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            remedy = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise UserError(key, name, "no figures of a model of that name are known", remedy)


def cells(model: str, suite: str) -> list[Cell]:
    """What is published of a model on the problems of one of our suites, in the registry's order."""
    known = registry()
    return [cell for cell in known.models[model] if suite in known.suites[cell.suite].ours]


def pairs(
    named: Sequence[str] | Mapping[str, str], measured: Sequence[str], places: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Which measured model stands beside which published one.

    Args:
        named: published models, or for some measured models the published one of each.
        measured: the measured models.
        places: for models that were not made here, the path or hub name.

    Returns:
        (measured, published). Where ``named`` is a list, a model called as one of them, by its name or the last part of
        its place, stands beside that one; any other beside each.

    Raises:
        UserError: nothing is published of one that is named, or one is given for a model that was not measured.
    """
    if isinstance(named, Mapping):
        check_names("published", list(named.values()))
        for model in named:
            if model not in measured:
                reason = f"was not measured; measured are {', '.join(measured)}"
                raise UserError("published", model, reason, "name one of those")
        return list(named.items())
    check_names("published", named)
    found = []
    for model in measured:
        called = {_last_part(model), _last_part(places.get(model, ""))}
        own = [name for name in named if name.lower() in called]
        found += [(model, name) for name in own or named]
    return found


def _last_part(place: str) -> str:
    return place.rpartition("@")[0 if "@" in place else 2].rstrip("/").rpartition("/")[2].lower()


# ------------------------------------------------------------------------------------ beside one another


def beside(summaries: Sequence[Mapping[str, Any]], paired: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Measured results beside the cells that fit their suites.

    Args:
        summaries: of `eval.runner.evaluate`.
        paired: of `pairs`.

    Returns:
        A row for each cell: ``value`` in its ``unit``, ``measured`` and ``ci95`` as fractions (ratings as ratings), and
        ``verdict``: ``inside`` where the published figure lies in the interval of the measured one, ``above`` or
        ``below`` where the measured one with its whole interval lies above or below it; else ``not comparable``.
        ``why`` says what stands in the way, or what differs without standing in it.
    """
    known = registry()
    return [
        _row(summary, name, cell, known)
        for model, name in paired
        for summary in summaries
        if summary["model"] == model
        for cell in cells(name, summary["suite"])
        if cell.metric in OURS
    ]


def _row(summary: Mapping[str, Any], name: str, cell: Cell, known: Registry) -> dict[str, Any]:
    protocol = known.protocols[cell.protocol]
    measured, interval, missing = _figure(summary, cell.metric)
    against, remarks = _differences(summary, protocol, cell.metric)
    against += _problems_apart(summary, known.suites[cell.suite].problems, protocol)
    against = [missing] if missing else against
    published = cell.value / 100 if cell.unit == "percent" else cell.value
    verdict = "not comparable"
    if not against and interval is not None:
        low = -math.inf if interval[0] is None else interval[0]
        high = math.inf if interval[1] is None else interval[1]
        verdict = "inside" if low <= published <= high else "above" if low > published else "below"
    return {
        "suite": summary["suite"],
        "metric": cell.metric,
        "published_model": name,
        "value": cell.value,
        "unit": cell.unit,
        "source": known.sources[cell.source],
        "version": cell.version,
        "protocol": protocol.model_dump(mode="json"),
        "measured_model": summary["model"],
        "measured": measured,
        "ci95": interval,
        "verdict": verdict,
        "why": "; ".join(against or remarks),
    }


def _problems_apart(summary: Mapping[str, Any], whole: int | None, protocol: Protocol) -> list[str]:
    """In what the problems differ from the ``whole`` suite's, or from those of a window."""
    asked = len(summary["problems"])
    graded = sum(row["samples"] > 0 for row in summary["problems"])
    found = []
    if whole is None and protocol.window is None:
        found.append("which problems were asked there is not known")
    if whole is not None and asked != whole:
        found.append(f"{asked} problems here, all {whole} there")
    elif graded < asked:
        found.append(f"{asked - graded} of the {asked} problems could not be graded here")
    return found


def _figure(summary: Mapping[str, Any], metric: str) -> tuple[float | None, list[float | None] | None, str]:
    """The measured figure of a metric with its interval (an open end is None), and what is missing of them."""
    value: float | None
    if metric == "pass@1":
        value, interval = summary["pass@1"], summary["ci95"]
    elif metric == "cons@64":
        curve = summary.get("cons@k_curve") or {}
        value = curve.get("64", summary.get("cons@k") if summary["k"] == 64 else None)
        interval = summary.get("cons@k_ci95") if summary["k"] == 64 else None
        if value is None:
            return None, None, f"cons@64 needs 64 samples of each problem, here are {summary['k']}"
    else:
        rating = summary.get("rating") or {}
        value, interval = rating.get("value"), rating.get("ci95")
        if metric == "percentile":
            value, interval = rating.get("percentile"), rating.get("percentile_ci95")
    if value is None:
        return None, None, f"no {metric} was measured"
    if interval is None:
        return value, None, f"the measured {metric} has no interval"
    return value, list(interval), ""


def _differences(summary: Mapping[str, Any], protocol: Protocol, metric: str) -> tuple[list[str], list[str]]:
    """What of the protocols differs: so that no comparison can be made, and what can be lived with."""
    ours, against, remarks = summary["protocol"], [], []
    for key in ("temperature", "top_p", "window"):
        here, there = ours.get(key), getattr(protocol, key)
        if here is None and (there is not None or key != "window"):
            against.append(
                f"{key} is not known here, {'not stated' if there is None else _shown(there)} there"
            )
        elif there is None:
            if key != "window":
                remarks.append(f"{key} is not stated there")
        elif (tuple(day[:7] for day in here) if key == "window" else here) != there:
            against.append(f"{key} {_shown(here)} here, {_shown(there)} there")
    limit, theirs = ours.get("max_tokens"), protocol.max_tokens
    if limit is None:
        against.append(f"max_tokens is not known here, {'not stated' if theirs is None else theirs} there")
    elif theirs is None:
        remarks.append("max_tokens is not stated there")
    elif limit != theirs:
        told = f"max_tokens {limit} here, {theirs} there"
        near = theirs * (1 - LIMIT_SLACK) <= limit < theirs
        unharmed = limit < theirs and summary.get("truncated") == 0  # nothing was cut that would have gone on
        (remarks if near or unharmed else against).append(told)
    # The mean over samples estimates pass@1 whatever k is: fewer samples make it less sure, which its interval shows.
    if metric == "pass@1" and protocol.k is not None and protocol.k != summary["k"]:
        remarks.append(f"k = {summary['k']} here, {protocol.k} there")
    if protocol.note:
        remarks.append(protocol.note)
    return against, remarks


def _shown(value: Any) -> str:
    return " to ".join(value) if isinstance(value, list | tuple) else f"{value:g}"


def published_as_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each row of `beside`, for the terminal."""
    lines = []
    for row in rows:
        figure = "not measured" if row["measured"] is None else _number(row["measured"], row["unit"])
        if row["ci95"]:
            low, high = (_number(bound, row["unit"]) for bound in row["ci95"])
            figure += f" [{low}, {high}]"
        unit = "%" if row["unit"] == "percent" else ""
        lines.append(
            f"{row['suite']} {row['metric']}: {row['measured_model']} {figure}; {row['published_model']} "
            f"{row['value']:g}{unit} ({row['version']}): {row['verdict']}{f' ({why})' if (why := row['why']) else ''}"
        )
    return lines


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "open"
    return f"{value:.3f}" if unit == "percent" else f"{value:.0f}"
