"""Generation that was killed, at whatever moment and however often, leaves the same rows as undisturbed."""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.chat import Prompt
from distill.errors import RunFailed
from distill.generate import stream
from distill.generate.engine import Request, Requests, Runaway
from distill.generate.stream import Shard, fill
from distill.recipe_parts import Sampling
from distill.records import Completion, FinishReason, Problem, sample_seed
from distill.runs import Progress

PROBLEMS = [f"p{number}" for number in range(4)]
REQUESTS = [Request(f"p{number // 2}", number % 2, [1, number], "", seed=number) for number in range(7)]
GROUP = 3


class ScriptedEngine:
    """Answers out of order, with what depends on the seed and, if told, on who shares the batch, as rounding does."""

    name = "scripted"

    def __init__(self, together: int | None, dies_after: int = -1) -> None:
        self.together, self.left, self.made = together, dies_after, 0

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, runaway: Runaway | None = None
    ) -> Iterator[Completion]:
        beside = sum(request.seed for request in requests) if self.together else 0
        for request in random.Random(len(requests)).sample(list(requests), len(requests)):
            if self.left == 0:
                raise RunFailed("the engine is gone")
            self.left -= 1
            self.made += 1
            yield Completion(
                problem_id=request.problem_id, sample_index=request.sample_index, tokens=1,
                text=f"{request.seed} beside {beside}\u2028\n", finish_reason=FinishReason.STOP,
            )  # fmt: skip


def make_rows(completions: list[Completion]) -> list[dict[str, Any]]:
    return [
        one.model_dump(mode="json", include={"problem_id", "sample_index", "text"}) for one in completions
    ]


def run(path: Path, engine: ScriptedEngine, rounds: Sequence[Sequence[Request]] = (REQUESTS,)) -> list[Any]:
    shard = Shard(path, PROBLEMS)
    for requests in rounds:
        with Progress("sampling", total=len(requests), unit="sample") as progress:
            fill(shard, requests, engine, Sampling(), make_rows, progress)
        assert progress.done == len(requests)
    return list(shard.rows())


@pytest.mark.parametrize("together", [None, GROUP])
def test_every_request_has_its_row_in_order(tmp_path: Path, together: int | None) -> None:
    rows = run(tmp_path / "new" / "shard.jsonl", ScriptedEngine(together))
    assert [(row["problem_id"], row["sample_index"]) for row in rows] == [
        (request.problem_id, request.sample_index) for request in REQUESTS
    ]
    beside = [3, 3, 3, 12, 12, 12, 6] if together else [0] * 7
    assert [row["text"] for row in rows] == [
        f"{seed} beside {total}\u2028\n" for seed, total in enumerate(beside)
    ]
    assert rows[0].keys() == {"problem_id", "sample_index", "text"}, (
        "nothing of the shard's own is left on a row"
    )
    lines = (tmp_path / "new" / "shard.jsonl").read_bytes().split(b"\n")[:-1]
    numbers = [json.loads(line)["text"].split()[0] for line in lines]
    assert len(numbers) == 7 and (numbers == sorted(numbers)) is (together is not None), (
        "they came in another order"
    )


@pytest.mark.parametrize("together", [None, GROUP])
def test_a_kill_between_any_two_bytes_changes_nothing(
    tmp_path: Path, together: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = run(tmp_path / "whole.jsonl", ScriptedEngine(together))
    data = (tmp_path / "whole.jsonl").read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    path = tmp_path / "killed.jsonl"
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        whole = sum(end <= size for end in ends)
        kept = whole if together is None or whole == 7 else whole - whole % GROUP
        engine = ScriptedEngine(together)
        capsys.readouterr()
        assert run(path, engine) == rows
        assert engine.made == 7 - kept, "what is whole is not made again"
        torn = size - ([0, *ends][kept])
        assert (f"the last {torn} bytes" in capsys.readouterr().err) == (torn > 0)
        if together:
            assert path.read_bytes() == data


@pytest.mark.parametrize("together", [None, GROUP])
@pytest.mark.parametrize("dies_after", range(7))
def test_an_engine_that_is_lost_costs_what_it_had_not_finished(
    tmp_path: Path, together: int | None, dies_after: int
) -> None:
    rows = run(tmp_path / "whole.jsonl", ScriptedEngine(together))
    path = tmp_path / "shard.jsonl"
    with pytest.raises(RunFailed, match="gone"):
        run(path, ScriptedEngine(together, dies_after))
    held = Shard(path, PROBLEMS).held
    assert held == (dies_after if together is None else dies_after - dies_after % GROUP)
    engine = ScriptedEngine(together)
    assert run(path, engine) == rows and engine.made == 7 - held


@pytest.mark.parametrize("together", [None, GROUP])
def test_rounds_share_a_shard_and_are_cut_alike_after_a_kill(tmp_path: Path, together: int | None) -> None:
    """A later round may name requests of an earlier one again."""
    rounds = [REQUESTS[:5], REQUESTS[3:]]
    rows = run(tmp_path / "whole.jsonl", ScriptedEngine(together), rounds)
    assert len(rows) == 7
    if together:
        assert [row["text"].split()[2] for row in rows] == ["3", "3", "3", "7", "7", "11", "11"]
    for dies_after in range(8):
        path = tmp_path / f"{dies_after}.jsonl"
        try:
            run(path, ScriptedEngine(together, dies_after), rounds)
        except RunFailed:
            assert dies_after < 7
        assert run(path, ScriptedEngine(together), rounds) == rows


@pytest.mark.parametrize("together", [None, GROUP])
def test_a_full_disk_at_any_byte_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int | None
) -> None:
    rows = run(tmp_path / "whole.jsonl", ScriptedEngine(together))
    original = Shard.append
    for room in range(0, (tmp_path / "whole.jsonl").stat().st_size, 37):
        path = tmp_path / "full.jsonl"
        path.unlink(missing_ok=True)
        left = room

        def fills(self: Shard, rows: Any, *, together: bool = False) -> None:
            nonlocal left
            lines = [stream._line(row, together * (len(rows) - at)) for at, row in enumerate(rows, start=1)]
            whole = b"".join(lines)
            if len(whole) > left:
                with self.path.open("ab") as file:
                    file.write(whole[:left])
                raise OSError(errno.ENOSPC, "No space left on device")
            left -= len(whole)
            original(self, rows, together=together)

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(Shard, "append", fills)
            run(path, ScriptedEngine(together))
        assert run(path, ScriptedEngine(together)) == rows


def test_a_write_that_the_disk_refuses_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("distill.generate.stream.os.fsync", full)
        run(tmp_path / "shard.jsonl", ScriptedEngine(None))
    assert len(run(tmp_path / "shard.jsonl", ScriptedEngine(None))) == 7


@pytest.mark.parametrize("place", range(2, 400, 23))
def test_a_changed_byte_in_the_middle_is_named_and_ends_the_run(tmp_path: Path, place: int) -> None:
    path = tmp_path / "shard.jsonl"
    run(path, ScriptedEngine(None))
    data = bytearray(path.read_bytes())
    assert place < data.rindex(b"\n", 0, -1)
    data[place] = ord("x") if data[place] != ord("x") else ord("y")
    path.write_bytes(data)
    line = bytes(data[:place]).count(b"\n") + 1
    with pytest.raises(RunFailed, match=rf"shard\.jsonl, line {line}: its checksum is wrong"):
        Shard(path, PROBLEMS)
    assert path.read_bytes() == data, "nothing is repaired that no torn write explains"


def test_a_line_lost_from_a_group_ends_the_run(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    run(path, ScriptedEngine(GROUP))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    with pytest.raises(RunFailed, match="line 2: rows are missing"):
        Shard(path, PROBLEMS)


def test_a_row_that_changes_while_the_run_goes_on_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    run(path, ScriptedEngine(None))
    shard = Shard(path, PROBLEMS)
    path.write_bytes(path.read_bytes().replace(b"0 beside", b"1 beside"))
    with pytest.raises(RunFailed, match=r"byte \d+: the row there has changed"):
        list(shard.rows())


def test_rows_of_other_work_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    run(path, ScriptedEngine(None))
    with pytest.raises(RunFailed, match="of no problem of this work"):
        Shard(path, PROBLEMS[1:])
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(RunFailed, match="is there twice"):
        Shard(path, PROBLEMS)


def test_everybody_is_told_every_row_once(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    with pytest.raises(RunFailed):
        run(path, ScriptedEngine(None, dies_after=4))
    told: list[Any] = []
    shard = Shard(path, PROBLEMS, told.append)
    assert len(told) == 4
    with Progress("sampling", total=7, unit="sample") as progress:
        fill(shard, REQUESTS, ScriptedEngine(None), Sampling(), make_rows, progress)
    assert sorted(told, key=str) == sorted(shard.rows(), key=str) and len(told) == 7


def test_what_an_engine_could_not_complete_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(ScriptedEngine):
        def generate(self, *arguments: Any, **named: Any) -> Iterator[Completion]:
            for completion in super().generate(*arguments, **named):
                failed = {"finish_reason": FinishReason.ERROR, "error": f"500 for {completion.problem_id}"}
                yield completion.model_copy(update=failed if completion.problem_id == "p2" else {})

    run(tmp_path / "shard.jsonl", Failing(None))
    assert "2 requests could not be completed" in (told := capsys.readouterr().err) and "500 for p2" in told


def test_an_engine_that_answers_twice_spoils_no_shard(tmp_path: Path) -> None:
    class Twice(ScriptedEngine):
        def generate(self, *arguments: Any, **named: Any) -> Iterator[Completion]:
            for completion in super().generate(*arguments, **named):
                yield completion
                yield completion

    with pytest.raises(AssertionError, match="a sample came twice"):
        run(tmp_path / "shard.jsonl", Twice(None))
    assert len(run(tmp_path / "shard.jsonl", ScriptedEngine(None))) == 7


def test_no_requests_make_no_file_and_wake_no_engine(tmp_path: Path) -> None:
    for together in (None, GROUP):
        assert run(tmp_path / "shard.jsonl", ScriptedEngine(together, dies_after=0), [[]]) == []
    assert not (tmp_path / "shard.jsonl").exists()
    run(tmp_path / "shard.jsonl", ScriptedEngine(None))
    assert len(run(tmp_path / "shard.jsonl", ScriptedEngine(None, dies_after=0))) == 7


def test_a_lone_surrogate_and_a_number_that_json_cannot_say(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "shard.jsonl", PROBLEMS)
    shard.append([{"problem_id": "p1", "sample_index": 3, "text": "\ud800"}])
    with pytest.raises(ValueError, match="JSON"):
        shard.append([{"problem_id": "p0", "sample_index": 0, "reward": float("nan")}])
    assert [row["text"] for row in Shard(shard.path, PROBLEMS).rows()] == ["\ud800"]
    assert json.loads(shard.path.read_text())["sample_index"] == 3


def test_a_slow_engine_loses_no_finished_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended is on the disk soon, though the engine is still at work on the rest."""
    monkeypatch.setattr(stream, "SECONDS_BETWEEN_WRITES", 0.05)
    path = tmp_path / "shard.jsonl"
    seen: list[int] = []

    class Slow(ScriptedEngine):
        def generate(self, *arguments: Any, **named: Any) -> Iterator[Completion]:
            for completion in super().generate(*arguments, **named):
                yield completion
                for _ in range(100):
                    if path.exists() and path.read_bytes().count(b"\n") == self.made:
                        break
                    stream.time.sleep(0.02)
                seen.append(path.read_bytes().count(b"\n"))

    run(path, Slow(None))
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_requests_are_made_when_they_are_read() -> None:
    asked: list[str] = []

    class Chat:
        def prompt(self, text: str) -> Prompt:
            asked.append(text)
            return Prompt([len(text)], "<think>")

    problems = [Problem(id=f"p{n}", kind="math", problem="?" * (n + 1)) for n in range(3)]
    wanted = [(problems[0], range(0, 2)), (problems[2], range(4, 4)), (problems[1], range(2, 5))]
    requests = Requests(wanted, Chat(), 7, "Q: {problem}")  # type: ignore[arg-type]
    assert len(requests) == 5 and asked == []
    assert [(one.problem_id, one.sample_index) for one in requests] == [
        ("p0", 0), ("p0", 1), ("p1", 2), ("p1", 3), ("p1", 4),
    ]  # fmt: skip
    assert asked == ["Q: ?", "Q: ??"], "a prompt is read once for its samples"
    last = requests[-1]
    assert (last.prompt_ids, last.prefill, last.question) == ([5], "<think>", "Q: ??")
    assert last.seed == sample_seed(7, "p1", 4) and requests[3:] == [requests[3], requests[4]]
    with pytest.raises(IndexError):
        requests[5]
    assert list(Requests([], Chat(), 7, None)) == []  # type: ignore[arg-type]
