"""Engines that do not come back: real models whose loop runs for as many rounds as the request says."""

import time
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import endless

from tailcut.engines.base import EngineOptions
from tailcut.errors import DeadlineExceededError
from tailcut.memory.slab import RowState
from tailcut.runtime.delivery import AnyThreadDelivery, EventHandler
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.request import Batch, Request
from tailcut.runtime.settings import BatchingSettings, Settings

FOR_EVER = 1 << 40
WAIT_S = 20.0


def opened(folder: Path, *, engine: str = "onnxruntime", instances: int = 1, dispatch: str = "worker") -> Model:
    settings = Settings(
        engine=EngineOptions(name=engine, threads=1, instances=instances),
        batching=BatchingSettings(
            max_batch_size=4, dispatch=dispatch, rows="independent"
        ),  # which its loop does not show
    )
    path = folder / "endless.onnx"
    return Model.open(
        Profile.of_model(path if path.exists() else endless(path), settings), limits=Limits(engine_timeout_s=0.3)
    )


def ask(model: Model, number: int, rounds: int) -> tuple[Request, EventHandler]:
    handler = EventHandler()
    inputs = {"x": np.full((1, 4), number, np.float32), "rounds": np.full((1, 1), rounds, np.int64)}
    request = Request(handler, AnyThreadDelivery(), 1)
    model.entry.start(inputs, request)
    return request, handler


@pytest.mark.parametrize("instances", [1, 2])
def test_a_hanging_engine_costs_its_batch_only(tmp_path: Path, instances: int) -> None:
    """Its members hear of it, another worker answers the next request, and the rows come back."""
    with opened(tmp_path, instances=instances) as model:
        hanging = [ask(model, 1, FOR_EVER), ask(model, 2, FOR_EVER)]
        model.entry.notify()
        for _, handler in hanging:
            assert handler.event.wait(WAIT_S)
            assert isinstance(handler.error, DeadlineExceededError)
            assert "0.3 s" in str(handler.error)
        inputs = {"x": np.full((1, 4), 7, np.float32), "rounds": [[3]]}
        assert (model.infer_sync(inputs, timeout_s=WAIT_S)["y"] == 7).all()
        assert model.statistics() | {"failed": 2, "requests": 1} == model.statistics()


def test_the_pool_is_at_full_strength_again(tmp_path: Path) -> None:
    """After five hanging batches, more than may hang at a time, each on its turn."""
    with opened(tmp_path) as model:
        for number in range(5):
            _, handler = ask(model, number, FOR_EVER)
            model.entry.notify()
            assert handler.event.wait(WAIT_S)
        assert (model.infer_sync({"x": np.ones((1, 4), np.float32), "rounds": [[3]]})["y"] == 1).all()
        assert model._pool.size == 1
        assert model.statistics()["hung"] == 5


def test_rows_of_an_engine_that_cannot_be_stopped_stay_in_quarantine(tmp_path: Path) -> None:
    """Until it returns by itself: nobody else's bytes are put where it may still read and write."""
    with opened(tmp_path, engine="openvino") as model:
        request, handler = ask(model, 1, 1 << 17)
        model.entry.notify()
        assert handler.event.wait(WAIT_S)
        assert model.entry.scheduler.slab is not None
        assert model.entry.scheduler.slab.state(request.row) is RowState.ABANDONED
        assert (model.infer_sync({"x": np.full((1, 4), 7, np.float32), "rounds": [[3]]})["y"] == 7).all()
        assert model.entry.scheduler.slab.state(request.row) is RowState.ABANDONED
        end = time.monotonic() + 6 * WAIT_S  # beside other work its second of computing takes many
        while model.statistics()["rows_in_use"] and time.monotonic() < end:
            time.sleep(0.01)
        assert model.statistics()["rows_in_use"] == 0
        assert (model.infer_sync({"x": np.full((1, 4), 8, np.float32), "rounds": [[3]]})["y"] == 8).all()


def test_an_inline_model_is_freed_too(tmp_path: Path) -> None:
    """Its engine runs on the caller's own thread, which comes back because the engine is told to give up."""
    with opened(tmp_path, dispatch="inline") as model:
        _, handler = ask(model, 1, FOR_EVER)
        model.entry.notify()
        assert isinstance(handler.error, DeadlineExceededError)
        assert model.statistics()["rows_in_use"] == 0
        assert (model.infer_sync({"x": np.ones((1, 4), np.float32), "rounds": [[3]]})["y"] == 1).all()


def test_past_the_queue_too(tmp_path: Path) -> None:
    """What was computed at once, without having been queued, hangs and is given up like everything else."""
    with opened(tmp_path, dispatch="inline") as model:
        assert model.entry.scheduler.slab is not None
        lease = model.entry.lend(2, some=True)
        row = lease.row
        model.entry.scheduler.slab.inputs[0][row], model.entry.scheduler.slab.inputs[1][row] = 1, FOR_EVER
        handler = EventHandler()
        assert not model.entry.settle(lease, 1, Request(handler, AnyThreadDelivery(), 1), at_once=True)
        assert isinstance(handler.error, DeadlineExceededError)
        assert handler.outputs is None
        counts = model.statistics()
        assert counts | {"hung": 1, "failed": 1, "requests": 0, "rows_in_use": 0} == counts
        assert (model.infer_sync({"x": np.ones((1, 4), np.float32), "rounds": [[3]]})["y"] == 1).all()


def test_a_client_that_left_gets_no_answer(tmp_path: Path) -> None:
    """Its row is in quarantine already when the engine is given up; its neighbour hears of the hang."""
    with opened(tmp_path, dispatch="inline") as model:
        (left, unheard), (_, heard) = ask(model, 1, 1 << 17), ask(model, 2, 0)
        batch = model.entry.scheduler.next_batch(time.monotonic_ns())
        assert isinstance(batch, Batch)
        batch.began_ns = 1
        model.entry.cancel(left)
        assert model.entry.scheduler.expire() == [batch]
        assert unheard.error is None
        assert isinstance(heard.error, DeadlineExceededError)
        model.entry.executor.run(batch)
        model.entry.scheduler.finish(batch)
        assert unheard.outputs is heard.outputs is None
        assert model.statistics()["rows_in_use"] == 0


def test_what_waits_behind_a_long_batch_hears_in_time(tmp_path: Path) -> None:
    """A deadline that passes while the only engine computes is answered then, and not when the engine is done."""
    with opened(tmp_path) as model:
        _, first = ask(model, 1, FOR_EVER)
        model.entry.notify()
        handler = EventHandler()
        inputs = {"x": np.ones((1, 4), np.float32), "rounds": np.ones((1, 1), np.int64)}
        model.entry.start(inputs, Request(handler, AnyThreadDelivery(), 1, time.monotonic_ns() + 50_000_000))
        assert handler.event.wait(WAIT_S)
        assert isinstance(handler.error, DeadlineExceededError)
        assert first.event.wait(WAIT_S)


def test_closing_does_not_wait_for_ever(tmp_path: Path) -> None:
    """An engine that is lost in a batch is told to give up."""
    model = opened(tmp_path)
    model.entry.scheduler.engine_timeout_s = 1000.0
    _, handler = ask(model, 1, FOR_EVER)
    model.entry.notify()
    model.close()
    assert handler.error is not None


def test_an_engine_that_returns_just_before_its_worker_is_replaced(tmp_path: Path) -> None:
    """The worker stays, and is not counted among those that hang."""
    with opened(tmp_path) as model:
        (worker,) = model._pool._workers
        _, handler = ask(model, 1, 0)
        batch = Batch(model.entry.scheduler, [Request(handler, AnyThreadDelivery(), 1)])
        batch.thread = worker.thread
        model._pool.returned(batch)
        model._pool.replace(batch)
        assert list(model._pool._workers) == [worker]
        assert not model._pool._hung
        model.entry.notify()
        assert handler.event.wait(WAIT_S)
        assert handler.outputs is not None
