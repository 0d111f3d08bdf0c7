"""`distill eval` and `distill compare`: models on suites, and results beside one another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from distill.cli_recipe import of_kind, recipe_of, walk
from distill.cli_recorded import add_recorded, score_recorded
from distill.cli_traces import show
from distill.errors import UserError


def _eval(options: argparse.Namespace) -> None:
    if score_recorded(options):
        return
    if options.recipe and options.model:
        reason = "a recipe names its own models"
        raise UserError("--model", options.model, reason, f"leave {options.recipe} out, or --model")
    if not options.recipe and not options.model:
        raise UserError(
            "distill eval", None, "needs either a RECIPE or --model and --suite", "see distill eval --help"
        )
    if options.recipe and options.suite:
        raise UserError(
            "--suite", options.suite, "a recipe names its own suites", "--set stages.EXAM.suites=[...]"
        )
    if options.recipe and (given := options.judge or options.judge_model or options.baseline):
        raise UserError("--judge", given, "a recipe names its own judge", "write stages.EXAM.judge")
    if options.model:
        recipe, out = _one_off(options)
    else:
        recipe, out = recipe_of(options)
    stages = of_kind(recipe, "eval")
    walk(options, recipe, out, stages, quiet=True)
    from eval.compare import read_results, results_as_lines

    folders = [
        out / "results" / model / suite
        for stage in stages
        for model in stage.models
        for suite in stage.suites
    ]
    summaries = read_results(folders)
    show(options, summaries, results_as_lines(summaries))


def _one_off(options: argparse.Namespace) -> tuple[Any, Path]:
    """A recipe of one eval stage, for `--model M --suite S`."""
    from distill.cli_suites import suites_of
    from distill.recipe_file import override_key, parse_recipe

    if not options.suite:
        raise UserError("--suite", None, "is missing", "name at least one suite: --suite gsm8k")
    models = {_last_name(model): model for model in options.model}
    if len(models) < len(options.model):
        raise UserError(
            "--model",
            options.model,
            "two models have the same last name",
            "evaluate them one after the other, or write a recipe",
        )
    suites, own = suites_of(options.suite, _set_suites(options.set))
    stage: dict[str, Any] = {"name": "exam", "kind": "eval", "models": list(models), "suites": suites}
    if judge := _judge(options):
        stage["judge"] = judge
    name = "eval-" + "-".join(models)
    raw: dict[str, Any] = {"name": name, "models": {key: {"path": path} for key, path in models.items()}}
    raw |= {"suites": own, "stages": [stage]}
    for setting in options.set:
        override_key(raw, setting)
    recipe = parse_recipe(raw)
    return recipe, Path(options.out or Path("runs") / recipe.name)


def _set_suites(settings: list[str]) -> set[str]:
    """The suites that ``--set suites.NAME...`` changes or makes."""
    keys = (setting.partition("=")[0].split(".") for setting in settings)
    return {key[1] for key in keys if key[0] == "suites" and len(key) > 1}


def _judge(options: argparse.Namespace) -> dict[str, Any] | None:
    """The judge of `--judge URL --judge-model NAME [--baseline FILE]`, as a recipe writes it."""
    if not (options.judge or options.judge_model or options.baseline):
        return None
    for key, given in (("--judge", options.judge), ("--judge-model", options.judge_model)):
        if not given:
            raise UserError(key, None, "is missing", "write --judge URL --judge-model NAME")
    engine = {"kind": "server", "urls": options.judge}
    judge = {"model": options.judge_model, "engine": engine, "baseline": options.baseline}
    return {key: value for key, value in judge.items() if value is not None}


def _last_name(model: str) -> str:
    """What a model is called in the results: the last part of its place, `.` and `..` resolved."""
    return (Path(model).resolve() if Path(model).is_dir() else Path(model)).name


def _compare(options: argparse.Namespace) -> None:
    from eval.compare import compare, comparisons_as_lines, only_bases, read_named_apart

    summaries = read_named_apart([Path(place) for place in options.results])
    roles = {summary["model"]: summary["role"] for summary in summaries}
    published = _published(options.published or [])
    comparison = compare(summaries, only_bases(summaries), {}, roles, by_hand=True, published=published)
    lines = comparisons_as_lines(comparison)
    show(options, comparison, lines or ["nothing to compare: give results of two models on one suite"])


def _published(given: list[str]) -> list[str] | dict[str, str]:
    """Of `--published`: published models, or `MEASURED=PUBLISHED` pairs.

    Raises:
        UserError: nothing is published of one, both forms are there, or a measured model twice.
    """
    from eval.published import check_names

    parts = [part.strip() for text in given for part in text.split(",") if part.strip()]
    pairs = [part.split("=", 1) for part in parts if "=" in part]
    check_names("--published", [part.rpartition("=")[2] for part in parts])
    if not pairs:
        return parts
    measured = [model for model, _ in pairs]
    if len(pairs) < len(parts) or len(set(measured)) < len(pairs):
        reason = "names some models alone and some in pairs, or one twice"
        remedy = "write published models, or MEASURED=PUBLISHED for each measured one"
        raise UserError("--published", ",".join(given), reason, remedy)
    return dict(pairs)


def add_eval(commands: Any, command: Any) -> None:
    """The two commands, by `distill.cli`'s `command`."""
    evaluate = command(commands, "eval", _eval, "run suites: a recipe's, or any model's", recipe="?")
    evaluate.add_argument(
        "--model", action="append", metavar="M", help="a folder or hub name, instead of a recipe; repeatable"
    )
    evaluate.add_argument(
        "--suite",
        action="append",
        metavar="S",
        help="for --model: a suite's name, NAME=FILE for a local copy of its data, or an own FILE.yaml; repeatable",
    )
    add_recorded(evaluate)
    evaluate.add_argument(
        "--judge", metavar="URL", help="for --model: who judges open problems, an OpenAI-compatible server"
    )
    evaluate.add_argument("--judge-model", metavar="NAME", help="what the judge is called there")
    evaluate.add_argument(
        "--baseline",
        metavar="FILE",
        help="JSONL rows instruction, output: the answers to win against (else the suite's references)",
    )
    compare = command(commands, "compare", _compare, "compare results on the same problems", recipe=None)
    compare.add_argument(
        "results",
        nargs="+",
        metavar="RESULT",
        help="a run, results/MODEL, results/MODEL/SUITE or summary.json",
    )
    compare.add_argument(
        "--published",
        action="append",
        metavar="MODEL[,MODEL]",
        help="stand the published figures of these models beside the results; MEASURED=MODEL pairs them by hand",
    )
