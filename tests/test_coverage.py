"""A small run of the simulation of `benchmarks/coverage.py`, whose results stand in RESULTS.md."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from eval.statistics import paired_difference


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    file = Path(__file__).parent / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("accuracy", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("samples", [1, 16])
def test_our_interval_covers_where_a_t_interval_fails(
    coverage: ModuleType, accuracy: float, samples: int
) -> None:
    rng = np.random.default_rng(0)
    found = [
        coverage.coverage(rng, coverage.Cell(accuracy, 30, samples), shape, 300) for shape in coverage.SHAPES
    ]
    # 300 suites: three standard errors below 0.95
    assert min(one["ours"] for one in found) > 0.95 - 3 * (0.95 * 0.05 / 300) ** 0.5
    if accuracy == 0.95:
        assert min(one["t"] for one in found) < 0.85


@pytest.mark.parametrize("null", ["same", "apart", "unlike"])
@pytest.mark.parametrize("samples", [1, 16])
def test_our_test_is_of_its_size_where_others_are_not(coverage: ModuleType, null: str, samples: int) -> None:
    rng = np.random.default_rng(1)
    cell = coverage.Cell(0.95, 30, samples)
    found = [coverage.size(rng, cell, null, shapes, 1500) for shapes in coverage.NULLS[null]]
    assert max(one["ours"] for one in found) <= 0.05 + 3 * (0.05 * 0.95 / 1500) ** 0.5
    if null == "unlike" and samples == 16:
        assert max(one["t"] for one in found) > 0.1 and max(one["sign flip"] for one in found) > 0.1


def test_a_plain_difference_is_told(coverage: ModuleType) -> None:
    seen = coverage.power(np.random.default_rng(2), coverage.Cell(0.5, 500, 4), "flat", 300, difference=0.05)
    assert seen["ours"] > 0.8


def test_the_simulation_asks_what_the_comparison_asks(coverage: ModuleType) -> None:
    rng = np.random.default_rng(3)
    for samples in (1, 4):
        a, b = (rng.binomial(samples, chance, size=(60, 30)) / samples for chance in (0.8, 0.6))
        ours = [paired_difference(*row, samples).distinguishable for row in zip(a, b, strict=True)]
        assert 0 < np.mean(ours) < 1
        assert coverage.told_apart(a, b, samples)["ours"] == pytest.approx(np.mean(ours))


def test_the_other_tests_are_what_they_are_called(coverage: ModuleType) -> None:
    assert coverage.mcnemar_p(5, 0) == pytest.approx((2 / 32, 1 / 32))
    assert coverage.mcnemar_p(0, 0) == (1.0, 1.0)
    for only_a, only_b in ((5, 0), (6, 1), (3, 2)):
        steps = np.array([1] * only_a + [-1] * only_b + [0] * 7)
        assert coverage.sign_flip_p(steps) == pytest.approx(coverage.mcnemar_p(only_a, only_b)[1])
