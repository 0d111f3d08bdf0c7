"""Every recipe that ships is good, and there are some."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.inputs import Inputs, check_published
from distill.models import preview
from distill.plan import make_plan
from distill.problems import load_problems
from distill.recipe import CompareStage, EvalStage, GrpoStage, SampleStage, SftStage
from distill.recipe_file import find_recipe, load_recipe, parse_recipe, shipped_recipes
from distill.recipe_rewards import RewardStage
from eval.published import cells
from teacher.preferences import read_judged
from teacher.rewards import weighed

CHECKOUT = Path(__file__).resolve().parent.parent
RECIPES = sorted((CHECKOUT / "recipes").glob("*.yaml"))


def test_recipes_ship_the_quickstart_among_them() -> None:
    assert "quickstart" in [path.stem for path in RECIPES]
    assert set(shipped_recipes()) == {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_parses_is_found_by_name_and_reads_back(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    assert (
        find_recipe(path.stem).read_bytes()
        == find_recipe(f"recipes/{path.name}").read_bytes()
        == path.read_bytes()
    )


@pytest.mark.parametrize("name", ["quickstart", "quickstart-r1"])
def test_the_lengths_of_the_quickstart_fit(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(find_recipe(name))
    Inputs(recipe).check(recipe.stages)
    assert capsys.readouterr().err == "", "nothing had to be cut"


def test_the_lengths_of_the_real_recipe_fit(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the contexts of its models, under their vocabulary, on GSM8K's real problems."""
    raw = yaml.safe_load(find_recipe("gsm8k-distill").read_text())
    build = {"hidden": 16, "layers": 1, "heads": 2}
    tokenizer = str(shared_data / "tokenizers" / "qwen2.5-rebuilt")
    for name, context in (("teacher", 131072), ("student-base", 32768)):
        raw["models"][name] |= {
            "build": {**build, "max_length": context},
            "tokenizer": tokenizer,
            "path": None,
        }
    gsm8k = str(shared_data / "problems" / "gsm8k_test.jsonl")
    raw["problems"]["gsm8k-train"]["path"] = gsm8k
    raw["suites"] = {"gsm8k": {"path": gsm8k}}
    recipe = parse_recipe(raw)
    Inputs(recipe).check(recipe.stages)
    assert capsys.readouterr().err == "", "nothing had to be cut"


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem.startswith("r1-distill-")], ids=str)
def test_a_recipe_of_the_paper_stands_its_student_beside_the_published_one(path: Path) -> None:
    """The published figures are of the model that the recipe is named after, and of a suite that it asks."""
    recipe = load_recipe(path)
    check_published(recipe)
    exam, report = recipe.stage("exam"), recipe.stage("report")
    assert isinstance(exam, EvalStage) and isinstance(report, CompareStage)
    assert isinstance(report.published, dict) and list(report.published) == ["student"]
    name = report.published["student"]
    assert name.lower() == f"deepseek-{path.stem}"
    assert {suite for suite in exam.suites if cells(name, suite)} == {"aime24", "math500"}


def test_r1_zero_has_the_paper_s_numbers() -> None:
    (zero,) = [stage for stage in load_recipe(find_recipe("r1-zero")).stages if isinstance(stage, GrpoStage)]
    assert (zero.steps, zero.learning_rate, zero.kl.coefficient, zero.reference.refresh_every) == (
        10400,
        3e-6,
        0.001,
        400,
    )
    assert zero.problems_per_step * zero.samples_per_problem * zero.steps_per_rollout == 8192
    assert zero.max_tokens == [(0, 32768), (8200, 65536)]
    assert weighed(zero.rewards) == {"accuracy": 1, "format": 1}


@pytest.mark.parametrize("name", ["quickstart-r1", "r1-four-stage"])
def test_the_four_stages_start_from_what_they_start_from_in_the_paper(name: str) -> None:
    recipe = load_recipe(find_recipe(name))
    made = {stage.makes: stage for stage in recipe.stages if not isinstance(stage, EvalStage | CompareStage)}
    came_from = {"zero": "base", "dev1": "base", "dev2": "dev1", "dev3": "base", "r1": "dev3"}
    assert {model: made[model].model for model in came_from} == came_from
    zero, dev2, r1, dev3 = made["zero"], made["dev2"], made["r1"], made["dev3"]
    assert isinstance(zero, GrpoStage) and isinstance(dev2, GrpoStage) and isinstance(r1, GrpoStage)
    assert weighed(zero.rewards) == {"accuracy": 1, "format": 1}
    assert weighed(dev2.rewards) == weighed(r1.rewards) == {"accuracy": 1, "format": 1, "language": 1}
    assert (zero.temperature, dev2.temperature, r1.temperature) == (1.0, 1.0, 0.7)
    assert isinstance(dev3, SftStage) and dev3.epochs == 2 and len(dev3.traces) == 2
    (kept,) = [made[traces] for traces in dev3.traces if traces in made]
    assert isinstance(kept, SampleStage) and kept.model == "dev2" and kept.filters.language is not None


def test_the_last_updates_of_the_four_stages_ask_reward_models() -> None:
    """The paper's: in the last 400, helpfulness by pairs on the answer, safety by single answers on all of the text."""
    recipe = load_recipe(find_recipe("r1-four-stage"))
    made = {stage.makes: stage for stage in recipe.stages if not isinstance(stage, EvalStage | CompareStage)}
    last = made["r1"]
    assert isinstance(last, GrpoStage)
    assert last.problems_per_step * last.samples_per_problem * last.steps_per_rollout == 8192
    helpful, safe = (made[name] for name in ("helpful", "safe"))
    assert isinstance(helpful, RewardStage) and isinstance(safe, RewardStage)
    assert (helpful.objective, safe.objective) == ("pairwise", "pointwise")
    for stage in (helpful, safe):
        assert (stage.batch_size, stage.learning_rate, stage.epochs) == (256, 6e-6, 1)
    judges = last.rewards.models
    assert {one.model: one.on for one in judges.values()} == {"helpful": "answer", "safe": "whole"}
    assert {last.steps - one.from_step for one in judges.values()} == {400}
    assert all(one.from_step % last.steps_per_rollout == 0 for one in judges.values()), (
        "at a rollout's beginning"
    )
    assert {part.kind for part in recipe.parts(last.problems)} == {"math", "open"}


def test_the_four_stages_cold_start_is_rewritten_by_another_model() -> None:
    recipe = load_recipe(find_recipe("r1-four-stage"))
    (rewrite, first) = recipe.harvests("cold-start")
    assert rewrite.rewrite and (first.model, rewrite.model) == ("zero", "writer")
    assert rewrite.filters.language is not None and first.filters.language is None, "it is to translate"


def test_the_preferences_of_the_four_stages_are_read_in_the_form_of_their_pages(tmp_path: Path) -> None:
    recipe = load_recipe(find_recipe("r1-four-stage"))

    def turns(answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": answer}]

    forms: dict[str, list[dict[str, Any]]] = {
        "helpfulness": [
            {"prompt": "Why?", "chosen": turns("Because."), "rejected": turns("No."), "score_chosen": 9.0}
        ],
        "safety": [
            {"prompt": "Why?", "response": one, "category": {}, "is_safe": one == "a"} for one in ("a", "b")
        ],
    }
    read = {}
    for name, rows in forms.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        stage = recipe.stage(name)
        assert isinstance(stage, RewardStage)
        pairs = stage.pairs.model_copy(update={"path": str(file)})
        judged = read_judged(stage.model_copy(update={"pairs": pairs}))
        read[name] = [(one.prompt, one.answers, one.good) for one in judged]
    assert read["helpfulness"] == [("Why?", ("Because.", "No."), True)]
    assert read["safety"] == [("Why?", ("a",), True), ("Why?", ("b",), False)]
    source = recipe.problems["requests"].model_copy(update={"path": str(tmp_path / "helpfulness.jsonl")})
    assert [(one.kind, one.problem) for one in load_problems("requests", source, 0)] == [("open", "Why?")]


@pytest.mark.parametrize("name", ["r1-zero", "r1-four-stage"])
def test_the_recipes_of_r1_fit_the_machine_that_they_name(name: str) -> None:
    recipe = load_recipe(find_recipe(name))
    assert [stage["name"] for stage in make_plan(recipe)["stages"] if not stage["fits"]] == []
    sampling = [stage for stage in recipe.stages if isinstance(stage, GrpoStage | SampleStage | EvalStage)]
    assert {stage.engine.kind for stage in sampling} == {"vllm"}


HARVESTS = [path.stem for path in RECIPES if path.stem.startswith("harvest-")]


def test_harvests_of_teachers_that_exist_ship() -> None:
    assert HARVESTS == [
        "harvest-deepseek-r1-server",
        "harvest-qwq-32b-vllm",
        "harvest-r1-distill-qwen-32b-vllm",
    ]
    kinds = {name: load_recipe(find_recipe(name)).stage("harvest").engine.kind for name in HARVESTS}
    assert kinds == {name: name.rpartition("-")[2] for name in HARVESTS}


@pytest.mark.parametrize("name", HARVESTS)
def test_a_harvest_samples_as_its_teacher_was_made_to(
    name: str, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real problems and vocabularies: what was asked fits, a thought is opened once, no system prompt is there."""
    raw = yaml.safe_load(find_recipe(name).read_text())
    pinned = raw["problems"]["competition"]["path"]
    assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", pinned)
    assert raw["stages"][0]["sampling"] == {"temperature": 0.6, "top_p": 0.95, "max_tokens": 32768}
    context = {"deepseek-r1-server": 163840, "qwq-32b-vllm": 40960}.get(name.removeprefix("harvest-"), 131072)
    vocabulary = "qwen2.5" if "qwq" in name else "deepseek-r1-distill-qwen"
    build = {"hidden": 16, "layers": 1, "heads": 2, "max_length": context}
    tokenizer = str(shared_data / "tokenizers" / f"{vocabulary}-rebuilt")
    raw["models"]["teacher"] |= {"path": None, "build": build, "tokenizer": tokenizer}
    problems = shared_data / "problems"
    raw["problems"]["competition"]["path"] = str(problems / "aime_1983_2023_train.jsonl")
    named = {"aime24": "aime24", "aime25": "aime25", "math500": "math500"}
    assert set(raw["stages"][0]["filters"]["decontaminate"]) == set(named)
    raw["suites"] = {suite: {"path": str(problems / f"{file}.jsonl")} for suite, file in named.items()}
    recipe = parse_recipe(raw)
    Inputs(recipe).check(recipe.stages)
    assert capsys.readouterr().err == "", "nothing had to be cut"
    if "qwq" not in name:  # its template is not at hand
        chat = preview("teacher", recipe.models["teacher"], ours=False).chat
        prompt = chat.decode(chat.prompt("2 + 2?").ids)
        assert prompt.endswith("<think>\n") and prompt.count("<think>") == 1
        assert prompt.count("begin") == 1 and "system" not in prompt
