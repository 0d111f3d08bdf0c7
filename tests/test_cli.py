"""The command line: every command, its exit codes, its JSON, and one clear error for each bad input."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.cli import main

Capture = pytest.CaptureFixture[str]
Finished = tuple[str, str]  # a recipe file and its run folder

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written without `--out` lands in the test's own folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("DISTILL_QUIET", "1")


@pytest.fixture
def recipe_file(tiny_recipe_module: Any, tmp_path: Path) -> str:
    return str(tiny_recipe_module.write_recipe(tmp_path / "tiny.yaml"))


@pytest.fixture(scope="module")
def finished(tiny_recipe_module: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A recipe file and its finished run; no test changes them."""
    folder = tmp_path_factory.mktemp("finished")
    file = tiny_recipe_module.write_recipe(folder / "tiny.yaml")
    assert main(["run", str(file), "--out", str(folder / "run")]) == 0
    return str(file), str(folder / "run")


def in_json(capsys: Capture, *arguments: str) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# -------------------------------------------------------------------------------- start


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from distill.cli import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    print(sorted({'torch', 'pydantic', 'numpy', 'yaml', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CHECKOUT)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("run", "teacher", "student", "eval", "compare", "traces", "ask", "recipes"):
        assert f"    {command} " in done.stdout


@pytest.mark.slow
def test_help_answers_at_once() -> None:
    def seconds() -> float:
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "distill.cli", "--help"], cwd=CHECKOUT, check=True, capture_output=True
        )
        return time.monotonic() - began

    assert min(seconds() for _ in range(3)) < 0.5


def test_the_version_is_told(capsys: Capture) -> None:
    from distill import __version__

    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out == f"distill {__version__}\n"


def test_unknown_commands_and_missing_ones_are_mistakes(capsys: Capture) -> None:
    for arguments in ([], ["rum"], ["run"], ["teacher"], ["run", "x", "--only", "a", "--from", "b"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_a_stranger_of_our_packages_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "eval.py").write_text("")
    program = "import sys; sys.path.insert(0, sys.argv[1]); from distill.cli import main; sys.exit(main(['recipes']))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and str(tmp_path / "eval.py") in done.stderr


# -------------------------------------------------------------------------------- every command


def test_run_tells_the_report(finished: Finished, capsys: Capture) -> None:
    file, out = finished
    assert main(["run", file, "--out", out]) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}/report/index.html\n" and "6/6 report: finished" in told.err
    assert in_json(capsys, "run", file, "--out", out) == {"run": out, "report": f"{out}/report/index.html"}


def test_a_run_goes_to_runs_by_default(recipe_file: str, capsys: Capture) -> None:
    assert main(["run", recipe_file, "--only", "warm"]) == 0
    assert capsys.readouterr().out == "runs/tiny\n"
    assert Path("runs/tiny/models/base/config.json").is_file()


def test_parts_of_a_run(recipe_file: str, tmp_path: Path, capsys: Capture) -> None:
    out = str(tmp_path / "run")
    assert main(["teacher", "train", recipe_file, "--out", out]) == 0
    assert main(["teacher", "sample", recipe_file, "--out", out]) == 0
    assert "verified:" in capsys.readouterr().out
    assert (
        in_json(capsys, "teacher", "sample", recipe_file, "--out", out)["verified"]["input"]["traces"] == 12
    )
    assert main(["student", "train", recipe_file, "--out", out]) == 0
    rows = in_json(capsys, "eval", recipe_file, "--out", out)
    assert [row["model"] for row in rows] == ["base", "teacher", "student"]
    capsys.readouterr()
    assert main(["run", recipe_file, "--out", out, "--from", "exam"]) == 0
    told = capsys.readouterr()
    assert "5/6 exam: finished" in told.err and "1/6" not in told.err
    assert told.out.endswith("index.html\n")


def test_overrides_reach_the_run(finished: Finished, capsys: Capture, tmp_path: Path) -> None:
    file, out = finished
    copy = shutil.copytree(out, tmp_path / "run")
    (row, *_) = in_json(
        capsys,
        "eval",
        file,
        "--out",
        str(copy),
        "--set",
        "stages.exam.samples=1",
        "--set",
        "stages.exam.models=[base]",
    )
    assert row["k"] == 1


def test_eval_of_any_model(finished: Finished, capsys: Capture, tmp_path: Path) -> None:
    model = f"{finished[1]}/models/student"
    arguments = [
        "--model",
        model,
        "--suite",
        "chains",
        "--set",
        "suites.chains.limit=2",
        "--out",
        str(tmp_path / "e"),
    ]
    (row,) = in_json(capsys, "eval", *arguments)
    assert (row["model"], row["suite"], row["n"], row["k"]) == ("student", "chains", 2, 4)
    assert main(["eval", *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["student", "chains"]


def test_compare(finished: Finished, capsys: Capture) -> None:
    found = in_json(capsys, "compare", finished[1])
    assert {row["suite"] for row in found["comparisons"]} == {"chains"}
    assert main(["compare", f"{finished[1]}/results/teacher", f"{finished[1]}/results/base"]) == 0
    assert "4 problems, k = 2" in capsys.readouterr().out


def test_traces_import(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "given.jsonl"
    rows = [
        {"q": "1+1", "r": "<think>t</think>\\boxed{2}", "s": "so \\boxed{2}"},
        {"q": "1+2", "r": "<think>t</think>\\boxed{2}", "s": "so \\boxed{3}"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["traces", "import", str(file), "--map", "problem=q,response=r,reference=s:boxed"]
    funnel = in_json(capsys, *arguments, "--out", str(tmp_path / "set"))
    assert (funnel["input"]["traces"], funnel["kept"]["traces"]) == (2, 1)
    loose = in_json(capsys, *arguments, "--out", str(tmp_path / "all"), "--filter", "verified=false")
    assert loose["kept"]["traces"] == 2
    assert main([*arguments, "--out", str(tmp_path / "set")]) == 2, "a set is never written over"
    for out in (str(file), f"{file}/set", "/proc/none"):
        capsys.readouterr()
        assert main([*arguments, "--out", out]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: --out = {out!r}: ") and "remedy: " in told, told
    tags = ["--map", "problem=q,response=r,reference=s:boxed,level=q"]
    assert main([*arguments, *tags, "--out", str(tmp_path / "tagged")]) == 0, "other names are tags"


def test_evaluations_without_roles_are_compared_each_with_each(
    finished: Finished, tmp_path: Path, capsys: Capture
) -> None:
    models = [
        word
        for name in ("base", "teacher", "student")
        for word in ("--model", f"{finished[1]}/models/{name}")
    ]
    sampling = ["--set", "stages.exam.samples=1", "--set", "suites.chains.limit=4"]
    assert main(["eval", *models, "--suite", "chains", *sampling, "--out", str(tmp_path / "e")]) == 0
    capsys.readouterr()
    told = in_json(capsys, "compare", str(tmp_path / "e"))
    assert [(row["a"], row["b"]) for row in told["comparisons"]] == [
        ("base", "student"),
        ("base", "teacher"),
        ("student", "teacher"),
    ]


def test_one_model_in_two_runs_is_told_apart(finished: Finished, tmp_path: Path, capsys: Capture) -> None:
    other = shutil.copytree(finished[1], tmp_path / "x2")
    told = in_json(capsys, "compare", f"{finished[1]}/results/base", f"{other}/results/base")
    assert [(row["a"], row["b"]) for row in told["comparisons"]] == [("run/base", "x2/base")]
    assert told["comparisons"][0]["difference"] == 0 and told["gap_closed"] == []
    told = in_json(capsys, "compare", finished[1], str(other))
    pairs = [(row["a"], row["b"]) for row in told["comparisons"]]
    assert {("run/student", "run/base"), ("x2/student", "x2/base"), ("run/student", "x2/student")} <= set(
        pairs
    )
    assert ("run/student", "x2/base") not in pairs, "each run has its own base"


def test_recipes(capsys: Capture) -> None:
    shipped = in_json(capsys, "recipes")
    assert "quickstart" in shipped and shipped["quickstart"]["stages"]
    assert main(["recipes"]) == 0 and "quickstart" in capsys.readouterr().out


# -------------------------------------------------------------------------------- bad input


def spoil_model(tmp_path: Path, finished: Finished, spoil: Callable[[Path], None]) -> str:
    folder = shutil.copytree(Path(finished[1]) / "models" / "base", tmp_path / "spoilt")
    spoil(folder)
    return str(folder)


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def without_eos(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
    }  # Qwen2's tokenizer invents an EOS
    (folder / "config.json").write_text(json.dumps(config))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": None}))


MISTAKES: dict[str, tuple[list[str], str]] = {
    "unknown key": (["stages.zero.learning_rat=1"], "did you mean `learning_rate`"),
    "wrong type": (["stages.zero.steps=many"], "stages.zero.steps"),
    "missing problem file": (["problems.practice={path: none.jsonl}"], "no such file"),
    "missing trace file": (["traces.rough={path: none.jsonl}"], "no such file"),
    "too many traces": (["traces.rough.world.count=20000"], "has only about"),
    "missing suite file": (["suites.chains={path: none.jsonl}"], "no such file"),
    "missing model": (["models.blank={path: ./none}"], "models.blank.path"),
    "missing template": (["models.blank.chat_template=none.jinja"], "models.blank.chat_template"),
    "empty problem file": (["problems.practice={path: empty.jsonl}"], "holds no rows"),
    "row without reference": (["problems.practice={path: bare.jsonl}"], "row 2: has no reference"),
    "unknown suite": (["stages.exam.suites=[chain]"], "chains"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_clear_error_and_nothing_written(recipe_file: str, capsys: Capture, mistake: str) -> None:
    Path("empty.jsonl").write_text("")
    Path("bare.jsonl").write_text('{"problem": "1+1", "reference": "2"}\n{"problem": "1+2"}\n')
    before = sorted(Path().rglob("*"))
    overrides, said = MISTAKES[mistake]
    assert main(["run", recipe_file, *(word for item in overrides for word in ("--set", item))]) == 2
    told = capsys.readouterr()
    assert said in told.err and told.err.startswith("error: ") and "remedy: " in told.err, told.err
    assert told.out == "" and "Traceback" not in told.err
    assert sorted(Path().rglob("*")) == before, "something was written"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_tokenizer, "no tokenizer"),
        (without_eos, "no EOS"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
        (lambda folder: (folder / "config.json").unlink(), "no model can be loaded"),
    ],
)
def test_models_that_cannot_serve(
    recipe_file: str,
    finished: Finished,
    tmp_path: Path,
    capsys: Capture,
    spoil: Any,
    said: str,
) -> None:
    folder = spoil_model(tmp_path, finished, spoil)
    assert main(["run", recipe_file, "--set", f"models.blank={{path: {folder}}}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: models.blank") and said in told, told
    assert not Path("runs").exists(), "something was written"


def test_a_template_of_the_recipes_own_helps(recipe_file: str, finished: Finished, tmp_path: Path) -> None:
    folder = spoil_model(tmp_path, finished, lambda folder: (folder / "chat_template.jinja").unlink())
    template = shutil.copy(
        Path(finished[1]) / "models" / "base" / "chat_template.jinja", tmp_path / "own.jinja"
    )
    model = f"models.blank={{path: {folder}, chat_template: {template}}}"
    assert main(["run", recipe_file, "--only", "warm", "--set", model]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "no-such-recipe"], "no-such-recipe"),
        (["run", "RECIPE", "--only", "nothing"], "there is no stage of that name"),
        (["run", "RECIPE", "--only", "zero"], "stands on stage `warm`"),
        (["run", "RECIPE", "--from", "harvest"], "stands on stage `zero`"),
        (["run", "RECIPE", "--set", "no-value"], "is no KEY=VALUE"),
        (["teacher", "sample", "RECIPE"], "stands on stage `zero`"),
        (["eval"], "needs either a RECIPE or --model"),
        (["eval", "RECIPE", "--model", "x"], "a recipe names its own models"),
        (["eval", "RECIPE", "--suite", "chains"], "names its own suites"),
        (["eval", "--model", "x"], "is missing"),
        (["eval", "--model", "a/x", "--model", "b/x", "--suite", "chains"], "same last name"),
        (["eval", "--model", "./none", "--suite", "chains"], "loaded from it (there is no such folder)"),
        (["compare", "nowhere"], "nowhere"),
        (["ask", "./none", "1+1"], "no model can be loaded"),
        (["traces", "import", "none.jsonl", "--out", "set"], "no such file"),
        (["traces", "import", "none.jsonl", "--out", "set", "--map", "problem"], "is no KEY=VALUE"),
        (["traces", "import", "none.jsonl", "--out", "set", "--limit", "-1"], "--limit"),
        (["run", "RECIPE", "--out", "/dev/null/x"], "--out"),
        (["run", "RECIPE", "--out", "/proc/none"], "--out"),
        (["run", "RECIPE", "--out", "RECIPE/x"], "which is no folder"),
        (["run", "RECIPE", "--out", "new/" + "x" * 300], "cannot be written"),
        (
            ["traces", "import", "none.jsonl", "--out", "set", "--map", "problem=q,respons=r"],
            "did you mean `response`",
        ),
        (
            ["traces", "import", "none.jsonl", "--out", "set", "--filter", "verifed=no"],
            "did you mean `verified`",
        ),
    ],
)
def test_every_mistake_is_told(recipe_file: str, capsys: Capture, arguments: list[str], said: str) -> None:
    assert main([word.replace("RECIPE", recipe_file) for word in arguments]) == 2
    told = capsys.readouterr()
    assert said in told.err and told.out == "", told.err
    assert not list(Path().iterdir()), "something was written"


def test_another_recipes_folder_is_left_alone(
    finished: Finished, tiny_recipe_module: Any, tmp_path: Path, capsys: Capture
) -> None:
    other = tiny_recipe_module.write_recipe(tmp_path / "other.yaml", "name=other")
    before = {path: path.stat().st_mtime_ns for path in Path(finished[1]).rglob("*")}
    assert main(["run", str(other), "--out", finished[1]]) == 2
    assert "holds the run of another recipe" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in Path(finished[1]).rglob("*")} == before


# -------------------------------------------------------------------------------- broken on the way


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("distill.shards.os.fsync", OSError(errno.ENOSPC, "No space left on device")),
        ("safetensors.torch.save_file", "safetensors"),
        ("distill.training.checkpoint.torch.save", OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_a_full_disk_is_exit_1_and_the_run_resumes(
    recipe_file: str,
    finished: Finished,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    target: str,
    error: Any,
) -> None:
    if error == "safetensors":  # as it says it: no errno, an exception of its own
        from safetensors import SafetensorError

        error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        target = "transformers.PreTrainedModel.save_pretrained"

    def full(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(target, full)
        assert main(["run", recipe_file, "--only", "warm"]) == 1
    told = capsys.readouterr().err
    assert "failed: " in told and "No space left on device" in told and "goes on from there" in told
    assert "Traceback" not in told
    assert not list(Path("runs").rglob(".*.tmp/*")), "half a model would keep the disk full"
    assert main(["run", recipe_file, "--only", "warm"]) == 0
    weights = Path("models/base/model.safetensors")
    assert ("runs/tiny" / weights).read_bytes() == (finished[1] / weights).read_bytes()


def test_a_run_that_cannot_go_on_is_exit_1(
    recipe_file: str, finished: Finished, tmp_path: Path, capsys: Capture
) -> None:
    out = shutil.copytree(finished[1], tmp_path / "run")
    strict = ["--set", "stages.harvest.filters.verified=true"]
    assert main(["run", recipe_file, "--out", str(out), *strict]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-2].startswith("failed: ") and "would end here again" in told[-1]
    assert (out / "traces" / "verified" / "funnel.json").is_file(), "the reasons are there to be read"


def test_traces_too_long_to_learn_do_not_promise_to_go_on(recipe_file: str, capsys: Capture) -> None:
    short = ["--set", "stages.warm.max_length=8"]
    assert main(["run", recipe_file, "--only", "warm", *short]) == 1
    told = capsys.readouterr().err
    assert "no usable trace is left of 20" in told and "would end here again" in told
    assert "goes on from there" not in told


def test_control_c_is_exit_130(recipe_file: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("distill.training.update.Updater.step", stop)
        assert main(["run", recipe_file]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert main(["run", recipe_file, "--only", "warm"]) == 0
    assert "1/6 warm: goes on" in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback(recipe_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOENT, "not the user's fault")

    monkeypatch.setattr("distill.training.update.Updater.step", broken)
    with pytest.raises(OSError, match="fault"):
        main(["run", recipe_file, "--only", "warm"])
