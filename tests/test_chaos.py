"""Chaos: `distill teacher sample` killed, out of disk, and asking servers that fail, ends with the undisturbed set.

Each attempt is a process of its own, forked from one that has imported everything (`forker.py`), so that a kill falls
into its work and not into importing torch. What the server answers depends on prompt and seed alone.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_server import FAULTS, FakeServer

from distill.chat import ChatFormat
from distill.shards import read_parquet

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parent.parent
PROBLEMS = 60
KILLS = {"fixed": 30, "adaptive": 12}
COLLECT = {
    "fixed": {"samples": 8, "keep_per_problem": 2},
    "adaptive": {"strategy": "adaptive", "first": 4, "most": 12, "keep_per_problem": 3},
}
SERVER = {"kind": "server", "urls": "http://127.0.0.1:9", "concurrency": 8, "timeout": 0.5}
MADE = ("traces.parquet", "funnel.json", "README.md", "problems.jsonl")


class Commands:
    """Runs `distill` again and again; in a mount namespace of its own where it is to have a disk of its own."""

    def __init__(self, log: Path, *around: str) -> None:
        self.log, self.told = log, ""
        self.process = subprocess.Popen(
            [*around, sys.executable, str(Path(__file__).with_name("forker.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=log.parent,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(
        self,
        arguments: list[str],
        before: list[str] | None = None,
        *,
        kill_when: Callable[[], bool] | None = None,
        most_bytes: int | None = None,
    ) -> int:
        """Its exit code; it is killed once ``kill_when`` says so, and no file gets more than ``most_bytes``."""
        assert self.process.stdin and self.process.stdout
        order = {
            "arguments": arguments,
            "log": str(self.log),
            "before": before or [],
            "most_bytes": most_bytes,
        }
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        if kill_when is not None:
            while not kill_when() and not self._ended(0.005):
                pass
            if not self._ended(0):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        code = int(self.process.stdout.readline())
        self.told += self.log.read_text()
        return code

    def _ended(self, seconds: float) -> bool:
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    commands = Commands(tmp_path_factory.mktemp("commands") / "log")
    yield commands
    commands.end()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ChatFormat]:
    """A model's folder, of which a server's harvest reads tokenizer and config, and its chat format."""
    from distill import models
    from distill.recipe_parts import Architecture, ModelSource

    source = ModelSource(build=Architecture(hidden=16, layers=1, heads=2), tokenizer="world")
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    models.build_folder("teacher", source, folder, seed=0)
    return folder, models.preview("teacher", models.as_made(source, folder), ours=False).chat


def write_recipe(
    folder: Path, teacher: Path, collect: dict[str, Any], engine: dict[str, Any], **filters: Any
) -> Path:
    """A harvest of sums."""
    rows = [
        {"id": f"p{n}", "problem": f"What is {n} + {3 * n}?", "reference": str(4 * n)}
        for n in range(PROBLEMS)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = {
        "name": "harvest", "kind": "sample", "model": "teacher", "problems": "sums", "makes": "set",
        "sampling": {"temperature": 0.7, "max_tokens": 64}, "collect": collect, "engine": engine, "filters": filters,
    }  # fmt: skip
    raw = {
        "name": "chaos", "seed": 3, "models": {"teacher": {"path": str(teacher), "role": "teacher"}},
        "problems": {"sums": {"path": str(folder / "sums.jsonl")}}, "stages": [stage],
    }  # fmt: skip
    path = folder / "chaos.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def sample(recipe: Path, out: Path, url: str | None = None) -> list[str]:
    at = ["--set", f"stages.harvest.engine.urls={url}"] if url else []
    return ["teacher", "sample", str(recipe), "--out", str(out), *at]


def whole_set(out: Path) -> dict[str, bytes]:
    """The files of a finished set; nothing else may lie there."""
    folder = out / "traces" / "set"
    assert {path.name for path in folder.iterdir()} <= {*MADE}, list(folder.iterdir())
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def check_rows(out: Path, samples: int | None = None) -> None:
    """No trace twice; with a fixed number of samples none is missing."""
    keys = Counter(
        (row.problem_id, row.sample_index) for row in read_parquet(out / "traces/set/traces.parquet")
    )
    assert max(keys.values()) == 1
    if samples:
        assert keys.keys() == {(f"p{n}", index) for n in range(PROBLEMS) for index in range(samples)}


def troubles(seed: int) -> list[str | None]:
    """What the server does instead of answering; most of the time it answers."""
    return random.Random(seed).choices([None, *FAULTS], [80, *[1] * len(FAULTS)], k=20_000)


def kill(
    commands: Commands, arguments: list[str], out: Path, whole: Any, moments: Iterator[Callable[[], bool]]
) -> int:
    """Kill a harvest at each of these moments; one that ended before is checked and done anew.

    Returns after how many kills there were rows to go on from.
    """
    went_on = 0
    for moment in moments:
        while (code := commands.run(arguments, kill_when=moment)) != -signal.SIGKILL:
            assert code == 0, commands.told[-4000:]
            assert whole_set(out) == whole
            shutil.rmtree(out)
        shard = out / "traces" / "set" / "shard-000.jsonl"
        went_on += shard.exists() and shard.stat().st_size > 0
    return went_on


def after(seconds: float) -> Callable[[], bool]:
    """The moment so long after it is first asked for."""
    until: list[float] = []

    def now() -> bool:
        until[:] = until or [time.monotonic() + seconds]
        return time.monotonic() > until[0]

    return now


def answered(fake: FakeServer, chance: random.Random) -> Callable[[], bool]:
    """A moment up to so many answers, and a little, after it is first asked for."""
    more, little, since = chance.randrange(150), after(chance.uniform(0, 0.2)), []

    def now() -> bool:
        since[:] = since or [fake.answers]
        return fake.answers - since[0] >= more and little()

    return now


@pytest.mark.parametrize("strategy", COLLECT)
def test_kills_and_a_server_that_fails_in_every_way_give_the_undisturbed_set(
    commands: Commands, teacher: tuple[Path, ChatFormat], tmp_path: Path, strategy: str
) -> None:
    folder, chat = teacher
    recipe = write_recipe(tmp_path, folder, COLLECT[strategy], SERVER)
    with FakeServer(chat) as fake:
        assert commands.run(sample(recipe, tmp_path / "whole", fake.url)) == 0, commands.told[-4000:]
    whole, out = whole_set(tmp_path / "whole"), tmp_path / "killed"
    check_rows(tmp_path / "whole", COLLECT[strategy].get("samples"))
    with FakeServer(chat, troubles(11), hangs=1.0) as fake:
        arguments = sample(recipe, out, fake.url)
        chance = random.Random(7)
        went_on = kill(
            commands, arguments, out, whole, (answered(fake, chance) for _ in range(KILLS[strategy]))
        )
        assert went_on >= KILLS[strategy] / 3, "too few of the kills came in the midst of the work"
        assert commands.run(arguments) == 0, commands.told[-4000:]
    assert whole_set(out) == whole
    done = Counter(troubles(11)[: -len(fake.faults)])
    assert all(done[trouble] >= 3 for trouble in FAULTS), done


@pytest.mark.parametrize("full", ["disk", "limit"])
def test_a_disk_that_is_full_at_any_moment_costs_nothing(
    teacher: tuple[Path, ChatFormat], tmp_path: Path, full: str
) -> None:
    """A disk of its own that grows from next to nothing, or a limit of a file's size where none may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=8k none {disk}"
    if (
        full == "disk"
        and subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("no disk can be mounted in a user namespace here")
    around = ["unshare", "-Urm", "sh", "-c", f'{mount} && exec "$@"', "sh"] if full == "disk" else []
    folder, chat = teacher
    recipe = write_recipe(tmp_path, folder, COLLECT["fixed"], SERVER)
    commands, failures = Commands(tmp_path / "log", *around), 0
    try:
        with FakeServer(chat) as fake:
            assert commands.run(sample(recipe, tmp_path / "whole", fake.url)) == 0, commands.told
            arguments = sample(recipe, disk / "run", fake.url)
            for attempt in range(40):
                room = int(8 * 1.4**attempt)
                before = (
                    ["mount", "-o", f"remount,size={room}k", "none", str(disk)] if full == "disk" else None
                )
                code = commands.run(arguments, before, most_bytes=None if full == "disk" else room << 10)
                if code == 0:
                    break
                assert code == 1, commands.told[-4000:]
                failures += 1
            saved = tmp_path / "saved"
            assert commands.run(arguments, ["cp", "-r", str(disk / "run"), str(saved)]) == 0
    finally:
        commands.end()
    told = commands.told
    assert failures >= 5 and told.count("Make room") == failures and "Traceback" not in told, told[-4000:]
    assert "unfinished write, cut off" in told
    assert whole_set(saved) == whole_set(tmp_path / "whole")


def test_a_server_that_is_lost_costs_the_requests_in_flight(
    commands: Commands, teacher: tuple[Path, ChatFormat], tmp_path: Path
) -> None:
    folder, chat = teacher
    recipe = write_recipe(tmp_path, folder, COLLECT["fixed"], SERVER)
    with FakeServer(chat) as fake:
        assert commands.run(sample(recipe, tmp_path / "whole", fake.url)) == 0, commands.told[-4000:]
    out = tmp_path / "lost"
    with FakeServer(
        chat, [None] * 200 + ["404"] * 100
    ) as fake:  # the model is gone, and asking again never helps
        assert commands.run(sample(recipe, out, fake.url)) == 1
        assert "HTTP 404" in commands.told[-4000:] and "Traceback" not in commands.told
        answers = fake.answers
    kept = (out / "traces" / "set" / "shard-000.jsonl").read_bytes().count(b"\n")
    assert answers == 200 and kept >= 200 - int(SERVER["concurrency"])
    with FakeServer(chat) as fake:  # at another address
        assert commands.run(sample(recipe, out, fake.url)) == 0, commands.told[-4000:]
        assert fake.answers == PROBLEMS * 8 - kept
    assert whole_set(out) == whole_set(tmp_path / "whole")


def test_a_local_teacher_that_is_killed_gives_the_undisturbed_set(
    commands: Commands, teacher: tuple[Path, ChatFormat], tmp_path: Path
) -> None:
    keep_all = {name: False for name in ("verified", "format", "finished", "duplicates")}
    engine = {"kind": "local", "max_rows": 8}
    recipe = write_recipe(tmp_path, teacher[0], {"samples": 4}, engine, **keep_all)
    begun = time.monotonic()
    assert commands.run(sample(recipe, tmp_path / "whole")) == 0, commands.told[-4000:]
    longest, whole, out = time.monotonic() - begun, whole_set(tmp_path / "whole"), tmp_path / "killed"
    check_rows(tmp_path / "whole", 4)
    chance = random.Random(8)
    kill(commands, sample(recipe, out), out, whole, (after(chance.uniform(0, longest)) for _ in range(6)))
    assert commands.run(sample(recipe, out)) == 0, commands.told[-4000:]
    assert whole_set(out) == whole
