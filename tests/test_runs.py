"""The run folder: whose it is, what is finished, and what a kill leaves behind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill import runs
from distill.errors import RunFailed, UserError
from distill.places import new_folder
from distill.recipe import Recipe
from distill.recipe_file import parse_recipe
from distill.recipe_parts import Sampling
from distill.runs import (
    MetricsLog,
    Progress,
    RunFolder,
    fingerprint,
    finished_stages,
    hash_path,
    write_json_atomic,
)


def recipe(name: str = "small", stages: tuple[str, ...] = ("warm", "distil"), **changes: object) -> Recipe:
    rows: list[dict[str, Any]] = [
        {
            "name": stage,
            "kind": "sft",
            "model": "base",
            "traces": {"given": 1},
            "makes": f"m-{stage}",
            **changes,
        }
        for stage in stages
    ]
    return parse_recipe(
        {"name": name, "models": {"base": {"path": "x"}}, "traces": {"given": {"path": "t"}}, "stages": rows}
    )


class Clock:
    """A clock that only moves when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(runs.time, "monotonic", clock.monotonic)
    return clock


# -------------------------------------------------------------------------------- whose folder it is


def test_a_new_folder_holds_the_resolved_recipe_and_is_found_again(tmp_path: Path) -> None:
    for epochs in (1, 2):
        with RunFolder.open(tmp_path / "runs" / "small", recipe(epochs=epochs)) as run:
            assert run.path == tmp_path / "runs" / "small"
        found = yaml.safe_load((run.path / "recipe.yaml").read_text())
        assert found["stages"][0]["epochs"] == epochs
        assert found["stages"][0]["max_length"] == 32768


def test_where_things_lie(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, recipe()) as run:
        assert run.stage_folder("distil") == tmp_path / "stages" / "02-distil"
        assert run.model_folder("m") == tmp_path / "models" / "m"
        assert run.traces_folder("t") == tmp_path / "traces" / "t"
        assert run.results_folder("m", "s") == tmp_path / "results" / "m" / "s"
        assert run.report_folder == tmp_path / "report"


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("recipe.yaml", "name: other\nstages: []", "run of another recipe, 'other', not of 'small'"),
        ("recipe.yaml", "just text", "run of another recipe, None"),
        ("recipe.yaml", "name: [", "is no YAML"),
        ("thesis.tex", "", r"holds other files \(thesis.tex\)"),
    ],
)
def test_a_folder_of_something_else_is_refused_untouched(
    tmp_path: Path, file: str, text: str, words: str
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=words):
        RunFolder.open(tmp_path, recipe())
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [(file, text)]


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(UserError, match="is a file"):
        RunFolder.open(tmp_path / "f", recipe())


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("f/x", "stands under .*f, which is no folder"),
        ("new/" + "x" * 300, "cannot be written"),
        ("f", "is a file"),
    ],
)
def test_a_place_that_cannot_be_a_folder_is_refused_and_nothing_stays(
    tmp_path: Path, place: str, words: str
) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(UserError, match=words):
        RunFolder.open(tmp_path / place, recipe())
    with pytest.raises(UserError, match=words), new_folder(tmp_path / place):
        pytest.fail("there is no such folder")
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_is_no_mistake_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space"):
        RunFolder.open(tmp_path / "new", recipe())


def test_a_folder_of_a_block_that_breaks_goes_unless_something_is_in_it(tmp_path: Path) -> None:
    for name in ("empty", "used"):
        with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / name / "set"):
            if name == "used":
                (tmp_path / name / "set" / "row").touch()
            raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["used"]
    assert (tmp_path / "used" / "set" / "row").exists()


def test_a_folder_killed_before_its_recipe_was_written_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("123")
    (tmp_path / ".recipe.yaml.tmp").write_text("name: sm")
    RunFolder.open(tmp_path, recipe()).close()
    assert sorted(os.listdir(tmp_path)) == [".lock", "recipe.yaml"]


HOLD = """
import os, sys
from pathlib import Path
from distill.recipe_file import load_recipe
from distill.runs import RunFolder
folder = Path(sys.argv[1])
run = RunFolder.open(folder, load_recipe(folder / "recipe.yaml"))
if os.fork() == 0:  # a worker that outlives its parent must not keep the folder
    sys.stdin.read()
    os._exit(0)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, recipe()).close()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(
            UserError, match=rf"another process works in this run folder \(pid {holder.pid}\)"
        ):
            RunFolder.open(tmp_path, recipe())
        holder.kill()
        holder.wait()
        RunFolder.open(tmp_path, recipe()).close()  # its worker still lives


# -------------------------------------------------------------------------------- stages


def test_a_stage_is_finished_when_it_says_so(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, recipe()) as run:
        assert run.finished("warm") is None
        run.begin("warm", "f1")
        assert run.finished("warm") is None
        run.finish("warm", {"tokens": 7}, inputs={"given": "aa"}, outputs={"m-warm": "bb"})
        marker = run.finished("warm")
    assert marker is not None and marker.pop("seconds") >= 0 and marker.pop("finished_at")
    assert marker == {
        "fingerprint": "f1",
        "counts": {"tokens": 7},
        "inputs": {"given": "aa"},
        "outputs": {"m-warm": "bb"},
    }


def test_work_of_the_same_fingerprint_continues_and_of_another_is_deleted(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, recipe()) as run:
        model, shard = run.model_folder("m-warm"), run.path / "shard.jsonl"
        assert run.begin("warm", "f1", makes=(model, shard)) is False
        work = run.stage_folder("warm") / "checkpoints" / "3"
        for file in (work, model / "weights", shard):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        assert run.begin("warm", "f1", makes=(model, shard)) is True
        assert work.exists() and model.exists() and shard.exists()
        run.finish("warm", {})
        assert run.begin("warm", "f2", makes=(model, shard)) is False
        assert not (work.exists() or model.exists() or shard.exists() or run.finished("warm"))


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "{}", '{"fingerprint": 3}', "\udcff"])
def test_a_marker_that_is_none_of_ours_is_named(tmp_path: Path, text: str) -> None:
    with RunFolder.open(tmp_path / "run", recipe()) as run:
        folder = run.stage_folder("warm")
        folder.mkdir(parents=True)
        for name in ("started.json", "finished.json"):
            (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        looks: list[Any] = [lambda: run.begin("warm", "f"), lambda: run.finished("warm")]
        for look in (*looks, lambda: finished_stages(tmp_path / "run")):
            with pytest.raises(RunFailed, match="is not what was written there") as caught:
                look()
            assert "Remove it" in caught.value.then


def test_work_that_never_began_properly_is_deleted(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, recipe()) as run:
        litter = run.stage_folder("warm") / "checkpoints"
        litter.mkdir(parents=True)
        assert run.begin("warm", "f1") is False
        assert not litter.exists()


def test_seconds_add_up_over_attempts_and_leave_out_what_a_kill_destroyed(
    tmp_path: Path, clock: Clock
) -> None:
    with RunFolder.open(tmp_path, recipe()) as run:
        run.begin("warm", "f1")
        clock.now += 10
        run.tick("warm")
        clock.now += 5  # lost: killed before the next checkpoint
    clock.now += 1000
    with RunFolder.open(tmp_path, recipe()) as run:
        assert run.begin("warm", "f1")
        clock.now += 7
        run.finish("warm", {})
        assert (run.finished("warm") or {})["seconds"] == 17
        run.begin("warm", "f2")
        clock.now += 1
        run.finish("warm", {})
        assert (run.finished("warm") or {})["seconds"] == 1


def test_a_stage_put_in_before_others_does_not_lose_their_work(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, recipe(stages=("b", "c-d"))) as run:
        for stage in ("b", "c-d"):
            run.begin(stage, stage)
            run.finish(stage, {})
    with RunFolder.open(tmp_path, recipe(stages=("a", "b", "c-d"))) as run:
        assert sorted(os.listdir(tmp_path / "stages")) == ["02-b", "03-c-d"]
        assert [(run.finished(stage) or {}).get("fingerprint") for stage in ("a", "b", "c-d")] == [
            None,
            "b",
            "c-d",
        ]


def test_the_manifest_says_what_the_run_ran_with(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, recipe()) as run:
        run.begin("warm", "f1")
        run.finish("warm", {"tokens": 7}, outputs={"m-warm": "bb"})
        run.write_manifest("cpu", "float32")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["device"], manifest["precision"], manifest["seed"]) == ("cpu", "float32", 0)
    assert manifest["versions"]["torch"].startswith("2.")
    assert manifest["stages"]["warm"]["counts"] == {"tokens": 7}
    assert manifest["stages"]["warm"]["outputs"] == {"m-warm": "bb"}
    assert manifest["stages"]["distil"] == {"kind": "sft"}


# -------------------------------------------------------------------------------- hashes and files


def test_a_fingerprint_depends_on_values_and_not_on_their_order() -> None:
    assert fingerprint({"a": 1, "b": Sampling()}) == fingerprint({"b": Sampling(), "a": 1})
    others = [
        fingerprint({"a": 1}),
        fingerprint({"a": 2}),
        fingerprint({"a": "1"}),
        fingerprint([1]),
        fingerprint(1, 2),
    ]
    assert len({*others, fingerprint(Sampling()), fingerprint(Sampling(top_p=0.5))}) == 7
    with pytest.raises(TypeError, match="object"):
        fingerprint(object())


def test_a_hash_of_a_folder_sees_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("1")
    seen = [hash_path(tmp_path), hash_path(tmp_path / "sub" / "a")]
    (tmp_path / "sub" / "a").write_text("2")
    seen.append(hash_path(tmp_path))
    (tmp_path / "sub" / "a").rename(tmp_path / "a")
    seen.append(hash_path(tmp_path))
    assert len(set(seen)) == 4
    assert hash_path(tmp_path) == seen[-1]


def test_json_that_cannot_be_said_leaves_the_old_file(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomic(tmp_path / "a.json", {"x": float("inf")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


# -------------------------------------------------------------------------------- metrics and progress


def test_a_resumed_log_equals_an_undisturbed_one(tmp_path: Path) -> None:
    def write(log: MetricsLog, first: int, last: int) -> None:
        for step in range(first, last + 1):
            log.append({"step": step, "reward": step / 3, "loss": float("nan")})

    whole, killed = MetricsLog(tmp_path / "whole.jsonl"), MetricsLog(tmp_path / "stages" / "killed.jsonl")
    write(whole, 1, 6)
    write(killed, 1, 5)
    with killed.path.open("a") as file:
        file.write('{"step": 6, "rew')
    killed.rewind(3)
    write(killed, 4, 6)
    assert killed.path.read_bytes() == whole.path.read_bytes()
    assert MetricsLog.read(killed.path)[5] == {"step": 6, "reward": 2.0, "loss": None}


def test_a_log_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "none.jsonl")
    log.rewind(0)
    assert MetricsLog.read(log.path) == []


def test_progress_is_plain_lines_at_intervals_when_nobody_watches(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTILL_QUIET", raising=False)
    with Progress("zero: GRPO", total=150, unit="step") as progress:
        progress.skip(50)
        for _ in range(100):
            clock.now += 1.5
            progress.advance(1, reward=0.714)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "zero: GRPO 57/150 steps, 1.5 s each, 2:20 left, reward 0.714"
    assert lines[-1] == "zero: GRPO 150/150 steps, 1.5 s each, took 2:30, reward 0.714"
    assert len(lines) == 15


def test_progress_can_be_silenced_and_says_nothing_of_a_failure(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILL_QUIET", "1")
    with Progress("quiet", total=1) as progress:
        clock.now += 99
        progress.advance()
    monkeypatch.delenv("DISTILL_QUIET")
    with pytest.raises(KeyboardInterrupt), Progress("broken", total=9) as progress:
        progress.advance()
        raise KeyboardInterrupt
    assert capsys.readouterr() == ("", "")


def test_progress_is_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTILL_QUIET", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("zero: GRPO", total=4) as progress:
        progress.skip(2)
        progress.advance(2, reward=0.714)
    out, err = capsys.readouterr()
    assert out == ""
    assert "zero: GRPO" in err and "4/4" in err and "reward=0.714" in err


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0:00"), (99, "1:39"), (7299, "2:01:39")])
def test_durations_are_read_at_a_glance(seconds: float, words: str) -> None:
    assert runs._duration(seconds) == words
