"""The library's calls, on the entry of a model."""

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import identity

from tailcut.errors import DeadlineExceededError, InputTypeError, InvalidInputError
from tailcut.runtime.calls import LibraryCalls
from tailcut.runtime.model import Model
from tailcut.spec import DType

ROWS = {"x": np.ones((2, 16), np.float32)}


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tmp_path_factory.mktemp("calls") / "echo.onnx"
    with Model.open(identity(DType.FP32, (None, 16), path), auto=False) as model:
        yield model


def test_one_loop_after_the_other(tmp_path: Path) -> None:
    """Each loop is answered on its own thread; what was kept for a closed one goes when the next one comes."""
    with Model.open(identity(DType.FP32, (None, 16), tmp_path / "echo.onnx"), auto=False) as model:
        calls = LibraryCalls(model.entry)
        for _ in range(3):
            answer = asyncio.run(calls.infer(ROWS, None, 0))
            np.testing.assert_array_equal(answer["y"], ROWS["x"])
        assert len(calls._deliveries) == 1
        np.testing.assert_array_equal(calls.infer_sync(ROWS, 20.0, 1)["y"], ROWS["x"])


@pytest.mark.parametrize("timeout_s", [math.nan, "1", True, [1]])
def test_a_timeout_is_a_number(echo: Model, timeout_s: object) -> None:
    """As in the clients, from a coroutine and from a thread."""
    for call in (
        lambda: echo.infer_sync(ROWS, timeout_s=timeout_s),
        lambda: asyncio.run(echo.infer(ROWS, timeout_s=timeout_s)),
    ):
        with pytest.raises(InvalidInputError, match=r"^timeout_s must be a number of seconds, got "):
            call()


def test_the_longest_and_the_shortest_timeout(echo: Model) -> None:
    """Infinity is no deadline that matters; one before the machine was started is past, too."""
    assert len(echo.infer_sync(ROWS, timeout_s=math.inf)["y"]) == 2
    for past in (0, -1e9, -math.inf):
        with pytest.raises(DeadlineExceededError):
            echo.infer_sync(ROWS, timeout_s=past)


@pytest.mark.parametrize("priority", ["x", 1.5, True, -1, None])
def test_a_priority_is_a_whole_number(echo: Model, priority: object) -> None:
    """It is compared with those of others in the queue."""
    with pytest.raises(InvalidInputError, match=r"^priority must be a whole number, 0 or more, got "):
        echo.infer_sync(ROWS, priority=priority)


def test_a_priority_of_numpy(echo: Model) -> None:
    """Is one as well."""
    assert len(echo.infer_sync(ROWS, priority=np.int64(3))["y"]) == 2


@pytest.mark.parametrize("inputs", ["x", ["x"], {"x"}, ("x",), ROWS["x"], None, 1])
def test_inputs_are_by_name(echo: Model, inputs: object) -> None:
    """Also where the name of the only input is in what was given."""
    with pytest.raises(InputTypeError, match=r"^inputs are arrays by name, as in \{'x': array\}, got "):
        echo.infer_sync(inputs)
