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
from distill.models import load
from distill.recipe import GrpoStage
from distill.recipe_parts import ModelSource, Rewards
from distill.records import Problem, Verdict
from distill.runs import MetricsLog
from distill.verify import Judgement
from teacher import grpo
from teacher.rewards import Scores, score
from teacher.rollout import draw_problems

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

    def even(texts: Any, judgements: Any, samples: int, tags: Any, weights: Any) -> Scores:
        rewards_PG = torch.tensor([len(text) % 2 for text in texts], dtype=torch.float64).view(-1, samples)
        return Scores(
            rewards_PG, rewards_PG, rewards_PG * 0, torch.ones_like(rewards_PG, dtype=torch.bool), 0
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
    real = grpo.roll_out

    def stops(*arguments: Any) -> Any:
        if next(calls) == stopped_at:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(grpo, "roll_out", stops)
        trained(tmp_path / "resumed", **changes)
    resumed, rows_resumed, counts_resumed = trained(tmp_path / "resumed", **changes)
    assert largest(whole) > 0 and all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert timeless(rows) == timeless(rows_resumed) and counts == counts_resumed


# -------------------------------------------------------------------------------- which problems


def test_every_problem_once_an_epoch_in_a_new_order() -> None:
    drawn = list(itertools.islice(draw_problems(PROBLEMS, 3, seed=0, start=0), 7))
    ids = [problem.id for rollout in drawn for problem in rollout]
    epochs = [ids[start : start + 7] for start in range(0, 21, 7)]
    assert all(sorted(epoch) == sorted(problem.id for problem in PROBLEMS) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    other = next(draw_problems(PROBLEMS, 7, seed=1, start=0))
    assert [problem.id for problem in other] != epochs[0]


@pytest.mark.parametrize("per_rollout", [1, 3, 7, 16])
@pytest.mark.parametrize("start", [1, 4, 5])
def test_a_late_start_draws_what_the_first_run_would_have(per_rollout: int, start: int) -> None:
    whole = list(itertools.islice(draw_problems(PROBLEMS, per_rollout, seed=0, start=0), start + 3))
    assert list(itertools.islice(draw_problems(PROBLEMS, per_rollout, 0, start), 3)) == whole[start:]


# -------------------------------------------------------------------------------- rewards


def judged(*verdicts: Verdict) -> list[Judgement]:
    return [Judgement(verdict, None, "", 0.0) for verdict in verdicts]


def test_rewards_are_added_by_their_weights(tiny_qwen2: Any) -> None:
    tags = tiny_qwen2.loaded.chat.tags
    texts = ["<think>a</think>b", "b", "<think>a</think>b", "<think>a"]
    verdicts = judged(Verdict.CORRECT, Verdict.CORRECT, Verdict.WRONG, Verdict.TRUNCATED)
    scores = score(texts, verdicts, 2, tags, Rewards(accuracy=2.0, format=0.5))
    assert scores.rewards_PG.tolist() == [[2.5, 2.0], [0.5, 0.0]]
    assert scores.accuracy_PG.tolist() == [[1, 1], [0, 0]]
    assert scores.format_PG.tolist() == [[1, 0], [1, 0]]
    assert scores.ungraded == 0


def test_an_ungraded_sample_holds_its_groups_mean(tiny_qwen2: Any) -> None:
    tags, texts = tiny_qwen2.loaded.chat.tags, ["x"] * 8
    wrong, right = Verdict.WRONG, Verdict.CORRECT
    verdicts = judged(right, Verdict.ERROR, wrong, wrong, *[Verdict.BAD_REFERENCE] * 4)
    scores = score(texts, verdicts, 4, tags, Rewards())
    assert scores.rewards_PG.tolist() == [[1, pytest.approx(1 / 3), 0, 0], [0, 0, 0, 0]]
    assert scores.ungraded == 5
    no_answer = score(texts[:2], judged(Verdict.NO_ANSWER, Verdict.TIMEOUT), 2, tags, Rewards())
    assert no_answer.rewards_PG.tolist() == [[0, 0]] and no_answer.ungraded == 0, "its own fault: graded 0"


def test_problems_that_nobody_can_grade_are_a_failure(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ungraded(texts: Any, judgements: Any, samples: int, tags: Any, weights: Any) -> Scores:
        zeros_PG = torch.zeros(len(texts) // samples, samples, dtype=torch.float64)
        return Scores(zeros_PG, zeros_PG, zeros_PG, zeros_PG.bool(), len(texts))

    monkeypatch.setattr(teacher.rollout, "score", ungraded)
    with pytest.raises(RunFailed, match="could be graded"):
        trained()
