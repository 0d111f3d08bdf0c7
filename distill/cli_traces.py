"""The commands on trace sets: bring others' in, decide anew on one that is finished, merge shards, review, publish."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.cli_review import add_review
from distill.errors import UserError
from distill.export_traces import add_export_traces

EXTRACTS = ("boxed", "hash", "user", "assistant")


def add_traces(commands: Any, command: Any) -> None:
    """Add the command group ``traces``; ``command`` is how `distill.cli` adds one."""
    group = commands.add_parser(
        "traces", help="import traces, filter them anew, merge shards, review, export"
    )
    traces = group.add_subparsers(required=True, metavar="COMMAND")
    imports = command(traces, "import", _import, "verify and filter existing traces", recipe=None)
    imports.add_argument("file", metavar="FILE", help="JSONL, Parquet or a hub name")
    imports.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    imports.add_argument(
        "--map",
        type=comma_list,
        default=[],
        metavar="OURS=THEIRS,...",
        help="e.g. problem=question,response=answer,reference=solution:boxed,problem=messages:user",
    )
    imports.add_argument(
        "--each",
        type=comma_list,
        default=[],
        metavar="COLUMN,...",
        help="columns of lists, side by side: each place becomes a row",
    )
    imports.add_argument(
        "--where", type=comma_list, default=[], metavar="COLUMN=VALUE,...", help="only rows that hold these"
    )
    imports.add_argument(
        "--rewrite",
        action="append",
        default=[],
        metavar="THEIRS=OURS",
        help="replace a text in each response, e.g. a thought's tag; repeatable, in this order",
    )
    imports.add_argument("--split", default="train", help="of a folder or hub data set (default: train)")
    imports.add_argument(
        "--kind",
        choices=["math", "choice", "code", "instruction", "open"],
        help="of rows that name none (default: math)",
    )
    imports.add_argument(
        "--filter",
        type=comma_list,
        default=[],
        metavar="NAME=VALUE,...",
        help="e.g. format=false,tokens.max=8192",
    )
    imports.add_argument("--limit", type=int, metavar="N", help="read the first N rows only")
    filters = command(
        traces, "filter", _filter, "decide anew on a finished set, without a teacher", recipe=None
    )
    filters.add_argument("folder", metavar="DIR", help="a finished trace set")
    filters.add_argument(
        "--out", metavar="DIR", help="the folder to write; without it only the funnel is shown"
    )
    filters.add_argument(
        "--what-if", action="store_true", help="show what other values of each threshold would keep"
    )
    filters.add_argument("--price", type=float, metavar="P", help="money for a million generated tokens")
    merges = command(traces, "merge", _merge, "put the shards of a harvest together", recipe=None)
    merges.add_argument("folders", nargs="+", metavar="DIR", help="the trace set of each shard")
    merges.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    add_export_traces(traces, command)
    add_review(traces, command)
    for sub in (imports, filters):
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="filters.NAME, suites.NAME or keep_per_problem, e.g. filters.repetition.max=0.3; repeatable",
        )


def _import(options: argparse.Namespace) -> None:
    from distill.recipe_file import parse_filters
    from teacher.funnel import as_lines
    from teacher.importing import import_traces

    source = _source(options)
    asked = parse_filters("--filter", dict(pair("--filter", item) for item in options.filter))
    settings = {"filters": asked.model_dump(exclude_unset=True)}
    filters, cap, suites = set_settings(settings, options.set)
    if cap is not None:
        raise UserError(
            "--set", "keep_per_problem", "an import keeps all that pass", "set it with traces filter"
        )
    funnel = import_traces(
        source,
        Path(options.out),
        kind=options.kind,
        filters=filters,
        limit=options.limit,
        suites=suites,
    )
    show(options, funnel, as_lines(funnel))


def _source(options: argparse.Namespace) -> Any:
    """What is imported, as a recipe's ``traces:`` would say it."""
    import yaml

    from distill.trace_rows import parse_trace_source

    where = dict(pair("--where", item) for item in options.where)
    rewrite = [item.partition("=") for item in options.rewrite]
    for theirs, equals, _ in rewrite:
        if not (theirs and equals):
            raise UserError("--rewrite", theirs, "is no THEIRS=OURS", "write --rewrite '<thought>=<think>'")
    fields = with_extracts(mapping(options.map))
    return parse_trace_source(
        {
            "path": options.file,
            "split": options.split,
            "fields": fields,
            "each": options.each,
            "where": {column: yaml.safe_load(value) for column, value in where.items()},
            "rewrite": {theirs: ours for theirs, _, ours in rewrite},
        }
    )


def _filter(options: argparse.Namespace) -> None:
    from teacher.funnel import as_lines
    from teacher.refilter import refilter, settings_of, what_if, what_if_as_lines

    folder = Path(options.folder)
    filters, keep_per_problem = settings_of(folder)
    settings = {"filters": filters.model_dump(exclude_none=True), "keep_per_problem": keep_per_problem}
    filters, keep_per_problem, suites = set_settings(settings, options.set)
    if options.what_if:
        if options.out:
            raise UserError("--out", options.out, "--what-if writes nothing", "give one of the two")
        told = what_if(folder, filters, keep_per_problem, suites)
        show(options, told, what_if_as_lines(told))
        return
    out = Path(options.out) if options.out else None
    funnel = refilter(folder, out, filters, keep_per_problem, suites, options.price)
    show(options, funnel, as_lines(funnel))


def _merge(options: argparse.Namespace) -> None:
    from teacher.funnel import as_lines
    from teacher.merge import merge

    funnel = merge([Path(folder) for folder in options.folders], Path(options.out))
    show(options, funnel, as_lines(funnel))


def set_settings(settings: dict[str, Any], overrides: Sequence[str]) -> tuple[Any, int | None, Any]:
    """Filters, cap, and the passages of the suites to keep out, after what ``--set`` says."""
    from distill.recipe_file import override_key, parse_filter_settings
    from distill.suites import find_suite

    for override in overrides:
        override_key(settings, override)
    parsed = parse_filter_settings(settings)
    if not parsed.filters.decontaminate:
        return parsed.filters, parsed.keep_per_problem, None
    from teacher.contamination import indexed

    suites = [find_suite(name, parsed.suites) for name in parsed.filters.decontaminate]
    return parsed.filters, parsed.keep_per_problem, indexed(suites, seed=0)


def with_extracts(fields: dict[str, str]) -> dict[str, Any]:
    """`reference=solution:boxed` takes the reference out of a longer field, `problem=messages:user` a turn."""
    taken: dict[str, Any] = {}
    for ours, theirs in fields.items():
        source, colon, how = theirs.rpartition(":")
        taken[ours] = {"from": source, "extract": how} if colon and how in EXTRACTS else theirs
    return taken


# ---------------------------------------------------------------------------------------------- what commands share


def show(options: argparse.Namespace, value: object, lines: Sequence[str]) -> None:
    """A result on stdout: JSON where it was asked for, else its lines."""
    print(json.dumps(value, indent=2, ensure_ascii=False) if options.json else "\n".join(lines))


def pair(flag: str, text: str) -> tuple[str, str]:
    """KEY=VALUE of a flag as two.

    Raises:
        UserError: it is none.
    """
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise UserError(flag, text, "is no KEY=VALUE", f"write {flag} problem=question,response=answer")
    return key, value


def mapping(items: Sequence[str]) -> dict[str, str]:
    """What ``--map`` says, our names to theirs.

    Raises:
        UserError: an item is no KEY=VALUE, or one of our names is mapped twice.
    """
    fields: dict[str, str] = {}
    for ours, theirs in (pair("--map", item) for item in items):
        if ours in fields:
            reason = f"is mapped twice, to {fields[ours]} and to {theirs}"
            raise UserError("--map", ours, reason, "name one field for it")
        fields[ours] = theirs
    return fields


def comma_list(text: str) -> list[str]:
    """What stands between commas."""
    return [item for item in text.split(",") if item]
