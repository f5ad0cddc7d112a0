"""The library's calls, on the entry of a model."""

import asyncio
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import endless, identity

from tailcut.errors import DeadlineExceededError, InputTypeError, InvalidInputError
from tailcut.runtime.calls import LibraryCalls
from tailcut.runtime.delivery import FutureHandler
from tailcut.runtime.model import Model
from tailcut.runtime.request import Delivery, Request
from tailcut.spec import DType

# Many rounds take several times as long as the alarm waits. In a process of its own, whose signals are nobody else's.
INTERRUPTED = """
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tailcut import Model
from tailcut.engines.base import EngineOptions
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings

values = np.ones((1, 4), np.float32)
signal.signal(signal.SIGALRM, signal.default_int_handler)
for dispatch in ("inline", "adaptive"):
    settings = Settings(engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch_size=4, dispatch=dispatch))
    with Model.open(Profile.of_model(Path(sys.argv[1]), settings)) as model:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            model.infer_sync({"x": values, "rounds": [[1 << 17]]})
        except KeyboardInterrupt:
            print(dispatch)
        with ThreadPoolExecutor() as threads:
            next_call = threads.submit(model.infer_sync, {"x": values, "rounds": [[1]]}, timeout_s=20)
            np.testing.assert_array_equal(next_call.result(20)["y"], values)
        counts = model.statistics()
        assert counts | {"computing": 0, "queued": 0, "rows_in_use": 0} == counts, counts
"""
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


def test_an_interrupted_call_does_not_cost_the_next_one_its_answer(tmp_path: Path) -> None:
    """Ctrl-C comes while the calling thread itself computes."""
    model = endless(tmp_path / "endless.onnx")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(model)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "inline\nadaptive\n"), done.stderr


def test_a_loop_goes_on_in_another_thread(echo: Model) -> None:
    """Its calls are answered there, although another thread computes some of them; the first thread, in fact."""
    calls, loop = LibraryCalls(echo.entry), asyncio.new_event_loop()
    loop.run_until_complete(calls.infer(ROWS, None, 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[Delivery, Request]:
        delivery = calls._delivery_to(loop)
        return delivery, Request(FutureHandler(loop.create_future()), delivery, 2)

    try:
        delivery, request = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
        assert not delivery.is_here
        echo.entry.start({"x": ROWS["x"]}, request)
        calls.infer_sync(ROWS, 20.0, 0)

        async def outcome() -> list[np.ndarray]:
            return await asyncio.wait_for(request.handler.future, 20)

        np.testing.assert_array_equal(asyncio.run_coroutine_threadsafe(outcome(), loop).result(30)[0], ROWS["x"])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_loops_come_and_go_in_several_threads(echo: Model) -> None:
    """What is kept for closed ones is dropped by one thread while others add theirs."""
    calls, interval = LibraryCalls(echo.entry), sys.getswitchinterval()

    def one_after_the_other(_: int) -> None:
        for _ in range(40):
            asyncio.run(calls.infer(ROWS, None, 0))

    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(one_after_the_other, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert len(calls._deliveries) <= 8


@pytest.mark.parametrize("shape", [(None, 16), (None, None)])
def test_the_callers_array_may_change_while_it_waits(tmp_path: Path, shape: tuple[None, int | None]) -> None:
    """A coroutine that has called fills its array for the next call; also one with more rows than a batch has."""

    async def ask(model: Model, rows: int) -> list[float]:
        x, tasks = np.empty((rows, 16), np.float32), []
        for number in range(4):
            x[:] = number
            tasks.append(asyncio.create_task(model.infer({"x": x})))
            await asyncio.sleep(0)
        x[:] = -1
        return [float(answer["y"].mean()) for answer in await asyncio.gather(*tasks)]

    with Model.open(identity(DType.FP32, shape, tmp_path / "echo.onnx"), auto=False) as model:
        for rows in (1, model.entry.max_batch_size * 8):
            assert asyncio.run(ask(model, rows)) == [0, 1, 2, 3]
