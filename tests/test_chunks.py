"""Generation that was killed, at whatever moment and however often, leaves the same rows as undisturbed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.errors import RunFailed
from distill.generate.chunks import run_chunks
from distill.generate.engine import Request, Runaway
from distill.recipe_parts import Sampling
from distill.records import Completion, FinishReason
from distill.runs import Progress

REQUESTS = [Request(f"p{number // 2}", number % 2, [1, number], "", seed=number) for number in range(7)]
CHUNK = 3


class ScriptedEngine:
    """Answers with what depends on the seed and on who shares the batch, as a real one's rounding does."""

    name = "scripted"
    together: int | None = CHUNK

    def __init__(self, dies_in_call: int | None = None) -> None:
        self.calls = 0
        self.dies_in_call = dies_in_call

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        if self.calls == self.dies_in_call:
            raise KeyboardInterrupt
        self.calls += 1
        beside = sum(request.seed for request in requests)
        for request in reversed(requests):
            yield Completion(
                problem_id=request.problem_id,
                sample_index=request.sample_index,
                text=f"{request.seed} beside {beside}",
                tokens=1,
                finish_reason=FinishReason.STOP,
            )


def make_rows(requests: list[Request], completions: list[Completion]) -> list[dict[str, Any]]:
    return [{"text": completion.text} for completion in completions]


def generate(path: Path, engine: ScriptedEngine, requests: Sequence[Request] = REQUESTS) -> Progress:
    with Progress("sampling", total=len(requests), unit="sample") as progress:
        run_chunks(requests, engine, Sampling(), path, make_rows, progress)
    return progress


@pytest.fixture
def undisturbed(tmp_path: Path) -> bytes:
    generate(tmp_path / "undisturbed.jsonl", ScriptedEngine())
    return (tmp_path / "undisturbed.jsonl").read_bytes()


def test_every_request_has_its_row_in_order(undisturbed: bytes) -> None:
    assert undisturbed.count(b"\n") == len(REQUESTS)
    texts = [json.loads(line)["text"] for line in undisturbed.splitlines()]
    beside = [3, 3, 3, 12, 12, 12, 6]
    assert texts == [f"{seed} beside {total}" for seed, total in enumerate(beside)]


def test_a_kill_between_any_two_bytes_changes_nothing(tmp_path: Path, undisturbed: bytes) -> None:
    ends = [at + 1 for at, byte in enumerate(undisturbed) if byte == ord("\n")]
    for size in range(len(undisturbed) + 1):
        path = tmp_path / "killed.jsonl"
        path.write_bytes(undisturbed[:size])
        whole_rows = sum(end <= size for end in ends)
        chunks_left = 0 if whole_rows == 7 else 3 - whole_rows // CHUNK
        engine = ScriptedEngine()
        assert generate(path, engine).done == len(REQUESTS)
        assert path.read_bytes() == undisturbed
        assert engine.calls == chunks_left, "work that was done is not done again"


@pytest.mark.parametrize("call", [0, 1, 2])
def test_an_engine_that_dies_is_taken_up_again(tmp_path: Path, undisturbed: bytes, call: int) -> None:
    path = tmp_path / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        generate(path, ScriptedEngine(dies_in_call=call))
    generate(path, ScriptedEngine())
    assert path.read_bytes() == undisturbed


def test_a_shard_of_other_work_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    generate(path, ScriptedEngine())
    with pytest.raises(RunFailed, match="holds 7 rows of 4 requests"):
        generate(path, ScriptedEngine(), REQUESTS[:4])


def test_no_requests_make_no_file(tmp_path: Path) -> None:
    generate(tmp_path / "shard.jsonl", ScriptedEngine(), [])
    assert not (tmp_path / "shard.jsonl").exists()
