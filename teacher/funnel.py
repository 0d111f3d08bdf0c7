"""The funnel: how many traces, tokens and how much money each filter took, from what was sampled to what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.records import Verdict
from teacher.facts import VERDICTS, Facts
from teacher.filters import KEPT, Decisions

Mask = npt.NDArray[np.bool_]


def make_funnel(facts: Facts, decisions: Decisions, price: float | None = None) -> dict[str, Any]:
    """What ``funnel.json`` holds of the counts, for all traces and, under ``sources``, for each source.

    ``kept.unverified`` counts the kept traces that nothing could verify (kind ``open``, or the filter is off).
    ``cost`` says what a kept trace took: all tokens generated over the traces kept, and their money.

    Args:
        price: money for a million generated tokens; None where nobody said.
    """
    funnel = _counts(facts, decisions, np.ones(len(facts), bool))
    total, kept = funnel["input"]["tokens"], funnel["kept"]["traces"]
    funnel["cost"] = {"tokens_per_kept": round(total / kept, 1) if kept else None}
    if price is not None:
        money = total * price / 1e6
        funnel["cost"] |= {
            "price_per_million": price,
            "total": money,
            "per_kept": money / kept if kept else None,
        }
        for step in funnel["steps"]:
            step["removed_cost"] = step["removed_tokens"] * price / 1e6
    funnel["sources"] = {
        name: _counts(facts, decisions, facts["source"] == number) for name, number in facts.sources.items()
    }
    check(funnel)
    return funnel


def _counts(facts: Facts, decisions: Decisions, of: Mask) -> dict[str, Any]:
    """The funnel of some traces."""
    reason_B, tokens_B = decisions.reason_B[of], facts["tokens"][of]
    problem_B, verdict_B = facts["problem"][of], facts["verdict"][of]
    traces, tokens = len(tokens_B), int(tokens_B.sum())
    funnel: dict[str, Any] = {
        "input": {"traces": traces, "tokens": tokens, "problems": len(np.unique(problem_B))},
        "steps": [],
    }
    for code, name in enumerate(decisions.steps):
        removed = reason_B == code
        step = {"filter": name, "removed": int(removed.sum()), "removed_tokens": int(tokens_B[removed].sum())}
        traces, tokens = traces - step["removed"], tokens - step["removed_tokens"]
        funnel["steps"].append(step | {"left": traces, "left_tokens": tokens})
    kept = reason_B == KEPT
    funnel["kept"] = {
        "traces": int(kept.sum()),
        "tokens": int(tokens_B[kept].sum()),
        "problems": len(np.unique(problem_B[kept])),
        "unverified": int((verdict_B[kept] == VERDICTS.index(Verdict.UNVERIFIED)).sum()),
    }
    counted = {verdict.value: int((verdict_B == code).sum()) for code, verdict in enumerate(VERDICTS)}
    funnel["verdicts"] = {name: number for name, number in sorted(counted.items()) if number}
    return funnel


def check(funnel: dict[str, Any]) -> None:
    """Assert that a funnel sums to its input: what is left after each step, what is kept, the verdicts, the sources."""
    left, left_tokens = funnel["input"]["traces"], funnel["input"]["tokens"]
    for step in funnel["steps"]:
        left, left_tokens = left - step["removed"], left_tokens - step["removed_tokens"]
        assert (step["left"], step["left_tokens"]) == (left, left_tokens), (
            f"the funnel leaks at {step['filter']}"
        )
    kept = funnel["kept"]
    assert (kept["traces"], kept["tokens"]) == (left, left_tokens), (
        "what is kept is not what the filters left"
    )
    assert sum(funnel["verdicts"].values()) == funnel["input"]["traces"], "verdicts do not sum to the input"
    assert kept["problems"] <= min(kept["traces"], funnel["input"]["problems"])
    sources = funnel.get("sources", {}).values()
    for source in sources:
        check(source)
    for part, number in (("input", "traces"), ("input", "tokens"), ("kept", "traces"), ("kept", "tokens")):
        summed = sum(source[part][number] for source in sources)
        assert not sources or summed == funnel[part][number], f"sources do not sum to {part}.{number}"


def as_lines(funnel: dict[str, Any]) -> list[str]:
    """The funnel as a table for the terminal. Tokens are left out where the source did not count them."""
    total, kept, cost = funnel["input"], funnel["kept"], funnel.get("cost", {})
    lines = _table(funnel)
    share = kept["traces"] / total["traces"] if total["traces"] else 0.0
    covered = f"{kept['problems']:,} of {total['problems']:,} problems"
    lines.append(f"kept {kept['traces']:,} of {total['traces']:,} traces ({share:.3f}), for {covered}")
    if kept["unverified"]:
        lines.append(f"of these, {kept['unverified']:,} could not be verified")
    if cost.get("tokens_per_kept"):
        money = f", {cost['per_kept']:.4g} of money" if cost.get("per_kept") is not None else ""
        lines.append(f"a kept trace took {cost['tokens_per_kept']:,.0f} generated tokens{money}")
    if collection := funnel.get("collection"):
        ended = ", ".join(f"{state} {number:,}" for state, number in collection["problems"].items())
        lines.append(f"problems in {collection['rounds']} rounds: {ended}")
        share = collection["tokens_saved"] / max(collection["tokens_of_most"], 1)
        lines.append(f"tokens saved beside the same number of samples for each: {share:.3f} (estimated)")
    if review := funnel.get("review"):
        decided = ", ".join(f"{decision} {number:,}" for decision, number in review.items())
        lines.append(f"a person's decisions: {decided}")
    verdicts = (f"{name.replace('_', ' ')} {number:,}" for name, number in funnel["verdicts"].items())
    lines.append("verdicts: " + ", ".join(verdicts))
    if len(sources := funnel.get("sources", {})) > 1:
        for name, source in sources.items():
            lines += ["", f"of {name or 'no named source'}:", *_table(source)]
    return lines


def _table(funnel: dict[str, Any]) -> list[str]:
    total = funnel["input"]
    head = ["filter", "removed", "left", "tokens left", "cost removed"]
    rows: list[list[Any]] = [["sampled", "", total["traces"], total["tokens"], ""]]
    for step in funnel["steps"]:
        cost = f"{step['removed_cost']:,.2f}" if "removed_cost" in step else ""
        rows.append([step["filter"], step["removed"], step["left"], step["left_tokens"], cost])
    columns = 3 if not total["tokens"] else 5 if any(row[4] for row in rows) else 4
    return [_line(row[:columns]) for row in (head, *rows)]


def _line(row: list[Any]) -> str:
    shown = (f"{value:,}" if isinstance(value, int) else value for value in row[1:])
    return f"{row[0]:<17}" + "".join(f"{value:>16}" for value in shown)


class Examples:
    """A few traces of each reason, with what was measured of them, for who wants to see what a filter rejects."""

    EACH = 3
    _SEEN = 160  # characters of the trace's end, where most that is wrong with one can be seen

    def __init__(self) -> None:
        self.found: dict[str, list[dict[str, Any]]] = {}

    def see(self, row: dict[str, Any], measures: dict[str, float]) -> None:
        """Note a decided row if its reason has too few examples yet."""
        if row["reason"] and len(self.found.setdefault(row["reason"], [])) < self.EACH:
            end = row["completion"][-self._SEEN :]
            told = {"id": row["id"], "verdict": row["verdict"], "tokens": row["tokens"]}
            self.found[row["reason"]].append({**told, "measures": measures, "ends": end})

    def lines(self) -> Iterator[str]:
        """For the terminal."""
        for reason, examples in self.found.items():
            for example in examples:
                yield f"{reason}: {example['id']}: ...{' '.join(example['ends'].split())}"
