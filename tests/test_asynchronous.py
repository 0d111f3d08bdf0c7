"""Rollouts sampled one ahead of the updates: by the right weights, always the same, and never by stale ones.

An untrained policy is never right, so the tests reward texts of odd length.
"""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import teacher.rollout
from distill.device import Device
from distill.errors import RunFailed, UserError
from distill.generate.frozen import FrozenCopy
from distill.generate.local import LocalEngine
from distill.models import LoadedModel, load, with_lora
from distill.recipe import GrpoStage
from distill.recipe_parts import ModelSource
from distill.records import Problem
from distill.runs import MetricsLog
from distill.training import logprobs, products
from teacher import grpo, turns
from teacher.rewards import Scores

CPU = Device("cpu", "cpu", False)
PROBLEMS = [Problem(id=f"p{n}", kind="math", problem=f"{n}+{n}", reference=str(2 * n)) for n in range(7)]


def loaded_from(folder: Path, lora: bool = False) -> LoadedModel:
    loaded = load("m", folder, ModelSource(path=str(folder)), CPU, dtype=torch.float32)
    return with_lora(loaded, None, 3) if lora else loaded


@pytest.fixture
def trained(tiny_qwen2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train the tiny model, a rollout ahead: its final weights, the metrics but for times, the counts."""

    def odd(answers_PG: Any, *_: Any) -> Scores:
        rewards_PG = torch.tensor(
            [[len(one.text) % 2 for one in answers] for answers in answers_PG], dtype=torch.float64
        )
        return Scores(rewards_PG, {"accuracy": rewards_PG}, torch.ones_like(rewards_PG, dtype=torch.bool))

    monkeypatch.setattr(teacher.rollout, "score", odd)
    monkeypatch.setenv("DISTILL_QUIET", "1")
    numbers = itertools.count()

    def train(folder: Path | None = None, **changes: Any) -> tuple[dict[str, torch.Tensor], Any, Any]:
        torch.set_num_threads(1)
        folder = folder or tmp_path / str(next(numbers))
        stage = GrpoStage.model_validate(
            {
                "name": "zero", "kind": "grpo", "model": "m", "problems": "p", "makes": "t", "asynchronous": True,
                "correction": {"kind": "truncate"}, "steps": 5, "learning_rate": 3e-3, "problems_per_step": 3,
                "samples_per_problem": 4, "max_tokens": 10, "kl": {"coefficient": 0}, "checkpoint_every": 1, **changes,
            }
        )  # fmt: skip
        loaded = loaded_from(tiny_qwen2.folder, stage.method == "lora")
        try:
            counts = grpo.train(
                stage, loaded, CPU, PROBLEMS, None, folder=folder, fingerprint="f", seed=3, saved=lambda: None
            )
        finally:
            train.rows = MetricsLog.read(folder / "metrics.jsonl")  # type: ignore[attr-defined]
        weights = {name: one.clone() for name, one in loaded.model.state_dict().items()}
        return weights, [timeless(row) for row in train.rows], counts  # type: ignore[attr-defined]

    return train


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in row if not key.startswith("seconds")}


def assert_same(found: Any, expected: Any) -> None:
    weights, rows, counts = found
    assert all(torch.equal(weights[name], one) for name, one in expected[0].items())
    assert rows == expected[1] and counts == expected[2]


# ------------------------------------------------------------------------------------ by which weights


@pytest.mark.parametrize(("per_rollout", "versions"), [(1, [0, 0, 1, 2, 3, 4]), (2, [0, 0, 0, 0, 2, 2])])
def test_from_the_second_rollout_on_samples_are_one_rollout_old(
    trained: Any, per_rollout: int, versions: list[int]
) -> None:
    _, rows, _ = trained(steps=6, steps_per_rollout=per_rollout)
    assert [row["policy_version"] for row in rows] == versions
    assert [row["sampler_kl"] > 1e-7 for row in rows] == [row["step"] > per_rollout for row in rows]
    assert all("weights_checksum" in row for row in rows)
    for row in rows[::per_rollout]:
        assert row["ratio_mean"] == pytest.approx(1, abs=1e-6), (
            "the clip's ratio is to the policy as it is now"
        )


class OldWeights:
    """What `Ahead` does, without a thread: each rollout by a model that is loaded anew with the weights of then."""

    def __init__(self, stage: Any, engine: Any, sampler: Any, deck: Any, look: Any) -> None:
        self.stage, self.sampler, self.deck, self.engine = stage, sampler, deck, engine
        self.weights: dict[int, Any] = {}

    def take(self, version: int) -> Any:
        policy = self.engine._policy
        self.weights[version] = {name: one.clone() for name, one in policy.state_dict().items()}
        asked = max(0, version - self.stage.steps_per_rollout)
        model = loaded_from(FOLDER[0])
        model.model.load_state_dict(self.weights[asked])
        engine = LocalEngine(model, CPU, self.stage.engine.max_rows)
        engine.policy_version = asked
        self.sampler._engine = engine
        return self.sampler.roll_out(self.deck, version // self.stage.steps_per_rollout), {}

    def state(self) -> dict[str, Any]:
        return {"position": self.deck.position}

    def close(self) -> None:
        pass


FOLDER: list[Path] = []


@pytest.mark.parametrize("changes", [{}, {"steps_per_rollout": 2, "steps": 6}, {"refill": 2}])
def test_it_is_the_slow_loop_that_keeps_old_weights(
    trained: Any, tiny_qwen2: Any, monkeypatch: pytest.MonkeyPatch, changes: Any
) -> None:
    weights, rows, counts = trained(**changes)
    FOLDER[:] = [tiny_qwen2.folder]
    monkeypatch.setattr(turns, "Ahead", OldWeights)
    slow, slow_rows, slow_counts = trained(**changes)
    told = [{key: row[key] for key in row if key != "weights_checksum"} for row in rows]
    assert_same((weights, told, counts), (slow, slow_rows, slow_counts))


def test_it_samples_while_the_trainer_updates(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second rollout ends before the first update is made: the trainer waits for it here."""
    ended, roll_out, learn = threading.Event(), grpo.Sampler.roll_out, grpo.Learner.learn
    threads = []

    def rolls(self: Any, deck: Any, number: int) -> Any:
        threads.append(threading.current_thread().name)
        rollout = roll_out(self, deck, number)
        if number == 1:
            ended.set()
        return rollout

    def waits(self: Any, rollout: Any) -> Any:
        assert ended.wait(30), "nothing is sampled meanwhile"
        return learn(self, rollout)

    monkeypatch.setattr(grpo.Sampler, "roll_out", rolls)
    monkeypatch.setattr(grpo.Learner, "learn", waits)
    _, rows, _ = trained()
    assert len(rows) == 5 and len(set(threads)) == 1 and threads[0].startswith("rollout")


# ------------------------------------------------------------------------------------ always the same


@pytest.mark.parametrize(
    ("stopped_after", "changes"),
    [
        (1, {"kl": {"coefficient": 0.1}, "reference": {"refresh_every": 2}}),
        (5, {"steps_per_rollout": 2, "steps": 6, "checkpoint_every": 3}),
        (3, {"refill": 2, "checkpoint_every": 2}),
        (4, {"method": "lora", "learning_rate": 3e-2}),
    ],
)
def test_a_resumed_run_is_the_undisturbed_one(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any, stopped_after: int
) -> None:
    whole = trained(**changes)
    updates, learn = itertools.count(1), grpo.Learner._update

    def stops(*arguments: Any) -> Any:
        if next(updates) > stopped_after:
            raise KeyboardInterrupt
        return learn(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(grpo.Learner, "_update", stops)
        trained(tmp_path / "resumed", **changes)
    assert_same(trained(tmp_path / "resumed", **changes), whole)


def test_the_trainer_turns_no_switch_while_another_thread_multiplies(trained: Any) -> None:
    """Which library multiplies is one switch for all threads, and turning it would tip the sampler's last digits.

    Rows are longer than a tile, and the vocabulary is taken in chunks: both turn it where nobody samples meanwhile.
    """
    if not products.exact():
        pytest.skip("this processor's products are all by one library")
    settings, turned = torch.backends.mkldnn.matmul, set[str]()
    linear, mm = logprobs.linear, torch.mm
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_of_intel", lambda: False)
        patch.setattr(logprobs, "CHUNK_BYTES", {"cpu": 4096})
        patch.setattr(logprobs, "linear", lambda *of: turned.add(settings.fp32_precision) or linear(*of))
        patch.setattr(torch, "mm", lambda *of, **out: turned.add(settings.fp32_precision) or mm(*of, **out))
        trained(steps=2)
        assert len(turned) == 1
        trained(steps=2, asynchronous=False)
        assert len(turned) == 2


# ------------------------------------------------------------------------------------ never stale


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_stale_copy_stops_the_run(trained: Any, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    take = FrozenCopy._take
    monkeypatch.setattr(FrozenCopy, "_take", lambda self: None if self.policy_version == 1 else take(self))
    with pytest.raises(RunFailed, match="does not hold the weights of update 2"):
        trained(method=method, learning_rate=3e-6)
    assert [row["step"] for row in trained.rows] == [1, 2]


@pytest.mark.parametrize("lora", [False, True])
def test_only_what_is_trained_is_copied(tiny_qwen2: Any, lora: bool) -> None:
    loaded = loaded_from(tiny_qwen2.folder, lora)
    loaded.model.forward = torch.autocast("cpu", enabled=False)(loaded.model.forward)  # as an `Updater` does
    engine = FrozenCopy(loaded, CPU, 4)
    held = dict(engine.loaded.model.named_parameters())
    for name, one in loaded.model.named_parameters():
        assert (held[name].data_ptr() == one.data_ptr()) == (not one.requires_grad), name
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = engine.loaded.model(ids).logits
        for one in loaded.model.parameters():
            if one.requires_grad:
                one.add_(0.1)
        assert torch.equal(engine.loaded.model(ids).logits, before)
        told = engine.sync(7)
        assert torch.equal(engine.loaded.model(ids).logits, loaded.model(ids).logits)
        assert not torch.equal(engine.loaded.model(ids).logits, before)
    assert engine.sync(8)["weights_checksum"] == told["weights_checksum"] and engine.policy_version == 8


def test_a_run_that_stops_leaves_nothing_sampling(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second rollout is under way when an update fails; it is not waited for."""
    computing, roll_out, stopped = FrozenCopy._computing, grpo.Sampler.roll_out, list[bool]()
    rollouts, begun = list[int](), threading.Event()

    def fails(self: Any, rollout: Any) -> Any:
        assert begun.wait(30)
        raise RunFailed("broken")

    def rolls(self: Any, deck: Any, number: int) -> Any:
        rollouts.append(number)
        return roll_out(self, deck, number)

    def held_up(self: Any) -> Any:
        if len(rollouts) == 2:
            begun.set()
            stopped.append(self._stopped.wait(20))
        return computing(self)

    monkeypatch.setattr(grpo.Learner, "learn", fails)
    monkeypatch.setattr(grpo.Sampler, "roll_out", rolls)
    monkeypatch.setattr(FrozenCopy, "_computing", held_up)
    with pytest.raises(RunFailed, match="broken"):
        trained(max_tokens=200)
    assert stopped == [True], "told to stop, and not one block of tokens after that"
    assert not [one for one in threading.enumerate() if one.name.startswith("rollout")]


# ------------------------------------------------------------------------------------ recipes


def test_followed_problems_are_asked_once_of_each_policy_and_by_its_weights(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, bool]] = []
    real = grpo.Following.look

    def look(self: Any, updates: int) -> None:
        if self.due(updates):
            engine = self._engine
            same = all(map(torch.equal, engine.loaded.model.parameters(), engine._policy.parameters()))
            asked.append((engine.policy_version, same))
        real(self, updates)

    monkeypatch.setattr(grpo.Following, "look", look)
    trained(tmp_path, follow={"problems": 2, "every": 1})
    rows = MetricsLog.read(tmp_path / "followed.jsonl")
    versions = [0, 1, 2, 3, 5]  # no rollout is by what four updates made
    assert [row["step"] for row in rows] == [step for step in versions for _ in range(2)]
    assert [version for version, _ in asked] == versions
    assert asked[-1][1], "the last look is at the weights that the stage leaves"


def test_it_asks_for_a_correction_and_for_a_sampler_of_its_own(tiny_recipe_module: Any) -> None:
    recipe = tiny_recipe_module.tiny_recipe
    ahead = "stages.zero.asynchronous=true"
    with pytest.raises(UserError, match=r"stages.zero.asynchronous = True: .*nothing corrects"):
        recipe(ahead)
    corrected = "stages.zero.correction={kind: mask}"
    assert recipe(ahead, corrected).stage("zero").asynchronous
    with pytest.raises(UserError, match=r"stages.zero.engine.apart = False: .*take turns"):
        recipe(ahead, corrected, "stages.zero.engine={kind: vllm}")
    apart = "stages.zero.engine={kind: vllm, apart: true, data_parallel: 2}"
    assert recipe(ahead, corrected, apart).stage("zero").engine.apart
