"""Harvest with a scripted engine: what is written, and that a kill at any moment changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.chat import Prompt, ThoughtTags
from distill.errors import RunFailed
from distill.generate.engine import Request, Runaway
from distill.loops import is_runaway
from distill.recipe import SampleStage
from distill.recipe_parts import Filters, FixedCollect, Sampling
from distill.records import Completion, FinishReason, Problem, sample_seed
from distill.shards import read_parquet
from distill.traces import read_made_traces
from teacher import harvest as module
from teacher.harvest import harvest

STAGE = SampleStage(
    name="harvest", kind="sample", model="teacher", problems="sums", makes="traces",
    sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=40), collect=FixedCollect(samples=4, keep_per_problem=2),
)  # fmt: skip
PROBLEMS = [Problem(id=f"s{n}", kind="math", problem=f"{n}+1", reference=str(n + 1)) for n in range(5)]


class FakeChat:
    """Characters are tokens; the template ends with the opening tag."""

    tags = ThoughtTags()
    prefill = "<think>"

    def prompt(self, problem: str) -> Prompt:
        return Prompt([ord(letter) for letter in problem], self.prefill)


def teacher(problem_id: str, index: int) -> tuple[str, FinishReason]:
    """s0 always right, s1 always right in the same words, s2 wrong, s3 cut off, s4 without answer or engine."""
    answer = int(problem_id[1:]) + 1
    match problem_id:
        case "s0":
            return f"way {index}</think>\\boxed{{{answer}}}", FinishReason.STOP
        case "s1":
            return f"the way</think>\\boxed{{{answer}}}", FinishReason.STOP
        case "s2":
            return f"way {index}</think>\\boxed{{999}}", FinishReason.STOP
        case "s3":
            return "on and on", FinishReason.LENGTH
    return ("hm</think>no idea", FinishReason.STOP) if index else ("", FinishReason.ERROR)


class ScriptedEngine:
    """Says what the script says; dies at one call if told."""

    name = "scripted"
    together: int | None = 3

    def __init__(self, script: Callable[..., tuple[str, FinishReason]] = teacher, dies_at: int = -1) -> None:
        self.script, self.dies_at, self.calls, self.prompts = script, dies_at, 0, []
        self.runaway: Runaway | None = None

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        self.calls += 1
        self.runaway = runaway
        self.prompts += ["".join(map(chr, request.prompt_ids)) for request in requests]
        yield from map(self._complete, requests)

    def _complete(self, request: Request) -> Completion:
        text, finish = self.script(request.problem_id, request.sample_index)
        return Completion(
            problem_id=request.problem_id, sample_index=request.sample_index, text=text, prefill=request.prefill,
            tokens=len(text), finish_reason=finish,
        )  # fmt: skip


def run(folder: Path, engine: ScriptedEngine | None = None, **changes: Any) -> dict[str, int]:
    arguments: dict[str, Any] = {
        "stage": STAGE, "engine": engine or ScriptedEngine(), "chat": FakeChat(), "problems": PROBLEMS,
        "instruction": "Add: {problem}", "teacher_name": "adder", "folder": folder, "seed": 7,
    }  # fmt: skip
    return harvest(**arguments | changes)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_trace_is_written_with_its_reason(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    counts = run(tmp_path / "traces", engine)
    rows = list(read_parquet(tmp_path / "traces" / "traces.parquet"))
    assert [row.id for row in rows] == [f"s{p}#{g}" for p in range(5) for g in range(4)]
    assert [row.reason for row in rows] == [
        *["", "", "keep_per_problem", "keep_per_problem"],
        *["", "duplicates", "duplicates", "duplicates"],
        *["verified"] * 4,
        *["finished"] * 4,
        *["finished", "verified", "verified", "verified"],
    ]
    assert [row.verdict for row in rows[::4]] == ["correct", "correct", "wrong", "truncated", "error"]
    tokens = sum(row.tokens for row in rows)
    assert counts == {"generated_tokens": tokens, "traces": 20, "kept": 3, "problems_covered": 2}
    first = rows[0]
    assert (first.completion, first.problem) == ("<think>way 0</think>\\boxed{1}", "0+1")
    assert engine.prompts[0] == "Add: 0+1"
    assert (first.teacher, first.engine, first.seed) == ("adder", "scripted", sample_seed(7, "s0", 0))
    assert first.sampling == {"temperature": 1.0, "top_p": 1.0, "max_tokens": 40}
    assert first.tokens == len("way 0</think>\\boxed{1}") and first.extracted == "1"
    assert read_made_traces(tmp_path / "traces") == [row for row in rows if row.kept]


def test_the_funnel_and_the_card_lie_beside_and_the_shard_is_gone(tmp_path: Path) -> None:
    run(tmp_path / "traces")
    found = files(tmp_path / "traces")
    assert sorted(found) == ["README.md", "funnel.json", "traces.parquet"]
    funnel = json.loads(found["funnel.json"])
    assert [(step["filter"], step["removed"]) for step in funnel["steps"]] == [
        ("finished", 5), ("verified", 7), ("format", 0), ("duplicates", 3), ("keep_per_problem", 2),
    ]  # fmt: skip
    card = found["README.md"].decode()
    assert "kept 3 of 20 traces" in card and "| seed | 7 |" in card and "| teacher | adder |" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize("dies_at", range(7))
def test_a_kill_at_any_chunk_changes_nothing(tmp_path: Path, dies_at: int) -> None:
    counts = run(tmp_path / "whole" / "traces")
    killed = tmp_path / "killed" / "traces"
    with pytest.raises(KeyboardInterrupt):
        run(killed, ScriptedEngine(dies_at=dies_at))
    assert not (killed / "traces.parquet").exists()
    shard = killed / "shard-000.jsonl"
    if dies_at:
        shard.write_bytes(shard.read_bytes()[:-9])  # the kill tore the last line
        assert all(not json.loads(line)["kept"] for line in shard.read_text().splitlines()[:-1])
    assert run(killed) == counts
    assert files(killed) == files(tmp_path / "whole" / "traces")


@pytest.mark.parametrize("step", ["write_trace_set", "_counts"])
def test_a_kill_while_the_set_is_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    counts = run(tmp_path / "whole" / "traces")
    killed, work = tmp_path / "killed" / "traces", getattr(module, step)

    def die(*arguments: Any, **named: Any) -> None:
        if step == "write_trace_set":
            work(*arguments, **named)  # all three files are there, the shard as well
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, step, die)
        run(killed)
    engine = ScriptedEngine()
    assert run(killed, engine) == counts and engine.calls == 0
    assert files(killed) == files(tmp_path / "whole" / "traces")


def test_a_loop_is_ended_while_it_is_generated_unless_told_not_to(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    run(tmp_path / "on", engine)
    assert engine.runaway is is_runaway
    collect = STAGE.collect.model_copy(update={"abort_runaway": False})
    run(tmp_path / "off", engine, stage=STAGE.model_copy(update={"collect": collect}))
    assert engine.runaway is None


def test_nothing_kept_fails_and_says_why_each_time(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RunFailed, match=r"no trace of 4 passed.*`verified` removed 4"):
            run(tmp_path, problems=PROBLEMS[2:3])
    assert [row.reason for row in read_parquet(tmp_path / "traces.parquet")] == ["verified"] * 4


def test_traces_that_could_not_be_graded_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    assert "1 traces could not be graded" in capsys.readouterr().err


def test_open_problems_are_kept_unverified_and_counted_apart(tmp_path: Path) -> None:
    poem = Problem(id="s0", kind="open", problem="Write a poem")
    run(tmp_path, problems=[poem], stage=STAGE.model_copy(update={"filters": Filters(duplicates=False)}))
    funnel = json.loads((tmp_path / "funnel.json").read_text())
    assert funnel["kept"]["traces"] == funnel["kept"]["unverified"] == 2
