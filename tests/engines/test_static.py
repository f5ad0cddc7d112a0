"""An engine with an instance compiled for each of several sizes."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import masked_mean

from tailcut.engines import open_engine
from tailcut.engines.base import Engine, EngineOptions, Interruptible
from tailcut.engines.static import StaticEngine
from tailcut.errors import ModelFileError, ReleasedError

SIZES = [((4,), (4,)), ((8,), (8,))]


def request(length: int, rows: int = 2) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(length).integers(0, 32, (rows, length))
    return {"ids": ids, "mask": np.ones_like(ids)}


class Opened:
    """Opens one model, and remembers with which sizes."""

    def __init__(self, path: Path, engine: str) -> None:
        self.path = path
        self.options = EngineOptions(name=engine, threads=1)  # type: ignore[arg-type]
        self.fixed: list[tuple[str, ...]] = []
        self.engines: list[Engine] = []

    def __call__(self, options: EngineOptions) -> Engine:
        self.fixed.append(options.fixed_dims)
        self.engines.append(open_engine(self.path, options))
        return self.engines[-1]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_each_size_has_its_own(tmp_path: Path, name: str) -> None:
    """Fixed but for the batch; other sizes are computed as before, and the answers are the same."""
    opener = Opened(masked_mean(tmp_path / "m.onnx"), name)
    plain = open_engine(opener.path, EngineOptions(threads=1))
    engine = StaticEngine(opener(opener.options), SIZES, opener)
    assert opener.fixed == [(), ("ids:1=4", "mask:1=4"), ("ids:1=8", "mask:1=8")]
    assert [engine.spec.inputs[0].shape for engine in opener.engines] == [(None, None), (None, 4), (None, 8)]
    assert engine.spec.inputs[0].shape == (None, None)
    for length in (4, 5, 8, 4):
        for rows in (1, 3):
            result, expected = engine.run(request(length, rows)), plain.run(request(length, rows))
            for output, array in expected.items():
                assert result[output].shape == array.shape
                np.testing.assert_allclose(result[output], array, rtol=1e-4, atol=1e-5)
    engine.close()
    for item in opener.engines:
        with pytest.raises(ReleasedError):
            item.run(request(item.spec.inputs[0].shape[1] or 5))


def test_a_size_that_the_model_refuses(tmp_path: Path) -> None:
    """What was opened before it is closed again, but for the engine itself."""
    opener = Opened(masked_mean(tmp_path / "m.onnx"), "onnxruntime")
    engine = opener(opener.options)
    first = opener(opener.options)

    def fails(options: EngineOptions) -> Engine:
        if "ids:1=8" in options.fixed_dims:
            raise ModelFileError("no")
        return first

    with pytest.raises(ModelFileError):
        StaticEngine(engine, SIZES, fails)
    with pytest.raises(ReleasedError):
        first.run(request(4))
    engine.run(request(4))


def test_only_engines_that_can_be_cancelled_are_cancelled(tmp_path: Path) -> None:
    """As the watchdog asks for it."""
    path = masked_mean(tmp_path / "m.onnx")
    for name, can in (("onnxruntime", True), ("openvino", False)):
        opener = Opened(path, name)
        engine = StaticEngine(opener(opener.options), SIZES[:1], opener)
        assert isinstance(engine, Interruptible) is can
        engine.close()
