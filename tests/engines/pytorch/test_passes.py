"""Changes of a program's graph: products with constant weights in int8, and channels last."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.engines.pytorch import programs

from tailcut.engines.torch.passes import channels_last, flat, weights_in_int8

torch = programs.torch


class Product(torch.nn.Module):
    def __init__(self, compute: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight = torch.nn.Parameter(torch.randn(16, 16) * torch.logspace(-3, 2, 16))
        self.bias = torch.nn.Parameter(torch.randn(16))
        self.compute = compute

    def forward(self, x: Any) -> Any:
        return self.compute(x, self.weight, self.bias)


@pytest.mark.parametrize(
    "compute",
    [
        torch.nn.functional.linear,
        lambda x, w, _: torch.nn.functional.linear(x, w),
        lambda x, w, _: x @ w,
        lambda x, w, _: x @ w.T,
        lambda x, w, _: torch.mm(x, w.transpose(0, 1)),
        lambda x, w, b: torch.addmm(b, x, w),
    ],
)
def test_products_keep_their_answers(tmp_path: Path, compute: Callable[..., Any]) -> None:
    """With a scale for each output, so that outputs of a thousandth are as near as the large ones."""
    path = programs.save(tmp_path / "p.pt2", Product(compute), (torch.randn(2, 16),), {"x": {0: programs.BATCH}})
    exported = torch.export.load(path)
    module = weights_in_int8(flat(exported, (0,)))
    weights = [item for item in module.buffers() if item.dtype is torch.int8]
    assert [tuple(item.shape) for item in weights] == [(16, 16)]
    assert not any(item.shape == (16, 16) for item in module.parameters())
    x = torch.randn(64, 16)
    with torch.inference_mode():
        result, truth = module(x)[0], exported.module()(x)
    error = (result - truth).square().mean(0).sqrt() / truth.square().mean(0).sqrt()
    assert 0 < float(error.max()) < 0.05


@pytest.mark.parametrize(
    "compute",
    [
        lambda x, w, _: x @ x.transpose(0, 1) @ x + w.sum(),  # no operand is a weight
        lambda x, w, b: torch.addmm(b, x, w, alpha=2),
        lambda x, w, _: (x.double() @ w.double()).float(),
    ],
)
def test_what_is_no_product_of_weights_stays(tmp_path: Path, compute: Callable[..., Any]) -> None:
    """And if nothing is left to change, that is reported."""
    path = programs.save(tmp_path / "p.pt2", Product(compute), (torch.randn(2, 16),), {"x": {0: programs.BATCH}})
    with pytest.raises(ValueError, match="no matrix product with constant weights"):
        weights_in_int8(flat(torch.export.load(path), (0,)))


def test_channels_last_keeps_the_answers_of_views(tmp_path: Path) -> None:
    """Features of an image are flattened in their own order, which is not that of memory then."""
    torch.manual_seed(0)
    layers = torch.nn.ModuleList([torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4 * 6 * 6, 2)])
    net = programs.Function(lambda x: layers[1](layers[0](x).view(x.size(0), -1)))
    net.layers = layers
    path = programs.save(tmp_path / "v.pt2", net, (torch.randn(2, 3, 8, 8),), {"x": {0: programs.BATCH}})
    exported = torch.export.load(path)
    x = torch.randn(3, 3, 8, 8)
    with torch.inference_mode():
        truth = exported.module()(x)
        assert torch.allclose(channels_last(flat(exported, (0,)))(x)[0], truth, atol=1e-5)
