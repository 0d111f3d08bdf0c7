"""What each evaluation suite is: its data, how its rows are read, what is asked, and its protocol.

A score means nothing without its protocol, so both stand in one record (`record`), one YAML file beside this one for
each suite that ships. A recipe's ``suites:`` adds own ones and gives known ones a local copy.

Protocol of the public ones: DeepSeek-R1 (arXiv 2501.12948 v2) samples at temperature 0.6 and top-p 0.95 up to 32768
tokens, with k = 64 (AIME, GPQA), 16 (MATH-500, Codeforces) and 8 (LiveCodeBench). It names no k for the others: a
record says ``k_source: ours``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from distill.errors import UserError
from distill.problems import LeftOut, Row, RowReader, load_problems, read_rows
from distill.recipe_parts import ProblemSource, Sampling, SuiteSource
from distill.records import Kind, Problem
from distill.suites import code_rows, rows
from distill.suites.record import SHIPPED, SuiteRecord, Window, read_record

_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite and its protocol; ``samples`` is k, the completions of each problem.

    ``adapt`` turns a row of the suite's public data set into one with our field names; ``solution`` is the column of
    that data set with worked solutions, read where it is there, to keep them out of training texts. ``files`` are those
    of the data set that are read (none: its split). ``record`` is what the suite was made from.
    """

    name: str
    source: ProblemSource
    samples: int
    sampling: Sampling
    adapt: Callable[[Row], Row] | None = None
    solution: str = "solution"
    files: tuple[str, ...] = ()
    window: Window | None = None
    record: SuiteRecord | None = None

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

    def read(self, row: Row) -> Row:
        """A row of the suite's data with our field names.

        Raises:
            LeftOut: it lies outside the window, or cannot be graded.
            UserError: it has no date to be held against the window, or its columns do not hold what they should.
        """
        if self.window is not None:
            self._hold_against(self.window, row)
        try:
            return self.adapt(row) if self.adapt else row
        except LeftOut:
            raise
        except (
            Exception
        ) as error:  # texts that are none, cases that cannot be unpacked: whatever a file may hold
            named = next((f"{key} {row[key]}" for key in row if key.lower().endswith("id")), "no id")
            reason = f"a row ({named}) is not as this suite's are: {type(error).__name__}: {error}"
            raise UserError(
                f"suites.{self.name}.path", self.source.path, reason[:300], "mend or remove it"
            ) from error

    def _hold_against(self, window: Window, row: Row) -> None:
        if not (window.since or window.until):
            return
        day = str(row.get(window.column) or "")[:10]
        if not day:
            remedy = f"give it, or write `suites: {{{self.name}: {{since: any, until: any}}}}` for all rows"
            raise UserError(f"suites.{self.name}", window.column, "a row has no such date", remedy)
        if not _DAY.fullmatch(day):  # compared as texts, it would lie anywhere
            reason = f"a row has {row[window.column]!r} there, which is no day"
            raise UserError(f"suites.{self.name}", window.column, reason, "write it as 2024-08-31")
        if not (window.since or day) <= day <= (window.until or day):
            raise LeftOut(f"not dated from {window.since or 'the first'} to {window.until or 'the last'}")


def suite_of(name: str, record: SuiteRecord) -> Suite:
    """The suite that a record describes.

    Raises:
        UserError: it names a way of reading rows that there is not.
    """
    data, protocol = record.data, record.protocol
    adapt = getattr(rows, record.rows, None) or getattr(code_rows, record.rows, None) if record.rows else None
    if record.rows and (adapt is None or record.rows not in ROW_READERS):
        raise UserError(
            f"suites.{name}: rows", record.rows, "is no way to read rows", f"known: {', '.join(ROW_READERS)}"
        )
    path = data.path
    if path is not None and data.revision is not None:
        path = f"{path}@{data.revision}"
    source = ProblemSource(
        path=path,
        split=data.split,
        world=data.world,
        kind=record.kind,
        fields=record.fields,
        instruction=record.instruction,
    )
    sampling = Sampling(**protocol.model_dump(exclude={"k", "k_source"}))
    files = tuple(data.releases[data.release]) if data.release else ()
    return Suite(name, source, protocol.k, sampling, adapt, record.solution, files, data.window, record)


def find_suite(name: str, overrides: dict[str, SuiteSource]) -> Suite:
    """A known suite, changed by the recipe's entry of that name if there is one, or a suite of its own.

    ``fields`` of an entry replace the known suite's way of reading rows as a whole.

    Raises:
        UserError: no suite of that name, or an entry with no data, two kinds of it, or a split, release or window of
            nothing.
    """
    own = overrides.get(name)
    known = suite_of(name, read_record(Path(own.record))) if own and own.record else KNOWN.get(name)
    if own is None:
        if known is None:
            raise _unknown(name, sorted({*KNOWN, *overrides}))
        return known
    at = f"suites.{name}"
    if own.path is not None and own.world is not None:
        raise UserError(at, None, "has both `path` and `world`", "write exactly one of them")
    if known is None and own.path is None and own.world is None:
        raise UserError(at, None, "has neither `path` nor `world`", "write exactly one of them")
    suite = known or Suite(
        name, ProblemSource(path=own.path, world=own.world), samples=4, sampling=Sampling()
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
        raise UserError(f"{at}.split", own.split, "says nothing without a `path`", "write both or none")
    return replace(
        suite,
        source=suite.source.model_copy(update=changed),
        adapt=None if own.fields else suite.adapt,
        files=_files(at, suite, own),
        window=_window(at, suite, own),
    )


def _files(at: str, suite: Suite, own: SuiteSource) -> tuple[str, ...]:
    """Which files of the hub data set are read: none where the data come from elsewhere."""
    if own.path is not None or own.world is not None:
        if own.release is not None:
            raise UserError(f"{at}.release", own.release, "has no effect with a `path`", "write one of them")
        return ()
    if own.release is None:
        return suite.files
    releases = suite.record.data.releases if suite.record else {}
    if own.release not in releases:
        known = ", ".join(releases) or "none, this suite has but one"
        raise UserError(f"{at}.release", own.release, "there is no such release", f"known: {known}")
    return tuple(releases[own.release])


def _window(at: str, suite: Suite, own: SuiteSource) -> Window | None:
    if own.since is None and own.until is None:
        return suite.window
    if suite.window is None:
        key, value = ("since", own.since) if own.since else ("until", own.until)
        raise UserError(f"{at}.{key}", value, "the rows of this suite have no date", "drop it")
    ends = {"since": own.since or suite.window.since, "until": own.until or suite.window.until}
    return suite.window.model_copy(update={key: None if day == "any" else day for key, day in ends.items()})


def load_suite(suite: Suite, seed: int) -> list[Problem]:
    """The suite's problems, in order; ``seed`` draws those of the built-in world.

    Raises:
        UserError: as `distill.problems.load_problems`; where the hub cannot be reached, it says which file to bring.
    """
    try:
        return load_problems(
            suite.name, suite.source, seed, section="suites", adapt=suite.read, files=suite.files
        )
    except UserError as error:
        raise _with_way_out(suite, error) from error


def load_solutions(suite: Suite) -> dict[str, str]:
    """The worked solution of each problem whose row brings one, by the problem's id; empty for the built-in world.

    Raises:
        UserError: as `load_suite`.
    """
    source, found = suite.source, {}
    if source.path is None:
        return {}
    key = f"suites.{suite.name}"
    try:
        for number, row in enumerate(
            read_rows(source.path, source.split, f"{key}.path", suite.files), start=1
        ):
            solution = row.get(suite.solution)
            if isinstance(solution, list):
                solution = "\n\n".join(map(str, solution))  # OlympiadBench has several for some
            if isinstance(solution, str) and solution.strip():
                try:
                    reader = RowReader(key, number, suite.read(row), source.fields)
                except LeftOut:
                    continue
                found[reader.problem(suite.name, source.kind).id] = solution
    except UserError as error:
        raise _with_way_out(suite, error) from error
    return found


def _with_way_out(suite: Suite, error: UserError) -> UserError:
    """The same complaint, with what a local copy of this suite must be."""
    record, path = suite.record, suite.source.path
    if record is None or path is None or record.data.world:
        return error
    columns = ", ".join(record.data.columns) or "that its record maps"
    theirs = path.partition("@")[0] == record.data.path
    if error.key == f"suites.{suite.name}.path" and theirs and not Path(path).exists():
        remedy = (
            f"where the hub cannot be reached, bring a JSONL, JSON or Parquet file with the columns {columns}: "
            f"--suite {suite.name}=FILE, or in a recipe suites: {{{suite.name}: {{path: FILE}}}}"
        )
        return UserError(error.key, path, error.reason, remedy)
    if error.key.startswith(f"suites.{suite.name}.fields") and not theirs:
        return UserError(error.key, error.value, error.reason, f"{error.remedy}; this suite reads {columns}")
    return error


def _unknown(name: str, known: list[str]) -> UserError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return UserError("suites", name, "there is no suite of that name", f"{hint}known: {', '.join(known)}")


ROW_READERS = (*rows.__all__, *code_rows.__all__)
KNOWN: dict[str, Suite] = {
    path.stem: suite_of(path.stem, read_record(path)) for path in sorted(SHIPPED.glob("*.yaml"))
}
