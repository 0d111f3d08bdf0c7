"""`distill eval --responses FILE`: responses that were recorded elsewhere, judged as our own are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from distill.cli_traces import comma_list, mapping, show, with_extracts
from distill.errors import UserError

FORMATS = ("lm-eval", "lighteval", "inspect")


def add_recorded(evaluate: Any) -> None:
    """The options of recorded responses, on the parser of ``distill eval``."""
    group = evaluate.add_argument_group("responses recorded elsewhere")
    group.add_argument("--responses", metavar="FILE", help="JSONL, Parquet, or with --format a log")
    group.add_argument(
        "--format", choices=FORMATS, help="whose log FILE is; without it, rows are mapped by --map"
    )
    group.add_argument(
        "--map",
        type=comma_list,
        default=[],
        metavar="OURS=THEIRS,...",
        help="e.g. problem=question,reference=gold,suite=dataset; other names become tags",
    )
    group.add_argument(
        "--kind",
        choices=["math", "choice", "code", "instruction", "open"],
        help="of rows that name none (default: math)",
    )
    group.add_argument("--label", metavar="FIELD", help="a stored verdict to compare ours with")
    group.add_argument(
        "--role",
        choices=["base", "teacher", "student", "baseline"],
        help="of the models, for distill compare (default: baseline)",
    )


def score_recorded(options: argparse.Namespace) -> bool:
    """Run the command where ``--responses`` asks for it; whether it did.

    Raises:
        UserError: options that do not go together, and all that `eval.recorded.score` refuses.
    """
    if options.responses is None:
        for flag in ("format", "map", "kind", "label", "role"):
            if value := getattr(options, flag):
                raise UserError(
                    f"--{flag}", value, "says nothing without --responses FILE", "give both or none"
                )
        return False
    if options.recipe:
        raise UserError("--responses", options.responses, "needs no RECIPE", f"leave {options.recipe} out")
    for flag in ("model", "suite"):
        if len(getattr(options, flag) or ()) > 1:
            raise UserError(f"--{flag}", getattr(options, flag), "is given twice", "name one for a file")
    _score(options)
    return True


def _score(options: argparse.Namespace) -> None:
    from distill.problems import check_names
    from distill.trace_rows import parse_trace_source
    from eval.compare import results_as_lines
    from eval.disagreements import agreement_as_lines
    from eval.recorded import Source, score
    from eval.recorded_rows import OURS, Reading

    if options.format and options.map:
        raise UserError(
            "--map", ",".join(options.map), f"--format {options.format} knows the fields", "give one"
        )
    path = Path(options.responses).expanduser()
    source = Source.of(path, options.format)
    log = source.log
    fields = with_extracts(mapping(options.map))
    mapped = parse_trace_source({"path": str(path), "fields": fields}).fields
    check_names("--map", mapped, OURS)
    bank = _bank(options)
    reading = Reading(
        fields=mapped,
        kind=options.kind,
        model=options.model[0] if options.model else None,
        suite=bank.name if bank else None,
        default_model=log.model if log else path.stem,
        default_suite=log.suite if log else "recorded",
        label=options.label,
        bank=bank,
        from_log=log is not None,
    )
    settings = {
        "map": sorted(options.map),
        "kind": options.kind,
        "label": options.label,
        "suite": options.suite,
    }
    out = Path(options.out or Path("runs") / f"recorded-{path.stem}")
    summaries = score(source, reading, out, options.role or "baseline", settings)
    lines = results_as_lines(summaries)
    if options.label:
        for summary in summaries:
            lines += agreement_as_lines(summary["model"], summary["suite"], summary["agreement"])
        if any(summary["agreement"]["agree"] < summary["agreement"]["rows"] for summary in summaries):
            lines.append(f"each disagreement: {out / 'disagreements.md'}")
    show(options, summaries, lines)


def _bank(options: argparse.Namespace) -> Any:
    """The problems of ``--suite``, with what ``--set suites.NAME...`` changes; None where rows bring their own."""
    from distill.recipe_file import override_key, parse_filter_settings
    from distill.suites import find_suite, load_suite
    from eval.bank import Bank

    settings: dict[str, Any] = {}
    for override in options.set:
        if not override.startswith("suites."):
            raise UserError(
                "--set", override, "recorded responses take suites only", "--set suites.NAME.path=FILE"
            )
        override_key(settings, override)
    if not options.suite:
        if options.set:
            raise UserError("--set", options.set[0], "says nothing without --suite", "name the suite")
        return None
    if options.kind:
        raise UserError("--kind", options.kind, "the suite says the kind", "give --suite or --kind")
    suite = find_suite(options.suite[0], parse_filter_settings(settings).suites)
    return Bank(suite.name, load_suite(suite, seed=0))
