"""The built-in world: exact references, honest flaws, splits that do not meet, the same each time."""

from __future__ import annotations

import ast
import hashlib
import itertools
import random
import re
from typing import Any

import pytest

from distill.chat import is_well_formed, split_thought
from distill.errors import UserError
from distill.language import language_shares
from distill.recipe_parts import WorldProblems, WorldTraces
from distill.records import FinishReason, Problem, Trace, Verdict
from distill.verify import Response, check_many
from distill.world import TAGS, _chain, _chain_trace, make_problems, make_traces

WORDS = {
    r"add (\d)": lambda x, k: x + k,
    r"subtract (\d)": lambda x, k: x - k,
    r"multiply by (\d)": lambda x, k: x * k,
    r"double": lambda x, k: 2 * x,
    r"triple": lambda x, k: 3 * x,
    r"square": lambda x, k: x**2,
    r"negate": lambda x, k: 0 - x,
    r"absolute value": lambda x, k: x if x >= 0 else 0 - x,
    r"remainder by (\d)": lambda x, k: x - k * ((x - x % k) // k),
    r"halve rounding down": lambda x, k: x >> 1,
    r"divide by (\d) rounding down": lambda x, k: (x - x % k) // k,
    r"at least (\d)": lambda x, k: x if x >= k else k,
    r"at most (\d)": lambda x, k: x if x <= k else k,
}


def arithmetic(problem: str) -> str:
    """The bare sum of a chain: `17; a: +5; b: -8` is 17+5-8."""
    return re.sub(r"[a-z;: ]", "", problem)


def steps_of(thought: str) -> list[tuple[int, int, int]]:
    """Each step of a chain's thought: what it starts from, what that gives, and what it says it gives."""
    found = re.findall(r"(\d+)([+-]\d+)=(\d+);", thought)
    assert len(found) == thought.count("=") == thought.count(";"), thought
    return [(int(start), int(start) + int(change), int(told)) for start, change, told in found]


def thought_of(trace: Trace) -> str:
    thought = split_thought(trace.completion).thought
    assert thought is not None
    return thought


def follow(description: str, x: int) -> int:
    """What a reader of the description would compute."""
    for words in re.findall(r"[a-d]: ([^;]+)", description):
        matches = [
            (found, step) for pattern, step in WORDS.items() if (found := re.fullmatch(pattern, words))
        ]
        assert len(matches) == 1, words
        found, step = matches[0]
        x = step(x, int(found.group(1)) if found.groups() else 0)
    return x


def verdicts(traces: list[Trace]) -> list[Verdict]:
    responses = []
    for trace in traces:
        problem = Problem(
            id=trace.problem_id,
            kind=trace.kind,
            problem=trace.problem,
            reference=trace.reference,
            tests=trace.tests,
        )
        responses.append(Response(problem, trace.completion, FinishReason.STOP))
    return [judgement.verdict for judgement in check_many(responses)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_references_are_exact(split: str) -> None:
    problems = make_problems(WorldProblems(count=300, split=split), seed=3)
    assert [problem.tags["family"] for problem in problems[:4]] == ["chains", "functions"] * 2
    for problem in problems:
        if problem.kind == "math":
            total = arithmetic(problem.problem)
            assert problem.reference == str(eval(total))
            values = [eval(total[: at.start()]) for at in re.finditer(r"[+-]|$", total)]
            assert all(10 <= value <= 29 for value in values)
        else:
            assert problem.tests is not None and problem.tests["entry_point"] == "f"
            lines = problem.tests["code"].split("\n")
            assert len(lines) >= 5
            for line in lines:
                x, result = re.fullmatch(r"assert f\((-?\d+)\) == (-?\d+)", line).groups()  # type: ignore[union-attr]
                assert int(result) == follow(problem.problem, int(x)), (problem.problem, line)


def test_no_problem_comes_twice_or_in_both_splits() -> None:
    train = make_problems(WorldProblems(count=600, split="train"), seed=0)
    test = make_problems(WorldProblems(count=300, split="test"), seed=0)
    others = make_traces(WorldTraces(count=600, wrong_steps=0.2, missing_tags=0.2), seed=5)
    for problems in (train, test):
        assert len({problem.problem for problem in problems}) == len(problems)
        assert len({problem.id for problem in problems}) == len(problems)
    held_out = {problem.problem for problem in test}
    assert not held_out & {problem.problem for problem in train}
    assert not held_out & {trace.problem for trace in others}


def test_the_seed_decides_and_the_test_split_has_none() -> None:
    train, test = WorldProblems(count=20, split="train"), WorldProblems(count=20, split="test")
    traces = WorldTraces(count=40, wrong_steps=0.3, missing_tags=0.3)
    assert make_problems(train, 1) == make_problems(train, 1) != make_problems(train, 2)
    assert make_problems(test, 1) == make_problems(test, 2)
    assert make_traces(traces, 1) == make_traces(traces, 1) != make_traces(traces, 2)
    more = make_problems(WorldProblems(count=30, split="train"), 1)
    assert more[:40] == make_problems(train, 1), "asking for more keeps what was there"


def test_traces_without_flaws_are_all_right() -> None:
    traces = make_traces(WorldTraces(count=60, wrong_steps=0, missing_tags=0), seed=0)
    assert {trace.verdict for trace in traces} == {Verdict.UNVERIFIED}
    assert verdicts(traces) == [Verdict.CORRECT] * 60
    assert all(is_well_formed(trace.completion, TAGS) for trace in traces)
    for trace in traces:
        if trace.kind == "math":
            steps = steps_of(thought_of(trace))
            assert all(gives == told for _, gives, told in steps)
            assert len(steps) == len(re.findall(r"[+-]", trace.problem))


def test_wrong_steps_are_wrong_and_lead_to_what_they_say() -> None:
    traces = make_traces(WorldTraces(families=["chains"], count=200, wrong_steps=1, missing_tags=0), seed=0)
    found = verdicts(traces)
    assert set(found) == {Verdict.CORRECT, Verdict.WRONG}
    for trace, verdict in zip(traces, found, strict=True):
        steps = steps_of(thought_of(trace))
        assert all(gives != told for _, gives, told in steps), "each step is wrong"
        assert split_thought(trace.completion).answer == f"\\boxed{{{steps[-1][2]}}}", (
            "the answer follows the steps"
        )
        for (_, _, told), (start, _, _) in itertools.pairwise(steps):
            assert start == told, "a step goes on from the one before"
        cancelled = sum(told - gives for _, gives, told in steps) == 0
        assert (verdict is Verdict.CORRECT) is cancelled
    assert found.count(Verdict.CORRECT) < 40


def test_wrong_programs_run_and_mostly_fail() -> None:
    traces = make_traces(WorldTraces(families=["functions"], count=40, wrong_steps=1, missing_tags=0), seed=0)
    found = verdicts(traces)
    assert found.count(Verdict.WRONG) > 30 and set(found) <= {Verdict.WRONG, Verdict.CORRECT}
    for trace in traces:
        program = re.search(r"```python\n(.*)```", trace.completion, re.DOTALL).group(1)  # type: ignore[union-attr]
        body = ast.parse(program).body[0].body[:-1]  # type: ignore[attr-defined]
        steps = re.findall(r"([a-d]): [^;=]+ = ([^;]+);", thought_of(trace))
        assert [ast.unparse(line) for line in body] == [ast.unparse(ast.parse(f"{a}={b}")) for a, b in steps]


def test_any_pile_of_slips_can_be_written() -> None:
    """Slips may add up until no single one leads back into range."""
    rng = random.Random(0)
    for _ in range(30_000):
        _, steps = _chain(rng)
        thought, answer = _chain_trace(steps, rng, wrong_steps=0.6)
        assert thought.endswith(f"={answer[7:-1]};")


@pytest.mark.parametrize(("wrong_steps", "missing_tags"), [(0.15, 0.3), (0.0, 1.0)])
def test_flaws_come_in_the_shares_asked_for(wrong_steps: float, missing_tags: float) -> None:
    count = 3000
    world = WorldTraces(families=["chains"], count=count, wrong_steps=wrong_steps, missing_tags=missing_tags)
    steps, wrong, bare = 0, 0, 0
    for trace in make_traces(world, seed=0):
        bare += "<think>" not in trace.completion
        thought = trace.completion.removeprefix("<think>").split("</think>")[0].split("\\boxed")[0]
        for _, gives, told in steps_of(thought):
            steps += 1
            wrong += gives != told
    assert bare / count == pytest.approx(missing_tags, abs=0.03)
    assert wrong / steps == pytest.approx(wrong_steps, abs=0.02)


def test_worded_steps_are_right_and_in_their_languages_by_the_one_function_that_tells() -> None:
    shares = {"en": 0.6, "zh": 0.4}
    world = WorldTraces(families=["chains"], count=1500, wrong_steps=0.15, missing_tags=0, languages=shares)
    traces = make_traces(world, seed=0)
    told = [language_shares(thought_of(trace)) for trace in traces]
    assert {name for found in told for name in found} == {"en", "zh"}
    assert sum(found.get("en", 0) for found in told) / len(told) == pytest.approx(0.6, abs=0.02)
    steps, wrong, mixed = 0, 0, 0
    pattern = r"[a-c]: (?:at (\d+) (add|subtract) (\d) =|再 (\d+) (加|减) (\d) 等于) (\d+);"
    for trace, found in zip(traces, told, strict=True):
        worded = re.findall(pattern, thought_of(trace))
        english = sum(bool(step[1]) for step in worded) / len(worded)
        assert found.get("en", 0) == pytest.approx(english), trace.completion
        mixed += 0 < english < 1
        for a, by, b, a_zh, by_zh, b_zh, told_result in worded:
            sign = 1 if (by or by_zh) in ("add", "加") else -1
            steps += 1
            wrong += int(told_result) != int(a or a_zh) + sign * int(b or b_zh)
        assert len(worded) == len(re.findall(r"[+-]", trace.problem))
        assert trace.completion.endswith(f"\\boxed{{{worded[-1][-1]}}}")
    assert wrong / steps == pytest.approx(0.15, abs=0.02)
    assert mixed / len(traces) > 0.5, "within thoughts, not between them"
    assert verdicts(make_traces(world.model_copy(update={"wrong_steps": 0.0, "count": 60}), 0)) == (
        [Verdict.CORRECT] * 60
    )


def test_traces_and_vocabulary_are_those_of_before_there_were_languages() -> None:
    """What older recipes measured stays true: the digests were taken before."""
    from distill.world_tokenizer import build_tokenizer

    traces = make_traces(WorldTraces(count=400, wrong_steps=0.2, missing_tags=0.3), seed=7)
    text = "\n".join(trace.problem + trace.completion for trace in traces)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "57d54b1cbe746482"
    vocabulary = repr(sorted(build_tokenizer().get_vocab().items()))
    assert hashlib.sha256(vocabulary.encode()).hexdigest()[:16] == "4b3384dab21a8fe5"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"languages": {"en": 0.5, "zh": 0.4}}, "add up to 0.9"),
        ({"families": ["chains", "functions"]}, "only steps of chains"),
        ({"languages": {"en": 0.5, "de": 0.5}}, "de"),
    ],
)
def test_languages_that_cannot_be_had_are_refused(changes: dict[str, Any], reason: str) -> None:
    good = {"families": ["chains"], "count": 5, "wrong_steps": 0, "missing_tags": 0, "languages": {"en": 1}}
    WorldTraces.model_validate(good)
    with pytest.raises(ValueError, match=reason):
        WorldTraces.model_validate(good | changes)


def test_the_tokenizer_is_the_same_each_time_and_knows_the_second_script() -> None:
    from distill.world_tokenizer import SECOND_SCRIPT, _learnt, build_tokenizer

    first = build_tokenizer()
    _learnt.cache_clear()
    second = build_tokenizer()
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str(), "learnt twice"
    second.add_tokens(["<new>"])
    assert "<new>" not in build_tokenizer().get_vocab(), "each call returns a tokenizer of its own"
    assert all(
        len(first.encode(sign, add_special_tokens=False)) == 1 for sign in SECOND_SCRIPT + "0123456789"
    )
    assert first.tokenize("1234") == list("1234"), "digits stand alone"
    for tag in (TAGS.open, TAGS.close, first.eos_token):
        assert len(first.encode(tag, add_special_tokens=False)) == 1


def test_more_problems_than_there_are_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(UserError, match="has only about"):
        make_problems(WorldProblems(families=["chains"], split="test", count=100_000), seed=0)
