"""The `evaluate` modules load without a network and agree with naive definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import naive_eval as naive
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from distill.language import language_share

MODULES = Path(__file__).parents[1] / "eval" / "modules"
Compute = Callable[..., dict[str, Any]]
FEW = settings(deadline=None, max_examples=8)

#: What a sample says, the class of its answer and whether 1/2 is the reference's.
SAID = {
    "<think>half</think>\\boxed{1/2}": ("half", True),
    "So \\boxed{0.5}": ("half", True),
    "So \\boxed{3}": ("three", False),
    "It is \\boxed{3.0}.": ("three", False),
    "\\boxed{-7}": ("seven", False),
    "I do not know": (None, False),
}
SAMPLES = some.lists(
    some.lists(some.sampled_from(sorted(SAID)), min_size=3, max_size=5), min_size=1, max_size=3
)


@pytest.fixture(scope="module")
def compute(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Compute]:
    """A module's ``compute``, loaded with no way out and no cache but its own."""
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import evaluate

        patch.setattr("socket.socket.connect", _no_network)
        loaded = {
            path.name: evaluate.load(str(path), cache_dir=str(folder))
            for path in sorted(MODULES.iterdir())
            if path.is_dir() and not path.name.startswith("__")
        }
    assert all(isinstance(module, evaluate.Metric) for module in loaded.values())
    return lambda name: loaded[name].compute


def _no_network(*_: Any) -> None:
    raise AssertionError("a module asked the network")


def test_all_are_there(compute: Callable[[str], Compute]) -> None:
    names = "math_accuracy pass_at_k cons_at_k language_consistency win_rate codeforces_rating"
    for name in names.split():
        assert compute(name)


@FEW
@given(texts=some.lists(some.sampled_from(sorted(SAID)), min_size=1, max_size=6))
def test_math_accuracy(compute: Callable[[str], Compute], texts: list[str]) -> None:
    found = compute("math_accuracy")(predictions=texts, references=["\\frac{1}{2}"] * len(texts))
    right = sum(SAID[text][1] for text in texts)
    assert found["accuracy"] == pytest.approx(right / len(texts))
    silent = texts.count("I do not know")
    # nobody knows whether a text without an answer was cut
    assert found["outcomes"]["no_answer"] + found["outcomes"]["truncated"] == silent
    assert sum(found["outcomes"].values()) == len(texts)


@FEW
@given(texts=SAMPLES, k=some.integers(1, 3))
def test_pass_and_cons_at_k(compute: Callable[[str], Compute], texts: list[list[str]], k: int) -> None:
    references = ["0.50"] * len(texts)
    correct = [[SAID[text][1] for text in samples] for samples in texts]
    found = compute("pass_at_k")(predictions=texts, references=references, k=[1, k])
    assert found[f"pass@{k}"] == pytest.approx(naive.pass_at_k(correct, k))
    assert found["pass@1"] == pytest.approx(naive.pass_at_k(correct, 1)) and found["ungraded"] == 0
    answers = [[SAID[text][0] for text in samples] for samples in texts]
    all_vote = compute("cons_at_k")(predictions=texts, references=references)
    assert all_vote["cons@k"] == pytest.approx(naive.cons_at_k(answers, correct))
    some_vote = compute("cons_at_k")(predictions=texts, references=references, k=k)
    votes = [naive.cons_at(*row, k) for row in zip(answers, correct, strict=True)]
    assert some_vote["cons@k"] == pytest.approx(sum(votes) / len(votes))


def test_too_few_samples_are_an_error(compute: Callable[[str], Compute]) -> None:
    texts = [["\\boxed{1}"] * 4, ["\\boxed{1}"] * 3]
    for name in ("pass_at_k", "cons_at_k"):
        with pytest.raises(ValueError, match="needs 4 samples of every problem; one has 3"):
            compute(name)(predictions=texts, references=["1", "2"], k=4)
        with pytest.raises(ValueError, match="from 1 on"):
            compute(name)(predictions=texts, references=["1", "2"], k=0)


def test_programs_are_run_and_never_voted_on(compute: Callable[[str], Compute]) -> None:
    programs = [["```python\ndef f(x): return x + 1\n```", "```python\ndef f(x): return x\n```"]]
    tests = ["assert f(1) == 2"]
    assert compute("pass_at_k")(predictions=programs, references=tests, kind="code", k=1)["pass@1"] == 0.5
    with pytest.raises(ValueError, match="nothing is voted on"):
        compute("cons_at_k")(predictions=programs, references=tests, kind="code")


@FEW
@given(
    texts=some.lists(
        some.sampled_from(["This is it and that is all.", "这是一个非常好的答案", "$x$", ""]), min_size=1
    )
)
def test_language_consistency(compute: Callable[[str], Compute], texts: list[str]) -> None:
    found = compute("language_consistency")(predictions=texts, references=["en"] * len(texts))
    shares = [language_share(text, "en") for text in texts]
    assert found["language_consistency"] == pytest.approx(math.fsum(shares) / len(shares))
    assert found["consistent"] == pytest.approx(
        sum(text != "这是一个非常好的答案" for text in texts) / len(texts)
    )
    with pytest.raises(ValueError, match="'xx' is not known"):
        compute("language_consistency")(predictions=["a"], references=["xx"])


@FEW
@given(scores=some.lists(some.tuples(some.integers(0, 3), some.integers(0, 3)), min_size=2, max_size=20))
def test_win_rate(compute: Callable[[str], Compute], scores: list[tuple[int, int]]) -> None:
    ours, theirs = zip(*scores, strict=True)
    found = compute("win_rate")(predictions=list(ours), references=list(theirs))
    wins = sum(1 if a > b else 0.5 if a == b else 0 for a, b in scores)
    assert found["win_rate"] == pytest.approx(wins / len(scores))
    assert found["ci95"][0] <= found["win_rate"] <= found["ci95"][1]
    assert found["ties"] == pytest.approx(sum(a == b for a, b in scores) / len(scores))


def test_a_win_rate_of_nothing_judged_is_an_error(compute: Callable[[str], Compute]) -> None:
    with pytest.raises(ValueError, match="not a number"):
        compute("win_rate")(predictions=[1.0, math.nan], references=[0.0, 1.0])


@FEW
@given(
    problems=some.lists(
        some.tuples(some.integers(1000, 2500), some.booleans(), some.booleans()), min_size=3, max_size=8
    )
)
def test_codeforces_rating(compute: Callable[[str], Compute], problems: list[tuple[int, bool, bool]]) -> None:
    ratings, first, second = zip(*problems, strict=True)
    solved = [list(pair) for pair in zip(first, second, strict=True)]
    found = compute("codeforces_rating")(predictions=solved, references=list(ratings))
    right = sum(first) + sum(second)
    if right in (0, 2 * len(solved)):
        assert found["rating"] is None and found["note"]
    else:
        expected = naive.rating(ratings, [sum(pair) for pair in solved], [2] * len(solved))
        assert found["rating"] == pytest.approx(expected, abs=1.01)


def test_codeforces_rating_needs_a_sample_of_each(compute: Callable[[str], Compute]) -> None:
    with pytest.raises(ValueError, match="no sample"):
        compute("codeforces_rating")(predictions=[[True], []], references=[1000, 2000])


def test_kinds_that_need_more_than_a_text_as_reference_are_refused(compute: Callable[[str], Compute]) -> None:
    for kind in ("open", "instruction"):
        with pytest.raises(ValueError, match="it is one of math, choice, code"):
            compute("pass_at_k")(predictions=[["x"]], references=["y"], kind=kind)
