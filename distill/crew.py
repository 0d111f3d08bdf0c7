"""Several processes for one stage: the run's own process starts them, watches them, and takes what they have trained.

    crew.py RUN STAGE        one of them; each holds a part of the model (`training.world`)

They read the run folder, which stays the parent's. What it gets back lies in the stage's folder: the counts and, from
the first of them, the trained weights. One that dies takes the others with it, and the same command goes on from the
last checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from distill.errors import RunFailed, UserError
from distill.runs import RunFolder

COUNTS, WEIGHTS = "counts.json", "trained.safetensors"


def tune_together(processes: int, run: RunFolder, stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fine-tune in so many processes on this machine; returns the counts and the trained weights.

    Raises:
        RunFailed: one of them ended before its work did. What it said is on stderr.
    """
    from safetensors.torch import load_file

    folder = run.stage_folder(stage)
    for name in (COUNTS, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    port = _free_port()
    crew = [_started(rank, processes, port, [str(run.path), stage]) for rank in range(processes)]
    seen: set[str] = set()
    try:
        while any(one.poll() is None for one in crew):
            if any(one.poll() for one in crew):  # the others would wait for it for ever
                break
            time.sleep(0.2)
            there = {path.name for path in (folder / "checkpoints").glob("step-*")}
            if there - seen:
                run.tick(stage)
            seen |= there
    finally:
        for one in crew:
            one.kill()
            one.wait()
    if codes := [one.returncode for one in crew if one.returncode not in (0, -signal.SIGKILL)]:
        raise RunFailed(f"a process of stage {stage} ended with exit code {codes[0]}")
    if any(one.returncode for one in crew):
        raise RunFailed(f"a process of stage {stage} was killed (is there memory enough?)")
    counts = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
    weights = load_file(folder / WEIGHTS)
    for name in (COUNTS, WEIGHTS):
        (folder / name).unlink()
    return counts, weights


def _started(rank: int, size: int, port: int, arguments: list[str]) -> subprocess.Popen[bytes]:
    """One process, told of the others by the variables that torchrun would set; it ends with this one."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    threads = max(1, len(os.sched_getaffinity(0)) // size)
    home = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | place
    return subprocess.Popen(
        [sys.executable, "-P", __file__, *arguments],
        env=environment | {"MASTER_PORT": str(port), "PYTHONPATH": paths},
        stdin=subprocess.PIPE,  # whose end tells them that this process is gone, however it went
    )


def _end_with_parent() -> None:
    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(path: Path, name: str) -> None:
    """Be one of the processes of a stage."""
    if os.environ["RANK"] != "0":
        os.environ["DISTILL_QUIET"] = "1"
    from safetensors.torch import save_file

    from distill.chain import Chain
    from distill.inputs import Inputs, fingerprints
    from distill.recipe import SftStage
    from distill.recipe_file import load_recipe
    from distill.training.world import join

    recipe = load_recipe(path / "recipe.yaml")
    inputs = Inputs(recipe)
    stage = inputs.fitted(name)
    assert isinstance(stage, SftStage)
    chain = Chain(recipe, RunFolder(path, recipe, lock=-1), fingerprints(recipe), inputs, guest=True)
    world = join(chain.device, sharded=stage.method != "qlora")
    loaded = chain.start(stage, empty=world.sharded and world.rank > 0)
    counts, weights = chain.tune(stage, loaded, world=world, give_weights=True, saved=lambda: None)
    if world.rank == 0:
        folder = chain.run.stage_folder(name)
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / WEIGHTS)
        (folder / COUNTS).write_text(json.dumps(counts), encoding="utf-8")
    world.wait()


if __name__ == "__main__":
    try:
        _end_with_parent()
        main(Path(sys.argv[1]), sys.argv[2])
    except (RunFailed, UserError) as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(1)
