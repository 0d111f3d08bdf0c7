"""`distill student export`: what others load is what the run made, whole or as adapters; refused, it writes nothing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.cli import main
from distill.device import Device
from distill.errors import UserError
from distill.export import export_model
from distill.models import build_folder, load, save, with_lora
from distill.recipe_parts import Architecture, Lora, ModelSource

#: Of logits in float32: merging adds two products in another order. The adapters move them by 0.1 and more.
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
IDS = torch.tensor([[5, 7, 100, 3, 250, 8]])
CPU = Device("cpu", "cpu", False)

_SFT = {
    "kind": "sft",
    "traces": {"rough": 1},
    "batch_size": 4,
    "max_length": 192,
    "epochs": 1,
    "learning_rate": 0.02,
}
_WORLD = {"count": 16, "families": ["chains"], "wrong_steps": 0.2, "missing_tags": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose base is a given folder with a changed context; no test changes it."""
    folder = tmp_path_factory.mktemp("exported")
    source = ModelSource(
        build=Architecture(hidden=32, layers=2, heads=4, kv_heads=2, max_length=192), tokenizer="world"
    )
    build_folder("given", source, folder / "given", seed=0)
    raw = {
        "name": "small",
        "models": {"given": {"path": str(folder / "given"), "max_length": 384, "rope_theta": 50000}},
        "traces": {"rough": {"world": _WORLD}},
        "stages": [
            {"name": "distil", "model": "given", "makes": "student", "method": "lora", **_SFT},
            {"name": "whole", "model": "given", "makes": "student-full", **_SFT},
            {"name": "again", "model": "student-full", "makes": "student-2", "method": "lora", **_SFT},
            {"name": "later", "model": "given", "makes": "unmade", **_SFT},
        ],
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(raw))
    only = [word for stage in ("distil", "whole", "again") for word in ("--only", stage)]
    assert main(["run", str(folder / "small.yaml"), "--out", str(folder / "run"), *only]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def example_of(card: str, **places: str | Path) -> dict[str, Any]:
    """What the card's own example leaves behind when it is run, its places filled in."""
    program = re.search(r"```python\n(.*?)```", card, re.S)[1]  # type: ignore[index]
    for name, place in places.items():
        assert name in program
        program = program.replace(name, str(place))
    left: dict[str, Any] = {}
    exec(program, left)
    return left


def edit_recipe(run: Path, path: str) -> None:
    """As if the base had been this hub model."""
    file = run / "recipe.yaml"
    raw = yaml.safe_load(file.read_text())
    raw["models"]["given"]["path"] = path
    file.write_text(yaml.safe_dump(raw, sort_keys=False))


# -------------------------------------------------------------------------------- whole


@pytest.mark.parametrize("model", ["student", "student-full"])
def test_plain_transformers_loads_the_exported_model(run: Path, tmp_path: Path, model: str) -> None:
    export_model(run, model, tmp_path / "out")
    source = ModelSource(path=str(run / "models" / model), max_length=384, rope_theta=50000)
    ours = load(model, run / "models" / model, source, CPU)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(theirs), logits_of(ours.model), atol=1e-5, rtol=1e-5)
    assert theirs.config.max_position_embeddings == 384
    assert theirs.config.rope_parameters["rope_theta"] == 50000
    assert theirs.generation_config.eos_token_id == sorted(ours.chat.stop_ids) != []
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    asked = [{"role": "user", "content": "17; a: +5"}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert prompt == ours.chat.tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_dict=False
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_what_is_exported_names_no_place_of_this_machine(run: Path, tmp_path: Path) -> None:
    export_model(run, "student", tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        assert str(run.parent).encode() not in file.read_bytes(), file.name


def test_the_cards_example_runs(run: Path, tmp_path: Path) -> None:
    export_model(run, "student", tmp_path / "out")
    left = example_of((tmp_path / "out" / "README.md").read_text(), PATH_OR_HUB_NAME=tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(run / "models" / "student")
    assert torch.equal(logits_of(left["model"]), logits_of(theirs)) and left["tokenizer"].chat_template


def test_an_empty_folder_is_filled(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_model(run, "student", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_model_made_before_there_were_cards_gets_one(run: Path, tmp_path: Path) -> None:
    old = shutil.copytree(run, tmp_path / "run")
    told = (old / "models" / "student" / "README.md").read_text()
    (old / "models" / "student" / "README.md").unlink()
    export_model(old, "student", tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == told


# -------------------------------------------------------------------------------- adapters


def test_merged_is_unmerged_is_base_with_adapters(tiny: Any, tmp_path: Path) -> None:
    loaded = load("m", tiny.folder, ModelSource(path=str(tiny.folder)), CPU, dtype=torch.float32)
    before = logits_of(loaded.model)
    adapted = with_lora(loaded, Lora(rank=4, alpha=8), seed=0)
    torch.manual_seed(0)
    for name, parameter in adapted.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    unmerged = logits_of(adapted.model)
    assert (unmerged - before).abs().max() > 0.1
    save(adapted, tmp_path / "made")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    torch.testing.assert_close(logits_of(merged), unmerged, **TOLERANCE)
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(tiny.folder)
    again = PeftModel.from_pretrained(base, tmp_path / "made" / "adapter")
    torch.testing.assert_close(logits_of(again), unmerged, **TOLERANCE)
    assert not (tmp_path / "made" / "adapter" / "README.md").exists(), "peft's empty form is no card"


@pytest.mark.parametrize(("model", "base"), [("student", "../given"), ("student-2", "models/student-full")])
def test_exported_adapters_on_their_base_are_the_merged_model(
    run: Path, tmp_path: Path, model: str, base: str
) -> None:
    """By the example of their card, which brings the changed context along."""
    export_model(run, model, tmp_path / "out", adapter_only=True)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]).is_absolute()
    assert Path(config["base_model_name_or_path"]).samefile(run / base)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: peft" in card
    places = {"PATH_OR_HUB_NAME": tmp_path / "out", "PATH_OF_THE_BASE": run / base}
    left = example_of(card, **places)
    merged = logits_of(AutoModelForCausalLM.from_pretrained(run / "models" / model))
    torch.testing.assert_close(logits_of(left["model"]), merged, **TOLERANCE)
    with left["model"].disable_adapter():
        assert (logits_of(left["model"]) - merged).abs().max() > 0.05, "the adapters do something"
    assert not [
        path.name
        for path in (tmp_path / "out").iterdir()
        if path.name in ("config.json", "model.safetensors")
    ]


def test_our_own_loader_takes_exported_adapters(run: Path, tmp_path: Path) -> None:
    export_model(run, "student-2", tmp_path / "out", adapter_only=True)
    ours = load("m", tmp_path / "out", ModelSource(path=str(tmp_path / "out")), CPU)
    merged = AutoModelForCausalLM.from_pretrained(run / "models" / "student-2")
    torch.testing.assert_close(logits_of(ours.model), logits_of(merged), **TOLERANCE)


def test_adapters_of_a_hub_model_name_it(run: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(run, tmp_path / "run")
    edit_recipe(mine, "Qwen/Qwen2.5-0.5B")
    export_model(mine, "student", tmp_path / "out", adapter_only=True)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "Qwen/Qwen2.5-0.5B"


# -------------------------------------------------------------------------------- the command


def test_a_recipe_finds_its_run(
    run: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = str(run.parent / "small.yaml")
    arguments = ["student", "export", recipe, "student", "--out", str(run), "--to", str(tmp_path / "a")]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(tmp_path / "a"), "hub": None}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "small").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    assert main(["student", "export", recipe, "student", "--to", "b"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'b'}\n"
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "given", "--to", "new"], "no stage of the run makes such a model"),
        (["RUN", "unmade", "--to", "new"], "stage `later`, which makes it, is not finished"),
        (["RUN", "student", "--to", "full"], "holds other things"),
        (["RUN", "student", "--to", "full/file/new"], "is no folder"),
        (["RUN", "student", "--to", "full/file"], "is a file"),
        (["RUN", "student-full", "--to", "new", "--adapter-only"], "has no adapters"),
        (["RUN", "student", "--to", "new", "--out", "x"], "the run folder is given already"),
        (["RUN", "student", "--to", "new", "--private"], "nothing is published"),
        (["RUN", "student", "--to", "new", "--push", "student"], "is no name of a repository"),
        (["RUN", "student", "--to", "new", "--push", "me/x"], "no token of the hub"),
        (["RUN", "student", "--to", "a/b/new", "--push", "me/x"], "no token of the hub"),
        (["RUN", "student", "--to", "new", "--push", "me/x", "--adapter-only"], "nobody else could load"),
        (["full", "student", "--to", "new"], "is no run folder"),
        (["quickstart", "student", "--to", "new"], "is no run folder"),
        (["nosuch", "student", "--to", "new"], "no such file, and no recipe of that name ships"),
    ],
)
def test_a_mistake_is_told_and_nothing_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/file").write_text("x")
    assert main(["student", "export", *(str(run) if word == "RUN" else word for word in arguments)]) == 2
    assert said in capsys.readouterr().err
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["full", "full/file"]


@pytest.mark.parametrize(
    "to",
    [
        "run",
        "run/new",
        "run/models/student",
        "run/models/student/new",
        "run/../run/new",
        "link/new",
        "/",
        "home",
    ],
)
def test_a_run_its_models_root_and_home_are_no_target(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, to: str
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run" / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = sorted(tmp_path.rglob("*"))
    assert main(["student", "export", "run", "student", "--to", to]) == 2
    assert "--to" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_to_an_empty_folder_is_filled(run: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    export_model(run, "student", tmp_path / "link")
    assert (tmp_path / "disk" / "config.json").is_file() and (tmp_path / "link").is_symlink()


def test_adapters_on_adapters_are_exported_whole_only(run: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(run, tmp_path / "run")
    edit_recipe(mine, str(run / "models" / "student" / "adapter"))
    with pytest.raises(UserError, match="is an adapter itself"):
        export_model(mine, "student", tmp_path / "out", adapter_only=True)


def test_adapters_on_adapters_say_on_which(run: Path, tmp_path: Path) -> None:
    """Not the model below both, on which alone they would be another model."""
    below = export_model(run, "student", tmp_path / "below", adapter_only=True)["folder"]
    loaded = load("m", str(below), ModelSource(path=below), CPU, dtype=torch.float32)
    save(with_lora(loaded, Lora(rank=2), seed=0), tmp_path / "made")
    config = json.loads((tmp_path / "made" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == below


# -------------------------------------------------------------------------------- the hub


class FakeHub:
    """Stands for `HfApi`: what was asked of it, and what it holds."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None
        self.public_already = False
        self.refuses: Exception | None = None

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool | None, exist_ok: bool) -> str:
        if self.refuses:
            raise self.refuses
        self.private = private and not self.public_already
        return f"https://hub.example/{repo_id}"

    def repo_info(self, repo_id: str, *, repo_type: str) -> Any:
        return self

    def upload_folder(self, *, repo_id: str, repo_type: str, folder_path: Path, commit_message: str) -> None:
        assert repo_type == "model"
        self.files = {
            path.relative_to(folder_path).as_posix(): path.read_bytes()
            for path in folder_path.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub()
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    yield fake


def test_push_uploads_what_it_writes(run: Path, tmp_path: Path, hub: FakeHub) -> None:
    told = export_model(run, "student", tmp_path / "out", push="me/small-r1", private=True)
    assert told == {"folder": str(tmp_path / "out"), "hub": "https://hub.example/me/small-r1"}
    assert hub.private is True
    assert hub.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    card = hub.files["README.md"].decode()
    assert "\n# small-r1\n" in card and 'from_pretrained("me/small-r1")' in card and "PATH_OR" not in card
    assert "# student" in (run / "models" / "student" / "README.md").read_text(), "the run's own card stays"


@pytest.mark.parametrize(
    "error", [OSError("401 Unauthorized"), RuntimeError(""), ValueError("bad name\nmore")]
)
def test_a_refusing_hub_is_one_error_and_nothing_written(
    run: Path, tmp_path: Path, hub: FakeHub, error: Exception
) -> None:
    hub.refuses = error
    with pytest.raises(UserError, match=r"the hub refuses, or cannot be reached: \w") as told:
        export_model(run, "student", tmp_path / "a" / "out", push="me/small")
    assert told.value.key == "--push" and "more" not in told.value.reason
    assert not list(tmp_path.iterdir())


def test_private_never_fills_a_public_repository(run: Path, tmp_path: Path, hub: FakeHub) -> None:
    hub.public_already = True
    with pytest.raises(UserError, match="is public"):
        export_model(run, "student", tmp_path / "out", push="me/small", private=True)
    assert not hub.files and not list(tmp_path.iterdir())


def test_a_llama_is_published_under_a_llamas_name(run: Path, tmp_path: Path, hub: FakeHub) -> None:
    mine = shutil.copytree(run, tmp_path / "run")
    edit_recipe(mine, "meta-llama/Llama-3.1-8B")
    with pytest.raises(UserError, match='begins with "Llama"') as told:
        export_model(mine, "student", tmp_path / "out", push="me/small")
    assert told.value.remedy == "--push me/Llama-small" and not hub.files
    export_model(mine, "student", tmp_path / "out", push="me/Llama-small", adapter_only=True)
    assert (
        json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "meta-llama/Llama-3.1-8B"
    )
