"""Rejection sampling: the teacher answers every problem several times, and every trace is written with its verdict.

While it runs, a shard of undecided traces grows in the folder; at the end the filters decide over all of them at once
and the shard makes room for the finished set (see `trace_set`). A harvest that is killed at any moment goes on at its
rows that its shard lacks and ends with the same ones. How many samples a problem gets is fixed, or decided in rounds
(see `rounds`); a harvest may be of one part of the problems (see `merge`). A stage that rewrites gives its model the
traces of another set in the place of problems (see `rewriting`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from distill.chat import KNOWN_TAGS, ChatFormat
from distill.errors import RunFailed
from distill.generate.engine import Engine, Requests
from distill.generate.stream import Shard, fill
from distill.loops import is_runaway
from distill.recipe import SampleStage
from distill.recipe_parts import FixedCollect, most_samples
from distill.records import Completion, FinishReason, Problem, Trace, Verdict, in_shard, sample_seed
from distill.runs import Progress
from distill.shards import Row, write_rows
from distill.verify import Response, check_many
from teacher.agreement import Agreement
from teacher.contamination import Suites
from teacher.measures import measure
from teacher.rewriting import OF, Rewriting
from teacher.rounds import CLOCK, Collected, collect_in_rounds
from teacher.trace_set import FUNNEL, PROBLEMS, TRACES, read_funnel, write_trace_set

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
    hourly: float | None = None,
    agreement: float | None = None,
    to_rewrite: Sequence[Trace] = (),
    reads: int | None = None,
) -> dict[str, int]:
    """Sample, verify and filter, or go on with what is missing.

    Args:
        stage: says how many samples, how they are drawn, what is kept, and of which part of the problems.
        engine: generates with the teacher; ``chat`` is the teacher's.
        problems: with unique ids.
        instruction: what the teacher is told, with ``{problem}``; traces keep the bare problem.
        teacher_name: as the rows and the card call it.
        folder: of the trace set; what lies in it belongs to this very stage (the run folder sees to that).
        seed: the run's.
        suites: the passages of the suites that the stage's filters name, for what is to be kept out.
        hourly: money for an hour of all machines, for a budget of money.
        agreement: the share of a problem's first samples whose answer stands for a missing reference.
        to_rewrite: the kept traces of the set that ``stage.rewrite`` names.
        reads: tokens of prompt and completion that the engine has room for; needed for rewriting alone.

    Returns:
        ``generated_tokens``, ``traces``, ``kept``, and ``problems_covered`` by at least one kept trace.

    Raises:
        RunFailed: nothing is kept (the set is written all the same, for its reasons), or the shard is broken.
        UserError: programs are to be run and this machine cannot isolate them.
    """
    if (folder / _SHARD).exists() or not (folder / TRACES).exists():
        own = [one for one in problems if stage.shard is None or in_shard(one.id, stage.shard)]
        rewriting = _rewriting(stage, own, to_rewrite, chat, reads)
        own = rewriting.problems if rewriting else own
        by_id = {problem.id: problem for problem in own}
        assert len(by_id) == len(own) > 0, "problems without or with repeated ids"
        origin = {"teacher": teacher_name, "engine": engine.name, "sampling": stage.sampling.model_dump()}

        def make_rows(completions: list[Completion]) -> list[Row]:
            asked = [by_id[completion.problem_id] for completion in completions]
            return _make_rows(completions, asked, chat, seed, origin, rewriting, stage)

        def draw(wanted: Sequence[tuple[Problem, range]], which: str) -> None:
            requests = Requests(wanted, chat, seed, None if rewriting else instruction)
            runaway = is_runaway if stage.collect.abort_runaway else None
            with Progress(f"{stage.name}: {which}", total=len(requests), unit="sample") as progress:
                fill(shard, requests, engine, stage.sampling, make_rows, progress, runaway)

        shard = Shard(folder / _SHARD, by_id)
        agreed = Agreement(agreement, most_samples(stage.collect, at_first=True), (chat.tags, *KNOWN_TAGS))
        facts: dict[str, object] = {
            "teacher": teacher_name,
            "engine": engine.name,
            "problems": f"{stage.problems} ({len(problems):,})",
            "instruction": instruction or "none",
        }
        if isinstance(stage.collect, FixedCollect):
            samples = stage.collect.samples
            each = [(problem, range(samples)) for problem in own]
            draw(rewriting.wanted(samples) if rewriting else each, "rewriting" if rewriting else "harvest")
            found = Collected({f"samples per {'trace' if rewriting else 'problem'}": samples}, {}, [])
        else:
            assert rewriting is None, "the recipe's check lets none through"
            found = collect_in_rounds(stage, own, shard, draw, suites, folder / CLOCK, hourly, agreed)
        facts |= _told_of(stage, rewriting)
        facts |= {**found.facts, "sampling": stage.sampling.model_dump_json(), "seed": seed}
        _write(folder, stage, problems, own, agreed.judged(shard.rows()), found, facts, suites)
        shard.remove()  # last: while it is there, a restart writes the set again
    (folder / CLOCK).unlink(missing_ok=True)
    return _counts(folder)


def _rewriting(
    stage: SampleStage, own: Sequence[Problem], traces: Sequence[Trace], chat: ChatFormat, reads: int | None
) -> Rewriting | None:
    """What the stage writes anew, if it does.

    Raises:
        RunFailed: no trace is left for it.
    """
    if stage.rewrite is None:
        return None
    assert reads is not None, "a prompt that holds a trace may be too long"
    found = Rewriting(stage.rewrite, traces, own, chat, reads - stage.sampling.max_tokens)
    for reason, count in found.left_out.items():
        print(f"{stage.name}: left out {count:,} traces: {reason}", file=sys.stderr)
    if not found.count:
        reasons = "; ".join(f"{reason}: {count:,}" for reason, count in found.left_out.items())
        raise RunFailed(
            f"no trace of {len(traces)} in `{stage.rewrite.traces}` can be rewritten ({reasons})",
            then="Name the problems that the traces are of, or lower sampling.max_tokens.",
        )
    return found


def _told_of(stage: SampleStage, rewriting: Rewriting | None) -> dict[str, object]:
    """For the card: what was rewritten, and what was not."""
    if stage.rewrite is None or rewriting is None:
        return {}
    rewrite = stage.rewrite
    told = {
        "instruction": rewrite.prompt,
        "rewritten from": f"{rewrite.traces} ({rewriting.count:,} kept traces)",
    }
    left_out = "; ".join(f"{reason}: {count:,}" for reason, count in rewriting.left_out.items())
    return {**told, "left out before": left_out} if left_out else {**told}


def _write(
    folder: Path,
    stage: SampleStage,
    problems: Sequence[Problem],
    own: Sequence[Problem],
    traces: Iterable[Trace],
    found: Collected,
    facts: dict[str, object],
    suites: Suites | None,
) -> None:
    """The finished set of ``own``, all or a part of the problems."""
    more: dict[str, Any] = {"collection": found.summary} if found.summary else {}
    if stage.shard is not None:
        facts = {**facts, "shard": f"{stage.shard} ({len(own):,} problems)"}
        more["shard"] = {"shard": stage.shard, "problems": len(own), "of_problems": len(problems)}
    told = {row["id"]: row for row in found.problems}
    write_trace_set(
        folder, (_told(trace, told) for trace in traces), stage.filters, stage.collect.keep_per_problem, facts,
        suites=suites, price=stage.collect.price, more=more,
    )  # fmt: skip
    if more:
        place = {problem.id: number for number, problem in enumerate(problems)}
        rows = ({**told.get(one.id, {}), "place": place[one.id], "id": one.id} for one in own)
        write_rows(folder / PROBLEMS, rows)


def _told(trace: Trace, told: dict[str, Row]) -> Trace:
    """A trace with its problem's difficulty, where the rounds told it."""
    rate = told.get(trace.problem_id, {}).get("first_pass_rate")
    if rate is None:
        return trace
    return trace.model_copy(update={"measures": trace.measures | {"first_pass_rate": rate}})


def _make_rows(
    completions: Sequence[Completion],
    problems: Sequence[Problem],
    chat: ChatFormat,
    run_seed: int,
    origin: dict[str, Any],
    rewriting: Rewriting | None,
    stage: SampleStage,
) -> list[Row]:
    """The undecided trace of each completion, verified, as a row of the shard."""
    responses = [
        Response(problem, completion.prefill + completion.text, completion.finish_reason)
        for problem, completion in zip(problems, completions, strict=True)
    ]
    judgements = check_many(responses, tags=(chat.tags, *KNOWN_TAGS))
    rows = []
    for completion, response, judgement in zip(completions, responses, judgements, strict=True):
        measures = measure(response.text, chat.tags)
        if rewriting is not None:
            samples = most_samples(stage.collect)
            measures[OF] = rewriting.of(completion.problem_id, completion.sample_index, samples)
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
            measures=measures,
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
