"""Rejection sampling: the teacher answers every problem several times, and every trace is written with its verdict.

While it runs, a shard of undecided traces grows in the folder; at the end the filters decide over all of them at once
and the shard makes room for the finished set (see `trace_set`). A harvest that is killed at any moment goes on at its
rows that its shard lacks and ends with the same ones.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.chat import KNOWN_TAGS, ChatFormat
from distill.errors import RunFailed
from distill.generate.engine import Engine, build_requests
from distill.generate.stream import Shard, fill
from distill.loops import is_runaway
from distill.recipe import SampleStage
from distill.records import Completion, FinishReason, Problem, Trace, Verdict, sample_seed
from distill.runs import Progress
from distill.shards import Row
from distill.verify import Response, check_many
from teacher.contamination import Suites
from teacher.measures import measure
from teacher.trace_set import FUNNEL, TRACES, read_funnel, write_trace_set

_SHARD = "shard-000.jsonl"
_UNDECIDED = "undecided"  # the reason on rows of the shard, which nobody should take for kept ones


def harvest(
    *,
    stage: SampleStage,
    engine: Engine,
    chat: ChatFormat,
    problems: Sequence[Problem],
    instruction: str | None,
    teacher_name: str,
    folder: Path,
    seed: int,
    suites: Suites | None = None,
) -> dict[str, int]:
    """Sample, verify and filter, or go on with what is missing.

    Args:
        stage: says how many samples, how they are drawn, and what is kept.
        engine: generates with the teacher; ``chat`` is the teacher's.
        problems: with unique ids.
        instruction: what the teacher is told, with ``{problem}``; traces keep the bare problem.
        teacher_name: as the rows and the card call it.
        folder: of the trace set; what lies in it belongs to this very stage (the run folder sees to that).
        seed: the run's.
        suites: the passages of the suites that the stage's filters name, for what is to be kept out.

    Returns:
        ``generated_tokens``, ``traces``, ``kept``, and ``problems_covered`` by at least one kept trace.

    Raises:
        RunFailed: nothing is kept (the set is written all the same, for its reasons), or the shard is broken.
        UserError: programs are to be run and this machine cannot isolate them.
    """
    if (folder / _SHARD).exists() or not (folder / TRACES).exists():
        by_id = {problem.id: problem for problem in problems}
        assert len(by_id) == len(problems) > 0, "problems without or with repeated ids"
        origin = {"teacher": teacher_name, "engine": engine.name, "sampling": stage.sampling.model_dump()}

        def make_rows(completions: list[Completion]) -> list[Row]:
            asked = [by_id[completion.problem_id] for completion in completions]
            return _make_rows(completions, asked, chat, seed, origin)

        shard = Shard(folder / _SHARD, by_id)
        requests = build_requests(problems, stage.collect.samples, chat, seed, instruction)
        with Progress(f"{stage.name}: harvest", total=len(requests), unit="sample") as progress:
            runaway = is_runaway if stage.collect.abort_runaway else None
            fill(shard, requests, engine, stage.sampling, make_rows, progress, runaway)
        facts = {
            "teacher": teacher_name,
            "engine": engine.name,
            "problems": f"{stage.problems} ({len(problems):,})",
            "instruction": instruction or "none",
            "samples per problem": stage.collect.samples,
            "sampling": stage.sampling.model_dump_json(),
            "seed": seed,
        }
        traces = (Trace.model_validate(row) for row in shard.rows())
        write_trace_set(folder, traces, stage.filters, stage.collect.keep_per_problem, facts, suites=suites)
        shard.remove()  # last: while it is there, a restart writes the set again
    return _counts(folder)


def _make_rows(
    completions: Sequence[Completion],
    problems: Sequence[Problem],
    chat: ChatFormat,
    run_seed: int,
    origin: dict[str, Any],
) -> list[Row]:
    """The undecided trace of each completion, verified, as a row of the shard."""
    responses = [
        Response(problem, completion.prefill + completion.text, completion.finish_reason)
        for problem, completion in zip(problems, completions, strict=True)
    ]
    judgements = check_many(responses, tags=(chat.tags, *KNOWN_TAGS))
    rows = []
    for completion, response, judgement in zip(completions, responses, judgements, strict=True):
        engine_failed = completion.finish_reason is FinishReason.ERROR  # which says nothing of the teacher
        trace = Trace.of(
            response.problem,
            completion.sample_index,
            completion=response.text,
            tokens=completion.tokens,
            finish_reason=completion.finish_reason,
            policy_version=completion.policy_version,
            seed=sample_seed(run_seed, completion.problem_id, completion.sample_index),
            verdict=Verdict.ERROR if engine_failed else judgement.verdict,
            extracted=judgement.extracted,
            measures=measure(response.text, chat.tags),
            kept=False,
            reason=_UNDECIDED,
            **origin,
        )
        rows.append(trace.model_dump(mode="json"))
    return rows


def _counts(folder: Path) -> dict[str, int]:
    funnel = read_funnel(folder)
    total, kept, verdicts = funnel["input"], funnel["kept"], funnel["verdicts"]
    ungraded = verdicts.get(Verdict.ERROR, 0) + verdicts.get(Verdict.BAD_REFERENCE, 0)
    if ungraded:
        print(f"{folder.name}: {ungraded} traces could not be graded; see their verdicts", file=sys.stderr)
    if not kept["traces"]:
        worst = max(funnel["steps"], key=lambda step: step["removed"])
        raise RunFailed(
            f"no trace of {total['traces']} passed the filters, so a student would have nothing to learn; "
            f"`{worst['filter']}` removed {worst['removed']} (see {folder / FUNNEL}). "
            "A better teacher, more samples or easier problems help.",
            then="What was finished is kept; the same command would end here again.",
        )
    return {
        "generated_tokens": total["tokens"],
        "traces": total["traces"],
        "kept": kept["traces"],
        "problems_covered": kept["problems"],
    }
