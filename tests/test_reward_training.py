"""Reward models: the loss, what is read and held out, training, resumption, and the folder that comes out.

Legend: N rows.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import bradley_terry, labelled
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distill.card_reward import reward_card
from distill.device import Device
from distill.errors import UserError
from distill.models import LoadedModel, Reader, Scorer, from_causal, load, load_scorer, save
from distill.models.classifiers import LostText, cut
from distill.recipe_file import parse_recipe
from distill.recipe_parts import ModelSource
from distill.recipe_rewards import RewardStage
from distill.runs import MetricsLog
from teacher.preferences import prepare, read_judged
from teacher.reward_training import _wilson, pairwise_loss, pointwise_loss, train_reward

CPU = Device("cpu", "cpu", False)
Score = st.floats(-20, 20)


@settings(deadline=None)  # a loaded machine
@given(st.lists(st.tuples(Score, Score), min_size=1, max_size=6))
def test_the_pairwise_loss_is_bradley_and_terrys(rows: list[tuple[float, float]]) -> None:
    better, worse = (
        torch.tensor(side, dtype=torch.float64, requires_grad=True) for side in zip(*rows, strict=True)
    )
    twins = [torch.tensor(side, dtype=torch.float64, requires_grad=True) for side in zip(*rows, strict=True)]
    ours = pairwise_loss(better, worse)
    theirs = torch.stack([bradley_terry(*pair) for pair in zip(*twins, strict=True)])
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    ours.sum().backward()
    theirs.sum().backward()
    for one, twin in zip((better, worse), twins, strict=True):
        torch.testing.assert_close(one.grad, twin.grad, atol=1e-10, rtol=1e-8)


@settings(deadline=None)  # a loaded machine
@given(st.lists(st.tuples(Score, st.booleans()), min_size=1, max_size=6))
def test_the_pointwise_loss_is_the_logistic_one(rows: list[tuple[float, bool]]) -> None:
    scores, good = zip(*rows, strict=True)
    ours_N, twin_N = (torch.tensor(scores, dtype=torch.float64, requires_grad=True) for _ in range(2))
    ours = pointwise_loss(ours_N, torch.tensor(good))
    theirs = torch.stack([labelled(score, label) for score, label in zip(twin_N, good, strict=True)])
    # 1 - chance loses digits in the twin where the chance is near 1.
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7)
    ours.sum().backward()
    theirs.sum().backward()
    torch.testing.assert_close(ours_N.grad, twin_N.grad, atol=1e-7, rtol=1e-7)


def test_huge_scores_have_finite_losses() -> None:
    far = torch.tensor([-5000.0, 5000.0])
    assert pairwise_loss(far, -far).tolist() == [10000.0, 0.0]
    assert pointwise_loss(far, torch.tensor([True, True])).tolist() == [5000.0, 0.0]


@settings(deadline=None)  # a loaded machine
@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 100))
def test_parts_hold_every_place_and_keep_their_room(lengths: list[int], room: int) -> None:
    parts = cut(lengths, room)
    assert [place for part in parts for place in part] == list(range(len(lengths)))
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[place] for place in part) <= room


def test_wilsons_interval() -> None:
    assert _wilson(0.8, 10) == pytest.approx([0.4902, 0.9433], abs=1e-4)  # Newcombe 1998's formula, by hand
    assert _wilson(1.0, 52)[1] == 1.0 and _wilson(0.0, 52)[0] == 0.0


# ------------------------------------------------------------------------------------ data


def stage_of(path: Path, **changes: Any) -> RewardStage:
    settings = {
        "name": "judge", "kind": "reward", "model": "m", "pairs": {"path": str(path)}, "makes": "helpful",
        "learning_rate": 3e-3, "batch_size": 8, "held_out": 0.2, "max_length": 64, "checkpoint_every": 2,
    }  # fmt: skip
    return RewardStage.model_validate({**settings, **changes})


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def planted(count: int, seed: int = 0) -> list[dict[str, str]]:
    """A preference for `good` words that length and place do not tell: both answers are of like lengths."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        fillers = [rng.choice(["one", "two", "six", "ten"]) for _ in range(rng.randint(1, 4))]
        at = rng.randint(0, len(fillers))
        chosen, rejected = ([*fillers[:at], word, *fillers[at:]] for word in ("sum", "end"))
        rows.append({"prompt": f"{number}+1", "chosen": " ".join(chosen), "rejected": " ".join(rejected)})
    return rows


@pytest.fixture
def reader(tiny_qwen2: Any) -> Reader:
    return Reader(tiny_qwen2.loaded.chat.tokenizer, 64)


def test_no_prompt_is_on_both_sides_and_the_order_does_not_matter(tmp_path: Path, reader: Reader) -> None:
    rows = planted(40)
    rows += [{**row, "chosen": row["chosen"] + " one"} for row in rows]  # each prompt twice
    stage = stage_of(written(tmp_path / "p.jsonl", rows))
    found = prepare(read_judged(stage), reader, stage)
    assert len(found.held_out) == 16 and len(found.train) == 64 and found.left_out == {}
    prompts = [
        {reader.tokenizer.decode(item.rows[0]["input_ids"]).split("<|assistant|>")[0] for item in part}
        for part in (found.train, found.held_out)
    ]
    assert not prompts[0] & prompts[1]
    shuffled = stage_of(written(tmp_path / "q.jsonl", rows[::-1]))
    again = prepare(read_judged(shuffled), reader, shuffled)
    assert again.held_out == found.held_out[::-1]


def test_what_teaches_nothing_is_left_out_and_counted(
    tmp_path: Path, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*planted(5), {"prompt": "x", "chosen": "a", "rejected": "a"}]
    rows.append({"prompt": "x", "chosen": "one " * 70, "rejected": "a"})
    stage = stage_of(written(tmp_path / "p.jsonl", rows))
    found = prepare(read_judged(stage), reader, stage)
    assert found.left_out == {"of two equal answers": 1, "longer than max_length=64": 1}
    assert "1 rows of two equal answers" in capsys.readouterr().err
    with pytest.raises(UserError, match="no row to train on"):
        prepare(read_judged(stage)[5:], reader, stage)


@pytest.mark.parametrize(
    ("rows", "changes", "says"),
    [
        ([{"prompt": "x", "chosen": "a"}], {}, "fields.rejected"),
        ([{"prompt": "x", "response": "a", "label": 0.5}], {"objective": "pointwise"}, "neither true"),
        ([{"prompt": "x", "response": "a", "label": "safe"}], {"objective": "pointwise"}, "neither true"),
        ([{"prompt": "x", "response": "a", "label": 1}] * 2, {"objective": "pointwise"}, "all of its answers"),
        ([], {}, "holds no rows"),
    ],
)  # fmt: skip
def test_a_bad_file_of_judged_answers_is_refused(tmp_path: Path, rows: Any, changes: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_judged(stage_of(written(tmp_path / "p.jsonl", rows), **changes))


def test_conversations_are_read(tmp_path: Path) -> None:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": text}]

    path = written(tmp_path / "p.jsonl", [{"chosen": said("So."), "rejected": said("No.")}])
    taken = {name: {"from": name, "extract": "assistant"} for name in ("chosen", "rejected")}
    fields = {"prompt": {"from": "chosen", "extract": "user"}, **taken}
    (one,) = read_judged(stage_of(path, pairs={"path": str(path), "fields": fields}))
    assert (one.prompt, *one.answers) == ("Why?", "So.", "No.")


def test_a_template_that_drops_thoughts_is_refused(tmp_path: Path, tiny_qwen2: Any) -> None:
    """As DeepSeek-R1-Distill's does: all of an answer up to </think> goes."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen2.folder)
    tokenizer.chat_template = (
        "{% for m in messages %}<|user|>{{ m['content'].split('</think>')[-1] }}{% endfor %}"
    )
    reader = Reader(tokenizer, 64)
    with pytest.raises(LostText):
        reader.read("x", "<think>a</think>b")
    rows = [{"prompt": "x", "chosen": "<think>a</think>b", "rejected": "b"}]
    stage = stage_of(written(tmp_path / "p.jsonl", rows))
    with pytest.raises(UserError, match="row 1: its chat template leaves"):
        prepare(read_judged(stage), reader, stage)


# ------------------------------------------------------------------------------------ training


def trained(tiny: Any, folder: Path, stage: RewardStage) -> tuple[Any, Any, list[dict[str, Any]]]:
    source = ModelSource(path=str(tiny.folder))
    causal = load("m", tiny.folder, source, CPU, dtype=torch.float32)
    model, reader = from_causal(causal, 3), Reader(causal.chat.tokenizer, stage.max_length)
    counts = train_reward(
        stage, model, reader, CPU, prepare(read_judged(stage), reader, stage),
        folder=folder, fingerprint="f", seed=3, saved=lambda: None,
    )  # fmt: skip
    return model, counts, MetricsLog.read(folder / "metrics.jsonl")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_QUIET", "1")


def test_a_planted_preference_is_learnt(quiet: None, tiny_qwen2: Any, tmp_path: Path) -> None:
    stage = stage_of(
        written(tmp_path / "p.jsonl", planted(70)), epochs=2, checkpoint_every=99, learning_rate=1e-2
    )
    _, counts, rows = trained(tiny_qwen2, tmp_path, stage)
    held_out = counts["held_out"]
    assert held_out["n"] == 14 and held_out["accuracy"] >= 0.95 and held_out["loss"] < 0.3
    assert held_out["longer"] == 0.0, "both answers are of one length: length tells nothing"
    assert rows[0]["loss"] > 0.4 and rows[-1]["held_out_accuracy"] == held_out["accuracy"]
    assert counts["steps"] == len(rows) == 14 and counts["examples"] == 112


@pytest.mark.slow
def test_labels_that_say_nothing_are_not_learnt(quiet: None, tiny_qwen2: Any, tmp_path: Path) -> None:
    """Whatever is right by chance alone has an interval that holds one half."""
    rng = random.Random(0)
    rows = [
        dict(zip(("prompt", "chosen", "rejected"), (row["prompt"], *rng.sample([row["chosen"], row["rejected"]], 2)),
                 strict=True))
        for row in planted(120)
    ]  # fmt: skip
    stage = stage_of(written(tmp_path / "p.jsonl", rows), held_out=0.5, checkpoint_every=99)
    _, counts, _ = trained(tiny_qwen2, tmp_path, stage)
    low, high = counts["held_out"]["ci95"]
    assert low < 0.5 < high


def test_labels_of_single_answers_are_learnt(quiet: None, tiny_qwen2: Any, tmp_path: Path) -> None:
    rows = [
        {"prompt": row["prompt"], "response": row[which], "label": which == "chosen"}
        for row in planted(50)
        for which in ("chosen", "rejected")
    ]
    stage = stage_of(
        written(tmp_path / "p.jsonl", rows),
        objective="pointwise",
        epochs=2,
        checkpoint_every=99,
        learning_rate=1e-2,
    )
    model, counts, _ = trained(tiny_qwen2, tmp_path, stage)
    assert counts["held_out"]["accuracy"] >= 0.95 and "longer" not in counts["held_out"]
    scorer = Scorer(model, Reader(tiny_qwen2.loaded.chat.tokenizer, 64), CPU)
    good, bad = scorer.score([scorer.reader.read("5+1", text) for text in ("one sum", "one end")])
    assert good > 0 > bad


def test_the_cut_into_micro_batches_changes_nothing(quiet: None, tiny_qwen2: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "p.jsonl", planted(20))
    small = {"batch_size": 16, "held_out": 0.0}
    _, _, (whole,) = trained(tiny_qwen2, tmp_path / "a", stage_of(path, **small, epochs=0.8))
    _, _, (parts,) = trained(
        tiny_qwen2, tmp_path / "b", stage_of(path, **small, epochs=0.8, micro_batch_tokens=128)
    )
    for key in ("loss", "grad_norm", "accuracy", "margin"):
        assert parts[key] == pytest.approx(whole[key], rel=1e-4), key


@pytest.mark.parametrize("stopped_at", [4])
def test_a_resumed_training_is_the_undisturbed_one(
    quiet: None, tiny_qwen2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    import teacher.reward_training as training

    stage = stage_of(written(tmp_path / "p.jsonl", planted(50)))
    whole, counts, rows = trained(tiny_qwen2, tmp_path / "whole", stage)
    real, calls = training._learn, iter(range(1, 99))

    def stops(*arguments: Any) -> Any:
        if next(calls) == stopped_at:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_learn", stops)
        trained(tiny_qwen2, tmp_path / "resumed", stage)
    resumed, counts_resumed, rows_resumed = trained(tiny_qwen2, tmp_path / "resumed", stage)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert counts == counts_resumed
    timeless = [[{**row, "seconds": 0} for row in one] for one in (rows, rows_resumed)]
    assert timeless[0] == timeless[1]


# ------------------------------------------------------------------------------------ the folder


def test_the_folder_scores_as_the_trained_model_did(quiet: None, tiny_qwen2: Any, tmp_path: Path) -> None:
    """Loaded by us in a batch, and by plain transformers one by one as its card says."""
    stage = stage_of(written(tmp_path / "p.jsonl", planted(30)))
    model, counts, _ = trained(tiny_qwen2, tmp_path, stage)
    reader = Reader(tiny_qwen2.loaded.chat.tokenizer, 64)
    texts = ["sum", "end of all things", "one two six ten sum"]
    before = Scorer(model, reader, CPU).score([reader.read("5+1", text) for text in texts])
    recipe = parse_recipe(
        {"name": "r", "models": {"m": {"path": "some/base"}}, "stages": [stage.model_dump(exclude_none=True)]}
    )
    card = reward_card(recipe, stage, counts, CPU.describe())
    save(LoadedModel("helpful", model, tiny_qwen2.loaded.chat), tmp_path / "helpful", card)
    scorer = load_scorer("helpful", ModelSource(path=str(tmp_path / "helpful")), CPU)
    assert scorer.score([scorer.reader.read("5+1", text) for text in texts]) == pytest.approx(
        before, abs=1e-5
    )
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "helpful")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "helpful")
    for text, expected in zip(texts, before, strict=True):
        turns = [{"role": "user", "content": "5+1"}, {"role": "assistant", "content": text}]
        inputs = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
        assert plain(**inputs).logits[0, 0].item() == pytest.approx(expected, abs=1e-5)
    told = (tmp_path / "helpful" / "README.md").read_text()
    front = yaml.safe_load(told.split("---")[1])
    assert front["pipeline_tag"] == "text-classification" and front["base_model"] == "some/base"
    assert f"n = {counts['held_out']['n']}" in told and "Choosing the longer answer" in told


def test_a_causal_model_is_no_reward_model(tiny_qwen2: Any) -> None:
    with pytest.raises(UserError, match="no sequence classifier"):
        load_scorer("m", ModelSource(path=str(tiny_qwen2.folder)), CPU)
