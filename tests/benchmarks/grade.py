"""Maths answers: pairs a second and errors, math-verify beside us on the same adjudicated pairs, one core each.

    python tests/benchmarks/grade.py [--quick] [--json]

Errors are counted against the stored labels and against the labels as corrected in `tests/cases/mined_labels.jsonl`,
which gives a reason for each. Both sides are loaded and warm before the clock starts.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from beside import data, main, one_core, timed

LABELS = Path(__file__).parents[1] / "cases" / "mined_labels.jsonl"


def pairs(quick: bool) -> list[dict[str, Any]]:
    """The adjudicated pairs; ``corrected`` is the label after our reading."""
    mined = data() / "equivalence" / "mined_from_outputs.jsonl"
    rows = [json.loads(line) for line in mined.read_text().splitlines()]
    corrected = {row["id"]: row["equal"] for row in map(json.loads, LABELS.read_text().splitlines())}
    rows = [row | {"corrected": corrected.get(row["id"], row["equal"])} for row in rows]
    return rows[::10] if quick else rows


def report(rows: list[dict[str, Any]], equal: list[bool], seconds: float) -> dict[str, Any]:
    """Speed, and errors by both labels; ``positives`` are the equal pairs whose texts differ."""
    told = list(zip(rows, equal, strict=True))
    positives = [(row, found) for row, found in told if row["equal"] and row["reference"] != row["response"]]
    return {
        "count": len(rows),
        "seconds": seconds,
        "same": len(rows),
        "errors_stored": sum(found != row["equal"] for row, found in told),
        "errors_corrected": sum(found != row["corrected"] for row, found in told),
        "positives": len(positives),
        "positives_missed": sum(not found for _, found in positives),
        "wrong": [row["id"] for row, found in told if found != row["corrected"]],
    }


def ours(quick: bool) -> dict[str, Any]:
    """`distill.verify.maths.grader.same_answer`, math-verify's share of it included."""
    from distill.records import Verdict
    from distill.verify.maths.grader import same_answer

    one_core()
    rows = pairs(quick)
    same_answer("1", r"\int_0^1 2x\,dx")  # starts math-verify's process
    found, seconds = timed(lambda: [same_answer(row["reference"], row["response"])[0] for row in rows])
    return report(rows, [verdict is Verdict.CORRECT for verdict in found], seconds)


def peer(quick: bool) -> dict[str, Any]:
    """math-verify as its README uses it: parse both sides, boxed; verify."""
    from math_verify import parse, verify

    one_core()
    rows = pairs(quick)

    def same(row: dict[str, Any]) -> bool:
        gold, given = (parse(rf"\boxed{{{row[side]}}}") for side in ("reference", "response"))
        return bool(verify(gold, given))

    same({"reference": "1", "response": "2"})
    found, seconds = timed(lambda: [same(row) for row in rows])
    return report(rows, found, seconds)


def agree(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Both judged the same pairs."""
    assert left["same"] == right["same"], (left["same"], right["same"])


def tell(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Errors of both sides."""
    for name, one in (("ours", left), ("math-verify", right)):
        print(
            f"{name:12} errors: {one['errors_corrected']} by corrected labels, "
            f"{one['errors_stored']} by the stored ones, of {one['count']} pairs; "
            f"{one['positives_missed']} of {one['positives']} equal pairs of different texts missed"
        )
        print(f"{'':12} wrong by corrected labels: {', '.join(one['wrong']) or 'none'}")


if __name__ == "__main__":
    version = importlib.metadata.version("math-verify")
    main("grade", ours, peer, f"math-verify {version}", "pairs/s", agree=agree, threads=1, tell=tell)
