"""A whole campaign without its teacher: 20,000 scripted traces verified, measured, filtered, decontaminated, exported.

    python tests/benchmarks/campaign.py [--quick] [--json] [--traces N] [--folder DIR]

The teacher answers at no cost: texts of log-normal length, mean 5,355 tokens (that of DeepSeek-R1's 800,000 traces) of
2.7 characters each (as in 590 recorded long thoughts), put together from a pool of sentences, with planted flaws: wrong
answers, cut thoughts, loops, another language, copies, and questions of a suite. Processes, one for each core, as
shards of problems would run, generate, verify, measure and write rows; then one process, with helpers on all cores,
decides over all of them in two passes, and exports what is kept: messages in Parquet, card and samples.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from distill.chat import ThoughtTags
from distill.export_traces import export_set
from distill.recipe_filters import Filters
from distill.records import FinishReason, Problem, Trace, sample_seed
from distill.shards import append_rows, read_rows
from distill.verify import Response, check_many
from teacher.contamination import Passage, Suites
from teacher.exporting import Settings
from teacher.funnel import as_lines
from teacher.measures import measure
from teacher.trace_set import SIGNATURES, write_trace_set

SAMPLES, MEAN_TOKENS, SIGMA, LETTERS_PER_TOKEN = 8, 5355, 0.8, 2.7
CORES, WANTED_TRACES, WANTED_CORES = 2, 800_000, 16
AT_ONCE = 64
FILTERS = Filters.model_validate(
    {
        "tokens": {"min": 16, "max": 32768}, "language": True, "repetition": True, "readable": True,
        "decontaminate": ["exam"], "difficulty": {"min": 0.1, "max": 1.0, "first": 4}, "near_duplicates": True,
        "diverse": True,
    }
)  # fmt: skip
KEEP = 4


# ------------------------------------------------------------------------------------ the scripted teacher


@cache
def pool() -> list[str]:
    """Sentences of a thought, some with numbers; 20,000 of them, so that texts share few."""
    lots = random.Random(0)
    things = [
        "sum",
        "product",
        "angle",
        "side",
        "root",
        "factor",
        "value",
        "term",
        "digit",
        "prime",
        "area",
        "ratio",
    ]
    deeds = [
        "compute",
        "check",
        "compare",
        "expand",
        "reduce",
        "bound",
        "split",
        "square",
        "rewrite",
        "count",
    ]
    ties = [
        "Wait,",
        "So",
        "Now",
        "Then",
        "Let me see:",
        "Hmm,",
        "But",
        "Alternatively,",
        "First,",
        "Therefore",
    ]
    found = []
    for _ in range(20_000):
        a, b, c = (lots.randint(2, 999) for _ in range(3))
        one, two, three = lots.sample(things, 3)
        found.append(
            f"{lots.choice(ties)} I {lots.choice(deeds)} the {one} of the {two} with {a}, and since the {three} is "
            f"${b}x + {c} = {a * b}$, this is what we need to {lots.choice(deeds)} next."
        )
    return found


def problem(number: int) -> Problem:
    """A sum in words; one in a hundred is a question of the suite `exam`."""
    lots = random.Random(number)
    a, b = lots.randint(100, 9999), lots.randint(100, 9999)
    name, thing = lots.choice(["Ann", "Bob", "Cleo", "Dan", "Eve"]), lots.choice(["coins", "cards", "pens"])
    text = f"In the year {1000 + number} {name} has {a} {thing} and finds {b} more of them in an old box. "
    text += f"How many {thing} are there now?"
    return Problem(id=f"sum:{number:06}", kind="math", problem=text, reference=str(a + b), source="sums")


def exam(problems: int) -> Suites:
    """The suite that nothing kept may overlap: 2,000 questions of its own, and every hundredth of ours."""
    ours = [problem(number) for number in range(0, problems, 100)]
    theirs = [problem(10_000_000 + number) for number in range(2_000)]
    return Suites(Passage("exam", one.id, "question", one.problem) for one in ours + theirs)


def completion(asked: Problem, sample: int) -> tuple[str, int, FinishReason]:
    """Text, tokens and end of one answer."""
    lots = random.Random(sample_seed(0, asked.id, sample))
    mean_log = 8.2658  # ln 5355 - 0.8 ** 2 / 2
    tokens = min(max(int(lots.lognormvariate(mean_log, SIGMA)), 20), 32768)
    letters, sentences = int(tokens * LETTERS_PER_TOKEN), pool()
    first = sentences[0]
    parts = lots.choices(sentences, k=letters // (len(first) + 10) + 1)
    flaw = lots.random()
    if flaw < 0.02:
        parts += [parts[-1]] * 40
    elif flaw < 0.04:
        parts[len(parts) // 2 :] = ["我们需要计算这两个数的和。然后检查结果是否正确。" * 4] * (
            len(parts) // 2
        )
    elif flaw < 0.07 and sample:  # a near copy of the first sample
        head = completion(asked, 0)[0].split("</think>")[0].removeprefix("<think>\n").split(" ")
        parts = [" ".join(head[:-5]), "One more look."]
    thought = " ".join(parts)
    paragraphs = "\n\n".join(thought[start : start + 600] for start in range(0, len(thought), 600))
    answer = int(asked.reference or 0) + (lots.random() < 0.25)
    if lots.random() < 0.05:
        return f"<think>\n{paragraphs}", tokens, FinishReason.LENGTH
    return (
        f"<think>\n{paragraphs}\n</think>\n\nThe answer is $\\boxed{{{answer}}}$.",
        tokens,
        FinishReason.STOP,
    )


# ------------------------------------------------------------------------------------ the phases


def work(job: tuple[int, int, str]) -> dict[str, float]:
    """One process's share of the problems: generated, verified, measured, written; seconds of each."""
    problems, share, path = job
    seconds = dict.fromkeys(("generate", "verify", "measure", "write"), 0.0)
    asked = chain.from_iterable(
        ((problem(number), sample) for sample in range(SAMPLES)) for number in range(share, problems, CORES)
    )
    while some := list(islice(asked, AT_ONCE)):
        clock = time.perf_counter()
        texts = [completion(one, sample) for one, sample in some]
        clock = lap(seconds, "generate", clock)
        judged = check_many(
            [Response(one, text[0], text[2]) for (one, _), text in zip(some, texts, strict=True)]
        )
        clock = lap(seconds, "verify", clock)
        measures = [measure(text[0], ThoughtTags()) for text in texts]
        clock = lap(seconds, "measure", clock)
        rows = [
            Trace.of(
                one, sample, completion=text[0], tokens=text[1], finish_reason=text[2], teacher="scripted",
                verdict=judgement.verdict, extracted=judgement.extracted, measures=measured,
                kept=False, reason="undecided",
            )
            for (one, sample), text, judgement, measured in zip(some, texts, judged, measures, strict=True)
        ]  # fmt: skip
        append_rows(Path(path), rows)
        lap(seconds, "write", clock)
    return seconds | {"memory_mb": peak_mb()}


def lap(seconds: dict[str, float], name: str, since: float) -> float:
    """Add the time since then to a phase; returns the time now."""
    now = time.perf_counter()
    seconds[name] += now - since
    return now


def decide(folder: Path, shards: list[Path], suites: Suites) -> dict[str, Any]:
    """Both passes: overlaps and signatures while the rows are gathered, then the decisions."""
    rows = chain.from_iterable(map(read_rows, shards))
    traces = noting(Trace.model_validate(row) for row in rows)
    return write_trace_set(folder, traces, FILTERS, KEEP, {"teacher": "scripted"}, suites=suites)


peaks: list[float] = []  # MB, after each thousand of the traces that were decided


def noting(traces: Iterator[Trace]) -> Iterator[Trace]:
    """The same traces; the most memory held so far is noted on the way."""
    for number, trace in enumerate(traces):
        if number % 1000 == 0:
            peaks.append(peak_mb())
        yield trace
    peaks.append(peak_mb())


def exported_to(folder: Path) -> Path:
    """Where what is kept goes: beside the set."""
    return folder.with_name(f"{folder.name}-export")


def peak_mb() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu_of_children() -> float:
    """Processor seconds of the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def campaign(traces: int, folder: Path) -> dict[str, Any]:
    """Seconds of each phase, memory before and after, and the funnel."""
    problems = traces // SAMPLES
    shards = [folder / f"shard-{share:03}.jsonl" for share in range(CORES)]
    started = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(CORES) as workers:
        told = workers.map(work, [(problems, share, str(path)) for share, path in enumerate(shards)])
    sampled = time.perf_counter()
    suites = exam(problems)
    alone, helped = time.process_time(), cpu_of_children()
    funnel = decide(folder, shards, suites)
    decided, decided_mb = time.perf_counter(), peak_mb()
    exported = export_set(folder, exported_to(folder), Settings())
    done = time.perf_counter()
    alone, helped = time.process_time() - alone, cpu_of_children() - helped
    assert exported["traces"] == funnel["kept"]["traces"], (exported, funnel["kept"])
    assert (folder / SIGNATURES).stat().st_size == problems * SAMPLES * 480
    workers_seconds = {
        name: max(one[name] for one in told) for name in ("generate", "verify", "measure", "write")
    }
    return {
        "traces": problems * SAMPLES,
        "tokens": funnel["input"]["tokens"],
        "seconds": done - started,
        "phases": {**workers_seconds, "decide": decided - sampled, "export": done - decided},
        "sampled_seconds": sampled - started,
        "memory_mb": {
            "worker": max(one["memory_mb"] for one in told),
            "decide": decided_mb,
            "export": peak_mb(),
        },
        "cpu": {"alone": alone, "helpers": helped},
        # The first half fills buffers of rows, which no longer grow then.
        "growth_kb": 1024 * (peaks[-1] - peaks[len(peaks) // 2]) / (problems * SAMPLES / 2),
        "funnel": funnel,
        "exported": exported,
    }


def tell(found: dict[str, Any]) -> dict[str, Any]:
    """Print what was measured, and what it means for 800,000 traces on 16 cores."""
    for line in as_lines(found["funnel"]):
        print(line)
    traces, phases = found["traces"], found["phases"]
    print(f"\n{traces:,} traces, {found['tokens'] / 1e6:,.1f} M tokens, {CORES} processes, then one")
    for name, seconds in phases.items():
        where = "in each process" if name in ("generate", "verify", "measure", "write") else "in one"
        print(f"{name:<12}{seconds:10.1f} s   {1000 * seconds / traces:8.2f} ms a trace, {where}")
    memory = found["memory_mb"]
    print(f"{'all':<12}{found['seconds']:10.1f} s")
    print(
        f"memory: {memory['worker']:.0f} MB in a worker, {memory['decide']:.0f} MB in the process that decides, "
        f"{memory['export']:.0f} MB once it has exported"
    )
    ours = {name: seconds for name, seconds in phases.items() if name != "generate"}
    bound = max(ours, key=lambda name: ours[name])
    print(f"bound by: {bound}")
    out = found["exported"]
    print(
        f"exported: {out['traces']:,} traces as messages, {out['files']} files, {out['bytes'] / 1e6:,.0f} MB"
    )
    # Workers and helpers share their work; what one process does alone it does whatever the cores. Processor seconds,
    # because others may have used the cores meanwhile.
    shared = sum(phases[name] for name in ("verify", "measure", "write")) * CORES + found["cpu"]["helpers"]
    minutes = (shared / WANTED_CORES + found["cpu"]["alone"]) * WANTED_TRACES / traces / 60
    print(
        f"deciding and exporting: {found['cpu']['alone']:.1f} s of one core, helpers {found['cpu']['helpers']:.1f} s"
    )
    print(f"{WANTED_TRACES:,} traces on {WANTED_CORES} cores: {minutes:.0f} minutes at this rate")
    if traces >= 4000:
        print(f"memory grew by {found['growth_kb']:.2f} KB a trace over the second half of those gathered")
    return {
        "bench": "campaign", "ours": traces / found["seconds"], "unit": "traces/s", "threads": CORES,
        "seconds": found["seconds"], "memory_mb": memory, "growth_kb": found["growth_kb"], "bound": bound,
        "minutes_800k": minutes,
    }  # fmt: skip


def main() -> None:
    """Run it in a folder that is removed, unless one was given."""
    parser = argparse.ArgumentParser(prog="campaign.py")
    parser.add_argument("--quick", action="store_true", help="500 traces")
    parser.add_argument("--json", action="store_true", help="the result as one object on the last line")
    parser.add_argument("--traces", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where the set is left (default: a temporary folder)")
    options = parser.parse_args()
    traces = 500 if options.quick else options.traces
    folder = options.folder or Path(tempfile.mkdtemp(prefix="campaign-"))
    for place in (folder, exported_to(folder)) if options.folder else ():
        if place.exists():
            sys.exit(f"{place} exists: give a new folder")
    try:
        found = campaign(traces, folder)
        result = tell(found)
    finally:
        if not options.folder:
            for place in (folder, exported_to(folder)):
                shutil.rmtree(place, ignore_errors=True)
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
