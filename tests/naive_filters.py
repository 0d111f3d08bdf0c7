"""Slow obvious twins of what the filters measure: one run, one pair, one problem at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def repetition(words: Sequence[str], run: int) -> float:
    """Go along the runs and remember every one that has passed."""
    seen: list[tuple[str, ...]] = []
    again = 0
    for start in range(len(words) - run + 1):
        here = tuple(words[start : start + run])
        again += here in seen
        seen.append(here)
    return again / len(seen) if seen else 0.0


def loop(text: str, tail: int, cycles: int) -> float:
    """Try every period; go back from the end as long as it holds."""
    text = text.rstrip()
    longest = 0
    for period in range(1, len(text)):
        run = period
        while run < len(text) and text[len(text) - run - 1] == text[len(text) - run - 1 + period]:
            run += 1
        if run >= (cycles - 1) * period + tail:
            longest = max(longest, run)
    return longest / len(text) if text else 0.0


def jaccard(one: Sequence[str], other: Sequence[str], run: int) -> float:
    sets = [{tuple(words[at : at + run]) for at in range(len(words) - run + 1)} for words in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def near_duplicates(words: Sequence[Sequence[str]], run: int, least: float) -> list[int]:
    """Each text against all that stayed before it."""
    stay: list[int] = []
    dropped = []
    for place, text in enumerate(words):
        if any(jaccard(text, words[earlier], run) >= least for earlier in stay):
            dropped.append(place)
        else:
            stay.append(place)
    return dropped


def decide(traces: Sequence[Any], filters: Any, cap: int | None) -> list[str]:
    """Reasons by the rules as written, without near duplicates, suites and diversity, for traces with all measures."""
    by_place: dict[int, str] = {}
    problems = sorted({trace.problem_id for trace in traces})
    for problem in problems:
        own = sorted(
            (place for place, trace in enumerate(traces) if trace.problem_id == problem),
            key=lambda place: traces[place].sample_index,
        )
        graded = [
            traces[place].verdict.value
            for place in own[: filters.difficulty.first if filters.difficulty else 0]
            if traces[place].verdict.value not in ("error", "bad_reference", "unverified")
        ]
        rate = graded.count("correct") / len(graded) if graded else 0.0
        texts: list[str] = []
        kept = 0
        for place in own:
            reason = _reason(traces[place], filters, rate)
            if not reason and filters.duplicates:
                reason = "duplicates" if traces[place].completion in texts else ""
                texts.append(traces[place].completion)
            if not reason and cap is not None and kept == cap:
                reason = "keep_per_problem"
            kept += not reason
            by_place[place] = reason
    return [by_place[place] for place in range(len(traces))]


def _reason(trace: Any, filters: Any, rate: float) -> str:
    measures = trace.measures
    if filters.finished and (trace.finish_reason is None and measures["unclosed_thought"]):
        return "finished"
    if filters.finished and trace.finish_reason not in (None, "stop"):
        return "finished"
    if filters.verified and trace.verdict.value != "correct":
        return "verified"
    if filters.format and measures["well_formed"] != 1:
        return "format"
    if filters.tokens and filters.tokens.max is not None and trace.tokens > filters.tokens.max:
        return "tokens"
    if filters.tokens and filters.tokens.min is not None and trace.tokens < filters.tokens.min:
        return "tokens"
    if filters.language and measures.get("language." + filters.language.target, 0) < filters.language.min:
        return "language"
    if filters.repetition and measures["repetition"] > filters.repetition.max:
        return "repetition"
    if filters.repetition and measures["loop"] > filters.repetition.loop:
        return "repetition"
    if filters.readable and measures["longest_paragraph"] > filters.readable.paragraph:
        return "readable"
    if filters.readable and not filters.readable.code and trace.kind != "code" and measures["code_blocks"]:
        return "readable"
    if filters.difficulty and not filters.difficulty.min <= rate <= filters.difficulty.max:
        return "difficulty"
    return ""
