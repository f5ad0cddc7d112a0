"""What is known of inputs that are indices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.pytorch import programs

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-torch")

from tailcut.engines.base import EngineOptions  # noqa: E402  it needs PyTorch
from tailcut.engines.torch.indices import check_indices  # noqa: E402  likewise
from tailcut.engines.torch.program import read_program  # noqa: E402  likewise
from tailcut.errors import EngineError  # noqa: E402  likewise

TABLE = torch.arange(10.0).reshape(5, 2)


@pytest.mark.parametrize(
    ("compute", "bounds"),
    [
        (lambda x: torch.nn.functional.embedding(x, TABLE), (0, 4)),
        (lambda x: torch.nn.functional.embedding(x.view(-1).to(torch.int32), TABLE), (0, 4)),
        (lambda x: TABLE.index_select(0, x), (0, 4)),
        (lambda x: TABLE.index_select(1, x), (0, 1)),
        (lambda x: torch.nn.functional.one_hot(x, 7), (0, 6)),
        (lambda x: TABLE[x], (-5, 4)),
        (lambda x: TABLE[:, x], (-2, 1)),
        (lambda x: TABLE[x] + torch.nn.functional.embedding(x, TABLE[:3]), (0, 2)),
        (lambda x: TABLE[x % 5], None),
        (lambda x: x * 2, None),
    ],
)
def test_bounds_by_the_operators_that_read(
    tmp_path: Path, compute: Callable[[Any], Any], bounds: tuple[int, int] | None
) -> None:
    """The narrowest of them; what an operator is given that computes with the input says nothing of it."""
    shapes = {"x": {0: programs.BATCH}}
    path = programs.save(tmp_path / "f.pt2", programs.Function(compute), (torch.tensor([0, 1, 1]),), shapes)
    program = read_program(path, EngineOptions(name="torch"))
    for value in range(-9, 9):
        given = [torch.from_numpy(np.array([0, value, 0]))]
        if bounds is None or bounds[0] <= value <= bounds[1]:
            check_indices(program.spec, program.hints, given)
        else:
            with pytest.raises(EngineError, match=f"they are {bounds[0]} to {bounds[1]}"):
                check_indices(program.spec, program.hints, given)
