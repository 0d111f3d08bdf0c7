"""A second model writes kept traces anew: what it is told, what becomes of what it says, and what is left out."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.card import sources
from distill.chat import Prompt, ThoughtTags
from distill.errors import RunFailed, UserError
from distill.generate.engine import Request, Runaway
from distill.order import ancestry
from distill.recipe import Recipe, Rewrite, SampleStage
from distill.recipe_file import parse_recipe
from distill.recipe_parts import FixedCollect, Sampling
from distill.records import Completion, FinishReason, Problem, Trace
from distill.report.words import given_behind
from distill.shards import read_parquet
from teacher.harvest import harvest

PROMPT = "Write this anew.\nProblem: {problem}\nSolution: {response}"
STAGE = SampleStage(
    name="clean", kind="sample", model="writer", problems="sums", makes="clean",
    rewrite=Rewrite(traces="raw", prompt=PROMPT), collect=FixedCollect(samples=2),
    sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=200),
)  # fmt: skip
SUMS = [Problem(id=f"s{n}", kind="math", problem=f"{n}+1", reference=str(n + 1)) for n in range(4)]
SUMS[3] = Problem(id="s3", kind="math", problem="{response}+1", reference="4")


def raw(problem: Problem, sample: int, thought: str = "hm") -> Trace:
    text = f"<think>{thought} {sample}</think>\\boxed{{{problem.reference}}}"
    return Trace.of(
        problem, sample, completion=text, tokens=9, finish_reason=FinishReason.STOP, teacher="zero"
    )


class Characters:
    """Characters are tokens; nothing is prefilled."""

    tags = ThoughtTags()
    prefill = ""

    def prompt(self, problem: str) -> Prompt:
        return Prompt([ord(letter) for letter in problem], "")


class Writer:
    """Tidies up; of s1 it loses the answer, of s2 the tags."""

    name = "writer"
    together: int | None = 2

    def __init__(self, dies_at: int = -1) -> None:
        self.told: dict[tuple[str, int], str] = {}
        self.calls, self.dies_at = 0, dies_at

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        self.calls += 1
        for one in requests:
            self.told[one.problem_id, one.sample_index] = one.question
            answer = "\\boxed{77}" if one.problem_id == "s1" else f"\\boxed{{{int(one.problem_id[1:]) + 1}}}"
            thought = f"clearly, way {one.sample_index}"
            text = thought + answer if one.problem_id == "s2" else f"<think>{thought}</think>{answer}"
            yield Completion(
                problem_id=one.problem_id, sample_index=one.sample_index, text=text, tokens=len(text),
                finish_reason=FinishReason.STOP,
            )  # fmt: skip


RAW = [raw(SUMS[0], 1), raw(SUMS[0], 4), raw(SUMS[1], 0), raw(SUMS[2], 0), raw(SUMS[3], 2)]


def rewritten(folder: Path, writer: Writer | None = None, **changes: Any) -> dict[str, int]:
    settings: dict[str, Any] = {
        "stage": STAGE, "engine": writer or Writer(), "chat": Characters(), "problems": SUMS,
        "instruction": "Not for rewriting: {problem}", "teacher_name": "writer", "folder": folder, "seed": 3,
        "to_rewrite": RAW, "reads": 400,
    }  # fmt: skip
    return harvest(**settings | changes)


def test_what_loses_the_answer_or_the_format_is_dropped_with_its_reason(tmp_path: Path) -> None:
    writer = Writer()
    counts = rewritten(tmp_path / "clean", writer)
    rows = list(read_parquet(tmp_path / "clean" / "traces.parquet"))
    assert [(row.id, row.reason) for row in rows] == [
        *[(f"s0#{n}", "") for n in range(4)],
        *[(f"s1#{n}", "verified") for n in range(2)],
        *[(f"s2#{n}", "format") for n in range(2)],
        *[(f"s3#{n}", "") for n in range(2)],
    ]
    assert [row.measures["rewrite_of"] for row in rows] == [1, 1, 4, 4, 0, 0, 0, 0, 2, 2]
    assert counts["traces"] == 10 and counts["kept"] == 6
    # What is kept answers the bare problem, and the model was told the trace that it is made of.
    assert rows[0].problem == "0+1" and rows[0].teacher == "writer"
    assert writer.told["s0", 3] == ("Write this anew.\nProblem: 0+1\nSolution: <think>hm 4</think>\\boxed{1}")
    assert writer.told["s3", 0].splitlines()[1] == "Problem: {response}+1"
    funnel = json.loads((tmp_path / "clean" / "funnel.json").read_text())
    removed = {step["filter"]: step["removed"] for step in funnel["steps"]}
    assert removed["verified"] == 2 and removed["format"] == 2
    assert funnel["facts"]["rewritten from"] == "raw (5 kept traces)"
    assert funnel["facts"]["instruction"] == PROMPT


@pytest.mark.parametrize("dies_at", range(5))
def test_a_kill_changes_nothing(tmp_path: Path, dies_at: int) -> None:
    rewritten(tmp_path / "whole" / "clean")
    with pytest.raises(KeyboardInterrupt):
        rewritten(tmp_path / "killed" / "clean", Writer(dies_at))
    rewritten(tmp_path / "killed" / "clean")
    whole, killed = (
        {path.name: path.read_bytes() for path in (tmp_path / one / "clean").iterdir()}
        for one in ("whole", "killed")
    )
    assert whole == killed


def test_traces_of_other_problems_and_too_long_ones_are_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = Problem(id="x", kind="math", problem="9+9", reference="18")
    renamed = SUMS[0].model_copy(update={"id": "elsewhere:0"})  # the same text under another's id
    given = [raw(stranger, 0), raw(renamed, 5), raw(SUMS[2], 0, "long " * 50), raw(SUMS[3], 0)]
    rewritten(tmp_path / "clean", to_rewrite=given)
    assert {row.id for row in read_parquet(tmp_path / "clean" / "traces.parquet")} == {
        "s0#0", "s0#1", "s3#0", "s3#1",
    }  # fmt: skip
    told = capsys.readouterr().err
    assert "left out 1 traces: of a problem that is not among those of this stage" in told
    assert "left out 1 traces: too long to be read: a prompt has room for 200 tokens" in told
    facts = json.loads((tmp_path / "clean" / "funnel.json").read_text())["facts"]
    assert "too long" in facts["left out before"] and "not among" in facts["left out before"]
    with pytest.raises(RunFailed, match="no trace of 1 in `raw` can be rewritten"):
        rewritten(tmp_path / "none", to_rewrite=given[:1])


def test_an_id_that_another_problem_has_too_makes_no_trace_its_own(tmp_path: Path) -> None:
    """Ids such as row numbers coincide between sets: the text decides whose a trace is."""
    numbered = SUMS[0].model_copy(update={"id": SUMS[1].id})
    stranger = Problem(id=SUMS[3].id, kind="math", problem="9+9", reference="18")
    rewritten(tmp_path / "clean", to_rewrite=[raw(numbered, 0), raw(stranger, 0), raw(SUMS[2], 0)])
    rows = list(read_parquet(tmp_path / "clean" / "traces.parquet"))
    assert {row.id for row in rows} == {"s0#0", "s0#1", "s2#0", "s2#1"}
    facts = json.loads((tmp_path / "clean" / "funnel.json").read_text())["facts"]
    assert facts["left out before"] == "of a problem that is not among those of this stage: 1"


def recipe_of(*, first: dict[str, Any] | None = None, **rewriting: Any) -> Recipe:
    raw_stage = {"name": "ask", "kind": "sample", "model": "zero", "problems": "p", "makes": "raw"}
    stages = [
        {"name": "rl", "kind": "grpo", "model": "base", "problems": "p", "makes": "zero", "steps": 1},
        *([raw_stage] if first is None else []),
        {
            "name": "clean", "kind": "sample", "model": "writer", "problems": "p", "makes": "clean",
            "rewrite": {"traces": "raw", "prompt": PROMPT}, **rewriting,
        },
        {"name": "sft", "kind": "sft", "model": "base", "traces": {"clean": 1}, "makes": "dev1", "role": "teacher"},
    ]  # fmt: skip
    return parse_recipe(
        {
            "name": "r",
            "models": {"base": {"path": "own/base"}, "writer": {"path": "own/writer", "role": "teacher"}},
            "problems": {"p": {"path": "p.jsonl"}, "q": {"path": "q.jsonl", "agreement": 0.5}},
            "traces": {"raw": first} if first else {},
            "stages": copy.deepcopy(stages),
        }
    )


def test_both_models_are_behind_what_is_learnt() -> None:
    """In the cost, in the licence and among the given ones that nobody knows the cost of."""
    recipe = recipe_of()
    assert ancestry(recipe, "dev1") == ({"sft"}, {"clean", "ask", "rl"})
    assert sources(recipe, "dev1") == (["base"], ["writer"])  # Zero is of the base itself
    assert [one.name for one in recipe.harvests("clean")] == ["clean", "ask"]
    assert recipe.given_traces("clean") is None
    given = recipe_of(first={"path": "theirs.jsonl"})
    assert recipe_of().source_model("zero") == "base"
    assert (given.given_traces("clean"), given_behind(given, "dev1")) == ("raw", ["writer", "raw"])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rewrite": {"traces": "nothing", "prompt": PROMPT}}, "stages.clean.rewrite.traces"),
        ({"rewrite": {"traces": "raw", "prompt": "Anew: {problem}"}}, "stages.clean.rewrite.prompt"),
        ({"rewrite": {"traces": "raw", "prompt": "{response}"}}, "stages.clean.rewrite.prompt"),
        ({"collect": {"strategy": "adaptive"}}, "stages.clean.collect.strategy"),
        ({"problems": "q"}, "stages.clean.problems"),
    ],
)
def test_what_cannot_be_rewritten_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe_of(**changes)
    assert caught.value.key == key


def test_a_run_rewrites_what_it_sampled(tiny_recipe_module: Any, tmp_path: Path) -> None:
    """Through the chain, on the local engine: a stage that rewrites given traces, and counts as reading them."""
    from distill.chain import run_recipe
    from distill.inputs import Inputs

    raw_recipe = copy.deepcopy(tiny_recipe_module.RAW)
    sample = next(stage for stage in raw_recipe["stages"] if stage["kind"] == "sample")
    sample |= {"model": "blank", "rewrite": {"traces": "rough", "prompt": "{problem}|{response}"}}
    raw_recipe["stages"] = [sample]
    recipe = parse_recipe(raw_recipe)
    run_recipe(recipe, tmp_path / "run")
    rows = list(read_parquet(tmp_path / "run" / "traces" / "verified" / "traces.parquet"))
    assert rows and all("rewrite_of" in row.measures for row in rows)
    (stage,) = recipe.stages
    assert Inputs.read_by(stage) == ["blank", "rough"]
    unsaid = sample | {"sampling": {"temperature": 1.0, "top_p": 1.0}}
    (fitted,) = parse_recipe(raw_recipe | {"stages": [unsaid]}).stages
    half = Inputs(parse_recipe(raw_recipe | {"stages": [unsaid]})).fitted(fitted.name)
    assert isinstance(half, SampleStage) and half.sampling.max_tokens < 192 // 2
