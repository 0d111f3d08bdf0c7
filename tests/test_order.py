"""What counts as a model's making."""

from __future__ import annotations

from typing import Any

from distill.order import ancestry, stages_towards
from distill.recipe_file import find_recipe, load_recipe, parse_recipe


def test_what_a_model_learnt_from_counts_with_it() -> None:
    """Its own stages apart from those of its teacher: the traces' makers, and the reward models that judged."""
    stages: list[dict[str, Any]] = [
        {"name": "judging", "kind": "reward", "model": "base", "pairs": {"path": "pairs.jsonl"}, "makes": "helpful"},
        {
            "name": "rl", "kind": "grpo", "model": "base", "problems": "p", "makes": "teacher", "steps": 1,
            "rewards": {"models": {"helpful": {"model": "helpful"}}},
        },
        {"name": "harvest", "kind": "sample", "model": "teacher", "problems": "p", "makes": "traces"},
        {"name": "distil", "kind": "sft", "model": "base", "traces": {"traces": 1}, "makes": "student"},
    ]  # fmt: skip
    recipe = parse_recipe(
        {
            "name": "r",
            "models": {"base": {"path": "somewhere"}},
            "problems": {"p": {"path": "p.jsonl", "kind": "open"}},
            "stages": stages,
        }
    )
    assert ancestry(recipe, "teacher") == ({"rl"}, {"judging"})
    assert ancestry(recipe, "student") == ({"distil"}, {"harvest", "rl", "judging"})
    assert ancestry(recipe, "base") == (set(), set())


def test_the_way_to_a_teacher_goes_through_its_harvests_and_that_to_a_student_does_not() -> None:
    pipeline = load_recipe(find_recipe("quickstart-r1"))
    names = [stage.name for stage in pipeline.stages]
    assert [stage.name for stage in stages_towards(pipeline, "teacher")] == names[: names.index("exam")]
    small = load_recipe(find_recipe("quickstart"))
    assert [stage.name for stage in stages_towards(small, "teacher")] == ["pretrain-base", "zero"]
    assert [stage.name for stage in stages_towards(small, "student")] == ["pretrain-student-base", "distil"]
