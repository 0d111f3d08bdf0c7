"""Mixing trace sets by target counts: exact numbers, one draw for the run, no text twice, and nothing untold."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.cli import main
from distill.plan import Assumptions, make_plan
from distill.recipe_file import parse_recipe
from distill.recipe_parts import Portion
from distill.records import FinishReason, Trace
from distill.runs import RunFolder
from distill.student.mixture import TWICE, Mixture, mix


def trace(number: int, **changes: Any) -> Trace:
    settings: dict[str, Any] = {
        "id": f"t{number}", "problem_id": f"p{number}", "kind": "math", "problem": f"{number}+{number}",
        "completion": f"<think>{number}+{number}</think>\\boxed{{{2 * number}}}", "tokens": 0,
        "finish_reason": FinishReason.STOP, "teacher": "t", **changes,
    }  # fmt: skip
    return Trace(**settings)


MATHS = [trace(number) for number in range(12)]
GENERAL = [trace(number) for number in range(20, 26)]


@pytest.fixture
def mixed(tiny_qwen2: Any) -> Any:
    def mix_them(traces: Any, weights: Any, **changes: Any) -> Mixture:
        settings = {"epochs": 1.0, "max_length": 1000, "seed": 0, **changes}
        return mix(traces, weights, tiny_qwen2.loaded.chat, **settings)

    return mix_them


def seen(mixture: Mixture) -> list[str]:
    return [mixture.sources[number].trace.id for number in mixture.order]


def test_an_epoch_sees_as_many_as_were_asked_for_and_the_same_in_each(mixed: Any) -> None:
    wanted = {"maths": Portion(count=6), "general": Portion(count=2)}
    found = mixed({"maths": MATHS, "general": GENERAL}, wanted, epochs=3)
    epochs = [seen(found)[start : start + 8] for start in (0, 8, 16)]
    assert len(found.order) == 24 and len({*map(tuple, epochs)}) == 3, "each epoch has its own order"
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert sum(int(name[1:]) < 20 for name in epochs[0]) == 6
    assert found.parts["maths"] == {
        "read": 12, "usable": 12, "duplicates": 0, "each_epoch": 6, "wanted": 6, "repeated": 0
    }  # fmt: skip


def test_the_seed_decides_what_is_drawn(mixed: Any) -> None:
    draws = [seen(mixed({"a": MATHS}, {"a": Portion(count=4)}, seed=seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] and set(draws[0]) != set(draws[2])


def test_counts_stand_beside_weights_which_are_drawn_as_ever(mixed: Any) -> None:
    found = mixed({"a": MATHS, "b": GENERAL}, {"a": 0.5, "b": Portion(count=3)})
    rng = random.Random("0/0")
    half = rng.sample(list(range(12)), 6)
    portion = [number for number in found.order if number >= 12]
    assert sorted(found.order) == sorted(half + portion) and len(set(portion)) == 3


def test_what_a_set_lacks_is_told_or_repeated_when_asked(
    mixed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    few = mixed({"a": GENERAL}, {"a": Portion(count=15)})
    assert Counter(seen(few)) == Counter(one.id for one in GENERAL)
    assert "a: 6 usable traces of the 15 wanted; that is what an epoch sees" in capsys.readouterr().err
    assert (few.parts["a"]["wanted"], few.parts["a"]["repeated"]) == (15, 0)
    again = mixed({"a": GENERAL}, {"a": Portion(count=15, repeat=True)})
    assert sorted(Counter(seen(again)).values()) == [2, 2, 2, 3, 3, 3]
    assert "9 are repeated" in capsys.readouterr().err and again.parts["a"]["repeated"] == 9


def test_no_text_is_seen_twice_wherever_it_stands(mixed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    first = MATHS[0]
    loud = first.completion.replace("<think>", "<think>\n ")
    tagged = first.completion.replace("<think>", "<thought>").replace("</think>", "</thought>")
    other = [
        trace(0, id="white space", completion=loud),
        trace(0, id="tags", completion=tagged),
        trace(0, id="case", problem="0+0 "),
        trace(0, id="another answer", completion="<think>none</think>\\boxed{0}"),
        trace(0, id="another problem", problem="0+0+0"),
    ]
    found = mixed({"maths": [*MATHS, first], "other": other}, {"maths": 1, "other": 1})
    assert {name for name in seen(found) if not name.startswith("t")} == {"another answer", "another problem"}
    assert (found.parts["maths"]["duplicates"], found.parts["other"]["duplicates"]) == (1, 3)
    assert found.left_out == {TWICE: 4} and f"left out: 4 traces {TWICE}" in capsys.readouterr().err


def test_what_may_not_be_learnt_takes_no_others_place(mixed: Any) -> None:
    cut = MATHS[0].model_copy(update={"finish_reason": FinishReason.LENGTH, "id": "cut"})
    assert seen(mixed({"a": [cut], "b": [MATHS[0]]}, {"a": 1, "b": 1})) == ["t0"]


# ------------------------------------------------------------------------------------ in a run


def recipe(**portions: Any) -> dict[str, Any]:
    """Two sets of the built-in world: the second's first traces are the first's."""
    world = {"families": ["chains"], "wrong_steps": 0, "missing_tags": 0}
    return {
        "name": "mixing",
        "models": {"m": {"build": {"hidden": 16, "layers": 1, "heads": 2, "max_length": 192}, "tokenizer": "world"}},
        "traces": {"maths": {"world": {**world, "count": 12}}, "general": {"world": {**world, "count": 20}}},
        "stages": [
            {
                "name": "distil", "kind": "sft", "model": "m", "makes": "student", "traces": portions, "epochs": 2,
                "batch_size": 4, "max_length": 192, "learning_rate": 0.01, "checkpoint_every": 1,
            }
        ],
    }  # fmt: skip


def test_a_mixture_survives_a_stop_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    raw = recipe(maths={"count": 16}, general={"count": 6})
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
    assert main(["student", "train", str(file), "--out", str(tmp_path / "whole")]) == 0
    assert "maths: 12 usable traces of the 16 wanted" in capsys.readouterr().err
    saved: list[int] = []

    def stop(self: RunFolder, stage: str) -> None:
        saved.append(1)
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "tick", stop)
    assert main(["student", "train", str(file), "--out", str(tmp_path / "stopped")]) == 130
    assert main(["student", "train", str(file), "--out", str(tmp_path / "stopped")]) == 0
    weights = "models/student/model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "stopped" / weights).read_bytes()
    (marker,) = (tmp_path / "whole" / "stages").glob("*/finished.json")
    parts = json.loads(marker.read_text())["counts"]["mixture"]
    assert parts["maths"]["each_epoch"] == 12 and parts["general"]["each_epoch"] == 6
    assert parts["general"]["duplicates"] > 0
    card = (tmp_path / "whole/models/student/README.md").read_text()
    assert "| maths | 16 traces | the built-in world | 12 |" in card and "| 6 |\n" in card
    assert "- `maths`: 12 usable traces of the 16 wanted; none was repeated" in card
    assert f"- `general`: {parts['general']['duplicates']} traces that an earlier one says already" in card


@pytest.mark.parametrize(
    ("amount", "traces"),
    [(2, 24), ({"count": 5}, 5), ({"count": 100}, 12), ({"count": 100, "repeat": True}, 100)],
)
def test_the_plan_counts_what_is_seen(amount: Any, traces: int) -> None:
    tokens = make_plan(parse_recipe(recipe(maths=amount)), Assumptions())["stages"][0]["trained_tokens"]
    one = make_plan(parse_recipe(recipe(maths={"count": 1})), Assumptions())["stages"][0]["trained_tokens"]
    assert tokens == traces * one


def test_the_plan_takes_a_count_where_nobody_counted_the_set() -> None:
    raw = recipe(maths={"count": 600_000})
    raw["traces"]["maths"] = {"path": "somebody/traces"}
    plan = make_plan(parse_recipe(raw), Assumptions(traces=1000))
    one = make_plan(parse_recipe(recipe(maths={"count": 1})), Assumptions())
    assert plan["stages"][0]["trained_tokens"] == 600_000 * one["stages"][0]["trained_tokens"]
    assert not any("assumed (--traces)" in line for line in plan["assumptions"])
