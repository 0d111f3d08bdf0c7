"""Several processes for one stage, with the model spread among them (`training.world`).

On one machine the run's own process starts them (``crew.py RUN STAGE``), watches them, and takes what they have trained
from the stage's folder. On several, torchrun or SLURM's srun starts the command itself in all of them: the first is the
run, and the others wait until it calls them to a stage. All read the run folder, so it must be one that all can see.

One that dies takes the others with it, and the same command goes on from the last checkpoint.
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
from typing import TYPE_CHECKING, Any, NoReturn

from safetensors import SafetensorError

from distill.errors import RunFailed, UserError
from distill.recipe import GrpoStage, SftStage
from distill.runs import RunFolder

if TYPE_CHECKING:
    from distill.chain import Chain

COUNTS, WEIGHTS = "counts.json", "trained.safetensors"


def train_together(processes: int, run: RunFolder, stage: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Do a training stage in so many processes on this machine; returns the counts and the trained weights.

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


def launched() -> bool:
    """Whether this process is one of several that run the same command; srun's variables become torchrun's."""
    env = os.environ
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "WORLD_SIZE" not in env:
        env |= {
            "RANK": env["SLURM_PROCID"], "LOCAL_RANK": env["SLURM_LOCALID"],
            "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"], "MASTER_ADDR": env["SLURM_LAUNCH_NODE_IPADDR"],
            "MASTER_PORT": str(20_000 + int(env["SLURM_JOB_ID"]) % 20_000),
        }  # fmt: skip
    return int(env.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Whether this process is one of several and not the first."""
    return launched() and os.environ["RANK"] != "0"


def follow(path: Path) -> None:
    """Take part in every stage that the first process calls to, until it is done."""
    from distill.training.world import join, part, told

    os.environ["DISTILL_QUIET"] = "1"
    join(sharded=True)
    while (name := told()) is not None:
        _one_of_many(*_found(path, name))
    part()
    _leave()


def lead(chain: Chain, stage: SftStage | GrpoStage) -> Any:
    """Do a training stage with those that follow; returns the counts and the trained weights."""
    from distill.training.world import join, told

    join(sharded=True)
    told(stage.name)
    return _one_of_many(chain, stage)


def dismiss() -> None:
    """Let those that follow go, where there are any."""
    if launched():
        from distill.training.world import join, part, told

        join(sharded=True)
        told(None)
        part()


def _found(path: Path, name: str) -> tuple[Chain, SftStage | GrpoStage]:
    """The chain and the stage as a run folder tells them, without owning it."""
    from distill.chain import Chain
    from distill.fingerprints import fingerprints
    from distill.inputs import Inputs
    from distill.recipe_file import load_recipe

    recipe = load_recipe(path / "recipe.yaml")
    inputs = Inputs(recipe)
    chain = Chain(recipe, RunFolder(path, recipe, lock=-1), fingerprints(recipe), inputs, guest=True)
    return chain, inputs.fitted(name)


def _one_of_many(chain: Chain, stage: SftStage | GrpoStage) -> Any:
    from distill.training.world import join

    world = join(sharded=stage.method != "qlora")
    loaded = chain.start(stage, empty=world.sharded and world.rank > 0, sharded=world.sharded)
    guest = {"saved": lambda: None} if chain.guest else {}
    return chain.tune(stage, loaded, world=world, give_weights=True, **guest)


def main(path: Path, name: str) -> None:
    """Be one of the processes of a stage."""
    from safetensors.torch import save_file

    from distill.training.world import part

    if follows():
        os.environ["DISTILL_QUIET"] = "1"
    chain, stage = _found(path, name)
    counts, weights = _one_of_many(chain, stage)
    if not follows():
        folder = chain.run.stage_folder(name)
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / WEIGHTS)
        (folder / COUNTS).write_text(json.dumps(counts), encoding="utf-8")
    part()
    _leave()


def _leave() -> NoReturn:
    """End here and now. Threads of the process group now and then abort an interpreter that winds itself up."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def be_one(path: Path, name: str) -> int:
    """`main`, with what breaks on the way told in a line; returns the exit code."""
    try:
        main(path, name)
    except (RunFailed, UserError, OSError, SafetensorError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Ctrl-C reaches all of them; the parent hears it and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    sys.exit(be_one(Path(sys.argv[1]), sys.argv[2]))
