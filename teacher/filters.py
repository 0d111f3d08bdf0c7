"""Which traces are kept: pure rules over what is stored on each row, so that a threshold can change without a teacher.

The filters run in the order of `steps`. The first that a trace fails is its reason, and later ones do not look at it.
A decision depends on the traces alone, never on the order in which they come: of equal texts, of near duplicates and
beyond a cap, those of the smallest problem id and sample number stay.

Legend: B traces of a set, P problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from distill.recipe_filters import Filters
from distill.records import Trace, Verdict
from teacher.contamination import Suites
from teacher.facts import VERDICTS, Facts
from teacher.measures import measure as measure  # what the rules read
from teacher.minhash import Signatures, likeness, similar_pairs

KEPT = -1
Rows = npt.NDArray[np.int64]


class Decisions(NamedTuple):
    """``reason_B`` is the place in ``steps`` of the filter that a trace fails, or KEPT; the rest is what was measured.

    ``pass_rate_P`` is of each problem (empty where nobody asked), ``near_B`` how alike a near duplicate is to the trace
    that it repeats (0: it is none).
    """

    steps: list[str]
    reason_B: npt.NDArray[np.int8]
    pass_rate_P: npt.NDArray[np.float64]
    near_B: npt.NDArray[np.float32]


def steps(filters: Filters, keep_per_problem: int | None) -> list[str]:
    """The filters that are switched on, in their order; these are also the reasons on the rows."""
    on = {
        "finished": filters.finished,
        "verified": filters.verified,
        "format": filters.format,
        "tokens": filters.tokens is not None,
        "language": filters.language is not None,
        "repetition": filters.repetition is not None,
        "readable": filters.readable is not None,
        "decontaminate": bool(filters.decontaminate),
        "difficulty": filters.difficulty is not None,
        "duplicates": filters.duplicates,
        "near_duplicates": filters.near_duplicates is not None,
        "keep_per_problem": keep_per_problem is not None,
        "reviewed": filters.reviewed,
    }
    return [name for name, switched_on in on.items() if switched_on]


def decide(
    traces: Iterable[Trace], filters: Filters, keep_per_problem: int | None, suites: Suites | None = None
) -> Iterator[Trace]:
    """Each trace, in its order, with ``kept``, ``reason`` (empty for a kept one) and measures told anew.

    Holds all the traces: `teacher.trace_set` decides over a file without.

    Args:
        keep_per_problem: the cap; None keeps all that pass.
        suites: the passages of the suites that ``filters.decontaminate`` names.
    """
    facts = Facts(filters, suites)
    held = list(facts.gathering(traces))
    decisions = decide_facts(facts, filters, keep_per_problem)
    for place, trace in enumerate(held):
        yield trace.model_copy(update=changed(decisions, place, facts["problem"][place], trace.measures))


def changed(decisions: Decisions, place: int, problem: int, measures: dict[str, float]) -> dict[str, Any]:
    """The columns of a row that a decision changes."""
    code = int(decisions.reason_B[place])
    told = {name: value for name, value in measures.items() if name not in ("pass_rate", "near_duplicate")}
    if len(decisions.pass_rate_P):
        told["pass_rate"] = round(float(decisions.pass_rate_P[problem]), 4)
    if decisions.near_B[place]:
        told["near_duplicate"] = round(float(decisions.near_B[place]), 4)
    return {"kept": code == KEPT, "reason": "" if code == KEPT else decisions.steps[code], "measures": told}


def decide_facts(facts: Facts, filters: Filters, keep_per_problem: int | None) -> Decisions:
    """The decision over a whole set, from its columns."""
    on = steps(filters, keep_per_problem)
    reason_B = np.full(len(facts), KEPT, np.int8)
    near_B = np.zeros(len(facts), np.float32)
    pass_rate_P = pass_rates(facts, filters.difficulty.first) if filters.difficulty else np.empty(0)
    order = _order(facts)
    signatures = facts.signatures()
    for code, name in enumerate(on):
        alive = order[reason_B[order] == KEPT]
        match name:
            case "duplicates":
                failed = _repeated(facts, alive)
            case "near_duplicates":
                assert filters.near_duplicates is not None
                failed, near = _near(signatures, alive, filters.near_duplicates.similarity)
                near_B[failed] = near
            case "keep_per_problem":
                assert keep_per_problem is not None
                failed = _beyond_cap(facts, alive, keep_per_problem, signatures if filters.diverse else None)
            case _:
                failed = alive[_fails(name, facts, filters, pass_rate_P)[alive]]
        reason_B[failed] = code
    return Decisions(on, reason_B, pass_rate_P, near_B)


def _fails(
    name: str, facts: Facts, filters: Filters, pass_rate_P: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Which traces fail a filter that looks at each alone (or, ``difficulty``, at its problem) [B]."""
    match name:
        case "finished" | "verified" | "reviewed":
            return facts[name] == 0
        case "format":
            return facts["well_formed"] == 0
        case "tokens":
            window, tokens_B = filters.tokens, facts["tokens"]
            assert window is not None
            return (tokens_B < (window.min or 0)) | (tokens_B > (window.max or np.inf))
        case "language":
            assert filters.language is not None
            return facts["language"] < np.float32(filters.language.min)
        case "repetition":
            limits = filters.repetition
            assert limits is not None
            return (facts["repetition"] > np.float32(limits.max)) | (facts["loop"] > np.float32(limits.loop))
        case "readable":
            asked = filters.readable
            assert asked is not None
            return (facts["paragraph"] > asked.paragraph) | ((facts["code"] == 1) & (not asked.code))
        case "decontaminate":
            return facts["overlap"] > 0
    assert name == "difficulty" and filters.difficulty is not None, name
    rate_B = pass_rate_P[facts["problem"]]
    return (rate_B < filters.difficulty.min) | (rate_B > filters.difficulty.max)


def _order(facts: Facts) -> Rows:
    """Rows by problem id, then sample: what decides which of several alike stays."""
    by_name = sorted(facts.problems, key=lambda name: name)
    rank_P = np.empty(len(by_name), np.int64)
    rank_P[[facts.problems[name] for name in by_name]] = np.arange(len(by_name))
    return np.lexsort((facts["sample"], rank_P[facts["problem"]])).astype(np.int64)


def pass_rates(facts: Facts, first: int) -> npt.NDArray[np.float64]:
    """The share of CORRECT among a problem's first samples that could be graded [P]; 0 where none could.

    Only those first ones count, so that a problem sampled on because it was hard (or easy) is not told another rate.
    """
    order = np.lexsort((facts["sample"], facts["problem"]))
    if not len(order):
        return np.empty(0)
    problem_B = facts["problem"][order]
    _, place_B = _in_groups(problem_B)
    verdict_B = facts["verdict"][order]
    ungraded = [VERDICTS.index(one) for one in (Verdict.ERROR, Verdict.BAD_REFERENCE, Verdict.UNVERIFIED)]
    counted = (place_B < first) & ~np.isin(verdict_B, ungraded)
    correct = counted & (verdict_B == VERDICTS.index(Verdict.CORRECT))
    size = len(facts.problems)
    right_P, all_P = (np.bincount(problem_B[mask], minlength=size) for mask in (correct, counted))
    return right_P / np.maximum(all_P, 1)


def _in_groups(problem_B: npt.NDArray[np.int32]) -> tuple[Rows, Rows]:
    """Where each problem's rows start, and each row's place among those of its problem, of rows sorted by it."""
    starts = np.flatnonzero(np.r_[True, problem_B[1:] != problem_B[:-1]])
    return starts, np.arange(len(problem_B)) - np.repeat(starts, np.diff(np.r_[starts, len(problem_B)]))


def _repeated(facts: Facts, alive: Rows) -> Rows:
    """Rows whose text an earlier one of the same problem has."""
    keys = np.stack([facts["problem"][alive].astype(np.uint64), facts["text"][alive]], 1)
    _, first = np.unique(keys, axis=0, return_index=True)
    return np.delete(alive, first)


def _near(signatures: Signatures, alive: Rows, least: float) -> tuple[Rows, npt.NDArray[np.float64]]:
    """Rows that are alike to an earlier one that stays, whosever problem that is, and how alike."""
    pairs, alike = similar_pairs(signatures, alive, least)
    nearest: dict[int, float] = {}
    # Sorted by the later one, so whether the earlier one stays is known by then.
    for (later, earlier), value in zip(pairs.tolist(), alike.tolist(), strict=True):
        if earlier not in nearest:
            nearest[later] = max(nearest.get(later, 0.0), value)
    return alive[np.fromiter(nearest, np.int64, len(nearest))], np.array(list(nearest.values()))


def _beyond_cap(facts: Facts, alive: Rows, cap: int, signatures: Signatures | None) -> Rows:
    """Rows beyond ``cap`` of their problem: the later ones or, given signatures, those most like the chosen."""
    if not len(alive):
        return alive
    starts, place_B = _in_groups(facts["problem"][alive])
    if signatures is None:
        return alive[place_B >= cap]
    beyond: list[int] = []
    for start, end in zip(starts, np.r_[starts[1:], len(alive)], strict=True):
        rows = alive[start:end].tolist()
        if len(rows) > cap:
            beyond += set(rows) - set(_unlike(rows, cap, signatures))
    return np.array(sorted(beyond), np.int64)


def _unlike(rows: list[int], cap: int, signatures: Signatures) -> list[int]:
    """The first row, then each time the one whose nearest chosen is furthest; of equals the first."""
    chosen = [rows[0]]
    nearest = {row: likeness(signatures[row], signatures[rows[0]]) for row in rows[1:]}
    while len(chosen) < cap:
        best = min(nearest, key=lambda row: nearest[row])
        del nearest[best]
        chosen.append(best)
        nearest = {
            row: max(value, likeness(signatures[row], signatures[best])) for row, value in nearest.items()
        }
    return chosen
