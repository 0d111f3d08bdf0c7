"""The figures of one model on one suite, from its response rows.

Axis letters: P problems, G samples of one problem (ragged: what the grader could not judge is left out).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.chat import KNOWN_TAGS, ThoughtTags, split_thought
from distill.language import language_shares, share_of
from distill.recipe_filters import LANGUAGE_CODES
from distill.records import FinishReason, Verdict
from eval.codeforces import as_entry, rate
from eval.metrics import UNGRADED, cons_at_k, outcomes, pass_at_1, pass_at_k, powers_up_to, solve_rates
from eval.statistics import Values, bootstrap_interval, score_interval, standard_error
from eval.votes import VOTELESS, classes_of

#: Tags that results are broken down by.
BROKEN_DOWN_BY = ("subject", "level")
_PROSE = frozenset({"instruction", "open"})
#: The target of thoughts about questions whose own language cannot be told: sums, programs' descriptions.
_UNTOLD = "en"


@dataclass(slots=True)
class _ProblemTally:
    """One problem: the answers and marks of its graded samples, and what all of its samples took."""

    kind: str
    tags: Mapping[str, str]
    answers_G: list[str | None] = field(default_factory=list)
    correct_G: list[bool] = field(default_factory=list)
    samples: int = 0
    tokens: int = 0

    @property
    def share(self) -> float:
        return sum(self.correct_G) / len(self.correct_G)


@dataclass(slots=True)
class _Counts:
    """What is counted over all samples, graded or not."""

    verdicts: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    well_formed: int = 0
    truncated: int = 0
    languages: list[float] = field(default_factory=list)
    thoughts: list[float] = field(default_factory=list)


def summarise(
    rows: Iterable[dict[str, Any]], samples: int, tags: tuple[ThoughtTags, ...] = KNOWN_TAGS
) -> dict[str, Any]:
    """The figures of one model on one suite from its response rows, which are read once and not kept.

    ``n`` counts problems with a graded sample, ``k`` is ``samples``; ``ungraded`` samples are in
    ``verdicts`` and ``outcomes`` and nowhere else. ``pass@k`` is None when one left a problem with fewer than k,
    ``cons@k`` where nothing is voted on (`eval.votes.VOTELESS`); their curves hold each power of two, and k, of which
    every problem has as many graded samples. ``votes`` says how many answers were compared, and how many comparisons
    stayed without a result. ``format`` and ``truncated`` (stopped by the token limit) are shares of all
    samples; ``tokens`` were generated in all. ``tokens_per_correct`` is None where nothing was right. ``by`` breaks
    the score down by each of `BROKEN_DOWN_BY` that has two values or more, ``solve_rates`` counts problems in ten bins
    of their share of right samples. ``language`` is the mean share of a response's words that are in the language of
    its question, for prose alone; ``rating`` is there where problems carry the tag ``rating``.

    ``thought_language`` is the mean share of a thought's words that are in the language of the question (English where
    that cannot be told), over ``thoughts`` thoughts that hold words: one without any is in no language. None: none
    does.

    Args:
        tags: those that a thought may stand between.
    """
    tallies: dict[str, _ProblemTally] = {}
    counts = _Counts()
    for row in rows:
        tally = tallies.setdefault(row["id"], _ProblemTally(row["kind"], row.get("tags") or {}))
        _count(row, tally, counts, tags)
    total = counts.verdicts.total()
    correct = counts.verdicts[Verdict.CORRECT]
    correct_PG = [tally.correct_G for tally in tallies.values()]
    graded_P = [tally for tally in tallies.values() if tally.correct_G]
    values_P = np.array([tally.share for tally in graded_P])
    languages = counts.languages
    return {
        "n": len(graded_P),
        "k": samples,
        "pass@1": pass_at_1(correct_PG),
        "standard_error": standard_error(values_P),
        "ci95": list(score_interval(values_P)) if graded_P else None,
        "ci95_bootstrap": list(bootstrap_interval(values_P)) if graded_P else None,
        **_over_k(list(tallies.values()), samples),
        "format": counts.well_formed / total,
        "truncated": counts.truncated / total,
        "ungraded": sum(counts.verdicts[verdict] for verdict in UNGRADED),
        "verdicts": dict(sorted(counts.verdicts.items())),
        "outcomes": outcomes(counts.verdicts),
        "tokens": counts.tokens,
        "mean_tokens": counts.tokens / total,
        "tokens_per_correct": counts.tokens / correct if correct else None,
        "by": {tag: parts for tag in BROKEN_DOWN_BY if (parts := _broken_down(graded_P, tag))},
        "solve_rates": solve_rates(values_P.tolist()),
        "language": sum(languages) / len(languages) if languages else None,
        "thought_language": sum(counts.thoughts) / len(counts.thoughts) if counts.thoughts else None,
        "thoughts": len(counts.thoughts),
        "rating": _rating(graded_P),
        "problems": [
            {
                "id": problem_id,
                "correct": sum(tally.correct_G),
                "samples": len(tally.correct_G),
                "tokens": tally.tokens / tally.samples,
            }
            for problem_id, tally in tallies.items()
        ],
    }


def _count(
    row: Mapping[str, Any], tally: _ProblemTally, counts: _Counts, tags: tuple[ThoughtTags, ...]
) -> None:
    counts.verdicts[row["verdict"]] += 1
    counts.tokens += row["tokens"]
    counts.well_formed += row["well_formed"]
    counts.truncated += row["finish_reason"] == FinishReason.LENGTH
    tally.samples += 1
    tally.tokens += row["tokens"]
    if row["kind"] in _PROSE and row["verdict"] != Verdict.ERROR:
        counts.languages.append(_in_language_of(row["problem"], row["prefill"] + row["completion"]))
    thought = split_thought(row["prefill"] + row["completion"], tags).thought
    if thought and (shares := language_shares(thought)):
        counts.thoughts.append(share_of(shares, _language_of(row["problem"]) or _UNTOLD))
    if row["verdict"] not in UNGRADED:
        # Programs and prose are not kept: no vote is taken among them.
        tally.answers_G.append(row["extracted"] if row["kind"] not in VOTELESS else None)
        tally.correct_G.append(row["verdict"] == Verdict.CORRECT)


def _in_language_of(question: str, text: str) -> float:
    """The share of a text in the language that most of its question is in; 1 where the question's is none of ours."""
    asked = _language_of(question)
    return share_of(language_shares(text), asked) if asked else 1.0


def _language_of(question: str) -> str | None:
    """The language that most of a question is in; None where that is none of ours."""
    asked = {name: share for name, share in language_shares(question).items() if name in LANGUAGE_CODES}
    return max(asked, key=lambda name: asked[name]) if asked else None


def _over_k(tallies: Sequence[_ProblemTally], samples: int) -> dict[str, Any]:
    """``pass@k`` and ``cons@k`` with their curves, and what the votes took."""
    correct_PG = [tally.correct_G for tally in tallies]
    fewest = min(map(len, correct_PG), default=0)
    points = [k for k in powers_up_to(samples) if k <= fewest]
    figures: dict[str, Any] = {
        "pass@k": pass_at_k(correct_PG, samples) if fewest >= samples else None,
        "pass@k_curve": {str(k): pass_at_k(correct_PG, k) for k in points},
        "cons@k": None,
        "cons@k_curve": {},
    }
    if any(tally.kind in VOTELESS for tally in tallies):
        return figures
    classes_P = [classes_of(tally.answers_G, tally.kind) for tally in tallies]
    labels_PG = [classes.labels_G for classes in classes_P]
    compared, unsettled = (
        sum(getattr(classes, name) for classes in classes_P) for name in ("compared", "unsettled")
    )
    return figures | {
        "cons@k": cons_at_k(labels_PG, correct_PG),
        "cons@k_curve": {str(k): cons_at_k(labels_PG, correct_PG, k) for k in points},
        "votes": {"compared": compared, "unsettled": unsettled},
    }


def _broken_down(graded_P: Sequence[_ProblemTally], tag: str) -> dict[str, Any]:
    """The score for each value of a tag, in order; empty where there are not two of them."""
    parts: dict[str, list[float]] = {}
    for tally in graded_P:
        if value := str(tally.tags.get(tag, "")).strip():
            parts.setdefault(value, []).append(tally.share)
    if len(parts) < 2:
        return {}
    return {value: _part(np.array(parts[value])) for value in sorted(parts, key=_in_order)}


def _part(values_P: Values) -> dict[str, Any]:
    return {"n": len(values_P), "pass@1": float(values_P.mean()), "ci95": list(score_interval(values_P))}


def _in_order(value: str) -> tuple[bool, float, str]:
    """Numbers by their size, before words."""
    return (not value.isdecimal(), float(value) if value.isdecimal() else 0, value)


def _rating(graded_P: Sequence[_ProblemTally]) -> dict[str, Any] | None:
    """The rating from the problems that carry one; ``n`` says how many those are."""
    rated = [
        (rating, tally) for tally in graded_P if (rating := _number(tally.tags.get("rating"))) is not None
    ]
    if not rated:
        return None
    found = rate(
        [rating for rating, _ in rated],
        [sum(tally.correct_G) for _, tally in rated],
        [len(tally.correct_G) for _, tally in rated],
    )
    return as_entry(found) | {"n": len(rated)}


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if 0 < value < 10_000 else None  # Codeforces' own run from 800 to 3500; nan is none
