"""Lengths: what somebody chose must fit the model's context, what nobody chose is cut to it and told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.chain import run_recipe
from distill.errors import UserError
from distill.inputs import Inputs
from distill.lengths import Reader, fit, longest_prompt
from distill.recipe import EvalStage, Recipe
from distill.recipe_file import load_recipe, parse_recipe

Capture = pytest.CaptureFixture[str]
CONTEXT = 192  # of the models of `tiny_recipe.py`


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_QUIET", "1")


@pytest.fixture
def recipe(tiny_recipe_module: Any) -> Callable[..., Recipe]:
    return tiny_recipe_module.tiny_recipe


@pytest.fixture
def unsaid(tiny_recipe_module: Any) -> dict[str, Any]:
    """The raw recipe without any length."""
    raw: dict[str, Any] = tiny_recipe_module.raw_recipe()
    for stage in raw["stages"]:
        stage.pop("max_tokens", None)
        stage.pop("max_length", None)
        stage.get("sampling", {}).pop("max_tokens", None)
    return raw


# -------------------------------------------------------------------------------- one length


def test_what_fits_stays_and_what_is_not_known_too(capsys: Capture) -> None:
    assert fit("k", 90, [Reader("a", 100, 10), Reader("b", 200)], chosen=True) == 90
    assert fit("k", 9_000_000, [], chosen=True) == 9_000_000
    assert capsys.readouterr().err == ""


def test_a_chosen_length_is_refused_and_the_tightest_model_named() -> None:
    with pytest.raises(UserError) as caught:
        fit("k", 91, [Reader("b", 200), Reader("a", 100, 10, "models.m.max_length")], chosen=True)
    assert (caught.value.key, caught.value.value) == ("k", 91)
    assert "`a` reads 100 tokens, and its longest prompt has 10" in caught.value.reason
    assert "at most 90, or set models.m.max_length higher" in caught.value.remedy


def test_an_unchosen_length_is_cut_for_all_alike_and_told(capsys: Capture) -> None:
    assert fit("k", 500, [Reader("b", 200), Reader("a", 100, 10)], chosen=False) == 90
    assert capsys.readouterr().err.startswith("k: cut from 500 to 90: `a` reads 100 tokens")


@pytest.mark.parametrize("chosen", [True, False])
def test_a_prompt_that_leaves_no_room_is_refused(chosen: bool) -> None:
    with pytest.raises(
        UserError, match="leaves no room: `a` reads 100 tokens, and its longest prompt has 100"
    ):
        fit("k", 1, [Reader("a", 100, 100)], chosen=chosen)


def test_the_longest_prompt_is_found_without_reading_them_all(
    tiny_qwen2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = tiny_qwen2.loaded.chat
    texts = ["17+5-8", "aaaa aaaa aaaa aaaa", "\u5148\u52a0\u4e8c", "x" * 40, "1", "def f(x):\n\treturn x"]
    lengths = [len(chat.prompt(text).ids) for text in texts]
    assert longest_prompt(chat, texts, enough=0) == max(lengths)
    assert longest_prompt(chat, texts, enough=max(lengths) - 1) == max(lengths)
    assert longest_prompt(chat, texts, enough=max(lengths)) <= max(lengths)
    assert longest_prompt(chat, [], enough=0) == 0
    read: list[str] = []
    prompt = type(chat).prompt
    monkeypatch.setattr(type(chat), "prompt", lambda self, text: read.append(text) or prompt(self, text))
    assert longest_prompt(chat, texts, enough=1000) == 0 and read == ["?"], "none of them could matter"


# -------------------------------------------------------------------------------- a recipe's


@pytest.mark.parametrize(
    ("override", "key", "model"),
    [
        ("stages.warm.max_length=193", "stages.warm.max_length", "blank"),
        ("stages.distil.max_length=193", "stages.distil.max_length", "student-blank"),
        ("stages.zero.max_tokens=193", "stages.zero.max_tokens", "base"),
        ("stages.zero.max_tokens=185", "stages.zero.max_tokens", "base"),  # with the prompt
        ("stages.harvest.sampling.max_tokens=185", "stages.harvest.sampling.max_tokens", "teacher"),
        ("stages.exam.sampling={max_tokens: 185}", "stages.exam.sampling.max_tokens", "base"),
    ],
)
def test_an_impossible_length_is_refused_before_anything_is_written(
    recipe: Callable[..., Recipe], tmp_path: Path, override: str, key: str, model: str
) -> None:
    with pytest.raises(UserError, match=f"is too long: `{model}` reads {CONTEXT} tokens") as caught:
        run_recipe(recipe(override), tmp_path / "run")
    assert caught.value.key == key and ".build.max_length" in caught.value.remedy
    assert not (tmp_path / "run").exists()


def test_the_models_own_entry_says_its_context(tiny_qwen2: Any, tiny_recipe_module: Any) -> None:
    """By its configuration 2048 tokens, by ``max_length`` of the recipe more."""
    raw = tiny_recipe_module.raw_recipe("stages.zero.max_tokens=3000")
    raw["models"]["blank"] = {"path": str(tiny_qwen2.folder)}
    given = parse_recipe(raw)
    with pytest.raises(UserError, match="`base` reads 2048 tokens") as caught:
        Inputs(given).check(given.stages)
    assert "models.blank.max_length" in caught.value.remedy
    raw["models"]["blank"]["max_length"] = 4096
    longer = parse_recipe(raw)
    Inputs(longer).check(longer.stages)


def test_what_nobody_said_is_cut_once_and_told(unsaid: dict[str, Any], capsys: Capture) -> None:
    plain = parse_recipe(unsaid)
    inputs = Inputs(plain)
    inputs.check(plain.stages)
    inputs.check(plain.stages)
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in told] == [
        "stages.warm.max_length",
        "stages.zero.max_tokens",
        "stages.harvest.sampling.max_tokens",
        "stages.distil.max_length",
        "stages.exam.sampling.max_tokens",
    ]
    assert all("cut from 32768 to" in line for line in told)
    chat = inputs.preview("blank").chat
    longest = max(len(chat.prompt(problem.problem).ids) for problem in inputs.problems("practice"))
    fitted: Any = [inputs.fitted(stage.name) for stage in plain.stages]
    assert [fitted[0].max_length, fitted[3].max_length] == [CONTEXT, CONTEXT]
    assert [fitted[1].max_tokens, fitted[2].sampling.max_tokens] == [CONTEXT - longest] * 2


def test_a_cut_that_leaves_less_than_the_soft_punishment_is_refused(unsaid: dict[str, Any]) -> None:
    """Punished from the first token on and beyond, every answer would pay for the shortness of the limit."""
    unsaid["stages"][1]["overlong"] = {"soft": 100}
    assert Inputs(parse_recipe(unsaid)).fitted("zero").max_tokens > 100
    unsaid["stages"][1]["overlong"] = {"soft": 190}
    with pytest.raises(UserError, match=r"zero.overlong.soft = 190: is more than the 1\d\d tokens"):
        Inputs(parse_recipe(unsaid)).fitted("zero")


def test_a_suites_own_protocol_is_cut_to_the_shortest_model(unsaid: dict[str, Any], capsys: Capture) -> None:
    """One protocol for all models of an exam, else they could not be compared."""
    unsaid["models"]["student-blank"]["build"]["max_length"] = 100
    del unsaid["stages"][4]["sampling"]
    plain = parse_recipe(unsaid)
    exam = plain.stage("exam")
    assert isinstance(exam, EvalStage)
    inputs = Inputs(plain)
    inputs.check([exam])
    assert "(that of suite chains): cut from 160 to" in capsys.readouterr().err
    chat = inputs.preview("blank").chat
    longest = max(len(chat.prompt(problem.problem).ids) for problem in inputs.suite_problems("chains"))
    assert inputs.exam("exam", "chains").sampling.max_tokens == 100 - longest


def test_a_cut_run_says_so_and_its_own_recipe_finds_it_finished(
    unsaid: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    plain = parse_recipe(unsaid)
    run_recipe(plain, tmp_path / "run", plain.stages[:1])
    (marker,) = (tmp_path / "run").glob("stages/*/finished.json")
    assert json.loads(marker.read_text())["counts"]["max_length"] == CONTEXT
    capsys.readouterr()
    again = load_recipe(tmp_path / "run" / "recipe.yaml")
    run_recipe(again, tmp_path / "run", again.stages[:1])
    assert capsys.readouterr().err == "1/6 warm: finished\n"
