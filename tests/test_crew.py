"""Several processes train one model: to the same result as one, killed and resumed, on the CPU over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from distill import crew
from distill.chain import run_recipe
from distill.errors import RunFailed, UserError
from distill.training.world import World

Told = tuple[list[float], dict[str, torch.Tensor]]
TWO = "hardware={gpu: cpu, gpus: 2}"
#: Sums of float32 gradients in another order differ in the last digits; Adam's division makes that 1e-4 of a step.
CLOSE = {"rtol": 0.0, "atol": 2e-6}


@pytest.fixture
def trained(tiny_recipe_module: ModuleType, tmp_path: Path) -> Any:
    """Losses and gradient norms (whose size Adam would not notice) of a changed first stage, and the saved weights."""

    def train(folder: str, *changes: str) -> Told:
        recipe = tiny_recipe_module.tiny_recipe("stages.warm.batch_size=8", *changes)
        run_recipe(recipe, tmp_path / folder, [recipe.stage("warm")])
        return result(tmp_path / folder)

    return train


def result(run: Path) -> Told:
    lines = (run / "stages" / "01-warm" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [number for row in rows for number in (row["loss"], row["grad_norm"])], load_file(
        run / "models" / "base" / "model.safetensors"
    )


def assert_same(one: Any, other: Any) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    assert one[1].keys() == other[1].keys()
    for name, weight in one[1].items():
        torch.testing.assert_close(other[1][name], weight, **CLOSE)


def test_two_processes_with_shards_are_one(trained: Any) -> None:
    """Rows of two examples, so that both have work, and in the last update one of them none."""
    one = trained("one", "stages.warm.micro_batch_tokens=192")
    assert_same(one, trained("two", "stages.warm.micro_batch_tokens=192", TWO))
    assert len(one[0]) == 2 * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ["stages.warm.method=lora", "stages.warm.lora={rank: 2}"],
        ["stages.warm.method=qlora", "stages.warm.lora={rank: 2}"],  # replicated
        ["stages.warm.memory={activations: recompute}"],
        ["stages.warm.memory={activations: offload, moments: 8bit}"],
    ],
    ids=lambda changes: changes[0].partition("warm.")[2],
)
def test_two_processes_are_one_by_every_method(trained: Any, changes: list[str]) -> None:
    one, two = trained("one", *changes), trained("two", *changes, TWO)
    if "8bit" in changes[0]:  # blocks of 256 are cut elsewhere in shards, so the scales are others
        assert one[0] == pytest.approx(two[0], rel=1e-4)
    else:
        assert_same(one, two)


@pytest.mark.slow
def test_killed_with_shards_it_goes_on_to_the_same_weights(
    trained: Any, tiny_recipe_module: ModuleType, tmp_path: Path
) -> None:
    changes = ("stages.warm.epochs=20", "stages.warm.checkpoint_every=3", TWO)
    undisturbed = trained("whole", *changes)
    recipe = tiny_recipe_module.write_recipe(tmp_path / "r.yaml", "stages.warm.batch_size=8", *changes)
    run = tmp_path / "killed"
    command = [
        sys.executable,
        "-P",
        "-m",
        "distill.cli_main",
        "run",
        str(recipe),
        "--out",
        str(run),
        "--only",
        "warm",
    ]
    code = "from distill.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", code, *command[4:]]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    checkpoints = run / "stages" / "01-warm" / "checkpoints"
    deadline = time.monotonic() + 60
    while not list(checkpoints.glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(checkpoints.glob("step-*/rank-1-of-2.pt"))
    recipe_again = tiny_recipe_module.tiny_recipe("stages.warm.batch_size=8", *changes)
    run_recipe(recipe_again, run, [recipe_again.stage("warm")])
    losses, weights = result(run)
    assert losses == undisturbed[0]
    assert all(torch.equal(weights[name], weight) for name, weight in undisturbed[1].items())


@pytest.mark.slow
def test_a_process_that_fails_fails_the_stage(
    tiny_recipe_module: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe_module.tiny_recipe("stages.warm.learning_rate=1e30", "stages.warm.epochs=5", TWO)
    with pytest.raises(RunFailed, match="a process of stage warm ended"):
        run_recipe(recipe, tmp_path / "run", [recipe.stage("warm")])
    told = capfd.readouterr().err
    assert "is not finite" in told and "Traceback" not in told


@pytest.mark.slow
def test_started_by_torchrun_the_first_is_the_run_and_the_others_follow(
    tiny_recipe_module: ModuleType, tmp_path: Path
) -> None:
    """A whole recipe: what trains is trained together, everything between in the first process alone."""
    recipe = tiny_recipe_module.tiny_recipe()
    run_recipe(recipe, tmp_path / "one")
    file = tiny_recipe_module.write_recipe(tmp_path / "r.yaml", "hardware={gpu: cpu, nodes: 2}")
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    door = tmp_path / "door.py"
    door.write_text("from distill.cli import main\nraise SystemExit(main())\n")
    command = [*torchrun, str(door), "run", str(file), "--out", str(tmp_path / "two")]
    told = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    assert told.stderr.count("1/6 warm: starts") == 1 and (tmp_path / "two/report/index.html").is_file()
    one, two = (load_file(tmp_path / run / "models/base/model.safetensors") for run in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, **CLOSE)
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0 and finished.stderr.count(": finished") == 6


def test_several_nodes_that_nobody_has_started_are_refused(
    tiny_recipe_module: ModuleType, tmp_path: Path
) -> None:
    recipe = tiny_recipe_module.tiny_recipe("hardware={gpu: cpu, nodes: 2}")
    with pytest.raises(UserError, match=r"hardware\.nodes.*\n.*torchrun"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_gpus_than_are_here_are_refused(
    tiny_recipe_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    recipe = tiny_recipe_module.tiny_recipe("hardware={gpus: 8}")
    with pytest.raises(UserError, match=r"hardware\.gpus.*this machine has 2"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_srun_is_recognised_inside_a_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ |= {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "12345"}
    assert not crew.launched()  # a batch script, which is not one of its own eight tasks
    os.environ |= {"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    os.environ |= {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}
    assert crew.launched() and crew.follows()
    assert (os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"]) == ("3", "1", "8")
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("10.0.0.1", "32345")


def test_rows_go_to_whoever_has_least_and_all_get_equally_many() -> None:
    rows, sizes = ["a", "b", "c", "d", "e"], [5, 90, 40, 45, 10]
    shares = [World(rank, 2).share(rows, sizes) for rank in range(2)]
    assert shares == [["b", "a", None], ["d", "c", "e"]]
    assert [World(rank, 3).share(["x"], [1]) for rank in range(3)] == [["x"], [None], [None]]
    assert World().share(rows, sizes) == rows


def test_more_processes_than_cores_are_refused_before_anything_is_written(
    tiny_recipe_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    recipe = tiny_recipe_module.tiny_recipe("hardware={gpu: cpu, gpus: 64}")
    with pytest.raises(UserError, match="on this machine's 4 cores") as caught:
        run_recipe(recipe, tmp_path / "run", [recipe.stage("warm")])
    assert caught.value.key == "hardware.gpus" and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error", [RunFailed("no"), OSError(28, "No space left on device"), SafetensorError("os error 28")]
)
def test_a_process_whose_disk_is_full_says_so_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def breaks(*_: Any) -> None:
        raise error

    monkeypatch.setattr(crew, "main", breaks)
    assert crew.be_one(tmp_path, "warm") == 1
    assert capsys.readouterr().err == f"failed: {error}\n"
