"""Exported programs for tests, written by PyTorch itself."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-torch")
BATCH, SEQUENCE = torch.export.Dim("batch"), torch.export.Dim("sequence", max=64)


def save(path: Path, module: Any, inputs: tuple, shapes: Any) -> Path:
    torch.export.save(torch.export.export(module.eval(), inputs, dynamic_shapes=shapes), path)
    return path


class Function(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def function(path: Path, compute: Callable[..., Any], *shape: int) -> Path:
    """A program of one input `x` with a free first axis."""
    return save(path, Function(compute), (torch.randn(3, *shape),), {"x": {0: BATCH}})


def perceptron(path: Path, *sizes: int) -> Path:
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise(sizes) for layer in (torch.nn.Linear(a, b), torch.nn.ReLU())]
    net = torch.nn.Sequential(*layers[:-1])
    return save(path, Function(net), (torch.randn(2, sizes[0]),), {"x": {0: BATCH}})


def indexing(path: Path, shift: int = 0) -> Path:
    """A program that has an answer for the numbers -4 to 3 alone, which it adds `shift` to."""
    table = torch.arange(4.0)
    pick = Function(lambda x: table[x + shift] if shift else table[x])
    return save(path, pick, (torch.ones(3, 1, dtype=torch.long),), {"x": {0: BATCH}})


def wide(path: Path) -> Path:
    """A program whose second axis is free as well."""
    width = torch.export.Dim("width", max=1024)
    return save(path, Function(lambda x: x * 2), (torch.randn(3, 5),), {"x": {0: BATCH, 1: width}})


def images(path: Path) -> Path:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 8, 3, groups=2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4),
    )  # fmt: skip
    return save(path, Function(net), (torch.randn(2, 3, 16, 16),), {"x": {0: BATCH}})


class Encoder(torch.nn.Module):
    """A transformer with a mask, and two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, 16)
        layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = torch.nn.Linear(16, 4)

    def forward(self, ids: Any, mask: Any) -> dict[str, Any]:
        hidden = self.layers(self.embed(ids), src_key_padding_mask=mask == 0)
        weight = mask[..., None].float()
        return {"scores": self.head((hidden * weight).sum(1) / weight.sum(1)), "hidden": hidden}


def encoder(path: Path) -> Path:
    torch.manual_seed(0)
    axes = {0: BATCH, 1: SEQUENCE}
    inputs = (torch.randint(0, 50, (2, 8)), torch.ones(2, 8, dtype=torch.long))
    return save(path, Encoder(), inputs, {"ids": axes, "mask": axes})


@cache
def example(folder: Path) -> Path:
    """One perceptron for all tests of a module."""
    return perceptron(folder / "mlp.pt2", 16, 32, 4)
