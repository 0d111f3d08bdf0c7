"""Which traces are kept: pure rules over what is stored on each row, so that a threshold can change without a teacher.

The filters run in one order: finished, verified, format, max_tokens, duplicates, keep_per_problem. The first that a
trace fails is its reason, and later ones do not look at it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from distill.chat import KNOWN_TAGS, ThoughtState, ThoughtTags, is_well_formed, split_thought
from distill.recipe_parts import Filters
from distill.records import FinishReason, Trace, Verdict


def measure(text: str, tags: ThoughtTags | None) -> dict[str, float]:
    """What the filters need to know of a text (prefill included), each 0 or 1.

    Args:
        tags: the family in which the text has to be well formed; None: it is written in none.
    """
    families = (tags, *KNOWN_TAGS) if tags else KNOWN_TAGS
    return {
        "well_formed": float(tags is not None and is_well_formed(text, tags)),
        "unclosed_thought": float(split_thought(text, families).state is ThoughtState.OPEN),
    }


def steps(filters: Filters, keep_per_problem: int | None) -> list[str]:
    """The filters that are switched on, in their order; these are also the reasons that `decide` gives."""
    on = {
        "finished": filters.finished,
        "verified": filters.verified,
        "format": filters.format,
        "max_tokens": filters.max_tokens is not None,
        "duplicates": filters.duplicates,
        "keep_per_problem": keep_per_problem is not None,
    }
    return [name for name, switched_on in on.items() if switched_on]


@dataclass(slots=True)
class _Seen:
    """What earlier traces of the same problem left behind."""

    last_sample: int = -1
    texts: set[bytes] = field(default_factory=set)
    kept: int = 0


def decide(traces: Iterable[Trace], filters: Filters, keep_per_problem: int | None) -> Iterator[Trace]:
    """Each trace, in its order, with ``kept`` and ``reason`` (empty for a kept one) decided anew.

    A decision depends on the trace and on earlier ones of its problem alone. So the order of problems does not
    matter, and of equal texts, or beyond the cap, the smallest sample numbers are kept.

    Args:
        traces: those of each problem in the order of their ``sample_index``, with the measures of `measure`.
        keep_per_problem: the cap; None keeps all that pass.
    """
    on = steps(filters, keep_per_problem)
    seen: dict[str, _Seen] = {}
    for trace in traces:
        earlier = seen.setdefault(trace.problem_id, _Seen())
        assert trace.sample_index > earlier.last_sample, (
            f"{trace.id} comes after sample {earlier.last_sample}"
        )
        earlier.last_sample = trace.sample_index
        reason = next(
            (name for name in on if not _passes(name, trace, filters, keep_per_problem, earlier)), ""
        )
        earlier.kept += not reason
        yield trace.model_copy(update={"kept": not reason, "reason": reason})


def _passes(name: str, trace: Trace, filters: Filters, keep_per_problem: int | None, earlier: _Seen) -> bool:
    match name:
        case "finished":
            if (
                trace.finish_reason is None
            ):  # nobody knows why it ended, but a thought without end was cut off
                return not trace.measures["unclosed_thought"]
            return trace.finish_reason is FinishReason.STOP
        case "verified":
            unverifiable = trace.kind == "open" and trace.verdict is Verdict.UNVERIFIED
            return trace.verdict is Verdict.CORRECT or unverifiable
        case "format":
            return trace.measures["well_formed"] == 1
        case "max_tokens":
            assert filters.max_tokens is not None
            return trace.tokens <= filters.max_tokens
        case "duplicates":
            text = hashlib.sha256(trace.completion.encode("utf-8", "surrogatepass")).digest()
            new = text not in earlier.texts
            earlier.texts.add(text)
            return new
    assert name == "keep_per_problem" and keep_per_problem is not None
    return earlier.kept < keep_per_problem
