"""Evaluation with a scripted engine: rows, summary, resumption, and one protocol a folder."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.chat import Prompt, ThoughtTags
from distill.generate.engine import Request, Runaway
from distill.generate.stream import SECONDS_BETWEEN_WRITES
from distill.recipe_parts import ProblemSource, Sampling
from distill.records import Completion, FinishReason, Problem
from distill.suites import Suite
from distill.suites.record import Window
from eval.compare import NEEDED, SHOWN, read_results
from eval.runner import Examinee, evaluate

MODEL = Examinee("tiny", "student", params=12, fingerprint="abc")
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=8)
SUITE = Suite("sums", ProblemSource(path="sums.jsonl"), samples=4, sampling=SAMPLING)
PROBLEMS = [Problem(id=f"s{n}", kind="math", problem=f"{n}+1", reference=str(n + 1)) for n in range(5)]
RIGHT, WRONG = "add</think>\\boxed{{{}}}", "add</think>\\boxed{{999}}"


class FakeChat:
    """Characters are tokens; the template ends with the opening tag."""

    tags = ThoughtTags()
    prefill = "<think>"

    def prompt(self, problem: str) -> Prompt:
        return Prompt([ord(letter) for letter in problem], self.prefill)


class ScriptedEngine:
    """Says what a script says to (problem id, sample index); counts calls and dies at one if told."""

    name = "scripted"
    together: int | None = 3

    def __init__(self, script: Callable[[str, int], tuple[str, FinishReason]], dies_at: int = -1) -> None:
        self.script, self.dies_at, self.calls, self.made = script, dies_at, 0, 0

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        if self.calls == self.dies_at:
            raise KeyboardInterrupt
        self.calls += 1
        self.made += len(requests)
        yield from map(self._complete, requests)

    def _complete(self, request: Request) -> Completion:
        text, finish = self.script(request.problem_id, request.sample_index)
        ids = [ord(letter) for letter in text]
        return Completion(
            problem_id=request.problem_id,
            sample_index=request.sample_index,
            text=text,
            prefill=request.prefill,
            tokens=len(ids),
            token_ids=ids,
            logprobs=[0.0] * len(ids),
            finish_reason=finish,
        )


def sure(problem_id: str, index: int) -> tuple[str, FinishReason]:
    """Problem s0 always right, s1 right half the time, s2 never, s3 cut off, s4 without an answer."""
    answer = int(problem_id[1:]) + 1
    match problem_id:
        case "s0":
            return RIGHT.format(answer), FinishReason.STOP
        case "s1":
            return (RIGHT.format(answer) if index % 2 else WRONG.format()), FinishReason.STOP
        case "s2":
            return WRONG.format(), FinishReason.STOP
        case "s3":
            return "on and on", FinishReason.LENGTH
    return "hm</think>no idea", FinishReason.STOP


def run(
    folder: Path, engine: ScriptedEngine | None = None, suite: Suite = SUITE, **changes: Any
) -> dict[str, Any]:
    arguments = {"folder": folder, "seed": 0, "chat": FakeChat()} | changes
    model = arguments.pop("model", MODEL)
    return evaluate(model, suite, PROBLEMS, engine=engine or ScriptedEngine(sure), **arguments)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]


def test_the_summary_counts_every_way_to_fail(tmp_path: Path) -> None:
    summary = run(tmp_path)
    assert summary["verdicts"] == {"correct": 6, "no_answer": 4, "truncated": 4, "wrong": 6}
    assert (summary["n"], summary["k"], summary["ungraded"]) == (5, 4, 0)
    assert summary["pass@1"] == pytest.approx(6 / 20)
    assert summary["pass@k"] == pytest.approx(2 / 5)
    assert summary["cons@k"] == pytest.approx((1 + 0.5) / 5)
    assert summary["ci95"][0] < summary["pass@1"] < summary["ci95"][1]
    assert summary["format"] == pytest.approx(16 / 20) and summary["truncated"] == pytest.approx(4 / 20)
    assert summary["tokens_per_correct"] == pytest.approx(summary["tokens"] / 6)
    assert summary["problems"][1] == {"id": "s1", "correct": 2, "samples": 4, "tokens": 21.0}
    assert summary["protocol"]["temperature"] == 1.0 and summary["protocol"]["seed"] == 0
    assert set(NEEDED) <= summary.keys() and set(SHOWN) - {"win_rate"} <= summary.keys()
    assert read_results([tmp_path]) == [summary]


def test_each_response_is_a_row_in_order(tmp_path: Path) -> None:
    run(tmp_path)
    rows = rows_of(tmp_path)
    assert [(row["id"], row["sample_index"]) for row in rows] == [
        (f"s{p}", g) for p in range(5) for g in range(4)
    ]
    first = rows[0]
    assert first["prefill"] == "<think>" and first["completion"] == "add</think>\\boxed{1}"
    assert (first["verdict"], first["extracted"], first["well_formed"]) == ("correct", "1", True)
    assert first["tokens"] == len(first["completion"]) and first["finish_reason"] == "stop"


def test_an_engine_failure_is_no_wrong_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def script(problem_id: str, index: int) -> tuple[str, FinishReason]:
        failed = problem_id == "s2" or (problem_id, index) == ("s0", 0)
        return ("", FinishReason.ERROR) if failed else sure(problem_id, index)

    summary = run(tmp_path, ScriptedEngine(script))
    assert (summary["n"], summary["ungraded"], summary["verdicts"]["error"]) == (4, 5, 5)
    assert summary["pass@1"] == pytest.approx((1 + 0.5) / 4)
    assert summary["pass@k"] is None  # s0 has three graded samples, not four
    assert summary["problems"][2] == {"id": "s2", "correct": 0, "samples": 0, "tokens": 0.0}
    assert "5 samples could not be graded" in capsys.readouterr().err


@pytest.mark.parametrize("dies_at", [0, 1, 4, 6])
def test_a_killed_evaluation_ends_like_an_undisturbed_one(tmp_path: Path, dies_at: int) -> None:
    undisturbed = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", ScriptedEngine(sure, dies_at=dies_at))
    assert not (tmp_path / "killed" / "summary.json").exists()
    engine = ScriptedEngine(sure)
    assert run(tmp_path / "killed", engine) == undisturbed
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")
    assert engine.made == 20 - 3 * dies_at


class KilledEngine(ScriptedEngine):
    """Answers seven requests, each of which stands alone, and is then killed as the system kills."""

    together = None

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        yield from map(self._complete, requests[:7])
        time.sleep(2 * SECONDS_BETWEEN_WRITES)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_real_kill_costs_no_response_that_was_given_a_second_before(tmp_path: Path) -> None:
    undisturbed = run(tmp_path / "whole")
    child = multiprocessing.get_context("fork").Process(
        target=run, args=(tmp_path / "killed", KilledEngine(sure))
    )
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    engine = ScriptedEngine(sure)
    assert run(tmp_path / "killed", engine) == undisturbed and engine.made == 20 - 7
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "whole")


def test_a_finished_evaluation_generates_nothing(tmp_path: Path) -> None:
    first, engine = run(tmp_path), ScriptedEngine(sure)
    assert run(tmp_path, engine) == first and engine.made == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"suite": SUITE.with_protocol(2, None)}, "samples"),
        ({"suite": SUITE.with_protocol(None, Sampling(max_tokens=9))}, "sampling"),
        ({"seed": 1}, "seed"),
        ({"model": Examinee("tiny", "student", 12, fingerprint="other")}, "model"),
    ],
)
def test_results_of_another_protocol_are_made_anew_and_it_is_told(
    tmp_path: Path, changes: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    engine = ScriptedEngine(sure)
    summary = run(tmp_path, engine, **changes)
    assert engine.made == 5 * summary["k"] == len(rows_of(tmp_path))
    assert f"another {named} were there" in capsys.readouterr().err


def test_the_days_of_a_suite_are_part_of_its_protocol_where_all_of_their_problems_are_asked(
    tmp_path: Path,
) -> None:
    window = Window(column="day", since="2024-08-01", until="2025-01-31")
    whole = replace(SUITE, window=window)
    found = run(tmp_path / "a", suite=whole)["protocol"]
    assert found["window"] == ["2024-08-01", "2025-01-31"]
    some = replace(whole, source=whole.source.model_copy(update={"limit": 5}))
    open_end = replace(SUITE, window=window.model_copy(update={"until": None}))
    for at, suite in enumerate((some, open_end, SUITE)):
        assert "window" not in run(tmp_path / str(at), suite=suite)["protocol"]
