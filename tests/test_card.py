"""Model cards: what stands in them is the run's, evaluation comes in later, and no stage becomes due by it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill import card
from distill.card_results import BEGIN, END
from distill.chain import run_recipe
from distill.fingerprints import fingerprints
from distill.licences import licence_of, llama_terms, name_to_publish
from distill.recipe import Recipe, SftStage
from distill.recipe_file import parse_recipe
from distill.runs import finished_stages

LORA = "stages.distil.method=lora"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_QUIET", "1")


@pytest.fixture(scope="module")
def recipe(tiny_recipe_module: Any) -> Recipe:
    """The tiny recipe with a student of low-rank adapters."""
    found: Recipe = tiny_recipe_module.tiny_recipe(LORA)
    return found


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything trained and nothing measured; no test changes it."""
    out = tmp_path_factory.mktemp("cards") / "trained"
    run_recipe(recipe, out, recipe.stages[:4])
    return out


@pytest.fixture(scope="module")
def measured(recipe: Recipe, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run to its end; no test changes it."""
    out = shutil.copytree(trained, tmp_path_factory.mktemp("cards") / "measured")
    run_recipe(recipe, out)
    return out


@pytest.fixture
def mine(measured: Path, tmp_path: Path) -> Path:
    """A finished run to play with."""
    return shutil.copytree(measured, tmp_path / "run")


def read(run: Path, model: str = "student", folder: str = "") -> str:
    return (run / "models" / model / folder / "README.md").read_text()


def front(text: str) -> dict[str, Any]:
    start, matter, _ = text.split("---\n", 2)
    assert start == ""
    return dict(yaml.safe_load(matter))


def evaluation_of(text: str) -> str:
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def due(recipe: Recipe, run: Path, capsys: Any) -> list[str]:
    """Stages that another start of the run does not find finished."""
    capsys.readouterr()
    run_recipe(recipe, run)
    lines = capsys.readouterr().err.splitlines()
    return [line for line in lines if line[:1].isdigit() and not line.endswith(": finished")]


# -------------------------------------------------------------------------------- what stands in it


def test_every_made_model_has_a_card_of_what_made_it(trained: Path, recipe: Recipe) -> None:
    for stage in (recipe.stage(name) for name in ("warm", "zero", "distil")):
        text = read(trained, stage.makes)  # type: ignore[union-attr]
        told = front(text)
        assert told["library_name"] == "transformers" and told["pipeline_tag"] == "text-generation"
        assert stage.kind in told["tags"] and "base_model" not in told, "nothing on the hub is its base"
        written = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
        lora = written.pop("lora", None)
        assert written == stage.model_dump(mode="json", by_alias=True, exclude_none=True)
        assert bool(lora) == (stage.name == "distil"), "defaults that nobody wrote are told too"
        assert f"- seed: {recipe.seed}\n" in text and "transformers 5" in text
    assert not (trained / "models" / "blank" / "README.md").exists(), "no stage has made it"


def test_the_data_are_those_that_were_read(trained: Path) -> None:
    text = read(trained)
    counts = finished_stages(trained)["distil"]["counts"]
    funnel = json.loads((trained / "traces" / "verified" / "funnel.json").read_text())
    assert (
        "| rough | 0.5 | the built-in world, on purpose with flaws (0.2 of steps wrong, 0.2 without tags) | 20 |"
        in text
    )
    kept = funnel["kept"]
    assert f"| verified | 1 | `teacher`, asked practice | {kept['traces']} | {kept['tokens']} |" in text
    assert f"kept {kept['traces']} of {funnel['input']['traces']} traces" in text
    assert counts["left_out"]["truncated"] > 0
    assert f"- left out of training: {counts['left_out']['truncated']} truncated\n" in text
    assert f"{counts['trained_tokens']} tokens in the loss" in text
    assert "- teacher of `verified`: `teacher`, made in the same run (grpo on practice) from `base`" in text


def test_a_model_of_grpo_tells_its_problems(trained: Path) -> None:
    counts = finished_stages(trained)["zero"]["counts"]
    told = f"4 updates, {counts['generated_tokens']} tokens generated, {counts['trained_tokens']} trained on"
    assert told in read(trained, "teacher")


def test_adapters_have_a_card_of_their_own(trained: Path) -> None:
    whole, adapter = read(trained), read(trained, folder="adapter")
    assert "lora" in front(whole)["tags"] and front(adapter)["library_name"] == "peft"
    assert "PeftModel" in adapter and "PeftModel" not in whole
    assert not (trained / "models" / "teacher" / "adapter").exists()


def test_no_card_names_a_place_of_this_machine(measured: Path) -> None:
    for file in measured.glob("models/**/README.md"):
        assert str(measured.parent.parent) not in file.read_text()


# -------------------------------------------------------------------------------- evaluation


def test_before_an_evaluation_the_card_says_so(trained: Path) -> None:
    for folder in ("", "adapter"):
        assert evaluation_of(read(trained, folder=folder)) == "Not evaluated yet."


def test_after_it_the_card_has_its_figures(trained: Path, measured: Path) -> None:
    for model, folder in (("base", ""), ("teacher", ""), ("student", ""), ("student", "adapter")):
        before, after = read(trained, model, folder), read(measured, model, folder)
        summary = json.loads((measured / "results" / model / "chains" / "summary.json").read_text())
        low, high = summary["ci95"]
        row = f"| chains | {summary['pass@1']:.3f} | [{low:.3f}, {high:.3f}] | 4 | 2 | 1 | 1 | 12 |"
        assert row in evaluation_of(after)
        assert after.replace(evaluation_of(after), "Not evaluated yet.") == before, "all else stays"
    compared = json.loads((measured / "report" / "summary.json").read_text())["comparisons"]
    mine = [row for row in compared if "student" in (row["a"], row["b"])]
    told = evaluation_of(read(measured))
    assert mine and all(f"`{row['a']}` - `{row['b']}` = {row['difference']:+.3f}" in told for row in mine)
    assert "`student`" not in evaluation_of(read(measured, "base"))


def test_an_evaluation_alone_is_told_at_once(recipe: Recipe, trained: Path, tmp_path: Path) -> None:
    out = shutil.copytree(trained, tmp_path / "run")
    run_recipe(recipe, out, [recipe.stage("exam")])
    assert "| chains |" in evaluation_of(read(out)) and "Differences" not in evaluation_of(read(out))


def test_results_of_other_weights_are_not_told(mine: Path, measured: Path) -> None:
    print_ = finished_stages(mine)["distil"]["fingerprint"]
    card.refresh(mine, "student", print_)
    assert "| chains |" in evaluation_of(read(mine))
    card.refresh(mine, "student", "of a model trained otherwise")
    assert evaluation_of(read(mine)) == "Not evaluated yet."


def test_a_card_without_our_marks_is_its_owners(mine: Path) -> None:
    file = mine / "models" / "student" / "README.md"
    for words in ("# My own words\n", f"# Mine\n{BEGIN}\n"):
        file.write_text(words)
        card.refresh(mine, "student", finished_stages(mine)["distil"]["fingerprint"])
        assert file.read_text() == words


# -------------------------------------------------------------------------------- what is finished stays so


@pytest.mark.parametrize("hashed_bytes", [4 << 30, 0])  # a model too large to be hashed goes by its times
def test_words_make_no_stage_due(
    recipe: Recipe, mine: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, hashed_bytes: int
) -> None:
    monkeypatch.setattr("distill.chain.HASHED_BYTES", hashed_bytes)
    later = finished_time(mine) + 3600
    for file in mine.glob("models/**/README.md"):
        file.write_text("other words")
        torn = file.with_name(".README.md.tmp")  # what a kill in the middle of a refresh leaves
        torn.write_text("half of")
        for changed in (file, torn):
            os.utime(changed, (later, later))
    assert due(recipe, mine, capsys) == []


@pytest.mark.parametrize("hashed_bytes", [4 << 30, 0])
@pytest.mark.parametrize("file", ["generation_config.json", "adapter/adapter_config.json"])
def test_anything_else_does(
    recipe: Recipe, mine: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, hashed_bytes: int, file: str
) -> None:
    monkeypatch.setattr("distill.chain.HASHED_BYTES", hashed_bytes)
    changed = mine / "models" / "student" / file
    changed.write_text(changed.read_text() + " ")
    later = finished_time(mine) + 3600
    os.utime(changed, (later, later))
    assert any("what it made has been changed" in line for line in due(recipe, mine, capsys))


def finished_time(run: Path) -> float:
    return max(file.stat().st_mtime for file in run.rglob("*") if file.is_file())


def test_a_run_that_stands_on_this_model_stays_finished(mine: Path) -> None:
    raw = {
        "name": "other",
        "models": {"given": {"path": str(mine / "models" / "student")}},
        "traces": {"rough": {"path": "rough.jsonl"}},
        "stages": [{"name": "sft", "kind": "sft", "model": "given", "traces": {"rough": 1}, "makes": "made"}],
    }
    before = fingerprints(parse_recipe(raw))
    (mine / "models" / "student" / "README.md").write_text("measured since")
    assert fingerprints(parse_recipe(raw)) == before
    (mine / "models" / "student" / "config.json").write_text("{}")
    assert fingerprints(parse_recipe(raw)) != before


def test_a_kill_between_results_and_card_is_made_good(
    recipe: Recipe, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(trained, tmp_path / "run")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("distill.card.refresh", killed)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, out, [recipe.stage("exam")])
    assert evaluation_of(read(out)) == "Not evaluated yet."
    run_recipe(recipe, out, [recipe.stage("exam")])
    assert "| chains |" in evaluation_of(read(out))


# -------------------------------------------------------------------------------- hub models and licences


def hub_card(
    base: str, teacher: str = "deepseek-ai/DeepSeek-R1", run: Path = Path("nowhere"), **model: Any
) -> str:
    """The card of a student of hub models, as it would be: of hub models only their names are needed."""
    raw: dict[str, Any] = {
        "name": "r1",
        "models": {"start": {"path": base, **model}, "big": {"path": teacher, "role": "teacher"}},
        "problems": {"asked": {"path": "openai/gsm8k:main", "fields": {"problem": "question", "reference": "answer"}}},
        "traces": {"openr1": {"path": "open-r1/OpenR1-Math-220k", "fields": {"problem": "p", "response": "r"}}},
        "stages": [
            {"name": "harvest", "kind": "sample", "model": "big", "problems": "asked", "makes": "verified"},
            {"name": "distil", "kind": "sft", "model": "start", "makes": "student",
             "traces": {"verified": 1, "openr1": 0.5}},
        ],
    }  # fmt: skip
    recipe = parse_recipe(raw)
    stage = recipe.stage("distil")
    assert isinstance(stage, SftStage)
    return card.cards(run, recipe, card.Made(stage, "print", {}, {}))["README.md"]


def test_the_hub_is_told_of_base_licence_and_data_sets() -> None:
    text = hub_card("Qwen/Qwen2.5-0.5B-Instruct", max_length=32768, rope_theta=300000)
    told = front(text)
    assert told["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct" and told["license"] == "apache-2.0"
    assert told["datasets"] == ["openai/gsm8k", "open-r1/OpenR1-Math-220k"]
    assert told["base_model_relation"] == "finetune" and "distillation" in told["tags"]
    assert "- base: `Qwen/Qwen2.5-0.5B-Instruct` (`start` in the recipe)\n" in text
    assert "- teacher of `verified`: `deepseek-ai/DeepSeek-R1` (`big` in the recipe)\n" in text
    assert "- teacher `deepseek-ai/DeepSeek-R1`: MIT, which allows distillation" in text
    assert "max_position_embeddings 32768, rope_theta 300000" in text
    assert "Built with" not in text


@pytest.mark.parametrize(
    ("base", "teacher"),
    [
        ("meta-llama/Llama-3.1-8B", "deepseek-ai/DeepSeek-R1"),
        ("Qwen/Qwen2.5-1.5B", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),  # its outputs are enough
    ],
)
def test_a_llama_in_it_asks_for_name_and_words(base: str, teacher: str) -> None:
    text = hub_card(base, teacher)
    assert "\n# student\n\n**Built with Llama**\n" in text
    assert (
        "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc."
        in text
    )
    assert (
        "`student` does not begin so: published, it must have a name that does, such as `Llama-student`"
        in text
    )


def test_a_name_that_says_llama_is_not_taken_for_one(tmp_path: Path) -> None:
    folder = tmp_path / "Llama-3.1-8B"
    folder.mkdir()
    text = hub_card(str(folder))
    assert "`Llama-3.1-8B`: if it comes from one of Meta's Llama 3 models" in text and "**Built" not in text
    assert "base_model" not in front(text) and str(tmp_path) not in text


@pytest.mark.parametrize(
    ("name", "id_", "words"),
    [
        ("Qwen/Qwen2.5-7B", "apache-2.0", "Apache-2.0"),
        ("Qwen/Qwen2.5-Math-1.5B", "apache-2.0", "Apache-2.0"),
        ("Qwen/Qwen2.5-3B-Instruct", None, "a licence of its own, unlike most sizes of Qwen2.5"),
        ("Qwen/Qwen2.5-72B", None, "a licence of its own, unlike most sizes of Qwen2.5"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", None, "see the base model's card"),
        ("deepseek-ai/DeepSeek-R1", "mit", "MIT, which allows distillation"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "mit", "MIT, which allows distillation; made by"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama3.2", "Llama 3.2 Community License"),
        ("meta-llama/Meta-Llama-3-8B", "llama3", "Meta Llama 3 Community License"),
        ("somebody/Qwen2.5-7B", None, "see the base model's card"),
        ("", None, "see the base model's card"),
    ],
)
def test_licences(name: str, id_: str | None, words: str) -> None:
    licence = licence_of(name)
    assert licence.id == id_ and licence.words.startswith(words)


def test_the_stricter_llama_names_the_model() -> None:
    terms = llama_terms(["Qwen/Qwen2.5-7B", "meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3-8B"])
    assert terms is not None and terms.display == "Built with Meta Llama 3"
    assert (
        name_to_publish("r1", terms) == "Llama-3-r1" and name_to_publish("Llama-3-r1", terms) == "Llama-3-r1"
    )
    assert llama_terms(["Qwen/Qwen2.5-7B"]) is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen2.5-7B", "Qwen/Qwen2.5-7B"),
        ("openai/gsm8k:main", "openai/gsm8k"),
        ("openai/gsm8k:main@0123abc", "openai/gsm8k"),
        ("openai/gsm8k@refs/pr/1", "openai/gsm8k"),
        ("gpt2", "gpt2"),
        ("data/rows.jsonl", None),
        ("./models/x", None),
        ("/models/x", None),
        ("a/b/c", None),
        ("tests", None),  # a folder that is there
        (None, None),
    ],
)
def test_hub_names(path: str | None, name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)
    assert card.hub_name(path) == name


def test_a_published_card_has_the_published_name() -> None:
    text = card.published(hub_card("Qwen/Qwen2.5-0.5B"), "me/r1-small")
    assert "\n# r1-small\n" in text and "\n# student\n" not in text
    assert 'AutoTokenizer.from_pretrained("me/r1-small")' in text and card.HERE not in text
