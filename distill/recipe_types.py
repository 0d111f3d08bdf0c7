"""The kinds of value that a recipe holds: numbers however YAML reads them, names, and the strict section."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError("must be a number") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def _whole(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError("must be a whole number")
        return int(value)
    return value


def _expanded(value: str) -> str:
    """A leading ``~`` is the home folder, here and once for all who read the path."""
    return str(Path(value).expanduser()) if value.startswith("~") else value


Place = Annotated[str, AfterValidator(_expanded)]
Number = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Whole, Field(ge=1)]
Share = Annotated[Number, Field(ge=0, le=1)]
Positive = Annotated[Number, Field(gt=0)]
Decay = Annotated[Number, Field(ge=0, lt=1)]
NonNegative = Annotated[Number, Field(ge=0)]


def _part(value: str) -> str:
    number, slash, of = value.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ValueError("is no shard: NUMBER/OF, from 1/OF to OF/OF")
    return f"{int(number)}/{int(of)}"


#: ``3/16``: the third of sixteen parts.
Shard = Annotated[str, AfterValidator(_part)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def _day(value: Any) -> Any:
    if isinstance(value, datetime.date):  # YAML reads 2024-08-01 as one
        value = value.isoformat()[:10]
    if value == "any" or value is None:
        return value
    try:
        return datetime.date.fromisoformat(value).isoformat()
    except (TypeError, ValueError):
        raise ValueError("must be a day, such as 2024-08-01") from None


#: ``2024-08-01``, or ``any`` where a known suite's own limit is to be lifted.
Day = Annotated[str, BeforeValidator(_day)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # built when read, not at import
