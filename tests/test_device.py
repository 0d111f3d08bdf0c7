"""Which precision is chosen where."""

from __future__ import annotations

import pytest
import torch

from distill.device import NARROWEST_BF16_ON_CPU, find_device


@pytest.fixture
def a_cpu_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.mark.usefixtures("a_cpu_with_bf16")
def test_narrow_models_compute_in_float32_on_a_cpu() -> None:
    assert not find_device(NARROWEST_BF16_ON_CPU - 1).bf16
    assert find_device(NARROWEST_BF16_ON_CPU).bf16
    assert find_device(64).describe() == {"device": find_device(8192).name, "precision": "float32"}


def test_bf16_is_never_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not find_device(8192).bf16
