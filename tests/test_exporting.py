"""`distill traces export`: what is written loads with `datasets`, trains here and in TRL, and shows itself safely."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.chat import ThoughtTags
from distill.cli import main
from distill.errors import UserError
from distill.export_traces import export_set
from distill.recipe_parts import Filters, TraceSource
from distill.records import FinishReason, Problem, Trace, Verdict
from distill.shards import read_parquet
from distill.traces import load_traces
from teacher import exporting
from teacher.contamination import Passage, Suites
from teacher.exporting import Settings
from teacher.measures import measure
from teacher.samples import CHARACTERS, KEPT, Samples
from teacher.trace_set import write_trace_set

ATTACK = (
    "</details><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)> & \u2028 \x1b[31m"
)
SUITE = "How many apples are left when nine of the forty two in the basket have gone bad over night?"


def made(number: int, sample: int, text: str, **changes: Any) -> Trace:
    problem = Problem(
        id=f"s:{number}",
        kind="math",
        problem=f"What is {number}+{number}?",
        reference=str(2 * number),
        source="s",
    )
    right = f"\\boxed{{{2 * number}}}" in text
    settings = {
        "tokens": 10, "finish_reason": FinishReason.STOP, "teacher": "teacher",
        "verdict": Verdict.CORRECT if right else Verdict.WRONG, "measures": measure(text, ThoughtTags()),
    }  # fmt: skip
    return Trace.of(problem, sample, completion=text, **(settings | changes))


def traces(problems: int = 8) -> list[Trace]:
    found = []
    for number in range(problems):
        found.append(made(number, 0, f"<think>twice {number}</think>\\boxed{{{2 * number}}}"))
        found.append(made(number, 1, f"<think>{ATTACK} {number}</think>\\boxed{{{2 * number + 1}}}"))
    several = {"reference": {"any": ["1", "2"]}, "problem": SUITE, "id": "s:99#0", "problem_id": "s:99"}
    return [*found, made(1, 2, "<think>either</think>\\boxed{2}").model_copy(update=several)]


@pytest.fixture
def a_set(tmp_path: Path) -> Path:
    folder = tmp_path / "sets" / "maths"
    folder.mkdir(parents=True)
    suites = Suites([Passage("exam", "e1", "question", SUITE)])
    filters = Filters.model_validate({"decontaminate": ["exam"]})
    facts = {"teacher": "teacher", "problems": "s (9)", "instruction": "Say | it\nwell.", "seed": 3}
    write_trace_set(folder, traces(), filters, None, facts, suites=suites)
    return folder


def export(folder: Path, to: Path, *flags: str) -> int:
    return main(["traces", "export", str(folder), "--to", str(to), *flags])


# ------------------------------------------------------------------------------------ in and out


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@pytest.mark.parametrize("everything", [False, True])
def test_what_is_exported_loads_with_datasets_and_comes_back(
    a_set: Path, tmp_path: Path, form: str, everything: bool
) -> None:
    import datasets

    flags = ["--format", form, "--licence", "mit", *(["--all"] if everything else [])]
    assert export(a_set, tmp_path / "out", *flags) == 0
    ours = [one for one in read_parquet(a_set / "traces.parquet") if one.kept or everything]
    assert len(ours) == (17 if everything else 8)
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == len(ours) and set(rows["licence"]) == {"mit"}
    for row, trace in zip(rows, ours, strict=True):
        said = [
            {"role": "user", "content": trace.problem},
            {"role": "assistant", "content": trace.completion},
        ]
        assert row["messages"] == said
        assert (row["id"], row["verdict"], row["kept"], row["reason"]) == (
            trace.id,
            trace.verdict,
            trace.kept,
            trace.reason,
        )
        assert json.loads(row["measures"]) == trace.measures
    back = load_traces("mine", TraceSource(path=str(tmp_path / "out")), seed=0)
    assert back == [one for one in ours if one.kept], "ids, verdicts, measures and references and all"


def test_an_export_is_imported_with_its_ids(
    a_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(a_set, tmp_path / "out", "--all") == 0
    capsys.readouterr()
    assert main(["traces", "import", str(tmp_path / "out"), "--out", str(tmp_path / "again"), "--json"]) == 0
    funnel = json.loads(capsys.readouterr().out)
    assert funnel["verdicts"] == {"correct": 9, "wrong": 8}
    again = {one.id: one for one in read_parquet(tmp_path / "again" / "traces.parquet")}
    for trace in read_parquet(a_set / "traces.parquet"):
        found = again[trace.id]
        assert (found.problem_id, found.source, found.reference) == (
            trace.problem_id,
            trace.source,
            trace.reference,
        )
        assert found.verdict == trace.verdict and found.completion == trace.completion


def test_another_set_under_the_same_name_is_not_taken_for_the_earlier_one(
    a_set: Path, tmp_path: Path
) -> None:
    """`datasets` keeps what it has read by the folder's name and its card."""
    import datasets

    for flags, number in (([], 8), (["--all", "--force"], 17)):
        assert export(a_set, tmp_path / "out", *flags) == 0
        rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
        assert len(rows) == number


def test_folders_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    """The same trap where the folder is somebody else's and its card never changes."""
    card = "---\nconfigs:\n- config_name: default\n  data_files: data.jsonl\n---\n"
    for name, answer in (("a", "one"), ("b", "two")):
        folder = tmp_path / name / "data"
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(card)
        (folder / "data.jsonl").write_text(json.dumps({"problem": "q", "response": answer}) + "\n")
        (trace,) = load_traces("t", TraceSource(path=str(folder)), seed=0)
        assert trace.completion == answer


def test_a_row_that_was_spoilt_is_named(a_set: Path, tmp_path: Path) -> None:
    assert export(a_set, tmp_path / "out", "--format", "jsonl") == 0
    (file,) = (tmp_path / "out" / "data").iterdir()
    lines = file.read_text().splitlines()
    row = json.loads(lines[1]) | {"verdict": "perhaps"}
    spoilt = tmp_path / "spoilt.jsonl"
    spoilt.write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]))
    with pytest.raises(UserError, match="row 2: is no trace that was exported"):
        load_traces("mine", TraceSource(path=str(spoilt)), seed=0)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_large_sets_become_several_files(
    a_set: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_ROWS", 3)
    assert export(a_set, tmp_path / "out", "--all", "--file-mb", "0.0005", "--format", form) == 0
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert len(names) > 2
    (digest,) = {name.rpartition("-")[2] for name in names}
    assert names == [f"train-{number:05}-of-{len(names):05}-{digest}" for number in range(len(names))]
    ids = [one.id for one in load_traces("mine", TraceSource(path=str(tmp_path / "out")), seed=0)]
    assert ids == [one.id for one in read_parquet(a_set / "traces.parquet") if one.kept]


# ------------------------------------------------------------------------------------ it trains


def sft_recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    build = {"hidden": 16, "layers": 1, "heads": 2, "max_length": 192}
    stage = {
        "name": "distil", "kind": "sft", "model": "m", "makes": "student", "traces": {"mine": 1}, "epochs": 1,
        "batch_size": 4, "max_length": 192, "learning_rate": 0.01,
    }  # fmt: skip
    return {
        "name": "again",
        "models": {"m": {"build": build, "tokenizer": "world"}},
        "traces": {"mine": {"path": str(folder)}},
        "stages": [stage | changes],
    }


def worlds(folder: Path) -> Path:
    """A set whose texts the built-in world's tokenizer spells."""
    folder.mkdir(parents=True)
    rows = [
        made(number, 0, f"<think>{number}+{number}</think>\\boxed{{{2 * number}}}") for number in range(12)
    ]
    rows = [one.model_copy(update={"problem": f"{one.reference}=?"}) for one in rows]
    write_trace_set(folder, rows, Filters(), None, {"teacher": "teacher"})
    return folder


def test_an_export_trains_a_student(tmp_path: Path) -> None:
    assert export(worlds(tmp_path / "set"), tmp_path / "out") == 0
    file = tmp_path / "recipe.yaml"
    for name, source in (("from the set", tmp_path / "set"), ("from the export", tmp_path / "out")):
        file.write_text(yaml.safe_dump(sft_recipe(source)))
        assert main(["student", "train", str(file), "--out", str(tmp_path / name)]) == 0
    weights = "models/student/model.safetensors"
    assert (tmp_path / "from the set" / weights).read_bytes() == (
        tmp_path / "from the export" / weights
    ).read_bytes()


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_the_messages_form_trains_unchanged_in_trl(tmp_path: Path, form: str) -> None:
    trl = pytest.importorskip("trl")
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from distill.models import build_folder
    from distill.recipe_parts import Architecture, ModelSource

    assert export(worlds(tmp_path / "set"), tmp_path / "out", "--format", form) == 0
    build = Architecture(hidden=16, layers=1, heads=2, max_length=192)
    build_folder("m", ModelSource(build=build, tokenizer="world"), tmp_path / "model", seed=0)
    rows = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    options = {
        "output_dir": str(tmp_path / "trl"), "use_cpu": True, "bf16": False, "num_train_epochs": 4, "max_length": 192,
        "per_device_train_batch_size": 4, "learning_rate": 0.01, "logging_steps": 1, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False,
    }  # fmt: skip
    trainer = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tmp_path / "model"),
        args=trl.SFTConfig(**options),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(tmp_path / "model"),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 12 and losses[-1] < 0.8 * losses[0]


# ------------------------------------------------------------------------------------ the card


def header(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_the_card_tells_how_it_was_made(a_set: Path, tmp_path: Path) -> None:
    assert export(a_set, tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    (file,) = (tmp_path / "out" / "data").iterdir()
    digest = file.stem.rpartition("-")[2]
    assert header(card) == {
        "license": "unknown", "task_categories": ["text-generation"], "size_categories": ["n<1K"],
        "tags": ["reasoning", "distillation", "synthetic", "chain-of-thought"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": f"data/train-*-{digest}.parquet"}]}
        ],
    }  # fmt: skip
    assert "8 traces of reasoning" in card and "8 kept of 17, for 8 of 9 problems" in card
    assert "| instruction | Say \\| it<br>well. |" in card and "| seed | 3 |" in card
    assert re.search(r"decontaminate +1 ", card) and "| exam |" in card and "| 1 | 1 | yes |" in card
    assert "written by `teacher`" in card and str(tmp_path) not in card
    for name in ("funnel.json", "contamination.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (a_set / name).read_bytes()


def test_a_set_that_was_compared_with_no_suite_says_so(tmp_path: Path) -> None:
    assert export(worlds(tmp_path / "set"), tmp_path / "out") == 0
    assert "Compared with no evaluation suite" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "contamination.jsonl").exists()


@pytest.mark.parametrize(
    ("teacher", "problems", "licence", "words"),
    [
        ("deepseek-ai/DeepSeek-R1", {"world": {"count": 3}}, "mit", "MIT, which allows distillation"),
        ("deepseek-ai/DeepSeek-R1", {"path": "openai/gsm8k:main"}, "mit", "data `openai/gsm8k`: mit"),
        ("Qwen/Qwen2.5-7B", {"path": "openai/gsm8k:main"}, "unknown", "data `openai/gsm8k`: mit"),
        ("meta-llama/Llama-3.1-8B", {"world": {"count": 3}}, "llama3.1", 'begins with "Llama"'),
        (
            "deepseek-ai/DeepSeek-R1",
            {"path": "mine.jsonl"},
            "unknown",
            "data `mine.jsonl`: see where it is from",
        ),
    ],
)
def test_a_runs_recipe_tells_teacher_and_licences(
    a_set: Path, tmp_path: Path, teacher: str, problems: Any, licence: str, words: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(a_set, run / "traces" / "maths")
    recipe = {
        "name": "campaign", "seed": 5, "models": {"teacher": {"path": teacher}}, "problems": {"p": problems},
        "stages": [{"name": "harvest", "kind": "sample", "model": "teacher", "problems": "p", "makes": "maths"}],
    }  # fmt: skip
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (run / "manifest.json").write_text(
        json.dumps({"versions": {"torch": "2.13.0"}, "python": "3.11", "device": "cpu"})
    )
    assert export(run / "traces" / "maths", tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert header(card)["license"] == licence and words in card
    assert (
        f"written by `{teacher}`" in card and "| recipe | campaign |" in card and "| run's seed | 5 |" in card
    )
    assert "torch 2.13.0" in card
    (row, *_) = load_traces("mine", TraceSource(path=str(tmp_path / "out")), seed=0)
    assert row.teacher == teacher


# ------------------------------------------------------------------------------------ the samples


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_samples_open_offline_and_no_text_does_anything(a_set: Path, tmp_path: Path) -> None:
    assert export(a_set, tmp_path / "out") == 0
    text = (tmp_path / "out" / "samples.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert not {"script", "img", "link", "iframe", "object", "form"} & set(page.tags)
    links = [value for name, value in page.attributes if name in ("href", "src", "action")]
    assert links and all(value and value.startswith("#") for value in links)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "default-src 'none'; style-src 'sha256-" in text and ATTACK in page.text
    for words in (
        "rejected: verified",
        "rejected: decontaminate",
        "kept",
        "correct",
        "wrong",
        "repetition",
        "thought, ",
    ):
        assert words in page.text
    assert page.tags.count("details") == 17 + 17, "each trace, and each thought folded in it"


def test_samples_are_fair_to_each_reason_and_the_same_in_any_order() -> None:
    rows = [
        (f"t{number}", KEPT if number % 10 else "verified" if number % 20 else "format")
        for number in range(200)
    ]

    def chosen(order: list[tuple[str, str]]) -> dict[str, list[str]]:
        samples = Samples(30)
        for name, reason in order:
            samples.see(name, reason, {"id": name})
        return {reason: [row["id"] for row in found] for reason, found in samples.chosen().items()}

    found = chosen(rows)
    assert {reason: len(names) for reason, names in found.items()} == {KEPT: 10, "format": 10, "verified": 10}
    assert next(iter(found)) == KEPT and chosen(rows[::-1]) == found


def test_a_long_text_loses_its_middle_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    long = made(1, 0, f"<think>begin {'x ' * CHARACTERS} end</think>\\boxed{{2}}")
    write_trace_set(tmp_path / "set", [long], Filters(), None, {})
    assert export(tmp_path / "set", tmp_path / "out") == 0
    text = (tmp_path / "out" / "samples.html").read_text()
    assert (
        len(text) < 2 * CHARACTERS
        and "begin x" in text
        and "x  end" in text
        and "characters left out]" in text
    )


# ------------------------------------------------------------------------------------ the target


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["SET", "--to", "full"], "holds other things"),
        (["SET", "--to", "full", "--force"], "holds other things"),
        (["SET", "--to", "full/file"], "is a file"),
        (["SET", "--to", "SET/out"], "stands in the set itself"),
        (["SET", "--to", "SET/.."], "or around it"),
        (["full", "--to", "new"], "holds no traces.parquet"),
        (["SET", "--to", "new", "--file-mb", "0"], "cannot be"),
        (["SET", "--to", "new", "--samples", "-1"], "cannot be"),
        (["SET", "--to", "new", "--public"], "nothing is published"),
        (["SET", "--to", "new", "--push", "me"], "is no name of a repository"),
        (["SET", "--to", "a/b/new", "--push", "me/x"], "no token of the hub"),
    ],
)
def test_a_mistake_is_told_and_nothing_written(
    a_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, flags: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    Path("full").mkdir()
    Path("full/file").write_text("x")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert main(["traces", "export", *(flag.replace("SET", str(a_set)) for flag in flags)]) == 2
    assert words in capsys.readouterr().err
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_nothing_kept_is_no_export_but_everything_is(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "set").mkdir()
    write_trace_set(tmp_path / "set", [made(1, 0, "no")], Filters(), None, {})
    assert export(tmp_path / "set", tmp_path / "out") == 2
    assert "give --all" in capsys.readouterr().err
    assert export(tmp_path / "set", tmp_path / "out", "--all") == 0


def test_an_earlier_export_is_replaced_only_when_asked_and_whole(
    a_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert export(a_set, tmp_path / "out", "--format", "jsonl") == 0
    assert export(a_set, tmp_path / "out") == 2
    with monkeypatch.context() as broken:
        broken.setattr(exporting, "set_card", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export_set(a_set, tmp_path / "out", Settings(), force=True)
    assert [path.suffix for path in (tmp_path / "out" / "data").iterdir()] == [".jsonl"]
    assert export(a_set, tmp_path / "out", "--force") == 0
    assert [path.suffix for path in (tmp_path / "out" / "data").iterdir()] == [".parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sets"]


def test_a_kill_between_the_two_moves_loses_nothing(a_set: Path, tmp_path: Path, capsys: Any) -> None:
    assert export(a_set, tmp_path / "out") == 0
    (tmp_path / "out").rename(tmp_path / ".out.old")
    assert export(a_set, tmp_path / "out") == 2, "the earlier one is back"
    assert "holds an export already" in capsys.readouterr().err and (tmp_path / "out" / "data").is_dir()


def test_a_file_that_is_not_what_its_funnel_says_is_no_export(
    a_set: Path, tmp_path: Path, capsys: Any
) -> None:
    funnel = json.loads((a_set / "funnel.json").read_text())
    funnel["kept"]["traces"] += 1
    (a_set / "funnel.json").write_text(json.dumps(funnel))
    assert export(a_set, tmp_path / "out") == 1
    assert "its funnel says 9" in capsys.readouterr().err and not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------ the hub


class FakeHub:
    """Stands for `HfApi`: what was asked of it, and what it holds."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None
        self.public_already = False
        self.refuses: Exception | None = None

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool | None, exist_ok: bool) -> str:
        assert repo_type == "dataset" and exist_ok
        if self.refuses:
            raise self.refuses
        self.private = private and not self.public_already
        return f"https://hub.example/datasets/{repo_id}"

    def repo_info(self, repo_id: str, *, repo_type: str) -> Any:
        return self

    def upload_folder(self, *, repo_id: str, repo_type: str, folder_path: Path, commit_message: str) -> None:
        assert repo_type == "dataset"
        files = (path for path in folder_path.rglob("*") if path.is_file())
        self.files = {path.relative_to(folder_path).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    yield fake


@pytest.mark.parametrize("public", [False, True])
def test_push_uploads_what_it_writes_and_in_private(
    a_set: Path, tmp_path: Path, hub: FakeHub, public: bool, capsys: Any
) -> None:
    flags = ["--push", "me/maths-r1", "--json", *(["--public"] if public else [])]
    assert export(a_set, tmp_path / "out", *flags) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["hub"] == "https://hub.example/datasets/me/maths-r1" and told["traces"] == 8
    assert hub.private is (None if public else True)
    files = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert hub.files == {path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in files}
    card = hub.files["README.md"].decode()
    assert "\n# maths-r1\n" in card and 'load_dataset("me/maths-r1"' in card and "PATH_OR" not in card


def test_a_refusing_hub_leaves_the_target_as_it_was(
    a_set: Path, tmp_path: Path, hub: FakeHub, capsys: Any
) -> None:
    hub.refuses = RuntimeError("403 Forbidden")
    assert export(a_set, tmp_path / "out", "--push", "me/x") == 2
    assert "the hub refuses, or cannot be reached: 403" in capsys.readouterr().err
    hub.refuses, hub.public_already = None, True
    assert export(a_set, tmp_path / "out", "--push", "me/x") == 2
    assert "is public" in capsys.readouterr().err
    assert not hub.files and [path.name for path in tmp_path.iterdir()] == ["sets"]
