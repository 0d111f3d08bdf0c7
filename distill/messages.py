"""The messages form of traces, in which they are published: a conversation of two turns, and our columns beside it.

    messages: [{role: user, content: the problem}, {role: assistant, content: the completion, thought and all}]

Every column has a value in every row (an empty text where there is none), so that any reader finds one schema.
``tests``, ``measures`` and a reference of several answers are JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distill.conversations import said_by
from distill.records import Trace

if TYPE_CHECKING:
    import pyarrow as pa

_TEXTS = (
    "id",
    "problem_id",
    "kind",
    "source",
    "reference",
    "tests",
    "verdict",
    "extracted",
    "finish_reason",
    "teacher",
)
_SEVERAL = ('{"any": [', '{"all": [')
#: All columns, with what each holds, for whoever reads the set.
COLUMNS = {
    "messages": "the problem (user) and the teacher's whole text, thought included (assistant)",
    "id": "of the trace: its problem's and its number",
    "problem_id": "traces of one problem share it",
    "kind": "math, choice, code or open",
    "source": "the problem set",
    "reference": "the right answer, where there is one; several as JSON text",
    "tests": "of kind code: JSON text",
    "verdict": "what the verifier found",
    "extracted": "the answer that it read in the text",
    "finish_reason": "stop, length, abort, error, or nothing where nobody told",
    "teacher": "the model that wrote the text",
    "sample_index": "number among the samples of its problem",
    "tokens": "that the teacher generated; 0 where nobody counted",
    "measures": "what the filters looked at, JSON text",
    "kept": "whether the filters kept it",
    "reason": "the first filter that it failed",
    "licence": "of this set",
}


def message_row(row: Mapping[str, Any], licence: str) -> dict[str, Any]:
    """The messages form of a row of a trace set's file, whose maps are JSON text already."""
    asked = {"role": "user", "content": row["problem"]}
    said = {"role": "assistant", "content": row["completion"]}
    return {
        "messages": [asked, said],
        **{name: row[name] or "" for name in _TEXTS},
        "sample_index": row["sample_index"],
        "tokens": row["tokens"],
        "measures": row["measures"],
        "kept": row["kept"],
        "reason": row["reason"],
        "licence": licence,
    }


def is_message_row(row: Mapping[str, Any]) -> bool:
    """Whether a row was written by `message_row`."""
    return row.keys() >= COLUMNS.keys() - {"licence"}


def trace_of(row: Mapping[str, Any]) -> Trace:
    """The trace that a row in messages form was made from; how it was sampled is not in it.

    Raises:
        ValueError: the row is none.
    """
    texts = {name: row[name] or None for name in _TEXTS}
    reference = texts["reference"]
    if reference is not None and reference.startswith(_SEVERAL):
        texts["reference"] = json.loads(reference)
    return Trace.model_validate(
        {
            **texts,
            "source": row["source"],
            "teacher": row["teacher"],
            "problem": said_by(row["messages"], "user"),
            "completion": said_by(row["messages"], "assistant"),
            "tests": json.loads(row["tests"]) if row["tests"] else None,
            "measures": json.loads(row["measures"]) if row["measures"] else {},
            **{name: row[name] for name in ("sample_index", "tokens", "kept", "reason")},
        }
    )


def schema() -> pa.Schema:
    """The columns as Parquet holds them."""
    import pyarrow as pa

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    other = {"messages": pa.list_(turn), "sample_index": pa.int64(), "tokens": pa.int64(), "kept": pa.bool_()}
    return pa.schema([(name, other.get(name, pa.string())) for name in COLUMNS])
