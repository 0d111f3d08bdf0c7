"""What was written for a GPU without one: checked and timed, each part on its own.

    python tests/benchmarks/gpu.py --out gpu.jsonl            # fine-tuning, within nine minutes on one H100
    python tests/benchmarks/gpu.py --set grpo --out gpu.jsonl # GRPO's update phase, within nine minutes too
    python tests/benchmarks/gpu.py --part attention
    python tests/benchmarks/gpu.py --device cpu --tiny        # small shapes, that the script itself works

A part runs in a process of its own with a limit of its own, so what breaks or hangs takes nothing else with it, and
what it had found by then is kept. Each part ends as one line of JSON, appended to ``--out`` at once. ``checks`` in it
must all be true. What a part cannot do here stands under ``skipped``, with the reason. Exit code 1: a part failed.

The parts stand in `gpu_parts.py` (machine, attention, head), `gpu_training.py` (models of real shapes), `gpu_peer.py`
(TRL) and `gpu_methods.py` (every method and memory setting on a small model); those of GRPO in `gpu_grpo.py` and
`gpu_grpo_peer.py` (TRL).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

Found = dict[str, Any]
TOTAL = 540  # seconds for all parts of a set; one that has less than SHORTEST left is not begun
SHORTEST = 10
MARK = "found: "  # before what a part has found, among what libraries print


class Part(NamedTuple):
    """Where a part's function stands, the seconds that it may take, and what its line of the table shows."""

    module: str
    function: str
    limit: int
    about: str
    headline: tuple[str, ...]


_SPEED = ("tokens_per_second", "mfu", "peak_gib", "planned_gib")
PARTS: dict[str, Part] = {
    "machine": Part(
        "gpu_parts", "machine", 30, "rate of matrix products, memory, versions", ("tflops", "gib")
    ),
    "attention": Part(
        "gpu_parts", "attention", 45, "varlen kernel against buckets", ("kernel_ms", "buckets_ms", "gap")
    ),
    "logprobs": Part(
        "gpu_parts", "logprobs", 45, "the chunked head, and liger's", ("ms", "added_gib", "liger_ms")
    ),
    "full-1.5b": Part("gpu_training", "full", 130, "Qwen2.5-1.5B, full, rows of 16k", _SPEED),
    "trl-1.5b": Part("gpu_peer", "trl", 70, "the same by TRL's SFTTrainer", ("tokens_per_second", "ratio")),
    "lora-7b-32k": Part("gpu_training", "lora", 70, "Qwen2.5-7B, lora, one trace of 32k", _SPEED),
    "qlora-32b": Part("gpu_training", "qlora", 75, "Qwen2.5-32B, NF4, one trace of 8k", _SPEED),
    "methods": Part(
        "gpu_methods", "methods", 75, "every method and memory setting agrees", ("settings", "largest_gap")
    ),
    "grpo-1.5b": Part(
        "gpu_grpo", "grpo", 170, "Qwen2.5-1.5B, GRPO's update on 512 x 4k tokens", (*_SPEED, "mfu_whole")
    ),
    "trl-grpo-1.5b": Part(
        "gpu_grpo_peer",
        "trl",
        340,
        "the same by TRL's GRPOTrainer",
        ("tokens_per_second", "ratio", "ratio_few", "ratio_mixed"),
    ),
}
#: What runs together; each set has nine minutes.
SETS: dict[str, tuple[str, ...]] = {
    "sft": tuple(name for name in PARTS if "grpo" not in name),
    "grpo": ("machine", "grpo-1.5b", "trl-grpo-1.5b"),
}


class Place(NamedTuple):
    """Where a part runs: the kind of device, at what size, and the measured rate of products (0: not measured)."""

    kind: str
    tiny: bool
    rate: float


def child(name: str, place: Place) -> None:
    """Run one part; each thing that it finds is one line on stdout."""
    part = PARTS[name]
    work: Callable[[Place], Iterator[Found]] = getattr(import_module(part.module), part.function)
    for found in work(place):
        print(MARK + json.dumps(found), flush=True)


def run(name: str, place: Place, limit: float) -> Found:
    """Run one part in a process of its own; returns its line, whatever became of it."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--child", name, "--device", place.kind, "--rate", str(place.rate)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        environment = {"DISTILL_QUIET": "1", "OMP_NUM_THREADS": "1"} if place.tiny else {"DISTILL_QUIET": "1"}
        process = subprocess.Popen(
            [*command, *(["--tiny"] if place.tiny else [])],
            stdout=out,
            stderr=errors,
            env=environment | os.environ,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        row: Found = {"part": name, "ok": False, "seconds": 0.0}
        out.seek(0)
        for line in out:
            if line.startswith(MARK) and line.endswith("}\n"):  # a killed part's last line may be half a line
                row = _merged(row, json.loads(line.removeprefix(MARK)))
        errors.seek(0)
        said = errors.read().splitlines()
    row["seconds"] = round(time.monotonic() - began, 1)
    if code is None:
        row["failed"] = f"took longer than {limit:.0f} s"
    elif code:
        row["failed"] = f"exit code {code}: {said[-1] if said else 'it said nothing'}"[:400]
    row["ok"] = code == 0 and all(row.get("checks", {}).values())
    if not row["ok"]:
        print(*(f"    {name}: {line}" for line in said[-15:]), sep="\n", file=sys.stderr)
    return row


def _merged(row: Found, found: Found) -> Found:
    """What is a mapping on both sides is merged, so that a part may add to its checks as it goes."""
    both = {key for key in row.keys() & found.keys() if isinstance(row[key], dict)}
    return row | found | {key: row[key] | found[key] for key in both}


def main() -> int:
    """Run the parts that are asked for; print the table."""
    parser = argparse.ArgumentParser(prog="gpu.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="this one alone")
    parser.add_argument(
        "--set", choices=SETS, default="sft", help="the parts of fine-tuning, or those of GRPO"
    )
    parser.add_argument("--list", action="store_true", help="tell the set's parts and their limits")
    parser.add_argument("--out", type=Path, help="a file that each part's line is appended to")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="small shapes: a proof of the script, no measurement"
    )
    parser.add_argument(
        "--rate", type=float, default=0.0, help="TFLOP/s of products; 0 has each part measure it"
    )
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        for name in SETS[options.set]:
            print(f"{name:13} {PARTS[name].limit:4} s  {PARTS[name].about}")
        return 0
    place = Place(options.device, options.tiny, options.rate)
    if options.child:
        child(options.child, place)
        return 0
    rows, began = [], time.monotonic()
    for name in [options.part] if options.part else SETS[options.set]:
        limit = min(PARTS[name].limit, TOTAL - (time.monotonic() - began))
        late = {"part": name, "ok": False, "failed": f"no time left of {TOTAL} s", "seconds": 0.0}
        row = run(name, place, limit) if limit > SHORTEST else late
        rows.append(row)
        place = place._replace(rate=row.get("tflops", place.rate))
        print(json.dumps(row), flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    print()
    for row in rows:
        print(_line(row), flush=True)
    return 0 if all(row["ok"] for row in rows) else 1


def _line(row: Found) -> str:
    """One part for people; a part with several runs shows each below."""
    keys = PARTS[row["part"]].headline
    wrong = [name for name, right in row.get("checks", {}).items() if not right]
    verdict = "ok" if row["ok"] else "FAILED"
    reason = row.get("failed") or (f"wrong: {', '.join(wrong)}" if wrong else row.get("skipped", ""))
    if isinstance(reason, dict):
        reason = "; ".join(f"{what} skipped: {why}" for what, why in reason.items())
    lines = [
        f"{row['part']:13} {verdict:6} {row['seconds']:6.1f} s  {_numbers(row, keys)}  {reason}".rstrip()
    ]
    for name, one in row.get("runs", {}).items():
        lines.append(f"    {name:34} {one.get('failed') or _numbers(one, keys)}")
    return "\n".join(lines)


def _numbers(row: Found, keys: tuple[str, ...]) -> str:
    return "  ".join(
        f"{key} {row[key]:,.4g}" if isinstance(row[key], float) else f"{key} {row[key]}"
        for key in keys
        if row.get(key) is not None
    )


if __name__ == "__main__":
    sys.exit(main())
