"""The GRPO loop on a two-layer model: accumulation, several updates a rollout, reference, resumption, rewards.

An untrained policy is never right, so the rewards are put in by the tests: a fixed function of the sampled tokens.

Legend: P problems, G samples per problem.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import teacher.rollout
from distill.device import Device
from distill.errors import RunFailed
from distill.models import load, with_lora
from distill.recipe import GrpoStage
from distill.recipe_parts import ModelSource
from distill.records import Problem
from distill.runs import MetricsLog
from teacher import grpo
from teacher.rewards import Scores, soft_overlong

CPU = Device("cpu", "cpu", False)
PROBLEMS = [Problem(id=f"p{n}", kind="math", problem=f"{n}+{n}", reference=str(2 * n)) for n in range(7)]


def stage_of(**changes: Any) -> GrpoStage:
    settings: dict[str, Any] = {
        "steps": 4, "learning_rate": 3e-3, "problems_per_step": 3, "samples_per_problem": 4, "max_tokens": 10,
        "kl": {"coefficient": 0}, "checkpoint_every": 1,
    }  # fmt: skip
    return GrpoStage.model_validate(
        {"name": "zero", "kind": "grpo", "model": "m", "problems": "p", "makes": "t", **settings, **changes}
    )


@pytest.fixture
def rewarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward 1 to a completion whose text is of even length."""

    def even(answers_PG: Any, weights: Any, own: Any, soft: Any, judged: Any) -> Scores:
        rewards_PG = torch.tensor(
            [[len(one.text) % 2 for one in answers] for answers in answers_PG], dtype=torch.float64
        )
        late_PG = [[soft_overlong(one.tokens, *soft) if soft else 0.0 for one in G] for G in answers_PG]
        return Scores(
            rewards_PG + torch.tensor(late_PG),
            {"accuracy": rewards_PG},
            torch.ones_like(rewards_PG, dtype=torch.bool),
        )

    monkeypatch.setattr(teacher.rollout, "score", even)
    monkeypatch.setenv("DISTILL_QUIET", "1")


@pytest.fixture
def trained(tiny_qwen2: Any, tmp_path: Path) -> Any:
    """Train the tiny model under some settings: final weights, metrics, counts."""
    numbers = itertools.count()

    def train(folder: Path | None = None, **changes: Any) -> tuple[dict[str, torch.Tensor], Any, Any]:
        torch.set_num_threads(1)
        folder = folder or tmp_path / str(next(numbers))
        source = ModelSource(path=str(tiny_qwen2.folder))
        loaded = load("m", tiny_qwen2.folder, source, CPU, dtype=torch.float32)
        if changes.get("method") == "lora":
            loaded = with_lora(loaded, None, 3)
        before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
        counts = grpo.train(
            stage_of(**changes), loaded, CPU, PROBLEMS, None,
            folder=folder, fingerprint="f", seed=3, saved=lambda: None,
        )  # fmt: skip
        weights = {name: tensor - before[name] for name, tensor in loaded.model.state_dict().items()}
        return weights, MetricsLog.read(folder / "metrics.jsonl"), counts

    return train


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=tolerance, rtol=0, msg=name)


def largest(weights: dict[str, torch.Tensor]) -> float:
    return max(float(tensor.abs().max()) for tensor in weights.values())


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in row if not key.startswith("seconds")} for row in rows]


@pytest.mark.parametrize("aggregate", ["sequence_mean", "token_mean"])
def test_the_cut_into_micro_batches_changes_nothing(rewarded: None, trained: Any, aggregate: str) -> None:
    """Plain gradients are compared: Adam divides by their size, which would blow a rounding error up."""
    changes = {"aggregate": aggregate, "steps": 1, "kl": {"coefficient": 0.1}}
    whole, (told,), _ = trained(**changes)
    cut, (told_cut,), _ = trained(**changes, micro_batch_tokens=20)
    assert largest(whole) > 1e-4 and told["grad_norm"] > 1e-4
    for key in ("loss", "grad_norm", "kl", "clip_fraction", "ratio_mean"):
        assert told_cut[key] == pytest.approx(told[key], rel=1e-4, abs=1e-7), key
    significant = {name: whole[name] for name in whole if "bias" not in name}
    assert_close({name: cut[name] for name in significant}, significant, 1e-6 + 1e-3 * largest(whole))


def test_the_policy_that_sampled_is_the_one_that_learns(rewarded: None, trained: Any) -> None:
    """The trainer's log-probabilities of fresh samples are the sampler's, at any temperature."""
    for temperature in (1.0, 0.7):
        _, rows, _ = trained(temperature=temperature, steps=3)
        for row in rows:
            assert row["ratio_first_mean"] == pytest.approx(1, abs=1e-4)
            assert row["ratio_mean"] == pytest.approx(1, abs=1e-6)
            assert row["policy_version"] == row["step"] - 1


def test_several_updates_of_one_rollout(rewarded: None, trained: Any) -> None:
    _, rows, counts = trained(steps_per_rollout=2, learning_rate=1e-2)
    assert [row["policy_version"] for row in rows] == [0, 0, 2, 2]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for first, second in (rows[:2], rows[2:]):
        assert first["ratio_mean"] == pytest.approx(1, abs=1e-6)
        assert abs(second["ratio_mean"] - 1) > 1e-4, "the second update is off the policy that sampled"
    assert counts["generated_tokens"] == rows[-1]["generated_tokens"] > 0
    assert counts["trained_tokens"] == rows[-1]["trained_tokens"] > 0


def test_the_clip_holds_an_update_back(rewarded: None, trained: Any) -> None:
    far = {"steps": 4, "steps_per_rollout": 4, "problems_per_step": 1, "learning_rate": 3e-2}
    free, rows, _ = trained(**far, clip={"low": 0.999, "high": 1000})
    clipped, rows_clipped, _ = trained(**far, clip={"low": 0.01, "high": 0.01})
    assert max(row["clip_fraction"] for row in rows) == 0
    assert max(row["clip_fraction"] for row in rows_clipped) > 0
    assert any(not torch.equal(free[name], clipped[name]) for name in free)


def test_the_kl_term_holds_the_policy_near_its_reference(rewarded: None, trained: Any) -> None:
    _, free, _ = trained(steps=6, kl={"coefficient": 1e-6})
    _, held, _ = trained(steps=6, kl={"coefficient": 30.0})
    assert free[0]["kl"] == pytest.approx(0, abs=1e-9) and free[-1]["kl"] > 0
    assert held[-1]["kl"] < free[-1]["kl"]
    _, without, _ = trained(steps=1)
    assert without[0]["kl"] is None


def test_the_reference_is_replaced_when_told(rewarded: None, trained: Any) -> None:
    _, kept, _ = trained(kl={"coefficient": 0.1})
    _, renewed, _ = trained(kl={"coefficient": 0.1}, reference={"refresh_every": 2})
    assert [row["kl"] > 1e-9 for row in kept] == [False, True, True, True]
    assert [row["kl"] > 1e-9 for row in renewed] == [False, True, False, True]


def test_groups_of_one_reward_teach_nothing(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a KL term the update is skipped as a whole: weight decay and momentum would move the weights too."""
    monkeypatch.setenv("DISTILL_QUIET", "1")
    change, rows, counts = trained(rewards={"accuracy": 1, "format": 0}, optimiser={"weight_decay": 0.1})
    assert all(row["reward"] == 0 for row in rows), (
        "a random model got something right: choose other problems"
    )
    assert largest(change) == 0
    assert [row["grad_norm"] for row in rows] == [0.0] * 4 and [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["zero_variance_groups"] for row in rows] == [3] * 4
    assert counts["zero_variance_groups"] == 12 and counts["trained_tokens"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"kl": {"coefficient": 0.1}, "reference": {"refresh_every": 2}},
        {"steps_per_rollout": 2, "steps": 6},
        {"refill": 2, "kl": {"coefficient": 0.1}, "reference": {"refresh_every": 1, "mix": 0.5}},
        {"checkpoint_every": 3, "kl": {"coefficient": 0.1}, "reference": {"refresh_every": 3}},
    ],
)
@pytest.mark.parametrize("stopped_at", [2, 3])
def test_a_resumed_run_is_the_undisturbed_one(
    rewarded: None,
    trained: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: Any,
    stopped_at: int,
) -> None:
    whole, rows, counts = trained(**changes)
    calls = itertools.count(1)
    real = grpo.Sampler.roll_out

    def stops(*arguments: Any) -> Any:
        if next(calls) == stopped_at:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(grpo.Sampler, "roll_out", stops)
        trained(tmp_path / "resumed", **changes)
    resumed, rows_resumed, counts_resumed = trained(tmp_path / "resumed", **changes)
    assert largest(whole) > 0 and all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert timeless(rows) == timeless(rows_resumed) and counts == counts_resumed


# -------------------------------------------------------------------------------- the objective's words, in the loop


WORDS: list[dict[str, Any]] = [
    {"aggregate": "constant"},
    {"ratio": "sequence"},
    {"ratio": "geometric", "clip": {"low": 3e-4, "high": 4e-4}},
    {"clip": {"kind": "cispo", "low": 0.01, "high": 0.01}},
    {"clip": {"kind": "none"}},
    {"advantage": {"baseline": "leave_one_out", "scale": "none"}},
    {"kl": {"coefficient": 0.5, "estimator": "k2"}},
    {"kl": {"coefficient": 0.5, "estimator": "k1", "term": "reward"}},
    {"kl": {"coefficient": 0.5, "unbiased": True}},
    {"kl": {"coefficient": 0.5}, "reference": {"refresh_every": 1, "mix": 0.3}},
    {"overlong": {"mask": True}},
    {"overlong": {"soft": 50}},
]


def test_every_word_acts_in_the_loop(rewarded: None, trained: Any) -> None:
    """Each gives other weights than the default does, and than each other does."""
    many = {
        "steps": 4,
        "steps_per_rollout": 2,
        "learning_rate": 2e-2,
        "max_tokens": 60,
    }  # so that some end before
    found = [trained(**many, **words)[0] for words in ({}, *WORDS)]
    for (a, one), (b, other) in itertools.combinations(enumerate(found), 2):
        assert any(not torch.equal(one[name], other[name]) for name in one), (a, b)


def test_masked_completions_are_counted_and_have_no_gradient(rewarded: None, trained: Any) -> None:
    """With a limit that ends every completion nothing is left to learn from."""
    change, rows, counts = trained(overlong={"mask": True}, max_tokens=2)
    assert all(row["truncated"] == 1 and row["masked"] == 12 for row in rows)
    assert counts["masked"] == 48 and counts["trained_tokens"] == 0 and largest(change) == 0


def test_a_divergence_in_the_reward_moves_equal_rewards_apart(trained: Any, monkeypatch: Any) -> None:
    """All completions are wrong, so without it there is nothing to learn; and it holds the policy back."""
    monkeypatch.setenv("DISTILL_QUIET", "1")
    words = {"rewards": {"accuracy": 1, "format": 0}, "steps": 2, "steps_per_rollout": 2}
    at_first, rows, _ = trained(**words, kl={"coefficient": 1.0, "term": "reward"})
    assert [row["zero_variance_groups"] for row in rows] == [3, 3], "the policy is its reference at first"
    assert largest(at_first) == 0 and rows[0]["kl"] is None


def test_the_limit_may_grow(rewarded: None, trained: Any) -> None:
    _, rows, _ = trained(max_tokens=[[0, 2], [2, 10]], steps=4)
    assert [row["completion_tokens"] <= 2 for row in rows] == [True, True, False, False]


def test_the_sampler_is_watched_and_corrected(rewarded: None, trained: Any) -> None:
    """Our own sampler agrees with the trainer; a tampered one is seen, and truncation changes the update."""
    _, rows, _ = trained(correction={"kind": "truncate"})
    assert all(abs(row["sampler_kl"]) < 1e-6 and row["corrected_fraction"] == 0 for row in rows)
    real = grpo.Sampler.roll_out

    def tampered(self: Any, *arguments: Any) -> Any:
        rollout = real(self, *arguments)
        for completion in rollout.sampled:
            completion.logprobs[:] = [value - 2.0 for value in completion.logprobs]
        return rollout

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo.Sampler, "roll_out", tampered)
        plain, seen, _ = trained(steps=1)
        truncated, told, _ = trained(steps=1, correction={"kind": "truncate", "limit": 1.5})
        masked, _, counts = trained(steps=1, correction={"kind": "mask", "limit": 1.5})
    assert seen[0]["ratio_first_mean"] == pytest.approx(7.389, rel=1e-3) and seen[0]["sampler_kl"] > 1
    assert told[0]["corrected_fraction"] == 1.0
    assert told[0]["grad_norm"] == pytest.approx(1.5 * seen[0]["grad_norm"], rel=1e-4)
    assert largest(plain) > 0 and largest(truncated) > 0 and counts["trained_tokens"] > 0
    assert largest(masked) < 1e-6


def test_problems_that_nobody_can_grade_are_a_failure(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ungraded(answers_PG: Any, *_: Any) -> Scores:
        zeros_PG = torch.zeros(len(answers_PG), len(answers_PG[0]), dtype=torch.float64)
        return Scores(zeros_PG, {"accuracy": zeros_PG}, zeros_PG.bool())

    monkeypatch.setattr(teacher.rollout, "score", ungraded)
    with pytest.raises(RunFailed, match="could be graded"):
        trained()


# -------------------------------------------------------------------------------- adapters


LORA = {"method": "lora", "kl": {"coefficient": 0.5}, "learning_rate": 3e-2}


def test_adapters_alone_are_trained(rewarded: None, trained: Any) -> None:
    change, rows, _ = trained(**LORA)
    moved = {name for name, tensor in change.items() if tensor.any()}
    assert moved and all("lora_" in name for name in moved)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-9) and rows[-1]["kl"] > 1e-6


@pytest.mark.parametrize("reference", [{}, {"refresh_every": 2}])
def test_the_reference_of_adapters_is_an_explicit_one(
    rewarded: None, trained: Any, monkeypatch: pytest.MonkeyPatch, reference: dict[str, int]
) -> None:
    """Adapters switched off, or those of then in their place, compute what a second model in memory does."""
    ours, rows, _ = trained(**LORA, reference=reference)
    real = grpo.Reference
    monkeypatch.setattr(grpo, "Reference", lambda model, adapters, *more: real(model, False, *more))
    explicit, rows_explicit, _ = trained(**LORA, reference=reference)
    assert largest(ours) > 1e-3 and rows[-1]["kl"] > 0
    assert [row["kl"] for row in rows] == pytest.approx(
        [row["kl"] for row in rows_explicit], rel=1e-4, abs=1e-9
    )
    assert_close(ours, explicit, 1e-4 * largest(explicit))


def test_a_resumed_run_of_adapters_is_the_undisturbed_one(
    rewarded: None, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {**LORA, "reference": {"refresh_every": 1}, "memory": {"activations": "recompute"}}
    whole, rows, _ = trained(**words)
    real, calls = grpo.Sampler.roll_out, itertools.count(1)

    def stops(*arguments: Any) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(grpo.Sampler, "roll_out", stops)
        trained(tmp_path / "resumed", **words)
    resumed, rows_resumed, _ = trained(tmp_path / "resumed", **words)
    assert largest(whole) > 0 and all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert timeless(rows) == timeless(rows_resumed)
