"""What several test files share."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# The models of the tests are too small to gain from a second thread, and threads that wait for each other on a
# shared machine make them many times slower. Before torch is imported, and for the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real tokenizers, problems and model outputs: ``DISTILL_DATA``, else ``../shared/data``."""
    folder = Path(os.environ.get("DISTILL_DATA") or CHECKOUT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not there (DISTILL_DATA says where it is)")
    return folder


@pytest.fixture(scope="session")
def naive() -> ModuleType:
    """The slow obvious twins of `naive.py`."""
    return _module_beside("naive")


@pytest.fixture(scope="session")
def tiny_recipe_module() -> ModuleType:
    """The recipe of `tiny_recipe.py` and what changes it."""
    return _module_beside("tiny_recipe")


def _module_beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Tiny:
    """A random model of two layers: as the toolkit loads it, and its ``twin`` with transformers' own attention."""

    folder: Path
    loaded: Any
    twin: Any


@pytest.fixture(scope="session", params=["qwen2", "llama"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Two query heads share a key head; no test may change its weights."""
    return _build_tiny(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """For what does not depend on the architecture; no test may change its weights."""
    return _build_tiny("qwen2", tmp_path_factory.mktemp("models") / "qwen2")


def _build_tiny(architecture: Any, folder: Path) -> Tiny:
    import torch
    from transformers import AutoModelForCausalLM

    from distill.device import Device
    from distill.models import build_folder, load, save
    from distill.recipe_parts import Architecture, ModelSource

    torch.set_num_threads(1)
    cpu = Device("cpu", "cpu", False)
    build = Architecture(architecture=architecture, hidden=32, layers=2, heads=4, kv_heads=2)
    source = ModelSource(build=build, tokenizer="world")
    build_folder("tiny", source, folder, seed=0)
    loaded = load("tiny", folder, source, cpu)
    torch.manual_seed(1)
    with torch.no_grad():  # every weight matters: biases and norms too, and attention is far from uniform
        for parameter in loaded.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    save(loaded, folder)
    # sdpa: the eager implementation takes its softmax in float32, which would blur comparisons in float64.
    return Tiny(
        folder, loaded, AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    )
