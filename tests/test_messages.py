"""The messages form: every kind of trace comes back from it as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from distill.conversations import exchanges, is_conversation, said_by
from distill.messages import COLUMNS, is_message_row, message_row, schema, trace_of
from distill.records import Trace, Verdict
from distill.shards import write_parquet

TESTS = {"type": "python", "code": "assert f(1) == 2", "entry_point": "f"}
BASE: dict[str, Any] = {
    "id": "p#1", "problem_id": "p", "kind": "math", "problem": "1+1", "completion": "<think>a</think>2", "tokens": 5,
    "finish_reason": "stop", "teacher": "t", "sample_index": 1, "source": "s",
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"reference": "2", "verdict": Verdict.CORRECT, "extracted": "2", "measures": {"repetition": 0.25}},
        {"reference": {"any": ["2", "two"]}, "verdict": Verdict.WRONG, "kept": False, "reason": "verified"},
        {"reference": '{"any": thing'},
        {"kind": "code", "tests": TESTS, "verdict": Verdict.CORRECT},
        {"kind": "open", "finish_reason": None, "source": "", "tokens": 0},
    ],
)
def test_a_trace_comes_back_as_it_was(tmp_path: Path, changes: dict[str, Any]) -> None:
    trace = Trace.model_validate(BASE | changes)
    write_parquet(tmp_path / "t.parquet", [trace])
    (columns,) = pq.read_table(tmp_path / "t.parquet").to_pylist()
    row = message_row(columns, "mit")
    assert row.keys() == COLUMNS.keys() == set(schema().names) and is_message_row(row)
    assert None not in row.values() and row["licence"] == "mit"
    assert trace_of(row) == trace


def test_other_rows_are_none_of_ours() -> None:
    assert not is_message_row({"messages": [], "problem_id": "p"})
    with pytest.raises(ValueError, match="finish_reason"):
        trace_of({name: "" for name in COLUMNS} | {"messages": [], "finish_reason": "eos"})


def test_both_spellings_of_a_conversation() -> None:
    ours = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
    ]
    theirs = [
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a"},
        {"from": "human", "value": "more"},
    ]
    assert [said_by(ours, "user"), said_by(ours, "assistant"), exchanges(ours)] == ["q", "a", 1]
    assert [said_by(theirs, "user"), said_by(theirs, "assistant"), exchanges(theirs)] == ["q", "a", 2]
    assert (
        said_by([], "user") is None and said_by("text", "user") is None and said_by(None, "assistant") is None
    )
    assert (
        is_conversation(ours)
        and not is_conversation([1])
        and not is_conversation([])
        and not is_conversation("x")
    )
