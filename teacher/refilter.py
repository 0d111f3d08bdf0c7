"""Decide anew on a finished trace set, from what is on disk: no engine, and no text measured twice."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.places import check_place, new_folder
from distill.recipe_filters import Filters
from distill.shards import append_rows, read_parquet, read_rows
from teacher.contamination import Suites
from teacher.facts import Facts
from teacher.filters import KEPT, decide_facts
from teacher.funnel import make_funnel
from teacher.trace_set import FUNNEL, LEDGER, SIGNATURES, TRACES, read_funnel, write_decided, write_trace_set

#: What `what_if` tries of each threshold, beside the set's own value.
_VALUES: dict[str, tuple[float, ...]] = {
    "tokens.max": (2048, 4096, 8192, 16384, 32768),
    "language.min": (0.5, 0.8, 0.9, 0.95, 0.99, 1.0),
    "repetition.max": (0.05, 0.1, 0.2, 0.3, 0.5),
    "repetition.loop": (0.0, 0.05, 0.1, 0.3),
    "readable.paragraph": (500, 1000, 2000, 4000, 8000),
    "difficulty.min": (0.0, 0.125, 0.25, 0.5),
    "difficulty.max": (0.5, 0.75, 0.875, 1.0),
    "near_duplicates.similarity": (0.5, 0.6, 0.7, 0.8, 0.9),
    "keep_per_problem": (1, 2, 4, 8),
}


def settings_of(folder: Path) -> tuple[Filters, int | None]:
    """The filters and the cap that a set was decided by; the defaults for a set that does not tell.

    Raises:
        UserError: the folder holds no finished trace set.
    """
    if not (folder / TRACES).is_file() or not (folder / FUNNEL).is_file():
        raise UserError("DIR", str(folder), f"holds no {TRACES} and {FUNNEL}", "give a finished trace set")
    settings = read_funnel(folder).get("settings")
    if settings is None:
        return Filters(), None
    return Filters.model_validate(settings["filters"]), settings["keep_per_problem"]


def refilter(
    folder: Path,
    out: Path | None,
    filters: Filters,
    keep_per_problem: int | None,
    suites: Suites | None,
    price: float | None = None,
) -> dict[str, Any]:
    """The funnel of a set under other filters; with ``out``, the set itself is written there.

    Measures, signatures and overlaps that the set holds are used again.

    Args:
        suites: the passages of the suites that ``filters.decontaminate`` names.
        price: money for a million generated tokens.

    Raises:
        UserError: ``out`` holds something, or tokens are to be limited that the set does not count.
    """
    old = read_funnel(folder)
    _check(old, filters, out)
    measured = _is_measured(old, suites)
    if out is None:
        columns = _gather(folder, filters, None if measured else suites)
        return make_funnel(columns, decide_facts(columns, filters, keep_per_problem), price)
    facts = {**old.get("facts", {}), "filtered from": folder.name}
    more = {name: old[name] for name in ("collection", "shard", "review") if name in old}
    with new_folder(out):
        out.mkdir(parents=True, exist_ok=True)
        if not measured:
            traces = read_parquet(folder / TRACES)
            return write_trace_set(
                out,
                traces,
                filters,
                keep_per_problem,
                facts,
                suites=suites,
                price=price,
                more=more,
            )
        if (folder / SIGNATURES).exists():
            shutil.copyfile(folder / SIGNATURES, out / SIGNATURES)
        if (folder / LEDGER).exists() and (
            told := [row for row in read_rows(folder / LEDGER) if row["suite"] in filters.decontaminate]
        ):
            append_rows(out / LEDGER, told)
        columns = _gather(folder, filters, None, out / SIGNATURES)
        return write_decided(
            out, folder / TRACES, columns, filters, keep_per_problem, facts,
            identity=suites.identity if suites else {}, price=price, more=more,
        )  # fmt: skip


def what_if(
    folder: Path, filters: Filters, keep_per_problem: int | None, suites: Suites | None
) -> dict[str, dict[str, int]]:
    """How many traces would be kept at several values of each threshold that is set, all else unchanged."""
    old = read_funnel(folder)
    _check(old, filters, None)
    columns = _gather(folder, filters, None if _is_measured(old, suites) else suites)
    told: dict[str, dict[str, int]] = {}
    for name, values in _VALUES.items():
        section, _, field = name.partition(".")
        here = getattr(filters, section, None) if field else keep_per_problem
        if here is None:
            continue
        own = getattr(here, field) if field else here
        for value in sorted({*values, own} - {None}):
            cap = keep_per_problem if field else int(value)
            changed = {section: here.model_copy(update={field: value})} if field else {}
            decisions = decide_facts(columns, filters.model_copy(update=changed), cap)
            kept = int((decisions.reason_B == KEPT).sum())
            told.setdefault(name, {})[f"{value:g}" + (" (now)" if value == own else "")] = kept
    return told


def what_if_as_lines(told: dict[str, dict[str, int]]) -> list[str]:
    """For the terminal: a line for each threshold."""
    if not told:
        return ["no filter with a threshold is switched on: --set filters.repetition.max=0.2 sets one"]
    lines = ["traces kept, were a threshold another and all else as it is:"]
    for name, kept in told.items():
        lines.append(f"{name:<28}" + "   ".join(f"{value}: {number:,}" for value, number in kept.items()))
    return lines


def _check(old: Mapping[str, Any], filters: Filters, out: Path | None) -> None:
    if out is not None:
        check_place(out)
        if out.is_dir() and any(out.iterdir()):
            raise UserError("--out", str(out), "holds other things", "give a new or empty folder")
    if filters.tokens is not None and not old["input"]["tokens"]:
        raise UserError("filters.tokens", str(filters.tokens), "the set counts no tokens", "leave it out")


def _is_measured(old: Mapping[str, Any], suites: Suites | None) -> bool:
    """Whether the set's rows hold all that filters may ask, overlaps with these very texts of the suites included."""
    wanted = suites.identity if suites else {}
    return "settings" in old and wanted.items() <= old["suites"].items()


def _gather(folder: Path, filters: Filters, suites: Suites | None, signatures: Path | None = None) -> Facts:
    at_hand = folder / SIGNATURES
    columns = Facts(filters, suites, signatures=at_hand if at_hand.exists() else signatures)
    for _ in columns.gathering(read_parquet(folder / TRACES)):
        pass
    return columns
