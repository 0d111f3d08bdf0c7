"""The door: parses, calls, prints. `distill --help` loads nothing but the standard library.

Exit codes: 0 done, 1 failed on the way (the run resumes), 2 the input is wrong and nothing was written,
130 stopped by Ctrl-C (the run resumes). Words go to stderr; stdout holds results, with `--json` nothing but JSON.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill import __version__
from distill.cli_eval import add_eval
from distill.cli_recipe import of_kind, recipe_of, walk
from distill.cli_suites import add_suites
from distill.cli_traces import add_traces, comma_list, mapping, show
from distill.errors import RunFailed, UserError
from distill.export import add_export


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    # OpenMP's threads wait for each other by spinning. On a machine that other work shares, a long spin holds the core
    # its partner needs. Measured on tiny updates beside one busy process: 30 times slower by default, 5 times so; where
    # the machine is free, up to 10 % slower so.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        _check_neighbours()
        return int(options.call(options) or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"failed: {error}\n{error.then}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
            raise
        print(f"failed: {error}\nMake room, then the same command goes on from there.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here.", file=sys.stderr)
        return 130


def _check_neighbours() -> None:
    """`teacher` and `eval` are common names: a user's own module of that name must not be taken for ours."""
    home = Path(__file__).resolve().parent.parent
    for name in ("teacher", "eval"):
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve() if spec and spec.origin else None
        if found != home / name / "__init__.py":
            raise UserError(
                name,
                str(found),
                f"is imported instead of the toolkit's own `{name}`",
                "rename that file, or run `distill` from another folder",
            )


# ---------------------------------------------------------------------------------------------- commands


def _run(options: argparse.Namespace) -> None:
    recipe, out = recipe_of(options)
    stages = None
    if options.only:
        stages = [recipe.stage(name) for name in options.only]
    elif options.start:
        first = recipe.stages.index(recipe.stage(options.start))
        stages = recipe.stages[first:]
    walk(options, recipe, out, stages)


def _teacher_train(options: argparse.Namespace) -> None:
    from distill.order import stages_towards

    recipe, out = recipe_of(options)
    walk(options, recipe, out, stages_towards(recipe, "teacher"))


def _student_train(options: argparse.Namespace) -> None:
    from distill.order import stages_towards

    recipe, out = recipe_of(options)
    walk(options, recipe, out, stages_towards(recipe, "student"))


def _teacher_sample(options: argparse.Namespace) -> None:
    recipe, out = recipe_of(options)
    if options.shard:
        options.set += [f"stages.{stage.name}.shard={options.shard}" for stage in of_kind(recipe, "sample")]
        options.out = options.out or f"runs/{recipe.name}-{options.shard.replace('/', '-of-')}"
        recipe, out = recipe_of(options)
    stages = of_kind(recipe, "sample")
    walk(options, recipe, out, stages, quiet=True)
    from teacher.funnel import as_lines

    funnels = {
        stage.makes: json.loads((out / "traces" / stage.makes / "funnel.json").read_text(encoding="utf-8"))
        for stage in stages
    }
    lines = [line for name, funnel in funnels.items() for line in (f"{name}:", *as_lines(funnel))]
    show(options, funnels, lines)


def _grade(options: argparse.Namespace) -> None:
    from distill.grade import main, summary

    fields = mapping(options.map)
    counts = main(options.file, options.out, fields, options.kind, options.think_close)
    print(summary(counts), file=sys.stderr)
    if options.json and options.out:
        print(json.dumps({"rows": counts.total(), "verdicts": counts}))


def _ask(options: argparse.Namespace) -> None:
    from distill.ask import ask

    names = ("temperature", "top_p", "max_tokens", "seed")
    told = ask(options.model, options.question, **{name: getattr(options, name) for name in names})
    dim, plain = ("\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "")
    thought = [f"{dim}{told['thought']}{plain}"] if told["thought"] is not None else []
    answer = "(the thought never ended: no answer)" if told["answer"] is None else told["answer"]
    show(options, told, [*thought, answer])
    if told["finish_reason"] == "length":
        print(f"(stopped after {told['tokens']} tokens)", file=sys.stderr)


def _plan(options: argparse.Namespace) -> None:
    from distill.inputs import check_published
    from distill.plan import assumptions, make_plan
    from distill.plan.table import as_lines
    from distill.recipe_file import find_recipe, load_recipe

    recipe = load_recipe(find_recipe(options.recipe), options.set)
    check_published(recipe)
    plan = make_plan(recipe, assumptions(vars(options)))
    show(options, plan, as_lines(plan))


def _recipes(options: argparse.Namespace) -> None:
    import yaml

    from distill.recipe_file import shipped_recipes

    rows, lines = {}, []
    for name, path in shipped_recipes().items():
        text = path.read_text(encoding="utf-8")
        about = text.removeprefix("#").split("\n", 1)[0].strip() if text.startswith("#") else ""
        stages = [stage["name"] for stage in yaml.safe_load(text)["stages"]]
        rows[name] = {"about": about, "stages": stages}
        lines.append(f"{name}: {about}\n    {' > '.join(stages)}")
    show(options, rows, lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distill",
        description="Train a reasoning teacher by GRPO, harvest its verified traces, fine-tune students, compare.",
    )
    parser.add_argument("--version", action="version", version=f"distill {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(parent: Any, name: str, call: Any, about: str, *, recipe: str | None = "RECIPE") -> Any:
        sub = parent.add_parser(name, help=about, description=about)
        if recipe:
            count = "?" if recipe == "?" else None
            about = "a YAML file, or the name of one that ships"
            sub.add_argument("recipe", metavar="RECIPE", nargs=count, help=about)
            sub.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="KEY=VALUE",
                help="override, e.g. stages.distil.learning_rate=2e-4; repeatable",
            )
            if name != "plan":  # which writes nothing
                sub.add_argument("--out", metavar="DIR", help="the run folder (default: runs/NAME)")
        sub.add_argument("--json", action="store_true", help="print JSON and nothing else on stdout")
        sub.set_defaults(call=call)
        return sub

    run = command(commands, "run", _run, "run a recipe's stages in order; finished ones are skipped")
    part = run.add_mutually_exclusive_group()
    part.add_argument("--only", action="append", metavar="STAGE", help="run just this stage; repeatable")
    part.add_argument("--from", dest="start", metavar="STAGE", help="run this stage and all after it")
    teacher = commands.add_parser("teacher", help="train the teacher, or sample its traces").add_subparsers(
        required=True, metavar="COMMAND"
    )
    command(teacher, "train", _teacher_train, "run the stages that make the teacher")
    sample = command(
        teacher, "sample", _teacher_sample, "rejection sampling: verified traces, with the funnel table"
    )
    sample.add_argument(
        "--shard",
        metavar="N/OF",
        help="only this part of the problems, as 3/16 (default --out: runs/NAME-3-of-16)",
    )
    student = commands.add_parser("student", help="fine-tune the student, or export it").add_subparsers(
        required=True, metavar="COMMAND"
    )
    command(student, "train", _student_train, "run the stages that make the student")
    add_export(student, command)
    add_eval(commands, command)
    add_suites(commands, command)
    add_traces(commands, command)
    _add_plan(commands, command)
    _add_tools(commands, command)
    command(commands, "recipes", _recipes, "list the recipes that ship", recipe=None)
    return parser


def _add_plan(commands: Any, command: Any) -> None:
    plans = command(commands, "plan", _plan, "memory, time and money of each stage, before any is spent")
    for flag, kind, about in (
        ("--tokens-per-trace", int, "mean tokens of a response (default: 5400)"),
        ("--traces", int, "in a set that is not at hand (default: 800000)"),
        ("--problems", int, "in a set that is not at hand (default: 10000)"),
        ("--mfu", float, "share of the peak FLOP/s that training reaches (default: 0.4)"),
    ):
        plans.add_argument(flag, type=kind, metavar="N", help=about)


def _add_tools(commands: Any, command: Any) -> None:
    """The commands that need no run: a model or a file is all they are given."""
    grades = command(commands, "grade", _grade, "a verdict for each row of a JSONL file", recipe=None)
    grades.add_argument(
        "file", metavar="FILE", help="JSONL rows of id, kind, reference or tests, response; - for stdin"
    )
    grades.add_argument("--out", metavar="FILE", help="where the verdicts go (default: standard output)")
    grades.add_argument(
        "--map", type=comma_list, default=[], metavar="OURS=THEIRS,...", help="e.g. response=output"
    )
    grades.add_argument(
        "--kind", choices=("math", "choice", "code", "instruction", "open"), help="of rows that name none"
    )
    grades.add_argument("--think-close", metavar="TAG", help="a closing thought tag besides the known ones")
    ask = command(commands, "ask", _ask, "try a model: its thought, then its answer", recipe=None)
    ask.add_argument("model", metavar="MODEL", help="a folder or hub name")
    ask.add_argument("question", metavar="QUESTION")
    ask.add_argument("--temperature", type=float, default=0.6)
    ask.add_argument("--top-p", type=float, default=0.95)
    ask.add_argument(
        "--max-tokens", type=int, metavar="N", help="default: 2048, or what the model's context leaves"
    )
    ask.add_argument("--seed", type=int, default=0)


if __name__ == "__main__":
    sys.exit(main())
