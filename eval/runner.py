"""One model on one suite: sample, grade, write every response down, and sum them up.

Leaves in its folder: ``protocol.json`` (what these responses are answers to), ``responses.jsonl`` (one row
for each sample, problem by problem) and ``summary.json``; while it runs, a shard of the rows made so far. A killed
evaluation makes the rows that the shard lacks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from eval.summary import summarise

_SHARD = "shard-000.jsonl"


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
    if (window := suite.window) and window.since and window.until and suite.source.limit is None:
        asked["window"] = [window.since, window.until]  # all problems of these days
    if judge is not None:
        asked["judge"] = judge.protocol()
    heading = {"model": model.name, "role": model.role, "params": model.params}
    heading |= {"suite": suite.name, "kind": suite.kind, "protocol": asked}
    summary = heading | summarise(read_rows(responses), suite.samples, (chat.tags, *KNOWN_TAGS))
    if judge is not None:
        summary["win_rate"] = judge.win_rate(read_rows(responses), folder, seed, chat.tags)
    write_json_atomic(folder / "summary.json", summary)
    if summary["ungraded"] and judge is None:
        left_out = f"{summary['ungraded']} samples could not be graded and are left out"
        if suite.kind == "open":
            left_out = f"{summary['ungraded']} open answers are not graded; a judge gives them a win rate"
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
