"""The chain: every kind of stage in order, what is done again after a change, and that no interruption shows.

All of it on the recipe of `tiny_recipe.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.chain import Chain, run_recipe
from distill.errors import UserError
from distill.fingerprints import fingerprints
from distill.order import stages_towards
from distill.recipe import Recipe
from distill.recipe_file import parse_recipe
from distill.runs import MetricsLog, RunFolder, finished_stages
from distill.shards import read_parquet

STAGES = ["warm", "zero", "harvest", "distil", "exam", "report"]


@pytest.fixture
def recipe(tiny_recipe_module: Any) -> Callable[..., Recipe]:
    return tiny_recipe_module.tiny_recipe


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of progress."""
    monkeypatch.setenv("DISTILL_QUIET", "1")


@pytest.fixture(scope="module")
def undisturbed(tiny_recipe_module: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test changes."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    run_recipe(tiny_recipe_module.tiny_recipe(), out)
    return out


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    """A finished run to play with."""
    return shutil.copytree(undisturbed, tmp_path / "run")


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if not key.startswith("seconds")}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def outcome(out: Path) -> dict[str, Any]:
    """Everything that a run leaves behind and that must not depend on how often it was stopped."""
    read: dict[str, Callable[[Path], Any]] = {
        "report/summary.json": lambda path: json.loads(path.read_text()),
        "models/*/model.safetensors": Path.read_bytes,
        "traces/*/traces.parquet": lambda path: list(read_parquet(path)),
        "traces/*/funnel.json": lambda path: json.loads(path.read_text()),
        "results/*/*/responses.jsonl": Path.read_text,
        "stages/*/metrics.jsonl": MetricsLog.read,
        "stages/*/followed.jsonl": MetricsLog.read,
    }
    found = {
        str(path.relative_to(out)): without_seconds(reader(path))
        for pattern, reader in read.items()
        for path in sorted(out.glob(pattern))
    }
    markers = finished_stages(out)
    found["counts"] = {name: markers[name]["counts"] for name in sorted(markers)}
    return found


def assert_same_outcome(out: Path, expected: Path) -> None:
    found, wanted = outcome(out), outcome(expected)
    assert found.keys() == wanted.keys()
    differ = [name for name in found if found[name] != wanted[name]]
    assert not differ, differ
    manifest = json.loads((out / "manifest.json").read_text())
    assert all("counts" in stage for stage in manifest["stages"].values()), (
        "the manifest tells of every stage"
    )
    leftovers = [path.name for path in out.rglob("*") if path.name.endswith(".tmp") or "shard" in path.name]
    assert not leftovers, leftovers


def done_by(chain: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What a run says of each stage: finished, starts, goes on."""
    capsys.readouterr()
    chain()
    said = {}
    for line in capsys.readouterr().err.splitlines():
        place, _, words = line.partition(": ")
        if "/" in place.partition(" ")[0]:
            said[place.partition(" ")[2]] = words.partition(" (")[0]
    return said


# -------------------------------------------------------------------------------- a whole run


def test_a_whole_run(undisturbed: Path) -> None:
    summary = json.loads((undisturbed / "report" / "summary.json").read_text())
    assert set(summary["models"]) == {"base", "teacher", "student"}
    assert {name: model["role"] for name, model in summary["models"].items()} == {
        "base": "base", "teacher": "teacher", "student": "student",
    }  # fmt: skip
    for model in summary["models"].values():
        suite = model["suites"]["chains"]
        assert suite["n"] == 4 and suite["k"] == 2 and 0 <= suite["pass@1"] <= 1
    assert list(summary["stages"]) == STAGES
    for folder in ("base", "teacher", "student"):
        assert (undisturbed / "models" / folder / "tokenizer.json").is_file()
    assert (undisturbed / "report" / "index.html").is_file()
    assert sum(1 for _ in read_parquet(undisturbed / "traces" / "verified" / "traces.parquet")) == 12
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    assert list(manifest["stages"]) == STAGES and manifest["precision"] in ("bf16", "float32")
    assert manifest["stages"]["warm"]["counts"]["checked"]["examples"] == 20, (
        "looked at before the first step"
    )


def test_every_stage_learns_something(undisturbed: Path) -> None:
    """The weights move, so that comparing them bit for bit says something."""
    weights = {
        name: (undisturbed / "models" / name / "model.safetensors").read_bytes()
        for name in ("blank", "base", "teacher", "student-blank", "student")
    }
    assert len(set(weights.values())) == 5


def test_the_seed_decides_everything(
    recipe: Callable[..., Recipe], undisturbed: Path, tmp_path: Path
) -> None:
    chosen = recipe().stages[:1]
    run_recipe(recipe("seed=1"), tmp_path / "other", recipe("seed=1").stages[:1])
    run_recipe(recipe(), tmp_path / "same", chosen)
    outs = (tmp_path / "same", undisturbed, tmp_path / "other")
    read = [(out / "models/base/model.safetensors").read_bytes() for out in outs]
    assert read[0] == read[1] != read[2]


def test_a_model_costs_each_stage_once(recipe: Callable[..., Recipe], undisturbed: Path) -> None:
    """Two harvests of one teacher: the teacher was trained once."""
    plain = recipe()
    harvest = plain.stage("harvest").model_copy(update={"name": "harvest-2", "makes": "more"})
    distil = plain.stage("distil").model_copy(update={"traces": {"verified": 1.0, "more": 1.0}})
    stages = [*plain.stages[:3], harvest, distil, *plain.stages[4:]]
    counts = {name: marker["counts"] for name, marker in finished_stages(undisturbed).items()}
    counts["harvest-2"] = counts["harvest"]

    class Finished:
        def finished(self, stage: str) -> dict[str, Any]:
            return {"counts": counts[stage]}

    run: Any = Finished()
    chain = Chain(plain.model_copy(update={"stages": stages}), run, {}, None)  # type: ignore[arg-type]
    cost = chain._cost("student")
    tokens = {
        name: (count.get("generated_tokens", 0), count.get("trained_tokens", 0))
        for name, count in counts.items()
    }
    assert (cost["generated_tokens"], cost["trained_tokens"]) == tokens["distil"]
    behind = [tokens[name] for name in ("distil", "harvest", "harvest-2", "zero")]
    assert tuple(cost["with_teacher"].values()) == tuple(map(sum, zip(*behind, strict=True)))
    assert chain._cost("base") == {
        "generated_tokens": 0, "trained_tokens": 0, "with_teacher": {"generated_tokens": 0, "trained_tokens": 0},
    }  # fmt: skip


# -------------------------------------------------------------------------------- what is done again


def test_a_finished_run_does_nothing(
    recipe: Callable[..., Recipe], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    said = done_by(lambda: run_recipe(recipe(), finished), capsys)
    assert said == dict.fromkeys(STAGES, "finished")
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert {path.name for path in after if after[path] != before.get(path)} <= {"recipe.yaml", ".lock"}


def test_a_finished_run_loads_nothing_heavy(tiny_recipe_module: Any, finished: Path, tmp_path: Path) -> None:
    file = tiny_recipe_module.write_recipe(tmp_path / "tiny.yaml")
    program = (
        "import sys\n"
        "from distill.cli import main\n"
        f"code = main(['run', {str(file)!r}, '--out', {str(finished)!r}])\n"
        "print(code, sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    )
    began = os.times()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    ended = os.times()
    assert ended.children_user + ended.children_system - began.children_user - began.children_system < 3


@pytest.mark.parametrize(
    ("override", "first_due"),
    [
        ("stages.report.name=compare", "compare"),
        ("stages.exam.samples=1", "exam"),
        ("stages.distil.learning_rate=1e-4", "distil"),
        ("stages.harvest.collect.samples=1", "harvest"),
        ("stages.zero.steps=2", "zero"),
        ("problems.practice.world.count=5", "zero"),
        ("traces.rough.world.wrong_steps=0.3", "warm"),
        ("models.blank.build.hidden=8", "warm"),
        ("seed=1", "warm"),
    ],
)
def test_a_change_makes_due_what_stands_on_it(
    recipe: Callable[..., Recipe], undisturbed: Path, override: str, first_due: str
) -> None:
    from distill.fingerprints import fingerprints

    changed = recipe(override)
    markers, prints = finished_stages(undisturbed), fingerprints(changed)
    due = [
        stage.name
        for stage in changed.stages
        if markers.get(stage.name, {}).get("fingerprint") != prints[stage.name]
    ]
    names = [stage.name for stage in changed.stages]
    independent = {"distil"} if "traces" in override and first_due == "zero" else set()
    assert due == [name for name in names[names.index(first_due) :] if name not in independent]


def test_a_changed_stage_is_done_again_and_the_others_are_not(
    recipe: Callable[..., Recipe], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (finished / "models/teacher/model.safetensors").stat().st_mtime_ns
    said = done_by(lambda: run_recipe(recipe("stages.distil.learning_rate=1e-4"), finished), capsys)
    assert said == {
        **dict.fromkeys(STAGES[:3], "finished"),
        **dict.fromkeys(STAGES[3:], "starts"),
    }
    assert (finished / "models/teacher/model.safetensors").stat().st_mtime_ns == weights


def test_what_a_finished_stage_made_must_still_be_there_as_it_was(
    recipe: Callable[..., Recipe], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = finished / "models/student/model.safetensors"
    right = weights.read_bytes()
    for spoil in (lambda: shutil.rmtree(weights.parent), lambda: weights.write_bytes(right[:-4] + b"0000")):
        spoil()
        said = done_by(lambda: run_recipe(recipe(), finished), capsys)
        assert said == {**dict.fromkeys(STAGES, "finished"), "distil": "goes on"}, "from its last checkpoint"
        assert weights.read_bytes() == right


def test_a_given_model_with_other_weights_is_another_model(
    tiny_recipe_module: Any, finished: Path, tmp_path: Path
) -> None:
    given = shutil.copytree(finished / "models/base", tmp_path / "given")
    raw = tiny_recipe_module.raw_recipe()
    raw["models"]["given"] = {"path": str(given)}
    before = fingerprints(parse_recipe(raw))["models.given"]
    weights = given / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"0000")
    assert fingerprints(parse_recipe(raw))["models.given"] != before


def test_a_stage_put_in_leaves_what_does_not_stand_on_it(
    tiny_recipe_module: Any, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tiny_recipe_module.raw_recipe()
    raw["stages"].insert(1, {**raw["stages"][0], "name": "warm-2", "makes": "base-2", "epochs": 0.5})
    changed = parse_recipe(raw)
    said = done_by(lambda: run_recipe(changed, finished, [changed.stage("report")]), capsys)
    assert said == {"report": "finished"}
    said = done_by(lambda: run_recipe(changed, finished), capsys)
    assert said == {**dict.fromkeys(STAGES, "finished"), "warm-2": "starts"}


# -------------------------------------------------------------------------------- parts of a run


def test_a_part_needs_what_it_stands_on(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    plain = recipe()
    for name, missing in (("zero", "warm"), ("harvest", "zero"), ("exam", "warm"), ("report", "exam")):
        with pytest.raises(UserError, match=f"stands on stage `{missing}`, which is not finished") as caught:
            run_recipe(plain, tmp_path / "run", [plain.stage(name)])
        assert caught.value.key == f"stages.{name}"
    assert not (tmp_path / "run").exists(), "nothing was written"


def test_a_part_whose_ground_has_changed_is_refused(recipe: Callable[..., Recipe], finished: Path) -> None:
    changed = recipe("stages.zero.steps=2")
    with pytest.raises(UserError, match="stands on stage `zero`, which is out of date"):
        run_recipe(changed, finished, [changed.stage("harvest")])
    assert json.loads((finished / "report" / "summary.json").read_text())


def test_parts_add_up_to_the_whole(recipe: Callable[..., Recipe], undisturbed: Path, tmp_path: Path) -> None:
    plain = recipe()
    for part in ([plain.stage("warm")], plain.stages[1:3], plain.stages[3:]):
        run_recipe(plain, tmp_path / "run", part)
    assert_same_outcome(tmp_path / "run", undisturbed)


def test_stages_towards_a_role(recipe: Callable[..., Recipe]) -> None:
    plain = recipe()
    assert [stage.name for stage in stages_towards(plain, "teacher")] == ["warm", "zero"]
    assert [stage.name for stage in stages_towards(plain, "student")] == ["distil"]
    with pytest.raises(UserError, match="no stage makes a model of role baseline"):
        stages_towards(plain, "baseline")


# -------------------------------------------------------------------------------- interruptions

#: Where a run is stopped: function, at which call of it, before or after it did its work.
INTERRUPTIONS = [
    ("distill.runs.RunFolder.begin", 1, "after"),
    ("distill.training.update.Updater.step", 1, "before"),
    ("distill.student.sft.save_checkpoint", 1, "after"),
    ("distill.training.update.Updater.step", 2, "after"),
    ("distill.models.save", 1, "before"),
    ("distill.runs.RunFolder.finish", 1, "before"),
    ("distill.runs.RunFolder.finish", 1, "after"),
    ("teacher.rollout.Sampler.roll_out", 2, "after"),
    ("teacher.grpo.save_checkpoint", 1, "before"),
    ("teacher.grpo.MetricsLog.append", 2, "after"),
    ("teacher.grpo.save_checkpoint", 1, "after"),
    ("teacher.rollout.Sampler.roll_out", 1, "before"),
    ("distill.models.save", 1, "after"),
    ("distill.generate.stream.Shard.append", 2, "before"),
    ("distill.generate.stream.Shard.append", 1, "after"),
    ("teacher.harvest.write_trace_set", 1, "before"),
    ("teacher.harvest.write_trace_set", 1, "after"),
    ("distill.runs.RunFolder.finish", 1, "before"),
    ("distill.student.sft.save_checkpoint", 1, "before"),
    ("distill.models.save", 1, "after"),
    ("distill.generate.stream.Shard.append", 3, "after"),
    ("eval.runner.write_json_atomic", 2, "before"),
    ("distill.runs.RunFolder.finish", 1, "before"),
    ("distill.report.write_report", 1, "before"),
    ("distill.report.write_report", 1, "after"),
    ("distill.runs.RunFolder.finish", 1, "after"),
]


def interrupt(patch: pytest.MonkeyPatch, target: str, call: int, when: str) -> None:
    place, _, name = target.rpartition(".")
    try:
        owner = importlib.import_module(place)
    except ModuleNotFoundError:
        module, _, kind = place.rpartition(".")
        owner = getattr(importlib.import_module(module), kind)
    original, calls = getattr(owner, name), 0

    def stops(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            raise KeyboardInterrupt
        result = original(*args, **kwargs)
        if calls == call:
            raise KeyboardInterrupt
        return result

    patch.setattr(owner, name, stops)


def test_no_interruption_shows(
    recipe: Callable[..., Recipe],
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One run, stopped again and again in every stage, ends as the undisturbed one."""
    out = tmp_path / "run"
    stopped_in: set[str] = set()
    for target, call, when in INTERRUPTIONS:
        with monkeypatch.context() as patch:
            interrupt(patch, target, call, when)
            with pytest.raises(KeyboardInterrupt):
                run_recipe(recipe(), out)
                pytest.fail(f"nothing stopped at {when} call {call} of {target}")
        last = max(out.glob("stages/*/started.json"))
        stopped_in.add(last.parent.name.partition("-")[2])
    assert stopped_in >= set(STAGES), f"a stage was never stopped: {set(STAGES) - stopped_in}"
    run_recipe(recipe(), out)
    assert_same_outcome(out, undisturbed)


def test_a_torn_line_is_no_matter(
    recipe: Callable[..., Recipe], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill in the middle of a write leaves."""
    out = tmp_path / "run"
    for target, call, torn in (
        ("teacher.rollout.Sampler.roll_out", 3, "stages/*-zero/metrics.jsonl"),
        ("distill.generate.stream.Shard.append", 2, "traces/verified/shard-000.jsonl"),
        ("distill.generate.stream.Shard.append", 1, "results/base/chains/shard-000.jsonl"),
    ):
        with monkeypatch.context() as patch:
            interrupt(patch, target, call, "after")
            with pytest.raises(KeyboardInterrupt):
                run_recipe(recipe(), out)
        (file,) = out.glob(torn)
        with file.open("ab") as handle:
            handle.write(file.read_bytes().splitlines()[0][:20])
    run_recipe(recipe(), out)
    assert_same_outcome(out, undisturbed)


def test_a_stage_marked_but_not_in_the_manifest_gets_there(
    recipe: Callable[..., Recipe], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "write_manifest", stop)
        run_recipe(recipe("stages.exam.samples=1"), finished)
    run_recipe(recipe("stages.exam.samples=1"), finished, [])
    run_recipe(recipe("stages.exam.samples=1"), finished)
    manifest = json.loads((finished / "manifest.json").read_text())
    markers = finished_stages(finished)
    assert {name: stage["finished_at"] for name, stage in manifest["stages"].items()} == {
        name: markers[name]["finished_at"] for name in STAGES
    }


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_no_kill_shows(tiny_recipe_module: Any, undisturbed: Path, tmp_path: Path, stage: str) -> None:
    """`kill -9` of the real command as a stage starts, then at random moments as it goes on."""
    out, rng = tmp_path / "run", random.Random(stage)
    file = tiny_recipe_module.write_recipe(tmp_path / "tiny.yaml")
    command = [sys.executable, "-m", "distill.cli", "run", str(file), "--out", str(out)]
    killed = 0
    for delay in (0, rng.uniform(0, 0.03), rng.uniform(0, 0.1)):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if f" {stage}: starts" in line or f" {stage}: goes on" in line:
                    time.sleep(delay)
                    process.kill()
                    killed += 1
                    break
            process.stderr.read()
        assert process.returncode in (0, -signal.SIGKILL)
    assert killed, "the stage is reached"
    assert subprocess.run(command, check=False).returncode == 0
    assert_same_outcome(out, undisturbed)


def test_what_a_stage_reads_counts_by_its_content(tiny_recipe_module: Any, tmp_path: Path) -> None:
    """Another row in a file of problems, traces or a suite, or another template, makes due what reads it."""
    files = {name: tmp_path / f"{name}.jsonl" for name in ("problems", "traces", "suite", "template")}
    for file in files.values():
        file.write_text("{}\n")
    raw = tiny_recipe_module.raw_recipe()
    raw["problems"]["practice"] = {"path": str(files["problems"])}
    raw["traces"]["rough"] = {"path": str(files["traces"])}
    raw["suites"]["chains"] = {"path": str(files["suite"])}
    raw["models"]["student-blank"]["chat_template"] = str(files["template"])
    changed = {}
    for name, file in files.items():
        before = fingerprints(parse_recipe(raw))
        file.write_text("{}\n{}\n")
        after = fingerprints(parse_recipe(raw))
        changed[name] = {stage for stage in STAGES if before[stage] != after[stage]}
    assert changed == {
        "problems": set(STAGES[1:]),
        "traces": set(STAGES),
        "suite": {"exam", "report"},
        "template": {"distil", "exam", "report"},
    }
