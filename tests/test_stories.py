"""Rewards of stories by rules, what does not earn them, and the recipe that ships with them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.chain import run_recipe
from distill.chat import ThoughtTags
from distill.errors import UserError
from distill.problems import load_problems
from distill.recipe_file import find_recipe, parse_recipe
from distill.recipe_parts import ProblemSource
from distill.records import FinishReason, Problem, Verdict
from distill.runs import MetricsLog
from distill.verify import Judgement
from teacher.rewards import Answered
from teacher.stories import _matched, has_words, in_length, unrepetitive, varied

REWARDS = (in_length, has_words, unrepetitive, varied)
UNVERIFIED = Judgement(Verdict.UNVERIFIED, None, "", 0.0)
GOOD = (
    "The storm came before the ferry did. Old Anna lit her lantern, counted the steps down to the pier, and waited "
    "there while the rain filled her boots. Nobody came. In the morning a letter lay between two stones, dry as a leaf."
)


def told(text: str, **tags: Any) -> Answered:
    wanted = {"words": "storm, lantern, letter", "least": "30", "most": "60"} | tags
    problem = Problem(id="p", kind="open", problem="A story.", tags=wanted)
    return Answered(problem, text, len(text), FinishReason.STOP, UNVERIFIED, ThoughtTags())


def earned(text: str, **tags: Any) -> list[float]:
    return [reward([told(text, **tags)])[0] for reward in REWARDS]


def test_a_good_story_earns_it_all() -> None:
    assert earned(GOOD)[:3] == [1, 1, 1] and earned(GOOD)[3] > 0.9
    assert earned(f"<think>storm storm</think>\n{GOOD}") == earned(GOOD), "the thought is no part of it"


@pytest.mark.parametrize(
    ("words", "expected"), [(0, 0), (15, 0), (20, 1 / 3), (30, 1), (60, 1), (90, 0.5), (120, 0), (200, 0)]
)
def test_length_falls_to_both_sides(words: int, expected: float) -> None:
    assert in_length([told("word " * words)]) == [pytest.approx(expected)]


HACKS = {
    "says nothing": ("", [0, 0, 0, 0]),
    "never ends its thought": (f"<think>{GOOD}", [0, 0, 0, 0]),
    "tells it in the thought alone": (f"<think>{GOOD}</think>\n", [0, 0, 0, 0]),
    "lists the required words": ("Storm, lantern, letter.", [None, 1 / 3, None, 0]),
    "hides words in others": ("Stormy weather. Lanterns burn. Letterbox full.", [None, 0, None, None]),
    "one sentence again and again": ("The storm is here. " * 10, [1, 1 / 3, None, 0]),
    "one word for the length": ("storm " * 40, [1, 1 / 3, 1 / 38, 0]),
}


@pytest.mark.parametrize(("text", "expected"), HACKS.values(), ids=HACKS)
def test_a_text_that_is_no_story_earns_little(text: str, expected: list[float | None]) -> None:
    for found, wanted in zip(earned(text), expected, strict=True):
        assert wanted is None or found == pytest.approx(wanted)
    assert sum(earned(text)) < sum(earned(GOOD)) - 0.8


@settings(deadline=None)  # a loaded machine
@given(
    st.lists(st.sets(st.sampled_from("abcd")), max_size=5),
    st.lists(st.sampled_from("abcd"), max_size=4, unique=True),
)
def test_each_word_has_a_sentence_of_its_own(said: list[set[str]], wanted: list[str]) -> None:
    """Against all ways to give words to sentences."""
    most = 0
    for given_ in itertools.product([None, *range(len(said))], repeat=len(wanted)):
        places = [place for place in given_ if place is not None]
        if len(set(places)) == len(places) and all(
            place is None or word in said[place] for word, place in zip(wanted, given_, strict=True)
        ):
            most = max(most, len(places))
    assert _matched(wanted, said) == most


def test_without_required_words_nothing_is_missing() -> None:
    assert has_words([told(GOOD, words="")]) == [1.0]


def test_required_words_may_be_several_or_hyphenated() -> None:
    words = "New York, well-known, lighthouse keeper"
    text = "He left New\nYork. A well-known face! Then the lighthouse stood dark. Keeper."
    assert has_words([told("He left New York. A well-known face! A lighthouse keeper.", words=words)]) == [
        1.0
    ]
    assert has_words([told(text, words=words)]) == [pytest.approx(1 / 3)], "a phrase stands in one sentence"


def test_lengths_may_be_written_as_tables_write_them() -> None:
    assert in_length([told("word " * 15, least="30.0", most="60.0")]) == [0]
    assert in_length([told("word " * 5, least="0", most="0")]) == [0]
    with pytest.raises(ValueError, match="problem p: most is no number: some"):
        in_length([told("word", most="some")])


# ------------------------------------------------------------------------------------ the recipe


def test_problems_may_stand_in_the_recipe() -> None:
    rows = [{"q": "Tell me.", "words": "a"}, {"q": "Tell me more.", "words": "b"}]
    fields = {"problem": "q", "words": "words"}
    source = ProblemSource.model_validate({"rows": rows, "kind": "open", "fields": fields})
    found = load_problems("p", source, 0)
    assert [(one.problem, one.tags) for one in found] == [
        ("Tell me.", {"words": "a"}),
        ("Tell me more.", {"words": "b"}),
    ]
    raw = yaml.safe_load(find_recipe("creative-story").read_text())
    raw["problems"]["prompts"]["path"] = "x.jsonl"
    with pytest.raises(UserError, match=r"problems\.prompts\.path.*no effect with `rows`"):
        parse_recipe(raw)
    with pytest.raises(UserError, match="row 1: has no problem"):
        load_problems("p", ProblemSource.model_validate({"rows": [{"words": "a"}], "kind": "open"}), 0)


def test_the_recipe_runs_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_QUIET", "1")
    raw = yaml.safe_load(find_recipe("creative-story").read_text())
    build = {"hidden": 16, "layers": 1, "heads": 2, "max_length": 400}
    raw["models"]["writer"] = {"build": build, "tokenizer": "world"}
    stage = raw["stages"][0]
    stage |= {
        "steps": 2,
        "problems_per_step": 2,
        "samples_per_problem": 4,
        "max_tokens": 40,
        "learning_rate": 1e-3,
    }
    stage["overlong"] = {"soft": 8}
    run_recipe(parse_recipe(raw), tmp_path / "run")
    rows = MetricsLog.read(tmp_path / "run" / "stages" / "01-write" / "metrics.jsonl")
    names = [
        f"reward_teacher.stories:{name}" for name in ("in_length", "has_words", "unrepetitive", "varied")
    ]
    assert len(rows) == 2
    for row in rows:
        assert row["ungraded"] == 0 and row["reward_accuracy"] is None and row["grad_norm"] > 0
        assert all(0 <= row[name] <= 1 for name in names)
        expected = sum(weight * row[name] for weight, name in zip((1, 1, 0.5, 0.5), names, strict=True))
        assert row["reward"] == pytest.approx(expected + row["reward_overlong"])
    assert "from the recipe itself" in (tmp_path / "run" / "models" / "storyteller" / "README.md").read_text()
