"""GRPO in several processes: to the metrics and weights of one, stopped and resumed, on the CPU over gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from distill.chain import Chain, run_recipe
from distill.chat import Example
from distill.errors import UserError
from distill.fingerprints import fingerprints
from distill.inputs import Inputs
from distill.recipe_file import parse_recipe
from distill.runs import RunFolder
from distill.training.world import World
from teacher.shares import groups_of, rows_of

Told = tuple[list[dict[str, Any]], dict[str, torch.Tensor]]
TWO = "hardware={gpu: cpu, gpus: 2}"
#: An untrained policy is never right: it is rewarded for a number of characters that three does not divide.
REWARDS = {"own": {"marks:thirds": 1}}
DOOR = "from distill.cli import main\nraise SystemExit(main())\n"
MARKS = "def thirds(answers):\n    return [len(answer.text) % 3 / 2 for answer in answers]\n"


@pytest.fixture(autouse=True)
def reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reward of the user's own in the folder that a run is started in."""
    (tmp_path / "marks.py").write_text(MARKS)
    (tmp_path / "door.py").write_text(DOOR)
    monkeypatch.chdir(tmp_path)


#: One word after the other is changed, and together all that is spread among processes is used.
VARIANTS: dict[str, dict[str, Any]] = {
    "averaged": {"reference": {"refresh_every": 2, "mix": 0.5}},
    "penalised": {
        "steps_per_rollout": 2,
        "kl": {"coefficient": 0.05, "term": "reward"},
        "reference": {"refresh_every": 2},
    },
    "refilled": {
        "micro_batch_tokens": 60,
        "aggregate": "token_mean",
        "kl": {"coefficient": 0.0},
        "refill": 2,
    },
    "offloaded": {"memory": {"activations": "offload"}, "steps_per_rollout": 2, "ratio": "sequence"},
    "few": {"problems_per_step": 1, "refill": 1},  # the second process has nothing to sample
    "adapters": {"method": "lora", "lora": {"rank": 2}, "reference": {"refresh_every": 2}},
    "adapters-penalised": {
        "method": "lora",
        "lora": {"rank": 2},
        "steps_per_rollout": 2,
        "kl": {"coefficient": 0.05, "term": "reward"},
    },
    # A reward model, whole in each process, that a stage before has trained.
    "judged": {"rewards": {"models": {"nice": {"model": "helpful", "on": "whole", "problems": "all"}}}},
    "four-bit": {"method": "qlora", "lora": {"rank": 2}, "reference": {"refresh_every": 2}},  # replicated
}


def raw_variants(tiny_recipe_module: ModuleType, **more: Any) -> dict[str, Any]:
    """A recipe of as many GRPO stages, all from the random model, so that nothing has to be trained before."""
    raw: dict[str, Any] = tiny_recipe_module.raw_recipe()
    (zero,) = (stage for stage in raw["stages"] if stage["name"] == "zero")
    del zero["reference"]
    # Groups of three problems, which two processes cannot halve.
    zero |= {"model": "blank", "problems_per_step": 3, "samples_per_problem": 3, "rewards": REWARDS}
    raw["stages"] = [zero | {"name": name, "makes": f"by-{name}"} | words for name, words in VARIANTS.items()]
    pairs = [{"prompt": f"{n}+1", "chosen": f"so {n + 1}", "rejected": f"no {n}"} for n in range(24)]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    judge = {"name": "judge", "kind": "reward", "model": "blank", "pairs": {"path": "pairs.jsonl"}}
    raw["stages"].insert(0, judge | {"makes": "helpful", "batch_size": 8, "max_length": 64})
    return raw | more


def result(run: Path, name: str) -> Told:
    """The metrics of a stage and the weights that it saved."""
    (file,) = run.glob(f"stages/[0-9][0-9]-{name}/metrics.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    told = [{key: row[key] for key in row if not key.startswith("seconds")} for row in rows]
    return told, load_file(next((run / "models" / f"by-{name}").glob("*.safetensors")))


def assert_same(one: Told, two: Told) -> None:
    """The same samples, so the same counts and rewards; what is computed of them is the same but for rounding."""
    for row, other in zip(one[0], two[0], strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            close = value if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)
            assert other[key] == close, (row["step"], key)
    assert one[1].keys() == two[1].keys()
    for name, weight in one[1].items():
        torch.testing.assert_close(two[1][name], weight, rtol=0.0, atol=1e-5, msg=name)


@pytest.mark.slow
def test_two_processes_are_one(tiny_recipe_module: ModuleType, tmp_path: Path) -> None:
    """Started by torchrun, once for all: most of the time goes into starting."""
    run_recipe(parse_recipe(raw_variants(tiny_recipe_module)), tmp_path / "one")
    two = tmp_path / "two.yaml"
    two.write_text(yaml.safe_dump(raw_variants(tiny_recipe_module, hardware={"gpu": "cpu", "gpus": 2})))
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "door.py", "run", str(two), "--out", str(tmp_path / "two")]
    told = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert told.returncode == 0, told.stderr
    for name in VARIANTS:
        one = result(tmp_path / "one", name)
        assert len(one[0]) == 4 and any(row["grad_norm"] > 0 for row in one[0]), name
        assert_same(one, result(tmp_path / "two", name))


#: Run by two processes: each stage once whole in one run folder; in the other stopped when its third rollout begins,
#: and gone on with. What they trained is saved beside the metrics.
RESUMED = """
import os, sys
from pathlib import Path
from safetensors.torch import save_file
from distill import crew
from teacher import grpo

class Stopped(Exception):
    pass

roll_out, begun, stopping = grpo.Sampler.roll_out, [], False

def watched(sampler, deck, number):
    if stopping and number == 2:
        raise Stopped
    begun.append(number)
    return roll_out(sampler, deck, number)

os.environ["DISTILL_QUIET"] = "1"
grpo.Sampler.roll_out = watched
for folder in map(Path, ("whole", "stopped")):
    for stage in sys.argv[1:]:
        begun, stopping = [], folder.name == "stopped"
        try:
            counts, weights = crew._one_of_many(*crew._found(folder, stage))
        except Stopped:
            stopping = False
            counts, weights = crew._one_of_many(*crew._found(folder, stage))
        assert begun == [0, 1, 2, 3] and not stopping, (begun, stopping)
        if not crew.follows():
            (folder / "models" / f"by-{stage}").mkdir()
            save_file(weights, folder / "models" / f"by-{stage}" / "trained.safetensors")
"""


@pytest.mark.slow
def test_stopped_they_go_on_to_the_same_weights(tiny_recipe_module: ModuleType, tmp_path: Path) -> None:
    """A reference in shards that has moved, adapters of before in shards, and these replicated: to the bit."""
    names = ["averaged", "adapters", "four-bit"]
    recipe = parse_recipe(raw_variants(tiny_recipe_module))
    for folder in ("whole", "stopped"):
        with RunFolder.open(tmp_path / folder, recipe) as run:
            Chain(recipe, run, fingerprints(recipe), Inputs(recipe)).place("blank")
            for name in names:
                run.begin(name, "", [])
    (tmp_path / "resumed.py").write_text(RESUMED)
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "resumed.py", *names]
    told = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert told.returncode == 0, told.stderr
    for name in names:
        rows, weights = result(tmp_path / "whole", name)
        rows_resumed, found = result(tmp_path / "stopped", name)
        assert len(rows) == 4 and rows_resumed == rows, name
        assert weights and all(torch.equal(found[key], weight) for key, weight in weights.items()), name


def test_groups_are_dealt_whole_and_each_once() -> None:
    for size in range(1, 5):
        for groups in range(8):
            shares = [list(range(groups))[groups_of(World(rank, size), groups)] for rank in range(size)]
            assert [group for share in shares for group in share] == list(range(groups))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_rows_are_dealt_each_once_and_all_processes_get_equally_many() -> None:
    lengths = (5, 9, 4, 4, 7, 3, 30, 6, 5)
    examples = [Example([number] * length, 2) for number, length in enumerate(lengths)]  # no prompt is shared
    numbers = [0, 1, 2, 4, 5, 6, 8]
    for size in (1, 2, 3, 5):
        shares = [rows_of(World(rank, size), examples, numbers, 12, "cpu") for rank in range(size)]
        assert len({len(share) for share in shares}) == 1
        held = [one.row.example_N.unique().tolist() for share in shares for one in share if one.mine]
        assert sorted(number for row in held for number in row) == numbers
        assert all(sum(len(examples[number].ids) for number in row) <= 30 for row in held), "the longest"
        assert size > 1 or held[0] == [6], "one process goes through its rows as they were packed"
    two = [rows_of(World(rank, 2), examples, [0, 1, 8], 100, "cpu") for rank in range(2)]
    assert [[one.mine for one in share] for share in two] == [[True], [True]], "not all in one long row"
    idle = rows_of(World(1, 2), examples, [0], 100, "cpu")
    assert [one.mine for one in idle] == [False] and len(idle[0].row.ids_T) == 5
    assert rows_of(World(1, 2), examples, [], 100, "cpu") == []


def test_vllm_for_a_policy_of_several_processes_is_refused(
    tiny_recipe_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm = "stages.zero.engine={kind: vllm}"
    for hardware in ("hardware={gpus: 8}", "hardware={nodes: 2}"):
        with pytest.raises(UserError, match=r"GPUs of `hardware` train together.*\n.*kind: local") as caught:
            tiny_recipe_module.tiny_recipe(vllm, hardware)
        assert caught.value.key == "stages.zero.engine.kind"
    recipe = tiny_recipe_module.tiny_recipe(vllm)
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0" if name == "RANK" else "2")
    with pytest.raises(UserError, match="started in several processes"):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
