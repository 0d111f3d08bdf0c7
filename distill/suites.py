"""What each evaluation suite is: its data, how its rows are read, what is asked, and its protocol.

A score means nothing without its protocol, so both stand in one record. A recipe's ``suites:`` adds own ones
and gives known ones a local copy.

Protocol of the public ones: DeepSeek-R1 (arXiv 2501.12948) samples at temperature 0.6 and top-p 0.95 up to
32768 tokens, with k = 64 (AIME), 16 (MATH-500) and 8 (LiveCodeBench). It names no k for GSM8K, HumanEval and
MBPP: those are ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace

from distill.errors import UserError
from distill.problems import Row, RowReader, load_problems, read_rows
from distill.recipe_parts import Family, Fields, ProblemSource, Sampling, SuiteSource, Taken, WorldProblems
from distill.records import Kind, Problem

MATH_INSTRUCTION = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
CODE_INSTRUCTION = (
    "{problem}\n\nPlease reason step by step, then give one complete Python program, "
    "imports and helper functions included, in a ```python code block."
)


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite and its protocol; ``samples`` is k, the completions of each problem.

    ``adapt`` turns a row of the suite's public data set into one with our field names; ``solution`` is the column of
    that data set with worked solutions, read where it is there, to keep them out of training texts.
    """

    name: str
    source: ProblemSource
    samples: int
    sampling: Sampling
    adapt: Callable[[Row], Row] | None = None
    solution: str = "solution"

    @property
    def kind(self) -> Kind:
        """What decides an answer of this suite."""
        return self.source.kind

    @property
    def instruction(self) -> str | None:
        """What a model is told around ``{problem}``; None: the problem alone."""
        return self.source.instruction

    def with_protocol(self, samples: int | None, sampling: Sampling | None) -> Suite:
        """The suite with another k or other sampling; None keeps its own."""
        return replace(self, samples=samples or self.samples, sampling=sampling or self.sampling)


def find_suite(name: str, overrides: dict[str, SuiteSource]) -> Suite:
    """A known suite, changed by the recipe's entry of that name if there is one, or a suite of its own.

    ``fields`` of an entry replace the known suite's way of reading rows as a whole.

    Raises:
        UserError: no suite of that name, or an entry with no data, two kinds of it, or a split of nothing.
    """
    known, own = KNOWN.get(name), overrides.get(name)
    if own is None:
        if known is None:
            raise _unknown(name, sorted({*KNOWN, *overrides}))
        return known
    if own.path is not None and own.world is not None:
        raise UserError(f"suites.{name}", None, "has both `path` and `world`", "write exactly one of them")
    if known is None and own.path is None and own.world is None:
        raise UserError(f"suites.{name}", None, "has neither `path` nor `world`", "write exactly one of them")
    suite = known or Suite(
        name, ProblemSource(path=own.path, world=own.world), samples=4, sampling=_R1_SAMPLING
    )
    changed: dict[str, object] = {
        "kind": own.kind,
        "fields": own.fields,
        "instruction": own.instruction,
        "limit": own.limit,
    }
    changed = {key: value for key, value in changed.items() if value}
    if own.path is not None or own.world is not None:
        changed |= {"path": own.path, "world": own.world, "split": own.split}
    elif own.split != "test":
        raise UserError(
            f"suites.{name}.split", own.split, "says nothing without a `path`", "write both or none"
        )
    source = suite.source.model_copy(update=changed)
    return replace(suite, source=source, adapt=None if own.fields else suite.adapt)


def load_suite(suite: Suite, seed: int) -> list[Problem]:
    """The suite's problems, in order; ``seed`` draws those of the built-in world.

    Raises:
        UserError: as `distill.problems.load_problems`.
    """
    return load_problems(suite.name, suite.source, seed, section="suites", adapt=suite.adapt)


def load_solutions(suite: Suite) -> dict[str, str]:
    """The worked solution of each problem whose row brings one, by the problem's id; empty for the built-in world.

    Raises:
        UserError: as `distill.problems.load_problems`.
    """
    source, found = suite.source, {}
    if source.path is None:
        return {}
    for number, row in enumerate(read_rows(source.path, source.split, f"suites.{suite.name}.path"), start=1):
        if isinstance(solution := row.get(suite.solution), str) and solution.strip():
            adapted = suite.adapt(row) if suite.adapt else row
            reader = RowReader(f"suites.{suite.name}", number, adapted, source.fields)
            found[reader.problem(suite.name, source.kind).id] = solution
    return found


def _unknown(name: str, known: list[str]) -> UserError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return UserError("suites", name, "there is no suite of that name", f"{hint}known: {', '.join(known)}")


# ------------------------------------------------------------------------------------ rows of code suites


def adapt_humaneval(row: Row) -> Row:
    """A HumanEval row (task_id, prompt, entry_point, test) in our field names.

    The prompt is a function without its body. What stands before that function (imports, helpers) is put
    before the tests too, because some of them call the helpers.
    """
    if not {"task_id", "prompt", "entry_point", "test"} <= row.keys():
        return row
    before, _, _ = row["prompt"].rpartition(f"def {row['entry_point']}(")
    tests = {"type": "python", "code": before + row["test"], "entry_point": row["entry_point"]}
    problem = f"Complete this function:\n\n```python\n{row['prompt'].strip()}\n```"
    return {"id": row["task_id"], "problem": problem, "tests": tests}


def adapt_mbpp(row: Row) -> Row:
    """A row of sanitized MBPP (task_id, prompt, test_list, test_imports) in our field names.

    The asserts are shown to the model, as in Austin et al. 2021: nothing else names the function.
    """
    if not {"task_id", "prompt", "test_list", "test_imports"} <= row.keys():
        return row
    asserts = "\n".join(row["test_list"])
    tests = {"type": "python", "code": "\n".join([*row["test_imports"], asserts])}
    problem = f"{row['prompt']}\n\nYour code should pass these tests:\n\n```python\n{asserts}\n```"
    return {"id": f"mbpp/{row['task_id']}", "problem": problem, "tests": tests}


# ------------------------------------------------------------------------------------ what ships

_R1_SAMPLING = Sampling(temperature=0.6, top_p=0.95, max_tokens=32768)
_WORLD_SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=160)
_REFERENCE: Fields = {"reference": "answer"}
_GSM8K: Fields = {
    "problem": "question",
    "reference": Taken.model_validate({"from": "answer", "extract": "hash"}),
}
_MATH500: Fields = {"id": "unique_id", "subject": "subject", "level": "level", **_REFERENCE}


def _world(family: Family, kind: Kind) -> Suite:
    world = WorldProblems(families=[family], split="test", count=250)
    return Suite(family, ProblemSource(world=world, kind=kind), samples=4, sampling=_WORLD_SAMPLING)


def _math(
    name: str, path: str, split: str, fields: Fields, samples: int, solution: str = "solution"
) -> Suite:
    source = ProblemSource(path=path, split=split, kind="math", fields=fields, instruction=MATH_INSTRUCTION)
    return Suite(name, source, samples, _R1_SAMPLING, solution=solution)


def _code(name: str, path: str, adapt: Callable[[Row], Row], solution: str) -> Suite:
    source = ProblemSource(path=path, split="test", kind="code", instruction=CODE_INSTRUCTION)
    return Suite(name, source, samples=8, sampling=_R1_SAMPLING, adapt=adapt, solution=solution)


KNOWN: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        _world("chains", "math"),
        _world("functions", "code"),
        _math("gsm8k", "openai/gsm8k:main", "test", _GSM8K, samples=4, solution="answer"),
        _math("math500", "HuggingFaceH4/MATH-500", "test", _MATH500, samples=16),
        _math("aime24", "HuggingFaceH4/aime_2024", "train", _REFERENCE, samples=64),
        _math("aime25", "math-ai/aime25", "test", _REFERENCE, samples=64),
        _code("humaneval", "openai/openai_humaneval", adapt_humaneval, "canonical_solution"),
        _code("mbpp", "google-research-datasets/mbpp:sanitized", adapt_mbpp, "code"),
    )
}
