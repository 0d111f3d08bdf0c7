"""The shards of one harvest put together: the set that one run would have written, decided as a whole.

Each problem has to be in exactly one of the sets, and all problems have to be there. What was harvested with a fixed
number of samples becomes the files of one run, byte for byte (with the local engine up to rounding, which depends on
who shares a batch). An adaptive harvest fits its prior to the problems of its shard, so the samples that it drew are
not quite those that one run would have drawn; whatever they are, they are all here.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distill.errors import UserError
from distill.places import check_place, new_folder
from distill.recipe_filters import Filters
from distill.records import Trace
from distill.shards import Row, read_parquet, read_rows, write_rows
from teacher.rounds import facts_of, summed
from teacher.trace_set import FUNNEL, LEDGER, PROBLEMS, TRACES, read_funnel, write_trace_set

_OWN = {
    "shard",
    "samples per problem",
    "problems ended",
    "tokens saved",
}  # facts that differ from shard to shard


class _Part(NamedTuple):
    """One shard's set: its folder, its funnel, and the rows of its problems by their id."""

    folder: Path
    funnel: dict[str, Any]
    problems: dict[str, Row]

    def traces(self) -> Iterator[tuple[int, int, Trace]]:
        """With the place of each one's problem among all problems, and its sample's number, in this order."""
        for trace in read_parquet(self.folder / TRACES):
            yield self.problems[trace.problem_id]["place"], trace.sample_index, trace


def merge(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write the whole set and return its funnel.

    Raises:
        UserError: a folder holds no shard; two are of different harvests, or hold the same problem; problems are
            missing; ``out`` holds something.
    """
    check_place(out)
    if out.is_dir() and any(out.iterdir()):
        raise UserError("--out", str(out), "holds other things", "give a new or empty folder")
    parts = [_read(folder) for folder in folders]
    for part in parts[1:]:
        _check_same(parts[0], part)
    _check_whole(parts)
    funnel = parts[0].funnel
    facts = {name: value for name, value in funnel["facts"].items() if name != "shard"}
    more: dict[str, Any] = {"suites": funnel["suites"]}
    if "collection" in funnel:
        more["collection"] = summed([part.funnel["collection"] for part in parts])
        facts |= facts_of(more["collection"])
        facts["shards"] = f"{len(parts)}, each with a prior of its own"
    settings = funnel["settings"]
    with new_folder(out):
        traces = (trace for _, _, trace in heapq.merge(*(part.traces() for part in parts)))
        told = write_trace_set(
            out, traces, Filters.model_validate(settings["filters"]), settings["keep_per_problem"], facts,
            price=funnel["cost"].get("price_per_million"), more=more,
        )  # fmt: skip
        problems = {name: row for part in parts for name, row in part.problems.items()}
        if "collection" in funnel:
            write_rows(out / PROBLEMS, sorted(problems.values(), key=lambda row: row["place"]))
        if overlaps := _ledger(parts, problems):
            write_rows(out / LEDGER, overlaps)
    return told


def _read(folder: Path) -> _Part:
    missing = [name for name in (TRACES, FUNNEL, PROBLEMS) if not (folder / name).is_file()]
    funnel = {} if missing else read_funnel(folder)
    if "shard" not in funnel:
        reason = f"holds no {missing[0]}" if missing else "is no shard, but a whole set"
        raise UserError("DIR", str(folder), reason, "give the trace sets that teacher sample --shard wrote")
    return _Part(folder, funnel, {row["id"]: row for row in read_rows(folder / PROBLEMS)})


def _check_same(first: _Part, other: _Part) -> None:
    """Refuse parts of harvests that differ in what was asked, how, of whom, or in what is kept."""

    def told(part: _Part) -> dict[str, Any]:
        shard, funnel = part.funnel["shard"], part.funnel
        facts = {name: value for name, value in funnel["facts"].items() if name not in _OWN}
        of = {"shards": shard["shard"].partition("/")[2], "problems in all": shard["of_problems"]}
        return {**facts, **of, "settings": funnel["settings"], "suites": funnel["suites"]}

    one, two = told(first), told(other)
    for name in one | two:
        if one.get(name) != two.get(name):
            reason = f"differs from {first.folder} in its {name}: {two.get(name)}, not {one.get(name)}"
            raise UserError("DIR", str(other.folder), reason, "merge shards of one recipe, seed and number")


def _check_whole(parts: Sequence[_Part]) -> None:
    """Refuse a problem that is in two parts, and parts that are not all."""
    owner: dict[str, Path] = {}
    for part in parts:
        for name in part.problems:
            if (other := owner.setdefault(name, part.folder)) is not part.folder:
                reason = f"holds the problem {name}, which {other} holds too"
                raise UserError("DIR", str(part.folder), reason, "give each shard once")
    shard = parts[0].funnel["shard"]
    if len(owner) < shard["of_problems"]:
        of = int(shard["shard"].partition("/")[2])
        here = {int(part.funnel["shard"]["shard"].partition("/")[0]) for part in parts}
        absent = ", ".join(f"{number}/{of}" for number in range(1, of + 1) if number not in here)
        reason = f"{len(owner):,} of {shard['of_problems']:,} problems are here; shards not given: {absent}"
        raise UserError("DIR", None, reason, "give all of them (a shard that no problem fell into is none)")


def _ledger(parts: Sequence[_Part], problems: dict[str, Row]) -> list[Row]:
    """The overlaps with suites that the parts told, in the order of their traces."""

    def place(row: Row) -> tuple[int, int]:
        name, _, number = row["trace"].rpartition("#")
        return problems[name]["place"], int(number)

    ledgers = (part.folder / LEDGER for part in parts)
    return sorted((row for path in ledgers if path.exists() for row in read_rows(path)), key=place)
