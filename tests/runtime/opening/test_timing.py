"""Calls timed in turns."""

import threading
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import identity, masked_mean, perceptron

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.engines.samples import find_samples
from tailcut.errors import EngineError
from tailcut.runtime.opening import timing
from tailcut.runtime.opening.timing import busy_thread, call_of_rows, time_calls, time_sizes
from tailcut.spec import DType


def test_calls_have_their_turns_and_what_disturbs_once_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lower quartile of each, whatever the first call and a stall took."""
    clock = [0]
    order = []

    def call_taking(name: str, *taken_ns: int) -> timing.Call:
        times = iter(taken_ns)

        def call() -> None:
            order.append(name)
            clock[0] += next(times, taken_ns[-1])

        return call

    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: clock[0])
    calls = [call_taking("a", 9_000_000, 300_000, 70_000_000, 300_000), call_taking("b", 8_000_000, 500_000)]
    assert [timing.wall_ns for timing in time_calls(calls, 0.05)] == [300_000.0, 500_000.0]
    assert order[:6] == ["a", "b", "a", "b", "a", "b"]


def test_a_call_that_takes_all_the_time_is_made_once() -> None:
    """Its only time is what is known of it."""
    calls = []
    [took] = time_calls([lambda: calls.append(threading.Event().wait(0.002))], 0.001)
    assert len(calls) == 1
    assert took.wall_ns >= 2e6


def test_the_cpu_time_of_a_call_is_what_the_process_computed() -> None:
    """Sleeping takes none, whatever the clock says."""
    sleeping, hashing = time_calls([lambda: threading.Event().wait(0.003), lambda: sha256(bytes(1 << 21))], 0.2)
    assert sleeping.cpu_ns < sleeping.wall_ns / 2
    assert hashing.cpu_ns > sleeping.cpu_ns
    assert sleeping.undisturbed_ns == sleeping.cpu_ns
    assert timing.Timing(3.0, 5.0).undisturbed_ns == timing.Timing(3.0, 0.0).undisturbed_ns == 3.0


def test_the_busy_threads_own_time_does_not_count() -> None:
    """What the others computed is left of the process's CPU time."""
    with busy_thread() as clock:
        before = clock()
        threading.Event().wait(0.2)
        assert clock() - before < 0.03e9


def test_sizes_grow_until_a_batch_is_refused(tmp_path: Path) -> None:
    """What is known by then stays known; a refusal of the first size is an error."""
    engine = open_engine(perceptron([4, 3], tmp_path / "m.onnx"), EngineOptions(threads=1))
    samples = find_samples(engine)
    assert list(time_sizes(engine, samples, [1, 2, 4], 0.05)) == [1, 2, 4]

    class Refusing:
        spec = engine.spec

        def bind(self, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> timing.Call:
            def call() -> None:
                if len(inputs["x"]) > 2:
                    raise EngineError("too many rows")

            return call

    assert list(time_sizes(Refusing(), samples, [1, 2, 4, 8], 0.05)) == [1, 2]
    with pytest.raises(EngineError):
        time_sizes(Refusing(), samples, [4], 0.05)
    engine.close()


def test_a_call_computes_the_rows_asked_for(tmp_path: Path) -> None:
    """In fresh arrays where the model leaves a length free, in place where rows have one size."""
    engine = open_engine(masked_mean(tmp_path / "m.onnx"), EngineOptions(threads=1))
    assert call_of_rows(engine, find_samples(engine), 3)()["mean"].shape[0] == 3
    engine.close()
    fixed = open_engine(identity(DType.FP32, (None, 4), tmp_path / "echo.onnx"), EngineOptions(threads=1))
    assert call_of_rows(fixed, find_samples(fixed), 3)() is None
    fixed.close()


def test_the_busy_thread_ends_with_its_block() -> None:
    """However the block ends."""
    before = threading.active_count()

    def fail() -> None:
        with busy_thread():
            assert threading.active_count() == before + 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert threading.active_count() == before
