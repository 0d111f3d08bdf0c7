"""A checkpoint is there whole or not at all, and only its own stage loads it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.training.checkpoint import load_checkpoint, save_checkpoint


def state(value: float) -> dict[str, Any]:
    return {"weights": {"w": torch.full((3,), value)}, "done": int(value), "betas": (0.9, 0.95)}


def loaded_value(folder: Path, fingerprint: str = "mine") -> float | None:
    found = load_checkpoint(folder, fingerprint)
    return None if found is None else float(found[1]["weights"]["w"][0])


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "deep" / "down", 7, "mine", state(7))
    found = load_checkpoint(tmp_path / "deep" / "down", "mine")
    assert found is not None
    step, back = found
    assert step == 7 and back["done"] == 7 and back["betas"] == (0.9, 0.95)
    assert torch.equal(back["weights"]["w"], torch.full((3,), 7.0))


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none", "mine") is None


def test_only_the_newest_stays(tmp_path: Path) -> None:
    for step in (9, 10, 11):  # as text, 9 comes after 10
        save_checkpoint(tmp_path, step, "mine", state(step))
        assert [path.name for path in tmp_path.iterdir()] == [f"step-{step}.pt"]
    assert loaded_value(tmp_path) == 11


def test_a_foreign_one_is_never_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, "theirs", state(3))
    assert loaded_value(tmp_path) is None
    assert loaded_value(tmp_path, "theirs") == 3


def test_of_two_the_newest_of_this_stage_counts(tmp_path: Path) -> None:
    """A kill after the rename and before the clean-up leaves both."""
    for step, fingerprint in ((9, "mine"), (10, "mine"), (11, "theirs")):
        save_checkpoint(tmp_path / str(step), step, fingerprint, state(step))
        (tmp_path / str(step) / f"step-{step}.pt").rename(tmp_path / f"step-{step}.pt")
    assert loaded_value(tmp_path) == 10


@pytest.mark.parametrize("kill_at", ["write", "fsync", "replace"])
def test_a_kill_on_the_way_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: str
) -> None:
    save_checkpoint(tmp_path, 1, "mine", state(1))

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def half_written(_: Any, file: Any) -> None:
        file.write(b"PK half a checkpoint")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if kill_at == "write":
            patch.setattr("distill.training.checkpoint.torch.save", half_written)
        elif kill_at == "fsync":
            patch.setattr("distill.training.checkpoint.os.fsync", killed)
        else:
            patch.setattr(Path, "replace", killed)
        save_checkpoint(tmp_path, 2, "mine", state(2))
    assert loaded_value(tmp_path) == 1
    save_checkpoint(tmp_path, 2, "mine", state(2))
    assert loaded_value(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-2.pt"]


def test_a_full_disk_is_told_as_such_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, "mine", state(1))
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    real_open = Path.open

    def open_full(path: Path, *args: Any) -> Any:
        return real_open(full if path.name == "writing.tmp" else path, *args)

    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(Path, "open", open_full)
        save_checkpoint(tmp_path, 2, "mine", state(2))
    assert caught.value.errno == errno.ENOSPC
    assert loaded_value(tmp_path) == 1


def test_a_torn_one_is_named_and_the_one_before_it_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "new", 8, "mine", state(8))
    save_checkpoint(tmp_path, 7, "mine", state(7))
    whole = (tmp_path / "new" / "step-8.pt").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 30):
        (tmp_path / "step-8.pt").write_bytes(whole[:size])
        assert loaded_value(tmp_path) == 7.0
        assert "step-8.pt: cannot be read" in capsys.readouterr().err


def test_one_of_other_processes_is_named_and_not_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "step-9").mkdir(parents=True)
    (tmp_path / "step-9" / "rank-0-of-2.pt").write_bytes(b"")
    assert loaded_value(tmp_path) is None
    assert "step-9: was not written by 1 process, so" in capsys.readouterr().err


def foreign(path: Path, what: Any) -> None:
    if isinstance(what, bytes):
        path.write_bytes(what)
    else:
        torch.save(what, path)


@pytest.mark.parametrize(
    "what",
    [
        {"model": torch.ones(2)},
        torch.ones(2),
        [1, 2],
        {"fingerprint": "mine", "step": 9},
        b"{}",
        b"\x80\x04\x95\xff",
        b"cno_such\nthing\n.",
        b"0.",
        b"]h\x07.",
        b"PK\x03\x04" + bytes(60),
    ],
)
def test_what_another_program_left_is_named_and_not_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: Any
) -> None:
    save_checkpoint(tmp_path, 7, "mine", state(7))
    foreign(tmp_path / "step-9.pt", what)
    assert loaded_value(tmp_path) == 7
    assert "step-9.pt: " in capsys.readouterr().err
    (tmp_path / "step-7.pt").unlink()
    assert loaded_value(tmp_path) is None


@pytest.mark.parametrize("name", ["step-last.pt", "step-.pt", "step-9.pt.bak", "step-\u0667.pt", "notes.txt"])
def test_what_is_no_checkpoint_is_named_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    save_checkpoint(tmp_path, 7, "mine", state(7))
    (tmp_path / name).write_bytes(b"somebody's")
    assert loaded_value(tmp_path) == 7
    assert f"{name}: is no checkpoint of ours" in capsys.readouterr().err
    save_checkpoint(tmp_path, 8, "mine", state(8))
    assert {path.name for path in tmp_path.iterdir()} == {"step-8.pt", name}
