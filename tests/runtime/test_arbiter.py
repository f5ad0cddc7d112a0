"""Models that share cores: real models whose loop runs for as many rounds as the request says."""

import os
import threading
from pathlib import Path

import numpy as np
from tests.engines.models import endless, identity

from tailcut.engines.base import EngineOptions
from tailcut.errors import DeadlineExceededError
from tailcut.runtime.arbiter import Arbiter
from tailcut.runtime.batch import Ticket
from tailcut.runtime.home import AnyThread, EventSink
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.profile import BatchingSettings, Profile, Settings
from tailcut.spec import DType

SETTINGS = Settings(engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch=4, rows="independent"))
LIMITS = Limits(hang_s=0.3)
ROW = np.ones((1, 4), np.float32)
WAIT_S = 20.0


def opened(path: Path, arbiter: Arbiter) -> Model:
    return Model.open(Profile.of_model(path, SETTINGS), limits=LIMITS, arbiter=arbiter)


def hold(model: Model) -> EventSink:
    """Have the model compute until it is given up."""
    sink = EventSink()
    model.start({"x": ROW, "rounds": np.full((1, 1), 1 << 40)}, 1, sink, AnyThread())
    model.kick()
    return sink


def test_a_model_waits_for_its_turn(tmp_path: Path) -> None:
    """With the only slot taken it computes when the other's batch is over, be it because it was given up."""
    arbiter = Arbiter(1)
    with (
        opened(endless(tmp_path / "endless.onnx"), arbiter) as heavy,
        opened(identity(DType.FP32, (None, 4), tmp_path / "echo.onnx"), arbiter) as light,
    ):
        assert (light.infer_sync({"x": ROW})["y"] == 1).all()
        held = hold(heavy)
        while not heavy._running:
            os.sched_yield()
        assert (light.infer_sync({"x": ROW})["y"] == 1).all()
        assert held.event.is_set()
        assert isinstance(held.error, DeadlineExceededError)
        assert (heavy.infer_sync({"x": ROW, "rounds": [[3]]})["y"] == 1).all()


def test_a_turn_of_cancelled_work_is_passed_on(tmp_path: Path) -> None:
    """The one behind it is not forgotten."""
    arbiter = Arbiter(1)
    echo = identity(DType.FP32, (None, 4), tmp_path / "echo.onnx")
    with (
        opened(endless(tmp_path / "endless.onnx"), arbiter) as heavy,
        opened(echo, arbiter) as leaving,
        opened(echo, arbiter) as staying,
    ):
        hold(heavy)
        while not heavy._running:
            os.sched_yield()
        sinks = [EventSink(), EventSink()]
        tickets: list[Ticket] = []
        for model, sink in zip((leaving, staying), sinks, strict=True):
            tickets.append(model.start({"x": ROW}, 1, sink, AnyThread()))
            model.kick()
        leaving.cancel(tickets[0])
        assert sinks[1].event.wait(WAIT_S)
        assert sinks[1].outputs is not None
        assert (leaving.infer_sync({"x": ROW})["y"] == 1).all()


def test_busy_models_all_get_on(tmp_path: Path) -> None:
    """Three models, six threads, one slot: every answer comes and is right."""
    arbiter = Arbiter(1)
    echo = identity(DType.FP32, (None, 4), tmp_path / "echo.onnx")
    models = [opened(echo, arbiter) for _ in range(3)]
    wrong: list[int] = []

    def ask(number: int) -> None:
        x = np.full((1, 4), number, np.float32)
        wrong.extend(number for _ in range(100) if (models[number % 3].infer_sync({"x": x})["y"] != number).any())

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert sum(model.statistics()["requests"] for model in models) == 600
    for model in models:
        model.close()
