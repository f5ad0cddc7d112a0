"""The engine for devices: on a stand-in everywhere, and on a CUDA device where there is one."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.pytorch import programs

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.cuda.device import Cuda, StandIn, missing
from tailcut.engines.cuda.engine import CudaEngine
from tailcut.errors import EngineError, ReleasedError, UnsupportedError

torch = programs.torch
HAS_DEVICE = not missing()


@pytest.fixture(
    params=[StandIn, pytest.param(Cuda, marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_DEVICE, reason=missing())])]
)
def device(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture
def engine(device: Any, tmp_path: Path) -> Iterator[CudaEngine]:
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    opened = CudaEngine(path, EngineOptions(name="torch", device="cuda", instances=2), device=device)
    yield opened
    opened.close()


def expected(engine: CudaEngine, path: Path, x: np.ndarray) -> np.ndarray:
    return torch.export.load(path / "mlp.pt2").module()(torch.from_numpy(x)).detach().numpy()


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)


def test_answers_are_the_programs_own(engine: CudaEngine, tmp_path: Path) -> None:
    """For sizes that fill a bucket and sizes that do not, in any order, bound and run."""
    for count in (5, 8, 1, 3, 8, 2):
        x, y = rows(count), np.zeros((count, 3), np.float32)
        engine.bind({"x": x}, {"output": y})()
        assert np.allclose(y, expected(engine, tmp_path, x), atol=1e-4)
        assert np.allclose(engine.run({"x": x})["output"], y, atol=1e-5)


def test_several_threads_share_the_slots(engine: CudaEngine, tmp_path: Path) -> None:
    """More callers than slots: each gets its own answer."""
    wrong: list[int] = []
    truths = [expected(engine, tmp_path, rows(1 + seed)) for seed in range(5)]

    def ask(seed: int) -> None:
        x = rows(1 + seed)
        answers = [engine.run({"x": x})["output"] for _ in range(20)]
        wrong.extend(seed for one in answers if not np.allclose(one, truths[seed], atol=1e-4))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_closed_engine_says_so(engine: CudaEngine) -> None:
    """Bound calls as well."""
    x, y = rows(2), np.zeros((2, 3), np.float32)
    call = engine.bind({"x": x}, {"output": y})
    engine.close()
    with pytest.raises(ReleasedError):
        call()


class Failing(StandIn):
    """A device that runs out of memory once."""

    left = 1

    def capture(self, compute: Callable[[], Sequence[Any]]) -> tuple[Callable[[], None], Sequence[Any]]:
        if Failing.left:
            Failing.left -= 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return super().capture(compute)


def test_a_full_device_fails_one_batch(tmp_path: Path) -> None:
    """In one line; the slot is free again, and the next batch is computed."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 16, 3)
    engine = CudaEngine(path, EngineOptions(name="torch", device="cuda"), device=Failing())
    with pytest.raises(EngineError, match="the device's memory is full: use smaller batches") as caught:
        engine.run({"x": rows(2)})
    assert "\n" not in str(caught.value)
    for _ in range(4):
        assert np.allclose(engine.run({"x": rows(2)})["output"], expected(engine, tmp_path, rows(2)), atol=1e-5)


@pytest.mark.skipif(HAS_DEVICE, reason="there is a device")
def test_without_a_device_it_says_what_is_missing(tmp_path: Path) -> None:
    """In one line, from `open_engine`; other engines have no such device at all."""
    path = programs.perceptron(tmp_path / "mlp.pt2", 8, 3)
    with pytest.raises(UnsupportedError, match="device cuda: "):
        open_engine(path, EngineOptions(name="torch", device="cuda"))
    with pytest.raises(UnsupportedError, match="device cuda has no engine openvino"):
        open_engine(path, EngineOptions(name="openvino", device="cuda"))
