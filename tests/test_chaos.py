"""A harvest through a server, as a user runs it, that is killed, starved of disk and lied to: the set is the same.

Everything here is real but the server: processes, signals, a disk that is full, connections that break off.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fake_server import FAULTS, FakeServer

pytestmark = pytest.mark.slow

PROBLEMS, SAMPLES, KILLS = 60, 8, 30
FIXED = {"samples": SAMPLES}
ADAPTIVE = {"strategy": "adaptive", "first": 3, "most": SAMPLES, "keep_per_problem": 3}
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeServer]:
    """Serves the model that lies in its ``folder``."""
    from distill import models
    from distill.recipe_parts import Architecture, ModelSource

    source = ModelSource(build=Architecture(hidden=16, layers=1, heads=2, max_length=512), tokenizer="world")
    folder = tmp_path_factory.mktemp("served") / "model"
    models.build_folder("teacher", source, folder, seed=0)
    with FakeServer(
        models.preview("teacher", models.as_made(source, folder), ours=False).chat, hangs=3
    ) as fake:
        fake.folder = folder  # type: ignore[attr-defined]
        yield fake


@pytest.fixture
def start(server: FakeServer, tmp_path: Path) -> Start:
    """Starts a harvest in a process of its own."""
    problems = tmp_path / "problems.jsonl"
    rows = (
        {"id": f"p{n}", "problem": f"What is {n} + {7 * n}?", "reference": str(8 * n)}
        for n in range(PROBLEMS)
    )
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(
        out: Path, collect: dict[str, Any], before: Callable[[], None] | None = None
    ) -> subprocess.Popen[str]:
        recipe = {
            "name": "chaos",
            "models": {"teacher": {"path": str(server.folder)}},  # type: ignore[attr-defined]
            "problems": {"sums": {"path": str(problems)}},
            "stages": [
                {
                    "name": "harvest", "kind": "sample", "model": "teacher", "problems": "sums", "makes": "sums",
                    "sampling": {"max_tokens": 128}, "collect": collect,
                    "engine": {"kind": "server", "urls": server.url, "concurrency": 8, "timeout": 1.0},
                }
            ],
        }  # fmt: skip
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(recipe))  # which is YAML, too
        command = [sys.executable, "-m", "distill.cli", "teacher", "sample", str(path), "--out", str(out)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=before)

    return run


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, told = process.communicate(timeout=120)
    return process.returncode, told


def made(out: Path) -> dict[str, bytes]:
    """Every file of the set; only its card names the run's folder."""
    folder = out / "traces" / "sums"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def undisturbed(server: FakeServer, start: Start, out: Path, collect: dict[str, Any]) -> dict[str, bytes]:
    server.faults, server.delay = [], 0.0
    code, told = finish(start(out, collect))
    assert code == 0, told
    rows = pq.read_table(out / "traces" / "sums" / "traces.parquet").to_pylist()
    keys = {(row["problem_id"], row["sample_index"]) for row in rows}
    assert len(keys) == len(rows) >= PROBLEMS * 3 and {row["problem_id"] for row in rows} == {
        f"p{n}" for n in range(PROBLEMS)
    }
    return made(out)


@pytest.mark.parametrize("collect", [ADAPTIVE, FIXED], ids=["adaptive", "fixed"])
def test_killed_again_and_again_by_a_server_that_fails_in_every_way_it_is_the_same_set(
    server: FakeServer, start: Start, tmp_path: Path, collect: dict[str, Any]
) -> None:
    whole = undisturbed(server, start, tmp_path / "whole", collect)
    chance = random.Random(3)
    kills = KILLS // 2  # of each way to collect
    out, cut, writes = tmp_path / "killed", 0, 0
    for _ in range(kills):
        server.faults = [chance.choice(FAULTS) if chance.random() < 0.2 else None for _ in range(2000)]
        server.delay = chance.choice([0.0, 0.05, 0.2])
        process = start(out, collect)
        until, answered = time.monotonic() + 20, server.answers + chance.randrange(1, 40)
        while server.answers < answered and time.monotonic() < until and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.3)
        process.kill()
        cut += finish(process)[0] == -9
        shard = out / "traces" / "sums" / "shard-000.jsonl"
        writes += shard.exists() and shard.stat().st_size > 0
    server.faults, server.delay = [chance.choice(FAULTS) if n % 9 == 0 else None for n in range(2000)], 0.0
    code, told = finish(start(out, collect))
    assert code == 0 and cut >= kills * 0.6 and writes >= kills * 0.4, (cut, writes, told)
    assert made(out) == whole


def test_a_disk_that_is_full_ends_the_run_and_costs_nothing(
    server: FakeServer, start: Start, tmp_path: Path
) -> None:
    """The disk is one of 1 MiB where this user may mount one; a limit on the size of files stands for it elsewhere."""
    whole = undisturbed(server, start, tmp_path / "whole", FIXED)
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(map(len, whole.values()))
    limit = 120_000
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={limit // 4096 * 4096}", "none", disk],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )
    try:
        before = (
            None if mounted else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit // 2, limit // 2))
        )
        code, told = finish(start(disk / "run", FIXED, before))
        assert code == 1 and ("No space left" in told or "File too large" in told), (code, told, size)
        assert "Traceback" not in told
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        code, told = finish(start(disk / "run", FIXED))
        assert code == 0, told
        assert made(disk / "run") == whole
    finally:
        if mounted:
            subprocess.run(["umount", disk], check=True)


def test_a_server_that_dies_ends_the_run_and_the_next_one_goes_on(
    server: FakeServer, start: Start, tmp_path: Path
) -> None:
    whole = undisturbed(server, start, tmp_path / "whole", FIXED)
    server.delay = 0.02
    process = start(tmp_path / "run", FIXED)
    answered = server.answers + 100
    until = time.monotonic() + 30
    while server.answers < answered and time.monotonic() < until:
        time.sleep(0.01)
    server.faults = ["404"] * 100  # the model is gone: asking again would never help
    code, told = finish(process)
    assert code == 1 and "HTTP 404" in told and "Traceback" not in told, told
    kept = (tmp_path / "run" / "traces" / "sums" / "shard-000.jsonl").read_bytes().count(b"\n")
    server.faults, server.delay, before = [], 0.0, len(server.bodies)
    code, told = finish(start(tmp_path / "run", FIXED))
    assert code == 0, told
    assert len(server.bodies) - before == PROBLEMS * SAMPLES - kept and kept >= 80
    assert made(tmp_path / "run") == whole
