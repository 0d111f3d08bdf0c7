"""Two sides of a benchmark, each in a child process of its own, turn by turn; medians, spreads and their ratio.

A benchmark script calls `main` with one function a side. Called again by itself with ``--side NAME`` it runs that
function once and prints what it measured as JSON; so no side profits from what the other has loaded, and memory is each
one's own.

A peer that can be set up in several ways brings a function for each. All of them run once on the small part of the
work, and the fastest takes the turns.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# (quick, and the name of the work where there are several) -> {"count": work done, "seconds": wall, "same": what must
# agree, ...}
Side = Callable[..., dict[str, Any]]
Report = dict[str, Any]
RUNS = 3
PROCESSES = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def main(
    bench: str,
    ours: Side,
    peer: Side | Mapping[str, Side],
    peer_name: str,
    unit: str,
    *,
    agree: Callable[[Report, Report], None],
    threads: int,
    tell: Callable[[Report, Report], None] | None = None,
    works: Sequence[str] = (),
) -> None:
    """Run both sides RUNS times in turn, check that they did the same work, print medians and the ratio.

    Args:
        peer: its function, or one for each way of setting it up, of which the fastest is measured.
        agree: raises where two reports show that the sides did not do the same work.
        tell: prints what else the last two reports hold.
        works: names of several works, each measured on its own; a side is called with the name after ``quick``.
    """
    parser = argparse.ArgumentParser(prog=f"{bench}.py")
    parser.add_argument("--quick", action="store_true", help="a small part of the work, within a minute")
    parser.add_argument("--json", action="store_true", help="the result as one object on the last line")
    if works:
        parser.add_argument("--work", choices=works, help="this one alone")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = {f"peer/{name}": side for name, side in peer.items()} if isinstance(peer, Mapping) else {}
    sides = {"ours": ours, **(settings or {"peer": peer})}
    work = getattr(options, "work", None)
    if options.side:
        report = sides[options.side](options.quick, *([work] if work else []))
        print(json.dumps(report | {"memory_mb": _peak_mb()} | _above_imports()))
        return
    for one in [work] if work or not works else works:
        flags = [*(["--quick"] if options.quick else []), *(["--work", one] if one else [])]
        if one:
            print(f"--- {one}")
        chosen = _fastest(settings, flags, agree) if settings else "peer"
        setting = chosen.removeprefix("peer").removeprefix("/")
        name = f"{peer_name}, {setting}" if setting else peer_name
        result = _beside(bench, chosen, name, unit, flags, agree, tell)
        if options.json:
            print(json.dumps({**result, "threads": threads, **({"work": one} if one else {})}))


def _fastest(settings: Mapping[str, Side], flags: list[str], agree: Callable[[Report, Report], None]) -> str:
    """The setting of most work a second on the small part of the work; each is told."""
    flags = list(dict.fromkeys(["--quick", *flags]))
    mine, speeds = _once("ours", flags), {}
    for setting in settings:
        report = _once(setting, flags)
        agree(mine, report)
        speeds[setting] = report["count"] / report["seconds"]
        name = setting.removeprefix("peer/")
        print(f"  first, small run: {name:32} {speeds[setting]:12,.1f}   {_memory_told(report)}", flush=True)
    return max(speeds, key=lambda setting: speeds[setting])


def _beside(
    bench: str,
    chosen: str,
    peer_name: str,
    unit: str,
    flags: list[str],
    agree: Callable[[Report, Report], None],
    tell: Callable[[Report, Report], None] | None,
) -> Report:
    """The turns, and the table that they make."""
    reports: dict[str, list[Report]] = {"ours": [], chosen: []}
    for run in range(RUNS):
        for side in ("ours", chosen) if run % 2 == 0 else (chosen, "ours"):
            reports[side].append(_once(side, flags))
        agree(reports["ours"][-1], reports[chosen][-1])
    speeds = {side: [one["count"] / one["seconds"] for one in told] for side, told in reports.items()}
    middle = {side: statistics.median(told) for side, told in speeds.items()}
    # What the imports take says nothing of the work, so it is left out where the sides have told it.
    key = "memory_above_imports_mb" if "memory_above_imports_mb" in reports["ours"][0] else "memory_mb"
    memory = {side: statistics.median(one[key] for one in told) for side, told in reports.items()}
    width = max(28, len(peer_name))
    for side, name in (("ours", "ours"), (chosen, peer_name)):
        low, high = min(speeds[side]), max(speeds[side])
        told = _memory_told(min(reports[side], key=lambda one: abs(one[key] - memory[side])))
        print(f"{name:{width}} {middle[side]:12,.1f} {unit}   ({low:,.1f} to {high:,.1f})   {told}")
    ratio = middle["ours"] / middle[chosen]
    print(f"{'ratio':{width}} {ratio:12.2f}")
    if key != "memory_mb":
        print(f"{'memory, ours over peer':{width}} {memory['ours'] / memory[chosen]:12.2f}")
    if tell is not None:
        tell(reports["ours"][-1], reports[chosen][-1])
    return {
        "bench": bench, "ours": middle["ours"], "peer": middle[chosen], "ratio": ratio, "unit": unit,
        "memory_ratio": memory[chosen] / memory["ours"], "peer_name": peer_name,
    }  # fmt: skip


def _memory_told(report: Report) -> str:
    above = report.get("memory_above_imports_mb")
    return f"{report['memory_mb']:7.0f} MB" + ("" if above is None else f", {above:.0f} above the imports")


def _once(side: str, flags: list[str]) -> Report:
    command = [sys.executable, sys.argv[0], "--side", side, *flags]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    report: Report = json.loads(told.splitlines()[-1])
    return report


_imports_mb: list[float] = []


def imports_are_done() -> None:
    """Called by a side once it has imported everything: from here on memory is the work's own."""
    _imports_mb.append(_peak_mb())


def _peak_mb() -> float:
    return max(resource.getrusage(who).ru_maxrss for who in PROCESSES) / 1024


def _above_imports() -> dict[str, float]:
    return {"memory_above_imports_mb": _peak_mb() - _imports_mb[-1]} if _imports_mb else {}


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
    folder = Path(os.environ.get("DISTILL_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not folder.is_dir():
        sys.exit(f"no real data at {folder}: set DISTILL_DATA")
    return folder
