"""Two sides of a benchmark, each in a child process of its own, turn by turn; medians, spreads and their ratio.

A benchmark script calls `main` with one function a side. Called again by itself with ``--side NAME`` it runs that
function once and prints what it measured as JSON; so no side profits from what the other has loaded, and memory is each
one's own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# (quick) -> {"count": work done, "seconds": wall, "same": what must agree, ...}
Side = Callable[[bool], dict[str, Any]]
RUNS = 3


def main(
    bench: str,
    ours: Side,
    peer: Side,
    peer_name: str,
    unit: str,
    *,
    agree: Callable[[dict[str, Any], dict[str, Any]], None],
    threads: int,
    tell: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
) -> None:
    """Run both sides RUNS times in turn, check that they did the same work, print medians and the ratio.

    Args:
        agree: raises where two reports show that the sides did not do the same work.
        tell: prints what else the last two reports hold.
    """
    parser = argparse.ArgumentParser(prog=f"{bench}.py")
    parser.add_argument("--quick", action="store_true", help="a small part of the work, within a minute")
    parser.add_argument("--json", action="store_true", help="the result as one object on the last line")
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        report = (ours if options.side == "ours" else peer)(options.quick)
        processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        usage = [resource.getrusage(who).ru_maxrss for who in processes]
        print(json.dumps(report | {"memory_mb": max(usage) / 1024}))
        return
    reports: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for run in range(RUNS):
        for side in ("ours", "peer") if run % 2 == 0 else ("peer", "ours"):
            reports[side].append(_once(side, options.quick))
        agree(reports["ours"][-1], reports["peer"][-1])
    speeds = {side: [one["count"] / one["seconds"] for one in told] for side, told in reports.items()}
    memory = {side: statistics.median(one["memory_mb"] for one in told) for side, told in reports.items()}
    for side, name in (("ours", "ours"), ("peer", peer_name)):
        low, middle, high = min(speeds[side]), statistics.median(speeds[side]), max(speeds[side])
        print(f"{name:28} {middle:12,.1f} {unit}   ({low:,.1f} to {high:,.1f})   {memory[side]:7.0f} MB")
    ratio = statistics.median(speeds["ours"]) / statistics.median(speeds["peer"])
    print(f"{'ratio':28} {ratio:12.2f}")
    if tell is not None:
        tell(reports["ours"][-1], reports["peer"][-1])
    if options.json:
        result = {
            "bench": bench, "ours": statistics.median(speeds["ours"]), "peer": statistics.median(speeds["peer"]),
            "ratio": ratio, "unit": unit, "memory_ratio": memory["peer"] / memory["ours"], "peer_name": peer_name,
            "threads": threads,
        }  # fmt: skip
        print(json.dumps(result))


def _once(side: str, quick: bool) -> dict[str, Any]:
    command = [sys.executable, sys.argv[0], "--side", side, *(["--quick"] if quick else [])]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    report: dict[str, Any] = json.loads(told.splitlines()[-1])
    return report


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What the work returns, and the wall seconds it took."""
    started = time.perf_counter()
    done = work()
    return done, time.perf_counter() - started


def one_core() -> None:
    """Keep this process on a single core."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def data() -> Path:
    """The folder of real data; exits with a reason where it is absent."""
    folder = Path(os.environ.get("DISTILL_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        sys.exit(f"no real data at {folder}: set DISTILL_DATA")
    return folder
