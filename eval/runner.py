"""One model on one suite: sample, grade, write every response down, and sum them up.

Leaves in its folder: ``protocol.json`` (what these responses are answers to), ``responses.jsonl`` (one row
for each sample, problem by problem) and ``summary.json``; while it runs, a shard of the rows made so far. A killed
evaluation makes the rows that the shard lacks.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill.chat import KNOWN_TAGS, ChatFormat, is_well_formed
from distill.generate.engine import Engine, build_requests
from distill.generate.stream import Shard, fill
from distill.recipe_parts import Role
from distill.records import Completion, FinishReason, Problem, Verdict
from distill.runs import Progress, fingerprint, write_json_atomic
from distill.shards import read_rows, write_rows
from distill.suites import Suite
from distill.verify import Judgement, Response, check_many
from eval.judge import Judge
from eval.metrics import UNGRADED, cons_at_k, pass_at_1, pass_at_k
from eval.statistics import score_interval, standard_error

_SHARD = "shard-000.jsonl"
NO_VOTE = (
    "code",
    "instruction",
    "open",
)  # kinds whose answers are no values that a vote could be taken among


@dataclass(frozen=True, slots=True)
class Examinee:
    """A model as results name it; ``fingerprint`` changes whenever its weights do, ``params`` counts them."""

    name: str
    role: Role
    params: int
    fingerprint: str


def evaluate(
    model: Examinee,
    suite: Suite,
    problems: Sequence[Problem],
    *,
    engine: Engine,
    chat: ChatFormat,
    folder: Path,
    seed: int,
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Run a model on a suite's problems (or on with what is missing), and return the summary that it writes.

    Results of another protocol, model or set of problems in ``folder`` are removed, which stderr is told.

    Args:
        suite: its ``samples`` and ``sampling`` are what is used; see `Suite.with_protocol`.
        problems: of `load_suite`, with unique ids.
        judge: adds a ``win_rate`` to the summary; of open problems only.

    Raises:
        RunFailed: a response file is broken in its middle, or the judge's server is lost.
    """
    protocol = _protocol(model, suite, problems, engine, chat, seed)
    _make_room(folder, protocol)
    by_id = {problem.id: problem for problem in problems}
    assert len(by_id) == len(problems) > 0, "problems without or with repeated ids"

    def make_rows(completions: list[Completion]) -> list[dict[str, Any]]:
        return grade([by_id[completion.problem_id] for completion in completions], completions, chat)

    responses = folder / "responses.jsonl"
    if (folder / _SHARD).exists() or not responses.exists():
        shard = Shard(folder / _SHARD, by_id, problem_key="id")
        requests = build_requests(problems, suite.samples, chat, seed, suite.instruction)
        with Progress(f"{model.name}: {suite.name}", total=len(requests), unit="sample") as progress:
            fill(shard, requests, engine, suite.sampling, make_rows, progress)
        write_rows(responses, shard.rows())
        shard.remove()
    asked = {**suite.sampling.model_dump(), "instruction": suite.instruction, "seed": seed}
    asked["problems"] = protocol["problems"]
    if judge is not None:
        asked["judge"] = judge.protocol()
    heading = {"model": model.name, "role": model.role, "params": model.params}
    heading |= {"suite": suite.name, "kind": suite.kind, "protocol": asked}
    summary = heading | summarise(read_rows(responses), suite.samples)
    if judge is not None:
        summary["win_rate"] = judge.win_rate(read_rows(responses), folder, seed, chat.tags)
    write_json_atomic(folder / "summary.json", summary)
    if summary["ungraded"] and judge is None:
        left_out = f"{summary['ungraded']} samples could not be graded and are left out"
        print(f"{model.name}: {suite.name}: {left_out}; see {responses}", file=sys.stderr)
    return summary


def grade(
    problems: Sequence[Problem], completions: Sequence[Completion], chat: ChatFormat
) -> list[dict[str, Any]]:
    """One row for each completion, in order: the problem, the response and the verdict on it."""
    responses = [
        Response(problem, completion.prefill + completion.text, completion.finish_reason)
        for problem, completion in zip(problems, completions, strict=True)
    ]
    judgements = check_many(responses, tags=(chat.tags, *KNOWN_TAGS))
    return [
        _row(response, completion, judgement, chat)
        for response, completion, judgement in zip(responses, completions, judgements, strict=True)
    ]


def _row(
    response: Response, completion: Completion, judgement: Judgement, chat: ChatFormat
) -> dict[str, Any]:
    problem = response.problem
    verdict, reason = judgement.verdict, judgement.reason
    if completion.finish_reason is FinishReason.ERROR:
        told = completion.error or "the engine failed"
        verdict, reason = Verdict.ERROR, told  # says nothing about the model
    return {
        "id": problem.id,
        "sample_index": completion.sample_index,
        "problem": problem.problem,
        "reference": problem.reference,
        "kind": problem.kind,
        "tags": problem.tags,
        "prefill": completion.prefill,
        "completion": completion.text,
        "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
        "verdict": verdict,
        "extracted": judgement.extracted,
        "reason": reason,
        "well_formed": is_well_formed(response.text, chat.tags),
    }


# ------------------------------------------------------------------------------------ summary


@dataclass(slots=True)
class _ProblemTally:
    """The graded samples of one problem; programs are not kept as answers, no vote is taken among them."""

    answers_G: list[str | None] = field(default_factory=list)
    correct_G: list[bool] = field(default_factory=list)


def summarise(rows: Iterable[dict[str, Any]], samples: int) -> dict[str, Any]:
    """The figures of one model on one suite from its response rows, which are read once and not kept.

    ``n`` counts problems with a graded sample, ``k`` is ``samples``; ``ungraded`` samples are in
    ``verdicts`` and nowhere else. ``pass@k`` is None when one left a problem with fewer than k, ``cons@k``
    where programs or texts are asked for. ``format`` and ``truncated`` (stopped by the token limit) are shares of all
    samples; ``tokens`` were generated in all. ``tokens_per_correct`` is None where nothing was right.
    """
    tallies: dict[str, _ProblemTally] = {}
    verdicts: Counter[str] = Counter()
    tokens = well_formed = truncated = programs = 0
    for row in rows:
        tally = tallies.setdefault(row["id"], _ProblemTally())
        verdicts[row["verdict"]] += 1
        tokens += row["tokens"]
        well_formed += row["well_formed"]
        truncated += row["finish_reason"] == FinishReason.LENGTH
        programs += row["kind"] in NO_VOTE
        if row["verdict"] not in UNGRADED:
            tally.answers_G.append(row["extracted"] if row["kind"] not in NO_VOTE else None)
            tally.correct_G.append(row["verdict"] == Verdict.CORRECT)
    total = verdicts.total()
    correct_PG = [tally.correct_G for tally in tallies.values()]
    graded_PG = [correct_G for correct_G in correct_PG if correct_G]
    values_P = np.array([sum(correct_G) / len(correct_G) for correct_G in graded_PG])
    complete = all(len(correct_G) >= samples for correct_G in correct_PG)
    answers_PG = [tally.answers_G for tally in tallies.values()]
    return {
        "n": len(graded_PG),
        "k": samples,
        "pass@1": pass_at_1(correct_PG),
        "standard_error": standard_error(values_P),
        "ci95": list(score_interval(values_P)) if graded_PG else None,
        "pass@k": pass_at_k(correct_PG, samples) if complete else None,
        "cons@k": None if programs else cons_at_k(answers_PG, correct_PG),
        "format": well_formed / total,
        "truncated": truncated / total,
        "ungraded": sum(verdicts[verdict] for verdict in UNGRADED),
        "verdicts": dict(sorted(verdicts.items())),
        "tokens": tokens,
        "mean_tokens": tokens / total,
        "tokens_per_correct": tokens / verdicts[Verdict.CORRECT] if verdicts[Verdict.CORRECT] else None,
        "problems": [
            {"id": problem_id, "correct": sum(tally.correct_G), "samples": len(tally.correct_G)}
            for problem_id, tally in tallies.items()
        ],
    }


# ------------------------------------------------------------------------------------ one protocol a folder


def _protocol(
    model: Examinee, suite: Suite, problems: Sequence[Problem], engine: Engine, chat: ChatFormat, seed: int
) -> dict[str, Any]:
    return {
        "suite": suite.name,
        "problems": fingerprint([problem.model_dump(mode="json") for problem in problems]),
        "instruction": suite.instruction,
        "samples": suite.samples,
        "sampling": suite.sampling.model_dump(),
        "seed": seed,
        "model": model.fingerprint,
        "engine": engine.name,
        "think": [chat.tags.open, chat.tags.close, chat.prefill],
    }


def _make_room(folder: Path, protocol: dict[str, Any]) -> None:
    """Leave in the folder only results of this protocol: two in one file would make one wrong number."""
    path = folder / "protocol.json"
    found = [
        result for name in ("summary.json", "responses.jsonl", _SHARD) if (result := folder / name).exists()
    ]
    there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if there == protocol:
        return
    if found:
        changed = ", ".join(key for key in protocol if there.get(key) != protocol[key])
        print(f"{folder}: results with another {changed} were there; measuring anew", file=sys.stderr)
    for result in found:
        result.unlink()
    write_json_atomic(path, protocol)
