"""GRPO whose samples come from vLLM: the weights are there before each rollout, and where they are not the run stops.

On the CPU both sides compute in float32, so their log-probabilities agree to a few units of the sixth digit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import teacher.rollout
from distill.chat import ChatFormat
from distill.cli import main
from distill.device import Device
from distill.errors import RunFailed, UserError
from distill.generate import probe, synced
from distill.generate.engine import build_requests, in_order
from distill.generate.synced import SyncedEngine
from distill.models import LoadedModel, build_folder, load, with_lora
from distill.recipe import GrpoStage
from distill.recipe_parts import Architecture, Lora, ModelSource, Sampling, VllmEngine
from distill.records import Problem
from distill.runs import MetricsLog
from teacher import grpo
from teacher.rewards import Scores

pytestmark = pytest.mark.vllm
CPU = Device("cpu", "cpu", False)
PROBLEMS = [Problem(id=f"p{n}", kind="math", problem=f"{n}+{n}", reference=str(2 * n)) for n in range(7)]
SETTINGS = VllmEngine(kind="vllm")
AGREE = 2e-5  # mean difference of log-probabilities in float32; measured: about 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vLLM's kernels want heads of 32 numbers at least."""
    place = tmp_path_factory.mktemp("models") / "tiny"
    shape = Architecture(hidden=64, layers=2, heads=2, kv_heads=1, max_length=300)
    build_folder("tiny", ModelSource(build=shape, tokenizer="world"), place, seed=0)
    return place


def loaded_from(folder: Path) -> LoadedModel:
    return load("tiny", folder, ModelSource(path=str(folder)), CPU, dtype=torch.float32)


def shaken(loaded: LoadedModel, seed: int) -> LoadedModel:
    """The model, its trained weights moved at random."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return loaded


@pytest.fixture
def rewarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward 1 to a completion whose text is of odd length: an untrained policy is never right."""

    def odd(answers_PG: Any, *_: Any) -> Scores:
        rewards_PG = torch.tensor(
            [[len(one.text) % 2 for one in answers] for answers in answers_PG], dtype=torch.float64
        )
        return Scores(rewards_PG, {"accuracy": rewards_PG}, torch.ones_like(rewards_PG, dtype=torch.bool))

    monkeypatch.setattr(teacher.rollout, "score", odd)
    monkeypatch.setenv("DISTILL_QUIET", "1")


@pytest.fixture
def trained(folder: Path, tmp_path: Path, rewarded: None) -> Any:
    """Train under some settings; what the metrics log then holds."""
    numbers = itertools.count()

    def train(out: Path | None = None, saved: Any = lambda: None, **changes: Any) -> list[dict[str, Any]]:
        stage = GrpoStage.model_validate(
            {
                "name": "zero", "kind": "grpo", "model": "m", "problems": "p", "makes": "t", "engine": {"kind": "vllm"},
                "steps": 4, "learning_rate": 1e-3, "problems_per_step": 3, "samples_per_problem": 4, "max_tokens": 10,
                "kl": {"coefficient": 0}, "checkpoint_every": 1, **changes,
            }
        )  # fmt: skip
        loaded = loaded_from(folder)
        if stage.method == "lora":
            loaded = with_lora(loaded, stage.lora, 3)
        out = out or tmp_path / str(next(numbers))
        try:
            grpo.train(stage, loaded, CPU, PROBLEMS, None, folder=out, fingerprint="f", seed=3, saved=saved)
        finally:
            train.rows = MetricsLog.read(out / "metrics.jsonl")  # type: ignore[attr-defined]
        return train.rows  # type: ignore[attr-defined, no-any-return]

    return train


def assert_proved(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["policy_version"] == row["step"] - 1
        assert row["probe_difference"] < AGREE
        assert row["ratio_first_mean"] == pytest.approx(1, abs=1e-4)
        assert abs(row["sampler_kl"]) < 1e-4
    assert len({row["weights_checksum"] for row in rows}) == len(rows), "each update changed them"


def skipping(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """Leave the weights of one version out, and say that they were sent."""
    send = SyncedEngine._send

    def skipped(self: Any, first: bool) -> None:
        if self.policy_version != version - 1:
            send(self, first)

    monkeypatch.setattr(SyncedEngine, "_send", skipped)


# ------------------------------------------------------------------------------------ whole stages


def test_twenty_updates_each_sampled_from_its_own_policy(trained: Any) -> None:
    rows = trained(steps=20)
    assert len(rows) == 20 and sum(row["grad_norm"] > 0 for row in rows) > 15
    assert_proved(rows)
    assert all(row["seconds_sync"] > 0 for row in rows)


def test_twenty_updates_of_adapters_which_alone_are_sent(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    whole = synced.base_weights
    monkeypatch.setattr(synced, "base_weights", lambda model: sent.append(1) or whole(model))
    rows = trained(steps=20, method="lora", lora={"rank": 4, "alpha": 12}, learning_rate=1e-2)
    assert len(rows) == 20 and sum(row["grad_norm"] > 0 for row in rows) > 15
    assert_proved(rows)
    assert len(sent) == 2, "the base went once, and was read back once"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_skipped_sync_stops_the_run_on_that_step(
    trained: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """At R1's rate, where one update moves no log-probability by as much as a probe would notice in bf16."""
    skipping(monkeypatch, 3)
    with pytest.raises(RunFailed, match="does not hold the weights of update 3"):
        trained(steps=6, method=method, learning_rate=3e-6)
    assert [row["step"] for row in trained.rows] == [1, 2, 3]


def test_the_probe_alone_sees_a_skipped_sync_too(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    skipping(monkeypatch, 3)
    monkeypatch.setattr(SyncedEngine, "_read_back", lambda self, first: 0)
    with pytest.raises(RunFailed, match="disagree on the weights of update 3"):
        trained(steps=6, learning_rate=1e-2)
    assert [row["step"] for row in trained.rows] == [1, 2, 3]


def test_a_resumed_run_samples_from_the_restored_weights(trained: Any, tmp_path: Path) -> None:
    def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: row[key] for key in row if not key.startswith("seconds")} for row in rows]

    whole = trained()
    checkpoints = itertools.count(1)

    def killed() -> None:
        if next(checkpoints) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", saved=killed)
    assert timeless(trained(tmp_path / "cut")) == timeless(whole)


_RECIPE = """
name: tiny
models: {{base: {{path: {folder}}}}}
problems: {{practice: {{world: {{count: 6, families: [chains]}}}}}}
stages:
  - &zero
    {{name: zero, kind: grpo, model: base, problems: practice, makes: zero, steps: 2, problems_per_step: 2,
     samples_per_problem: 2, max_tokens: 12, learning_rate: 1e-3, optimiser: {{weight_decay: 1.0}},
     engine: {{kind: vllm, max_length: 200}}}}
  - {{<<: *zero, name: more, model: zero, makes: more, method: lora}}
  - {{name: harvest, kind: sample, model: more, problems: practice, makes: traces, engine: {{kind: vllm}},
     sampling: {{temperature: 1.0, max_tokens: 12}}, collect: {{samples: 2}},
     filters: {{verified: false, format: false, finished: false, duplicates: false}}}}
"""


def test_two_stages_one_after_the_other_from_the_command_line(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(_RECIPE.format(folder=folder))
    assert main(["run", str(recipe), "--out", str(tmp_path / "run")]) == 0
    assert "Traceback" not in capfd.readouterr().err
    for stage in ("01-zero", "02-more"):
        rows = MetricsLog.read(tmp_path / "run" / "stages" / stage / "metrics.jsonl")
        assert [row["policy_version"] for row in rows] == [0, 1]
        assert all(row["probe_difference"] < AGREE for row in rows)


# ------------------------------------------------------------------------------------ one engine


@pytest.fixture(scope="module")
def policy(folder: Path) -> LoadedModel:
    return loaded_from(folder)


@pytest.fixture(scope="module")
def engine(policy: LoadedModel) -> Iterator[SyncedEngine]:
    made = SyncedEngine(policy, CPU, SETTINGS, temperature=0.8)
    made.sync(0)
    yield made
    made.close()


@pytest.fixture
def synced_engine(engine: SyncedEngine) -> SyncedEngine:
    """With other weights than in the test before."""
    seed = 1 + (engine.policy_version or 0)
    shaken(engine.loaded, seed)
    engine.sync(seed)
    shaken(engine.loaded, 100 + seed)
    return engine


def test_a_part_of_the_weights_is_not_enough(
    synced_engine: SyncedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = synced.base_weights
    send = SyncedEngine._send

    def half(self: Any, first: bool) -> None:
        monkeypatch.setattr(synced, "base_weights", lambda model: itertools.islice(whole(model), 14))
        send(self, first)
        monkeypatch.setattr(synced, "base_weights", whole)

    monkeypatch.setattr(SyncedEngine, "_send", half)
    with pytest.raises(RunFailed, match="does not hold the weights of update 77") as told:
        synced_engine.sync(77)
    assert "model.layers.1" in str(told.value)


def test_weights_that_break_off_on_the_way(
    synced_engine: SyncedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = synced.base_weights

    def breaking(model: Any) -> Iterator[Any]:
        yield from itertools.islice(whole(model), 5)
        raise OSError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(synced, "base_weights", breaking)
        with pytest.raises(RunFailed, match=r"could not take the weights of update 77.*gone"):
            synced_engine.sync(77)


def test_keys_and_values_of_older_weights_are_seen(
    synced_engine: SyncedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no look at the weights can show."""
    assert len(probe.probe_prompt(synced_engine.loaded.chat, 300).ids) > 128, "vLLM keeps whole blocks"
    assert synced_engine.sync(50)["probe_difference"] < AGREE
    shaken(synced_engine.loaded, 3)
    monkeypatch.setattr(synced_engine._llm, "reset_prefix_cache", lambda: True)
    with pytest.raises(RunFailed, match="disagree on the weights of update 51"):
        synced_engine.sync(51)
    monkeypatch.undo()
    assert synced_engine.sync(52)["probe_difference"] < AGREE


def test_another_temperature_is_seen(synced_engine: SyncedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = synced.drawing
    monkeypatch.setattr(synced, "drawing", lambda *of: drawing(*of) | {"temperature": 1.0})
    with pytest.raises(RunFailed, match="disagree"):
        synced_engine.sync(60)


def test_completions_carry_the_version_and_end_as_the_chat_format_says(synced_engine: SyncedEngine) -> None:
    loaded, version = synced_engine.loaded, 90
    synced_engine.sync(version)
    requests = build_requests(PROBLEMS, 4, loaded.chat, run_seed=0)
    drawn = Sampling(temperature=0.8, top_p=1.0, max_tokens=40)
    found = in_order(requests, synced_engine.generate(requests, drawn))
    assert {one.policy_version for one in found} == {version}
    assert found == in_order(requests, synced_engine.generate(requests, drawn)), "seeds decide"
    stops = tuple(range(0, len(loaded.chat.tokenizer), 3))
    synced_engine.loaded = LoadedModel(
        loaded.name, loaded.model, ChatFormat("tiny", loaded.chat.tokenizer, loaded.chat.tags, stop_ids=stops)
    )
    try:
        shorter = in_order(requests, synced_engine.generate(requests, drawn))
    finally:
        synced_engine.loaded = loaded
    ends = [one for one in shorter if one.finish_reason == "stop"]
    assert len(ends) > 20 and all(one.token_ids[-1] in stops for one in ends)


def test_a_reader_that_leaves_early_leaves_nothing_running(synced_engine: SyncedEngine) -> None:
    synced_engine.sync(91)
    requests = build_requests(PROBLEMS, 4, synced_engine.loaded.chat, run_seed=0)
    completions = synced_engine.generate(requests, Sampling(temperature=0.8, top_p=1.0, max_tokens=60))
    next(completions)
    completions.close()  # type: ignore[attr-defined]
    assert not synced_engine._llm.llm_engine.has_unfinished_requests()
    with pytest.raises(UserError, match=r"engine.max_length = 300.*may take"):
        list(synced_engine.generate(requests, Sampling(temperature=0.8, top_p=1.0, max_tokens=299)))


@pytest.mark.parametrize("shape", ["llama", "wide"])
def test_other_models(tmp_path: Path, shape: str) -> None:
    """A llama; and one so wide that a CPU trains it in bf16, against vLLM in float32."""
    hidden = 512 if shape == "wide" else 64
    source = ModelSource(
        build=Architecture(
            architecture="qwen2" if shape == "wide" else "llama",
            hidden=hidden,
            layers=3,
            heads=2,
            max_length=300,
        ),
        tokenizer="world",
    )
    build_folder("other", source, tmp_path, seed=0)
    device = Device("cpu", "cpu", shape == "wide")
    loaded = load(
        "other",
        tmp_path,
        ModelSource(path=str(tmp_path), max_length=200, rope_theta=77.0),
        device,
        dtype=torch.float32,
    )
    engine = SyncedEngine(shaken(loaded, 1), device, SETTINGS, temperature=1.0)
    try:
        told = engine.sync(0)
        again = engine.sync(1)
        assert engine.length == 200 and told["weights_checksum"] == again["weights_checksum"]
        print(shape, told)
        assert told["probe_difference"] < (probe.PROBE_BF16 / 2 if device.bf16 else AGREE)
    finally:
        engine.close()


def test_four_bit_weights_are_sent_unpacked(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    loaded = load("tiny", folder, ModelSource(path=str(folder)), CPU, four_bit=True)
    tuned = shaken(with_lora(loaded, Lora(rank=8), 0), 2)
    engine = SyncedEngine(tuned, CPU, SETTINGS, temperature=1.0)
    try:
        told = engine.sync(0)
        print("four bits", told)
        assert told["probe_difference"] < probe.PROBE_FLOAT32
        shaken(tuned, 3)
        assert engine.sync(1)["weights_checksum"] != told["weights_checksum"]
    finally:
        engine.close()
