"""The funnel: how many traces and tokens each filter took away, from what was sampled to what is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from distill.records import Trace, Verdict


class Tally:
    """Counts decided traces as they pass, so that they need not be held.

    Args:
        steps: the filters that decided, in their order.
    """

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps
        self._traces: Counter[str] = Counter()  # by reason; "" is kept
        self._tokens: Counter[str] = Counter()
        self._verdicts: Counter[str] = Counter()
        self._problems: set[str] = set()
        self._covered: set[str] = set()
        self._kept_unverified = 0

    def passing(self, traces: Iterable[Trace]) -> Iterator[Trace]:
        """The same traces, counted."""
        for trace in traces:
            assert trace.kept == (trace.reason == "") and trace.reason in ("", *self.steps), trace.reason
            self._traces[trace.reason] += 1
            self._tokens[trace.reason] += trace.tokens
            self._verdicts[trace.verdict.value] += 1
            self._problems.add(trace.problem_id)
            if trace.kept:
                self._covered.add(trace.problem_id)
                self._kept_unverified += trace.verdict is Verdict.UNVERIFIED
            yield trace

    def funnel(self) -> dict[str, Any]:
        """What ``funnel.json`` holds.

        ``kept.unverified`` counts the kept traces that nothing could verify (kind ``open``, or the filter is off).
        """
        traces, tokens = self._traces.total(), self._tokens.total()
        funnel: dict[str, Any] = {
            "input": {"traces": traces, "tokens": tokens, "problems": len(self._problems)},
            "steps": [],
        }
        for name in self.steps:
            traces, tokens = traces - self._traces[name], tokens - self._tokens[name]
            step = {"filter": name, "removed": self._traces[name], "removed_tokens": self._tokens[name]}
            funnel["steps"].append(step | {"left": traces, "left_tokens": tokens})
        kept = {"traces": self._traces[""], "tokens": self._tokens[""], "problems": len(self._covered)}
        funnel["kept"] = kept | {"unverified": self._kept_unverified}
        funnel["verdicts"] = dict(sorted(self._verdicts.items()))
        check(funnel)
        return funnel


def check(funnel: dict[str, Any]) -> None:
    """Assert that a funnel sums to its input: what is left after each step, what is kept, and the verdicts."""
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


def as_lines(funnel: dict[str, Any]) -> list[str]:
    """The funnel as a table for the terminal. Tokens are left out where the source did not count them."""
    total, kept = funnel["input"], funnel["kept"]
    rows = [("filter", "removed", "left", "tokens left"), ("sampled", "", total["traces"], total["tokens"])]
    rows += [(step["filter"], step["removed"], step["left"], step["left_tokens"]) for step in funnel["steps"]]
    columns = 4 if total["tokens"] else 3
    lines = []
    for name, *numbers in rows:
        shown = [f"{value:,}" if isinstance(value, int) else value for value in numbers[: columns - 1]]
        lines.append(f"{name:<16}" + "".join(f"{value:>16}" for value in shown))
    share = kept["traces"] / total["traces"] if total["traces"] else 0.0
    covered = f"{kept['problems']:,} of {total['problems']:,} problems"
    lines.append(f"kept {kept['traces']:,} of {total['traces']:,} traces ({share:.3f}), for {covered}")
    if kept["unverified"]:
        lines.append(f"of these, {kept['unverified']:,} could not be verified")
    verdicts = (f"{name.replace('_', ' ')} {number:,}" for name, number in funnel["verdicts"].items())
    return [*lines, "verdicts: " + ", ".join(verdicts)]
