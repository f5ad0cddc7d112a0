"""Whether a program's rows are independent: each verdict is compared with what PyTorch computes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.pytorch import programs

from tailcut.engines.base import EngineOptions
from tailcut.engines.torch.program import read_program
from tailcut.spec import Rows

torch = programs.torch
functional = torch.nn.functional
WEIGHT = torch.randn(6, 6)
GRU = torch.nn.GRU(6, 5, batch_first=True)

INDEPENDENT: list[tuple[str, Callable[[Any], Any], tuple[int, ...]]] = [
    ("softmax of the last axis", lambda x: torch.softmax(x, -1), (6,)),
    ("product with its own rows", lambda x: x @ x.transpose(1, 2), (4, 6)),
    ("product with weights", lambda x: x @ WEIGHT, (6,)),
    ("heads folded into the rows", lambda x: x.reshape(x.shape[0] * 2, 3).relu().reshape(x.shape[0], 6), (6,)),
    ("rows behind times", lambda x: x.transpose(0, 1).reshape(-1, 6).relu().view(4, -1, 6).transpose(0, 1), (4, 6)),
    ("a mean of each row", lambda x: x.mean(dim=(1, 2)), (4, 6)),
    ("several outputs", lambda x: tuple(x.max(dim=1)), (6,)),
    ("the larger of two", lambda x: torch.max(x, x * x).minimum(torch.min(x, -x)), (6,)),
    ("best values", lambda x: tuple(x.topk(2, dim=-1)), (6,)),
    ("a class of each row", lambda x: x.argmax(dim=1), (6,)),
    ("parts joined within rows", lambda x: torch.cat([x[:, :2], x[:, 2:] * 2], dim=1), (6,)),
    ("a token before each row", lambda x: torch.cat([WEIGHT[:1].expand(x.shape[0], 1, 6), x], dim=1), (4, 6)),
    ("a token before each row, repeated", lambda x: torch.cat([WEIGHT[:1].repeat(x.shape[0], 1, 1), x], 1), (4, 6)),
    ("two tokens for each row", lambda x: torch.cat([WEIGHT[None, :1].repeat(x.shape[0], 2, 1), x], 1), (4, 6)),
    ("states that begin with zeros", lambda x: GRU(x, torch.zeros(1, x.shape[0], 5))[0], (4, 6)),
    ("a table by each row's numbers", lambda x: WEIGHT[x.argmax(dim=1)], (6,)),
    ("norms", lambda x: functional.layer_norm(x, (6,)) + functional.rms_norm(x, (6,)), (6,)),
    ("norms with weights", lambda x: functional.rms_norm(x, (6,), WEIGHT[0], 1e-6), (6,)),
    ("a layer norm with everything", lambda x: functional.layer_norm(x, (6,), WEIGHT[0], WEIGHT[1], 1e-3), (6,)),
    ("a norm with eps alone", lambda x: functional.rms_norm(x, (6,), eps=1e-6), (6,)),
    ("groups", lambda x: functional.group_norm(x, 2, WEIGHT[0], WEIGHT[1], 1e-3), (6, 4)),
    ("instances", lambda x: functional.instance_norm(x, weight=WEIGHT[0], bias=WEIGHT[1], eps=1e-3), (6, 4)),
    ("attention with a scale", lambda x: functional.scaled_dot_product_attention(x, x, x, scale=0.3), (2, 4, 6)),
    ("causal attention", lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True), (2, 4, 6)),
    ("images", lambda x: functional.interpolate(functional.avg_pool2d(x, 2), scale_factor=2), (3, 8, 8)),
    ("a column of one number", lambda x: x + torch.full((x.shape[0], 1), 7.0), (6,)),
    ("padding", lambda x: functional.pad(x, (1, 2)), (6,)),
    ("constants", lambda x: x * torch.arange(6) + torch.eye(6)[0], (6,)),
]  # fmt: skip
DEPENDENT: list[tuple[str, Callable[[Any], Any], tuple[int, ...]]] = [
    ("softmax over the rows", lambda x: torch.softmax(x, 0), (6,)),
    ("every row with every row", lambda x: x @ x.T @ x, (6,)),
    ("the mean of the batch", lambda x: x - x.mean(dim=0, keepdim=True), (6,)),
    ("the mean of everything", lambda x: x - x.mean(), (6,)),
    ("the order of the rows", lambda x: x.flip(0), (6,)),
    ("sorted rows", lambda x: x.sort(dim=0).values, (6,)),
    ("a row's own number", lambda x: x + torch.arange(x.shape[0])[:, None], (6,)),
    ("how many rows there are", lambda x: x / x.shape[0], (6,)),
    ("a column of how many there are", lambda x: x + torch.full((x.shape[0], 1), x.shape[0]), (6,)),
    ("a new column of as many", lambda x: x + x.new_full((x.shape[0], 1), 2 * x.shape[0]), (6,)),
    ("two copies", lambda x: x.repeat(2, 1), (6,)),
    ("a norm by the rows' own weights", lambda x: functional.rms_norm(x, (6,), x.sum(0), 1e-6), (6,)),
    ("rows told by their place", lambda x: x + WEIGHT[:2, :1].repeat(x.shape[0], 1)[: x.shape[0]], (6,)),
    ("the first row", lambda x: x * x[:1], (6,)),
    ("batch statistics", lambda x: functional.batch_norm(x, None, None, training=True), (6,)),
    ("a scale of the largest", lambda x: x / x.abs().max(), (6,)),
    ("a running sum", lambda x: x.cumsum(0), (6,)),
]


def computed_alike(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether rows of other magnitudes, computed together and in another order, answer as each of them alone."""
    module = torch.export.load(path).module()
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(1, *shape, generator=generator) * scale for scale in (1, 50, 0.1, 7)]
    order = [2, 0, 3, 1]
    alone = [torch.utils._pytree.tree_leaves(module(row)) for row in rows]
    together = torch.utils._pytree.tree_leaves(module(torch.cat([rows[at] for at in order])))
    for at, row in enumerate(order):
        for own, all_rows in zip(alone[row], together, strict=True):
            if len(all_rows) != 4 or not np.allclose(own[0], all_rows[at], rtol=1e-3, atol=1e-4):
                return False
    return True


@pytest.mark.parametrize(("name", "compute", "shape"), INDEPENDENT, ids=[item[0] for item in INDEPENDENT])
def test_independent(tmp_path: Path, name: str, compute: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
    """The graph says so, and so do the answers."""
    path = programs.function(tmp_path / "m.pt2", compute, *shape)
    spec = read_program(path, EngineOptions(name="torch")).spec
    assert spec.rows is Rows.INDEPENDENT, spec.rows_reason
    assert computed_alike(path, shape)


@pytest.mark.parametrize(("name", "compute", "shape"), DEPENDENT, ids=[item[0] for item in DEPENDENT])
def test_dependent(tmp_path: Path, name: str, compute: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
    """Never called independent; the answers differ, so batching would be wrong."""
    path = programs.function(tmp_path / "m.pt2", compute, *shape)
    spec = read_program(path, EngineOptions(name="torch")).spec
    assert spec.rows is not Rows.INDEPENDENT
    assert spec.rows_reason
    assert not computed_alike(path, shape)


def test_a_program_for_a_multiple_of_rows_says_so(tmp_path: Path) -> None:
    """Its one input differs from no other."""
    pairs = {"x": {0: 2 * programs.torch.export.Dim("half")}}
    path = programs.save(tmp_path / "m.pt2", programs.Function(lambda x: x * 2), (programs.torch.zeros(4, 3),), pairs)
    spec = read_program(path, EngineOptions(name="torch")).spec
    assert spec.rows is Rows.DEPENDENT
    assert re.fullmatch(r"the program was exported for a first axis of 2\*\w+, not for any length", spec.rows_reason)


def test_whole_networks(tmp_path: Path) -> None:
    """A convolutional network and a transformer, whose outputs are named by its dict."""
    options = EngineOptions(name="torch")
    assert read_program(programs.images(tmp_path / "images.pt2"), options).spec.rows is Rows.INDEPENDENT
    program = read_program(programs.encoder(tmp_path / "encoder.pt2"), options)
    assert program.spec.rows is Rows.INDEPENDENT, program.spec.rows_reason
    assert program.spec.output_names == ("scores", "hidden")
    assert program.hints.below == {"ids": 50}
