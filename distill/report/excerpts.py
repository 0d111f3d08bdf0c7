"""Chooses the traces and answers that the page shows: few enough to open at once, spread evenly, the same every time.

A page cannot hold every trace of a run. What is chosen depends on the rows' ids alone (never on their order or on
chance), rare reasons of rejection get as much room as common ones, and the page says how many of how many it shows.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from distill.chat import KNOWN_TAGS, ThoughtTags, split_thought
from distill.recipe import Recipe
from distill.records import Verdict

TRACES_SHOWN = 400  # of each trace set
PROBLEMS_SHOWN = 60  # of each suite
SAMPLES_SHOWN = 4  # of each model on each of these problems
CHARACTERS_SHOWN = (
    6_000_000  # of each trace set and each suite; beyond it the longest texts lose their middle
)
PROBLEM_CHARACTERS = 20_000  # of one problem's text


@dataclass(frozen=True, slots=True)
class TraceExcerpt:
    """Chosen rows of a trace set that holds ``total``; ``shortened`` of them lost the middle of their text."""

    rows: list[dict[str, Any]]
    total: int
    shortened: int


@dataclass(frozen=True, slots=True)
class SuiteExcerpt:
    """Chosen problems of a suite of ``total``, each with every model's first answers and its [right, all] samples."""

    problems: list[dict[str, Any]]
    total: int
    shortened: int


def choose_traces(traces: Iterable[dict[str, Any]], recipe: Recipe) -> TraceExcerpt:
    """At most `TRACES_SHOWN` rows, balanced over kept and each reason of rejection.

    Memory does not grow with the set.
    """
    heaps: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}
    total = 0
    for total, trace in enumerate(traces, start=1):
        heap = heaps.setdefault("kept" if trace["kept"] else trace["reason"], [])
        entry = (-_lot(trace["id"]), total, trace)  # the heap keeps the smallest lots; `total` settles ties
        if len(heap) < TRACES_SHOWN:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    groups = [sorted(heaps[reason], key=lambda entry: -entry[0]) for reason in sorted(heaps)]
    shares = fair_shares([len(group) for group in groups], TRACES_SHOWN)
    chosen = [entry for group, share in zip(groups, shares, strict=True) for entry in group[:share]]
    rows = [trace for _, _, trace in sorted(chosen, key=lambda entry: entry[1])]
    lengths = fair_shares([len(row["completion"]) for row in rows], CHARACTERS_SHOWN)
    shown = [
        {
            "id": row["id"],
            "problem": cut_middle(row["problem"], PROBLEM_CHARACTERS),
            "reference": _words(row.get("reference")),
            "parts": _split(row["completion"], length, _tags(recipe, row["teacher"])),
            "verdict": row["verdict"],
            "extracted": _words(row.get("extracted")),
            "kept": row["kept"],
            "reason": row["reason"],
            "tokens": row["tokens"],
            "finish": row.get("finish_reason") or "",
            "measures": {name: f"{value:.4g}" for name, value in sorted(row.get("measures", {}).items())},
        }
        for row, length in zip(rows, lengths, strict=True)
    ]
    return TraceExcerpt(shown, total, _shortened([len(row["completion"]) for row in rows], lengths))


def choose_answers(responses: dict[str, Iterable[dict[str, Any]]], recipe: Recipe) -> SuiteExcerpt:
    """At most `PROBLEMS_SHOWN` problems of a suite, each with `SAMPLES_SHOWN` answers of every model.

    Args:
        responses: for each model the rows of its `responses.jsonl`.
        recipe: knows the models' thought tags.
    """
    seen: set[str] = set()
    chosen: dict[str, dict[str, Any]] = {}
    full = False
    last_lot = 0  # once enough problems are chosen: only a smaller lot still gets in
    for model, rows in responses.items():
        for row in rows:
            seen.add(row["id"])
            if row["id"] not in chosen:
                if full and _lot(row["id"]) > last_lot:
                    continue
                chosen[row["id"]] = {
                    "id": row["id"],
                    "problem": cut_middle(row["problem"], PROBLEM_CHARACTERS),
                    "reference": _words(row.get("reference")),
                    "counts": {},
                    "answers": {},
                }
                if len(chosen) > PROBLEMS_SHOWN:
                    del chosen[max(chosen, key=_lot)]
                if full := len(chosen) == PROBLEMS_SHOWN:
                    last_lot = max(map(_lot, chosen))
            if problem := chosen.get(row["id"]):
                # Of all samples, not only of those shown. A chosen problem has been so since its first row.
                count = problem["counts"].setdefault(model, [0, 0])
                count[0] += row["verdict"] == Verdict.CORRECT
                count[1] += 1
                if row["sample_index"] < SAMPLES_SHOWN:
                    problem["answers"].setdefault(model, []).append(row)
    problems = [chosen[key] for key in sorted(chosen)]
    answers = [row for problem in problems for rows in problem["answers"].values() for row in rows]
    lengths = fair_shares([len(_answer_text(row)) for row in answers], CHARACTERS_SHOWN)
    shortened = _shortened([len(_answer_text(row)) for row in answers], lengths)
    share = iter(lengths)
    for problem in problems:
        problem["answers"] = {
            model: [_shown_answer(row, next(share), _tags(recipe, model)) for row in rows]
            for model, rows in problem["answers"].items()
        }
    return SuiteExcerpt(problems, len(seen), shortened)


def fair_shares(sizes: Sequence[int], budget: int) -> list[int]:
    """Shares of a budget, none above its size: everyone gets what he needs, or as much as any other who lacks.

    The shares sum to min(budget, sum(sizes)), less a remainder smaller than the number of those who lack.
    """
    shares = [0] * len(sizes)
    left = budget
    for waiting, place in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[place] = min(sizes[place], left // (len(sizes) - waiting))
        left -= shares[place]
    return shares


def cut_middle(text: str, length: int) -> str:
    """A text no longer than ``length`` characters and a note of how many were left out of its middle."""
    if len(text) <= length:
        return text
    head = (length + 1) // 2
    tail = length - head
    return f"{text[:head]}\n[{len(text) - length:,} characters left out]\n{text[len(text) - tail :]}"


def _split(text: str, length: int, tags: tuple[ThoughtTags, ...]) -> list[str]:
    """[thought with its tags, answer]; the answer keeps up to half of the length. Uncut, the two join to the text."""
    answer = split_thought(text, tags).answer
    answer_shown = "" if answer is None else answer
    thought = text[: len(text) - len(answer_shown)]
    thought_length = max(length - len(answer_shown), length // 2)
    thought_shown = cut_middle(thought, thought_length)
    return [thought_shown, cut_middle(answer_shown, length - min(len(thought), thought_length))]


def _answer_text(row: dict[str, Any]) -> str:
    return str(row.get("prefill") or "") + str(row["completion"])


def _shown_answer(row: dict[str, Any], length: int, tags: tuple[ThoughtTags, ...]) -> dict[str, Any]:
    return {
        "parts": _split(_answer_text(row), length, tags),
        "verdict": row["verdict"],
        "tokens": row["tokens"],
        "extracted": _words(row.get("extracted")),
        "reason": row.get("reason") or "",
    }


def _tags(recipe: Recipe, model: str) -> tuple[ThoughtTags, ...]:
    source = recipe.source_model(model)
    if source not in recipe.models:
        return KNOWN_TAGS
    own = recipe.models[source].think
    return tuple(dict.fromkeys((ThoughtTags(own.open, own.close), *KNOWN_TAGS)))


def _lot(text: str) -> int:
    """A number that looks drawn by lot and is always the same for the same id."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _shortened(full: list[int], shown: list[int]) -> int:
    return sum(length > share for length, share in zip(full, shown, strict=True))


def _words(value: object) -> str:
    """A reference as text: itself, or `any of` / `all of` a list."""
    if isinstance(value, dict):
        return "; ".join(f"{how} of {', '.join(map(str, values))}" for how, values in value.items())
    return "" if value is None else str(value)
