"""GRPO whose samples come from vLLM in a process of its own, in turn with the updates or one rollout ahead."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import teacher.rollout
from distill.device import Device
from distill.errors import RunFailed
from distill.generate import apart
from distill.models import build_folder, load, with_lora
from distill.recipe import GrpoStage
from distill.recipe_parts import Architecture, ModelSource
from distill.records import Problem
from distill.runs import MetricsLog
from teacher import grpo
from teacher.rewards import Scores

pytestmark = pytest.mark.vllm
CPU = Device("cpu", "cpu", False)
PROBLEMS = [Problem(id=f"p{n}", kind="math", problem=f"{n}+{n}", reference=str(2 * n)) for n in range(7)]
AGREE = 2e-5  # mean difference of log-probabilities in float32; measured: about 1e-6
AHEAD = {"asynchronous": True, "correction": {"kind": "truncate"}}
ENGINE = {"kind": "vllm", "apart": True, "max_length": 200}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vLLM's kernels want heads of 32 numbers at least."""
    place = tmp_path_factory.mktemp("models") / "tiny"
    shape = Architecture(hidden=64, layers=2, heads=2, kv_heads=1, max_length=300)
    build_folder("tiny", ModelSource(build=shape, tokenizer="world"), place, seed=0)
    return place


@pytest.fixture
def trained(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train under some settings, with reward 1 for texts of odd length; what the metrics log then holds."""

    def odd(answers_PG: Any, *_: Any) -> Scores:
        rewards_PG = torch.tensor(
            [[len(one.text) % 2 for one in answers] for answers in answers_PG], dtype=torch.float64
        )
        return Scores(rewards_PG, {"accuracy": rewards_PG}, torch.ones_like(rewards_PG, dtype=torch.bool))

    monkeypatch.setattr(teacher.rollout, "score", odd)
    monkeypatch.setenv("DISTILL_QUIET", "1")
    numbers = itertools.count()

    def train(out: Path | None = None, saved: Any = lambda: None, **changes: Any) -> list[dict[str, Any]]:
        stage = GrpoStage.model_validate(
            {
                "name": "zero", "kind": "grpo", "model": "m", "problems": "p", "makes": "t", "engine": ENGINE,
                "steps": 5, "learning_rate": 1e-3, "problems_per_step": 3, "samples_per_problem": 4, "max_tokens": 10,
                "kl": {"coefficient": 0}, "checkpoint_every": 1, **changes,
            }
        )  # fmt: skip
        loaded = load("tiny", folder, ModelSource(path=str(folder)), CPU, dtype=torch.float32)
        if stage.method == "lora":
            loaded = with_lora(loaded, stage.lora, 3)
        out = out or tmp_path / str(next(numbers))
        try:
            grpo.train(stage, loaded, CPU, PROBLEMS, None, folder=out, fingerprint="f", seed=3, saved=saved)
        finally:
            train.rows = MetricsLog.read(out / "metrics.jsonl")  # type: ignore[attr-defined]
        return train.rows  # type: ignore[attr-defined, no-any-return]

    return train


def test_in_turn_it_is_the_policy_of_each_update(trained: Any) -> None:
    rows = trained()
    assert [row["policy_version"] for row in rows] == [0, 1, 2, 3, 4]
    assert sum(row["grad_norm"] > 0 for row in rows) > 3
    for row in rows:
        assert row["probe_difference"] < AGREE and row["seconds_sync"] > 0
        assert row["ratio_first_mean"] == pytest.approx(1, abs=1e-4) and abs(row["sampler_kl"]) < 1e-4
    assert len({row["weights_checksum"] for row in rows}) == len(rows), "each update changed them"


def test_ahead_a_resumed_run_of_adapters_samples_by_the_same_weights(trained: Any, tmp_path: Path) -> None:
    """Two copies; what vLLM draws may differ in the last digit by who shares a batch, so weights alone are compared."""
    words = {**AHEAD, "method": "lora", "lora": {"rank": 4, "alpha": 12}, "learning_rate": 1e-2}
    words["engine"] = {**ENGINE, "data_parallel": 2}
    checkpoints = itertools.count(1)

    def killed() -> None:
        if next(checkpoints) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", saved=killed, **words)
    rows = trained(tmp_path / "cut", **words)
    assert [row["policy_version"] for row in rows] == [0, 0, 1, 2, 3]
    assert [row["sampler_kl"] > 1e-6 for row in rows] == [False, True, True, True, True]
    assert all(row["probe_difference"] < AGREE for row in rows)
    told = [row["weights_checksum"] for row in rows]
    assert told[0] == told[1] and len(set(told)) == 4


@pytest.mark.parametrize("words", [{}, AHEAD])
def test_weights_that_are_left_out_stop_the_run(
    trained: Any, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any]
) -> None:
    """The folder then holds older ones, which vLLM reads and holds, bit for bit; at R1's rate."""
    write, calls = apart.write_weights, itertools.count()
    skipped = 3 if not words else 4  # ahead of the updates, those before the first are sent twice
    monkeypatch.setattr(apart, "write_weights", lambda *of: None if next(calls) == skipped else write(*of))
    with pytest.raises(RunFailed, match="holds other weights than those of update 3"):
        trained(**words, learning_rate=3e-6)
    assert [row["step"] for row in trained.rows] == [1, 2, 3]


def test_weights_that_vllm_does_not_take_stop_the_run(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of half of them: the rest is random, as it was loaded."""
    parts_of = apart.parts_of

    def half(*of: Any) -> Any:
        return {name: dict(itertools.islice(one.items(), 14)) for name, one in parts_of(*of).items()}

    monkeypatch.setattr(apart, "parts_of", half)
    with pytest.raises(RunFailed, match="does not hold the weights of update 0") as told:
        trained()
    assert "model.layers.1" in str(told.value) and trained.rows == []


def test_a_process_that_is_killed_is_told_of_and_the_run_resumes(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[Any] = []
    start = apart.ApartEngine._start
    monkeypatch.setattr(
        apart.ApartEngine, "_start", lambda self, most: engines.append(self) or start(self, most)
    )

    def kill() -> None:
        engines[-1]._copies[0].process.kill()

    with pytest.raises(RunFailed, match="vLLM is lost"):
        trained(tmp_path / "cut", saved=kill, **AHEAD)
    assert [row["step"] for row in trained.rows] == [1]
    rows = trained(tmp_path / "cut", **AHEAD)
    assert [row["policy_version"] for row in rows] == [0, 0, 1, 2, 3]
