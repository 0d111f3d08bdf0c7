"""A suite as a YAML file: where its data comes from, how rows are read, what is asked, and its protocol.

Those that ship lie beside this file; a user's own has the same shape (``distill eval --suite my.yaml``, or in a recipe
``suites: {mine: {record: my.yaml}}``). Relative paths in it are relative to the current folder, as in a recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from distill.errors import UserError
from distill.recipe_errors import explain
from distill.recipe_file import StrictLoader
from distill.recipe_parts import Fields, Sampling, WorldProblems
from distill.recipe_types import Count, Day, Place, Section
from distill.records import Kind

SHIPPED = Path(__file__).parent


class Window(Section):
    """Only rows whose ``column`` holds a day from ``since`` to ``until``, both included (None: no end)."""

    column: str
    since: Day | None = None
    until: Day | None = None


class SuiteData(Section):
    """A hub data set (``path``: NAME:CONFIG) at a ``revision`` (None: the newest), a local file, or the built-in world.

    ``releases`` name files of the data set, of which ``release`` is read; without any the data set's own ``split`` is.
    ``columns`` are what a local copy must have, ``n`` how many problems the suite has where that is known.
    """

    path: Place | None = None
    revision: str | None = None
    split: str = "test"
    releases: dict[str, list[str]] = Field(default={})
    release: str | None = None
    window: Window | None = None
    world: WorldProblems | None = None
    columns: list[str] = Field(default=[])
    n: Count | None = None


class Protocol(Sampling):
    """``k`` completions of each problem, and who says so: the paper (DeepSeek-R1, arXiv 2501.12948 v2), or we."""

    k: Count
    k_source: Literal["paper", "ours"] = "ours"


class SuiteRecord(Section):
    """One suite.

    ``rows`` is the name of a function of `distill.suites.rows` or `distill.suites.code_rows` that turns a row of the
    public data set into one with our field names; ``fields`` (as in a recipe) are then read from that. ``solution`` is
    the column of worked solutions, which are kept out of training texts.
    """

    about: str
    data: SuiteData
    rows: str | None = None
    fields: Fields = Field(default={})
    solution: str = "solution"
    kind: Kind
    instruction: str | None = None
    protocol: Protocol
    judged_by: str = Field(default="the verifier", min_length=1)
    licence: str = "not stated"


def read_record(path: Path) -> SuiteRecord:
    """The record in a YAML file.

    Raises:
        UserError: there is no such file, or it is no record: the first wrong key, with its remedy.
    """
    try:
        raw: Any = yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("--suite", str(path), f"cannot be read: {error}", "give a YAML file") from None
    except yaml.YAMLError as error:
        reason = f"is no YAML: {' '.join(str(error).split())}"
        raise UserError("--suite", str(path), reason, "mend the file") from None
    except (ValueError, RecursionError) as error:  # a day or number that is none, lists within lists
        raise UserError("--suite", str(path), f"cannot be read: {error}", "mend the file") from None
    if not isinstance(raw, dict):
        raise UserError(
            "--suite", str(path), "holds no keys", "`distill suites gsm8k` prints one to start from"
        )
    try:
        record = SuiteRecord.model_validate(raw)
    except ValidationError as error:
        told = explain(error, raw, SuiteRecord)
        raise UserError(f"{path}: {told.key}", told.value, told.reason, told.remedy) from None
    _check(path, record)
    return record


def _check(path: Path, record: SuiteRecord) -> None:
    """What one key of a record says of another."""
    data = record.data
    if (data.path is None) == (data.world is None):
        both = "both" if data.path else "neither"
        raise UserError(
            f"{path}: data", None, f"has {both} of `path` and `world`", "write exactly one of them"
        )
    if data.releases and data.release not in data.releases:
        known = ", ".join(data.releases)
        raise UserError(f"{path}: data.release", data.release, "is none of `releases`", f"known: {known}")
    if record.instruction is not None and "{problem}" not in record.instruction:
        remedy = "write {problem} where the problem goes"
        raise UserError(f"{path}: instruction", record.instruction, "leaves the problem out", remedy)
