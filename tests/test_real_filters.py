"""The filters on recorded long thoughts, loops and truncations included: what they reject and what not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.chat import tags_in
from distill.recipe_filters import Filters
from distill.records import Trace, Verdict
from teacher.filters import decide
from teacher.measures import measure

ALL = Filters.model_validate(
    {
        "verified": False, "format": False, "language": True, "repetition": True, "readable": True,
        "near_duplicates": True,
    }
)  # fmt: skip


def recorded(path: Path) -> tuple[list[Trace], int]:
    """The rows of a file as traces, and how many were left out because their collector had cut them."""
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.open()]
    whole = [row for row in rows if not row.get("cut_here")]
    traces = [
        Trace(
            id=f"{number}#{row.get('sample', 0)}", problem_id=str(row.get("idx", number)), kind="math",
            problem=row["question"], completion=row["response"], tokens=len(row["response"]), finish_reason=None,
            teacher=row["model"], sample_index=row.get("sample", number), measures=measure(
                row["response"], tags_in(row["response"])
            ),
            verdict=Verdict.CORRECT if row["label"] else Verdict.WRONG,
        )
        for number, row in enumerate(whole)
    ]  # fmt: skip
    return traces, len(rows) - len(whole)


def counted(traces: list[Trace]) -> tuple[dict[str, int], list[Trace]]:
    decided = list(decide(traces, ALL, None))
    counts: dict[str, int] = {}
    for trace in decided:
        counts[trace.reason] = counts.get(trace.reason, 0) + 1
    return counts, decided


@pytest.mark.parametrize(
    ("name", "cut", "expected"),
    [
        (
            "qwen25_32b_prompted_long_cot",
            0,
            {"": 563, "finished": 16, "repetition": 4, "readable": 7},
        ),
        ("sky_t1_14b_long_cot_aime_amc", 82, {"": 58}),
        (
            "math_cot_100x8_qwen25math",
            0,
            {
                "": 593,
                "duplicates": 76,
                "near_duplicates": 122,
                "readable": 5,
                "language": 3,
                "repetition": 1,
            },
        ),
    ],
)
def test_what_is_rejected_was_read_by_eye(
    shared_data: Path, name: str, cut: int, expected: dict[str, int]
) -> None:
    """A change of these counts asks for reading the rows again; docs/harvest.md tells what was found."""
    traces, left_out = recorded(shared_data / "outputs" / f"{name}.jsonl")
    counts, decided = counted(traces)
    assert (left_out, counts) == (cut, expected)
    if name == "qwen25_32b_prompted_long_cot":
        right = [row.reason for row in decided if row.reason and row.verdict is Verdict.CORRECT]
        assert sorted(right) == [
            "finished",
            *["readable"] * 5,
        ]  # the first goes round in its thought, without an answer
