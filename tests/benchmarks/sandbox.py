"""Programs judged a second: a fresh interpreter for each beside us, the same programs with the same tests, all cores.

    python tests/benchmarks/sandbox.py [--quick] [--json]

The programs are the reference solutions of HumanEval and MBPP (sanitized), right ones and wrong ones, eight for each
problem as a group of samples would be. The peer isolates nothing: it starts Python on a file that holds program and
tests, with limits on time and memory, one for each core at a time, as graders derived from HumanEval's do. Both must
find the same verdicts. Told besides: our speed where each program needs a process of its own.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from beside import data, main, timed

sys.path.insert(0, str(Path(__file__).parents[1]))
from mutants import mutants, references

CORES = len(os.sched_getaffinity(0))


class Work(NamedTuple):
    """A program, its test code, and the function that HumanEval's tests are handed."""

    program: str
    code: str
    entry_point: str | None


def works(quick: bool) -> list[Work]:
    """Eight programs a problem: its reference solution four times, told apart by comments, and four wrong ones."""
    found = []
    for one in references(data()):
        if one.name in SLOW:
            continue
        wrong = mutants(one)
        programs = [f"{one.program}\n# {number}\n" for number in range(4)] + [wrong[name] for name in WRONG]
        found += [Work(program, one.code, one.entry_point) for program in programs]
    return found[::41] if quick else found


WRONG = ("returns None", "result changed", "result in a list", "raises")
#: Their reference solutions compute for seconds, which would measure Python and not the graders.
SLOW = frozenset(f"MBPP/{number}" for number in (123, 138, 583, 20, 594))


def ours(quick: bool) -> dict[str, Any]:
    """`distill.verify.check_many`, the sandbox warm."""
    from distill.records import Problem, Verdict
    from distill.verify import Response, check_many

    def response(work: Work) -> Response:
        tests = {"type": "python", "code": work.code, "entry_point": work.entry_point}
        problem = Problem(id="p", kind="code", problem="?", tests=tests)
        return Response(problem, f"```python\n{work.program}\n```", None)

    every = works(quick)
    responses = [response(work) for work in every]
    alone = [response(work._replace(program=work.program + "\nimport os\n")) for work in every[::8]]
    check_many(responses[:20])
    judged, seconds = timed(lambda: check_many(responses))
    _, seconds_alone = timed(lambda: check_many(alone))
    return {
        "count": len(judged),
        "seconds": seconds,
        "same": [one.verdict is Verdict.CORRECT for one in judged],
        "alone": len(alone) / seconds_alone,
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
    """How many were right, and the speed without shared processes."""
    print(f"{sum(left['same'])} of {left['count']} programs right, on both sides; {CORES} at a time")
    print(f"ours, each program in a process of its own: {left['alone']:,.0f} programs/s")


if __name__ == "__main__":
    version = ".".join(map(str, sys.version_info[:3]))
    main(
        "sandbox", ours, peer, f"fresh python {version}", "programs/s", agree=agree, threads=CORES, tell=tell
    )
