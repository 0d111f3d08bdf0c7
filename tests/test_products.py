"""Products by oneDNN: the same numbers as a plain linear layer's, both ways, and only where they are exact."""

from __future__ import annotations

import copy

import pytest
import torch

from distill.training import products
from distill.training.products import TILES, TiledLinear, by_onednn, exact, quicken

#: The longest sums are of 2,691 products of order 1, taken in another order: about sqrt(2691) * 2^-23 = 6e-6 each way.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-4}


def layers(monkeypatch: pytest.MonkeyPatch, bias: bool = True) -> tuple[torch.nn.Linear, torch.nn.Linear]:
    """A plain layer and its quickened copy, wherever oneDNN is exact or not."""
    monkeypatch.setattr(products, "wanted", lambda: True)
    torch.manual_seed(0)
    plain = torch.nn.Linear(48, 80, bias=bias)
    tiled = copy.deepcopy(plain)
    quicken(tiled)
    assert type(tiled) is TiledLinear and type(plain) is torch.nn.Linear
    return plain, tiled


@pytest.mark.skipif(not exact(), reason="oneDNN rounds to bf16 on this processor, or is not there")
@pytest.mark.parametrize("tokens", [0, 1, 127, 128, 129, 2048 + 512 + 128 + 3])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_a_plain_layers(
    monkeypatch: pytest.MonkeyPatch, tokens: int, bias: bool
) -> None:
    plain, tiled = layers(monkeypatch, bias)
    x, there = torch.randn(1, tokens, 48), torch.randn(1, tokens, 80)
    found = []
    for layer in (plain, tiled):
        mine = x.clone().requires_grad_()
        made = layer(mine)
        made.backward(there)
        found.append([made, mine.grad, *(parameter.grad for parameter in layer.parameters())])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, **TOLERANCE)


def test_frozen_weights_get_no_gradient_and_keep_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, tiled = layers(monkeypatch)
    tiled.requires_grad_(False)
    x = torch.randn(200, 48, requires_grad=True)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t):
        made = tiled(x)
    made.sum().backward()
    assert tiled.weight.grad is None and kept == [(80, 48)]
    expected = torch.autograd.grad(plain(x).sum(), x)[0]
    torch.testing.assert_close(x.grad, expected, **TOLERANCE)


def test_without_gradients_and_in_half_precision_the_layer_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, tiled = layers(monkeypatch)
    monkeypatch.setattr(products, "_tiles", None)  # whoever cuts tiles fails
    x = torch.randn(100, 48)
    with torch.no_grad():
        assert torch.equal(tiled(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tiled(x), plain(x))
    assert torch.equal(tiled.bfloat16()(x.bfloat16()), plain.bfloat16()(x.bfloat16()))


@pytest.mark.parametrize(
    ("is_exact", "of_intel"), [(False, False), (True, True)], ids=["rounds", "MKL knows it"]
)
def test_where_onednn_rounds_or_wins_nothing_all_stays(
    is_exact: bool, of_intel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "exact", lambda: is_exact)
    monkeypatch.setattr(products, "_of_intel", lambda: of_intel)
    layer = torch.nn.Linear(4, 4)
    quicken(layer)
    assert type(layer) is torch.nn.Linear
    before = torch.backends.mkldnn.matmul.fp32_precision
    with by_onednn():
        assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_the_setting_does_not_outlive_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    _, tiled = layers(monkeypatch)
    before = torch.backends.mkldnn.matmul.fp32_precision
    tiled(torch.randn(130, 48)).sum().backward()
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(RuntimeError):
        tiled(torch.randn(130, 47))
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_every_token_is_in_one_tile() -> None:
    for tokens in (0, 1, 64, 1999, 5000):
        tiles = list(products._tiles(tokens))
        assert [place for tile in tiles for place in range(tokens)[tile]] == list(range(tokens))
        assert all(tile.stop - tile.start in TILES for tile in tiles[:-1])
