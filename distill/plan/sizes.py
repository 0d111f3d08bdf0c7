"""How much there is to do: traces, problems and answers, counted where they lie on this machine, else assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.recipe import Recipe, SampleStage
from distill.recipe_parts import Portion, ProblemSource, TraceSource, most_samples
from distill.recipe_rewards import PairSource

#: Rows of public data sets by name and split, as their pages state them.
HUB_ROWS = {
    ("openai/gsm8k:main", "train"): 7473,
    ("openai/gsm8k:main", "test"): 1319,
    ("agentica-org/DeepScaleR-Preview-Dataset", "train"): 40315,
    ("HuggingFaceH4/MATH-500", "test"): 500,
    ("HuggingFaceH4/aime_2024", "train"): 30,
    ("math-ai/aime25", "test"): 30,
    ("openai/openai_humaneval", "test"): 164,
    ("google-research-datasets/mbpp:sanitized", "test"): 257,
}


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What no recipe says. Each is an option of the command.

    tokens_per_trace: of a response, prompt left out; 5400 is about the mean of R1's 800k (arXiv 2501.12948 v2).
    traces, problems: of a set that is neither here nor in a table; 800k is what R1's students were trained on.
    mfu: share of the peak that training and prefill reach.
    """

    tokens_per_trace: int = 5400
    traces: int = 800_000
    problems: int = 10_000
    mfu: float = 0.4


def assumptions(options: Mapping[str, Any]) -> Assumptions:
    """Those of a command line, where what is not given is None.

    Raises:
        UserError: a number is not above 0, or a share above 1.
    """
    given = {each.name: options[each.name] for each in fields(Assumptions) if options[each.name] is not None}
    for name, value in given.items():
        if not 0 < value < float("inf") or (name == "mfu" and value > 1):
            remedy = "give a share above 0 and up to 1" if name == "mfu" else "give a number above 0"
            raise UserError(f"--{name.replace('_', '-')}", value, "cannot be", remedy)
    return Assumptions(**given)


@dataclass(frozen=True, slots=True)
class Counted:
    """A number of rows; ``told`` says where it is from when nobody counted them."""

    rows: int
    told: str | None = None


def count_problems(section: str, name: str, source: ProblemSource, assumed: Assumptions) -> Counted:
    """Problems of a set or suite, no more than its ``limit``."""
    if source.world is not None:
        counted = Counted(source.world.count * len(source.world.families))
    elif isinstance(source, ProblemSource) and source.rows is not None:
        counted = Counted(len(source.rows))
    else:
        assert source.path is not None, f"{section}.{name} has neither path nor world"
        rows = _rows_here(f"{section}.{name}.path", source.path) or HUB_ROWS.get(
            (source.path.partition("@")[0], source.split)
        )
        told = f"{section}.{name}: {assumed.problems} problems assumed (--problems)"
        counted = Counted(rows) if rows else Counted(assumed.problems, told)
    if source.limit is None or counted.rows < source.limit:
        return counted
    return Counted(source.limit)


def count_judged(at: str, source: PairSource, assumed: Assumptions) -> Counted:
    """Judged answers of a source, no more than its ``limit``."""
    if rows := _rows_here(f"{at}.path", source.path):
        return Counted(min(rows, source.limit or rows))
    if source.limit is not None:
        return Counted(source.limit)
    return Counted(assumed.traces, f"{at}: {assumed.traces} rows assumed (--traces)")


def count_traces(recipe: Recipe, name: str, assumed: Assumptions) -> Counted:
    """Traces of a set: of a file or folder here, of the built-in world, or what an earlier stage will keep."""
    maker = recipe.maker(name)
    if isinstance(maker, SampleStage):
        kept = most_samples(maker.collect)
        if maker.collect.keep_per_problem is not None:
            kept = min(kept, maker.collect.keep_per_problem)
        problems = count_problems("problems", maker.problems, recipe.problems[maker.problems], assumed)
        if maker.rewrite:
            read = count_traces(recipe, maker.rewrite.traces, assumed)
            again = read.rows * most_samples(maker.collect)
            if maker.collect.keep_per_problem is not None:
                again = min(again, problems.rows * maker.collect.keep_per_problem)
            told = f"traces.{name}: {read.rows} traces rewritten, as if each passed the filters again"
            return Counted(again, told)
        told = f"traces.{name}: {problems.rows} problems x {kept}, as if every answer passed the filters"
        return Counted(problems.rows * kept, told)
    source: TraceSource = recipe.traces[name]
    if source.world is not None:
        return Counted(source.world.count * len(source.world.families))
    assert source.path is not None, f"traces.{name} has neither path nor world"
    if rows := _rows_here(f"traces.{name}.path", source.path):
        if not source.each and not source.where:
            return Counted(rows)
        return Counted(
            rows, f"traces.{name}: {rows} rows, each of which may hold several traces or none that is wanted"
        )
    return Counted(assumed.traces, f"traces.{name}: {assumed.traces} traces assumed (--traces)")


def count_seen(recipe: Recipe, name: str, amount: float | Portion, assumed: Assumptions) -> Counted:
    """How many traces of a set an epoch sees; a number that was asked for stands where nobody counted the set."""
    counted = count_traces(recipe, name, assumed)
    if not isinstance(amount, Portion):
        return Counted(round(counted.rows * amount), counted.told)
    at_most = counted.told is None or recipe.maker(name) is not None
    if at_most and counted.rows < amount.count and not amount.repeat:
        return counted
    return Counted(amount.count)


def trace_tokens(recipe: Recipe, name: str, longest: int, assumed: Assumptions) -> int:
    """Mean tokens of a set's responses: as assumed, but no more than what can be in it."""
    maker = recipe.maker(name)
    if isinstance(maker, SampleStage):
        kept_up_to = maker.filters.tokens.max if maker.filters.tokens else None
        longest = min(longest, maker.sampling.max_tokens, kept_up_to or longest)
    return min(assumed.tokens_per_trace, longest)


def _rows_here(key: str, path: str) -> int | None:
    """Rows of a JSONL or Parquet file (of our own: the kept ones), of a trace set, or of one that was exported.

    Raises:
        UserError: a file that is there cannot be read.
    """
    file = Path(path)
    if file.is_dir() and (files := sorted(file.glob("data/train-*"))):
        return sum(_rows_here(key, str(one)) or 0 for one in files)
    if file.is_dir():
        file = file / "traces.parquet"
    if not file.is_file():
        return None
    try:
        return _rows_of(file)
    except Exception as error:  # pyarrow's own are of many kinds
        words = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(key, str(file), f"cannot be read: {words}", "give a whole file") from None


def _rows_of(file: Path) -> int:
    if file.suffix != ".parquet":
        with file.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as table:
        if "kept" not in table.schema_arrow.names:
            return int(table.metadata.num_rows)
        return sum(map(bool, table.read(columns=["kept"]).column("kept").to_pylist()))
