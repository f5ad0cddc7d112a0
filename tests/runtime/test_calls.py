"""The library's calls, on the entry of a model."""

import asyncio
from pathlib import Path

import numpy as np
from tests.engines.models import identity

from tailcut.runtime.calls import LibraryCalls
from tailcut.runtime.model import Model
from tailcut.spec import DType

ROWS = {"x": np.ones((2, 16), np.float32)}


def test_one_loop_after_the_other(tmp_path: Path) -> None:
    """Each loop is answered on its own thread; what was kept for a closed one goes when the next one comes."""
    with Model.open(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"), auto=False) as model:
        calls = LibraryCalls(model.entry)
        for _ in range(3):
            answer = asyncio.run(calls.infer(ROWS, None, 0))
            np.testing.assert_array_equal(answer["y"], ROWS["x"])
        assert len(calls._deliveries) == 1
        np.testing.assert_array_equal(calls.infer_sync(ROWS, 20.0, 1)["y"], ROWS["x"])
