"""Programs judged a second: a fresh interpreter for each beside us, the same programs with the same tests, all cores.

    python tests/benchmarks/sandbox.py [--quick] [--json]

The programs are the reference solutions of HumanEval and MBPP (sanitized), right ones and broken ones in turn. The peer
isolates nothing: it starts Python on a file that holds program and tests, with limits on time and memory, one for each
core at a time, as graders derived from HumanEval's do. Both must find the same verdicts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from beside import data, main, timed

CORES = len(os.sched_getaffinity(0))


class Work(NamedTuple):
    """A program, its test code, and the function that HumanEval's tests are handed."""

    program: str
    code: str
    entry_point: str | None


def works(quick: bool) -> list[Work]:
    """Reference solutions, and after each one the same with its last line gone wrong."""
    found = []
    for row in map(json.loads, (data() / "code" / "humaneval.jsonl").read_text().splitlines()):
        before, _, _ = row["prompt"].rpartition(f"def {row['entry_point']}(")
        found.append(
            Work(row["prompt"] + row["canonical_solution"], before + row["test"], row["entry_point"])
        )
    for row in map(json.loads, (data() / "code" / "mbpp_sanitized.jsonl").read_text().splitlines()):
        if row["task_id"] not in SLOW:
            found.append(Work(row["code"], "\n".join([*row["test_imports"], *row["test_list"]]), None))
    both = [
        work for one in found for work in (one, one._replace(program=one.program + "\nraise SystemExit(1)\n"))
    ]
    return both[::13] if quick else both


#: Their reference solutions compute for seconds, which would measure Python and not the graders.
SLOW = frozenset({123, 138, 583, 20, 594})


def ours(quick: bool) -> dict[str, Any]:
    """`distill.verify.check_many`, the sandbox warm."""
    from distill.records import Problem, Verdict
    from distill.verify import Response, check, check_many

    def problem(work: Work) -> Problem:
        tests = {"type": "python", "code": work.code, "entry_point": work.entry_point}
        return Problem(id="p", kind="code", problem="?", tests=tests)

    responses = [Response(problem(work), f"```python\n{work.program}\n```", None) for work in works(quick)]
    check(*responses[0][:2])
    judged, seconds = timed(lambda: check_many(responses))
    return {
        "count": len(judged),
        "seconds": seconds,
        "same": [one.verdict is Verdict.CORRECT for one in judged],
    }


def peer(quick: bool) -> dict[str, Any]:
    """A fresh interpreter for each program, CORES at a time."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (11, 11))
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(CORES) as pool:

        def judged(numbered: tuple[int, Work]) -> bool:
            number, work = numbered
            file = Path(folder, f"{number}.py")
            check = f"check({work.entry_point})\n" if work.entry_point else ""
            file.write_text(f"{work.program}\n{work.code}\n{check}")
            done = subprocess.run(
                [sys.executable, str(file)],
                timeout=20,
                capture_output=True,
                preexec_fn=limit,
                stdin=subprocess.DEVNULL,
            )
            return done.returncode == 0

        work = list(enumerate(works(quick)))
        same, seconds = timed(lambda: list(pool.map(judged, work)))
    return {"count": len(same), "seconds": seconds, "same": same}


def agree(left: dict[str, Any], right: dict[str, Any]) -> None:
    """The same verdicts, one by one."""
    differ = [
        number
        for number, pair in enumerate(zip(left["same"], right["same"], strict=True))
        if pair[0] != pair[1]
    ]
    assert not differ, f"verdicts differ for programs {differ[:10]}"


def tell(left: dict[str, Any], right: dict[str, Any]) -> None:
    """How many were right."""
    print(f"{sum(left['same'])} of {left['count']} programs right, on both sides; {CORES} at a time")


if __name__ == "__main__":
    version = ".".join(map(str, sys.version_info[:3]))
    main(
        "sandbox", ours, peer, f"fresh python {version}", "programs/s", agree=agree, threads=CORES, tell=tell
    )
