"""What a plan says of reward models: their training, what they add to a GRPO stage, and whom a stage follows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.models.classifiers import SCORED_AT_ONCE
from distill.plan import Assumptions, make_plan
from distill.plan.architectures import KNOWN
from distill.plan.hardware import GPUS
from distill.plan.reward import READ_AT_ONCE, with_judges
from distill.plan.table import as_lines
from distill.plan.work import forward_flops
from distill.recipe import GrpoStage
from distill.recipe_file import override_key, parse_recipe

ASSUMED = Assumptions(tokens_per_trace=1000)
POLICY, JUDGE = "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-0.5B"


def recipe(*overrides: str) -> dict[str, Any]:
    """A policy that a judge rewards on two open problems of four, over 10 rollouts of 64 answers."""
    raw: dict[str, Any] = {
        "name": "judged",
        "hardware": {"gpu": "h100-80gb", "gpus": 1},
        "models": {"policy": {"path": POLICY}, "judge": {"path": JUDGE}},
        "problems": {
            "sums": {"rows": [{"problem": f"{n}+{n}", "reference": str(2 * n)} for n in range(2)], "kind": "math"},
            "stories": {"rows": [{"problem": f"Tell {n}"} for n in range(2)], "kind": "open"},
            "both": {"sets": ["sums", "stories"]},
        },
        "stages": [{
            "name": "rl", "kind": "grpo", "model": "policy", "problems": "both", "makes": "r1", "steps": 20,
            "steps_per_rollout": 2, "problems_per_step": 4, "samples_per_problem": 8, "max_tokens": 2000,
            "micro_batch_tokens": 8192, "engine": {"max_rows": 64}, "follow": {"problems": 0},
            "rewards": {"models": {"nice": {"model": "judge", "on": "whole"}}},
        }],
    }  # fmt: skip
    for override in overrides:
        override_key(raw, override)
    return raw


def planned(*overrides: str, raw: dict[str, Any] | None = None) -> dict[str, Any]:
    stage: dict[str, Any] = make_plan(parse_recipe(raw or recipe(*overrides)), ASSUMED)["stages"][0]
    return stage


def alone(*overrides: str) -> dict[str, Any]:
    raw = recipe(*overrides)
    del raw["stages"][0]["rewards"]["models"]
    return planned(raw=raw)


@pytest.mark.parametrize(
    ("change", "answers"),
    [
        ((), 320),
        (("stages.rl.rewards.models.nice.problems=all",), 640),
        (("stages.rl.rewards.models.nice.from_step=10",), 160),
        (("stages.rl.rewards.models.nice.from_step=11",), 128),
        (("stages.rl.problems=stories",), 640),
    ],
)
def test_the_time_of_a_judge_is_what_it_reads(change: tuple[str, ...], answers: int) -> None:
    """10 rollouts of 2 * 4 * 8 answers of 1000 tokens behind 200 of a prompt."""
    flops = forward_flops(KNOWN[JUDGE], answers * 1200, 1200)
    found, without = planned(*change), alone()
    assert found["flops"] - without["flops"] == pytest.approx(flops, rel=1e-6, abs=1e6)
    hours = flops / (GPUS["h100-80gb"].flops * ASSUMED.mfu) / 3600
    assert found["hours"] - without["hours"] == pytest.approx(hours, rel=1e-6, abs=1e-12)


def test_a_judge_of_answers_alone_is_counted_as_if_it_read_them_whole_and_that_is_told() -> None:
    whole, answer = planned(), planned("stages.rl.rewards.models.nice.on=answer")
    assert answer["hours"] == whole["hours"]
    assert [note for note in answer["notes"] if "without their thoughts" in note] and not whole["notes"]


def test_the_memory_of_a_judge_is_its_weights_and_what_it_reads_at_once() -> None:
    assert READ_AT_ONCE == SCORED_AT_ONCE
    found, without, shape = planned(), alone(), KNOWN[JUDGE]
    weights = 2 * shape.parameters
    reading = 2 * 32768 * (2 * 896 + 896 + 2 * 128 + 3 * 4864)
    assert found["memory"] == without["memory"] | {"reward model nice": weights, "reading": reading}
    assert found["needs"] == without["needs"] + weights, "it takes its turn with the larger update"
    lines = as_lines(make_plan(parse_recipe(recipe()), ASSUMED))
    head = next(line for line in lines if line.startswith("stage") and "needs" in line)
    assert "reward model nice" in head and "reading" in head, "a column that is summed up is shown"


@pytest.mark.parametrize(("engine", "needs"), [({}, 100 + 60 + 7), ({"kind": "vllm"}, 100 + 40 + 30 + 7)])
def test_a_judge_reads_after_the_rollout_whose_memory_vllm_still_holds(engine: Any, needs: float) -> None:
    """100 are always there, an update takes 60, a rollout 40; the judge weighs 7, and 30 more while it reads."""
    parts = {
        "weights": 100.0,
        "gradients": 10.0,
        "copies": 20.0,
        "activations": 25.0,
        "head": 5.0,
        "rollout": 40.0,
    }
    stage = parse_recipe(recipe(f"stages.rl.engine={json.dumps(engine)}")).stages[0]
    assert isinstance(stage, GrpoStage)
    judges = {"reward model nice": 7.0, "reading": 30.0}
    assert with_judges((parts, 160.0), judges, stage) == (parts | judges, needs)
    assert with_judges((parts, 160.0), {}, stage) == (parts, 160.0)


APART = "stages.rl.engine={kind: vllm, apart: true, data_parallel: 3}"
AHEAD = ("stages.rl.asynchronous=true", "stages.rl.correction={kind: truncate}")


def test_a_judge_beside_a_sampler_apart_takes_its_turn_with_the_update_alone() -> None:
    found, shape = planned(APART), KNOWN[JUDGE]
    assert "rollout" not in found["memory"]
    assert found["needs"] == alone(APART)["needs"] + 2 * shape.parameters


@pytest.mark.parametrize("engine", [(), (APART,)])
def test_a_judge_of_a_rollout_ahead_reads_while_the_policy_learns(engine: tuple[str, ...]) -> None:
    found, without = planned(*AHEAD, *engine), alone(*AHEAD, *engine)
    more = 2 * KNOWN[JUDGE].parameters + found["memory"]["reading"]
    assert found["needs"] == without["needs"] + more == sum(found["memory"].values())


def test_several_gpus_share_what_a_judge_reads() -> None:
    one, four = (
        planned(f"hardware.gpus={n}")["hours"] - alone(f"hardware.gpus={n}")["hours"] for n in (1, 4)
    )
    assert four == pytest.approx(one / 4)


def test_beside_a_sampler_apart_one_gpu_trains_however_many_there_are() -> None:
    one, four = (planned(APART, "hardware.hourly=2", f"hardware.gpus={n}") for n in (1, 4))
    for same in ("memory", "needs", "flops"):
        assert one[same] == four[same], same
    assert four["hours"] == pytest.approx(one["hours"], rel=1e-3), "verdicts have the cores of all"
    assert four["money"] == pytest.approx(4 * one["money"], rel=1e-3)
    assert "money counts 4 in all" in " ".join(four["notes"])
    assert planned(APART)["hours"] < planned(APART.replace("3", "1"))["hours"], "copies share the rollout"


def test_a_judge_that_does_not_fit_beside_the_policy_is_told_with_what_does() -> None:
    big = planned("models.judge.path=Qwen/Qwen2.5-14B")
    assert alone()["fits"] and not big["fits"] and big["nearest"] == {"micro_batch_tokens": 2200}
    assert planned("models.judge.path=Qwen/Qwen2.5-14B", "stages.rl.micro_batch_tokens=2200")["fits"]


def judging(folder: Path, *overrides: str) -> dict[str, Any]:
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps({"prompt": str(n)}) for n in range(1000)))
    raw = recipe()
    raw["stages"] = [
        {
            "name": "judge", "kind": "reward", "model": "policy", "pairs": {"path": str(folder / "pairs.jsonl")},
            "makes": "helpful", "batch_size": 10, "held_out": 0.1, "checkpoint_every": 30, "max_length": 1500,
            "micro_batch_tokens": 4096,
        }
    ]  # fmt: skip
    for override in overrides:
        override_key(raw, override)
    return planned(raw=raw)


def test_the_training_of_a_judge_counts_its_measurements(tmp_path: Path) -> None:
    """90 updates of 10 pairs: held-out pairs are read at updates 30 and 60, and twice at the end."""
    found, unmeasured = judging(tmp_path), judging(tmp_path, "stages.judge.checkpoint_every=1000")
    assert found["trained_tokens"] == 900 * 2 * 1200
    read = forward_flops(KNOWN[POLICY], 2 * 100 * 2 * 1200, 1200)
    assert found["flops"] - unmeasured["flops"] == pytest.approx(read)
    none = judging(tmp_path, "stages.judge.held_out=0")
    assert none["trained_tokens"] == 1000 * 2 * 1200


def test_what_does_not_fit_in_the_training_of_a_judge_is_told_with_the_nearest_change(tmp_path: Path) -> None:
    roomy = judging(tmp_path)
    assert roomy["fits"] and roomy["largest"]["micro_batch_tokens"] > 0 and roomy["nearest"] is None
    small = judging(tmp_path, "hardware.gpu=rtx4090-24gb")
    assert not small["fits"] and small["nearest"]["memory.moments"] == "8bit"
    changes = [f"stages.judge.{key}={value}" for key, value in small["nearest"].items()]
    assert judging(tmp_path, "hardware.gpu=rtx4090-24gb", *changes)["fits"]
    offloaded = judging(tmp_path, "stages.judge.memory.activations=offload")
    assert offloaded["host"] > 0 == roomy["host"]


def test_whom_a_stage_follows_takes_time_and_no_tokens_of_its_own() -> None:
    """11 looks by default, 3 at every tenth update: the difference is in their number alone."""
    none, often, seldom = (
        planned(f"stages.rl.follow={{problems: {count}, every: {every}}}")
        for count, every in ((0, "null"), (4, "null"), (4, 10))
    )
    assert none["generated_tokens"] == often["generated_tokens"] == seldom["generated_tokens"]
    more, fewer = (one["hours"] - none["hours"] for one in (often, seldom))
    assert more == pytest.approx(11 / 3 * fewer) and fewer > 0
