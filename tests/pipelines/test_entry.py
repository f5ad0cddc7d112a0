"""A pipeline's entry: what is large is copied with pauses, and a client that leaves takes its work from where it is."""

import threading

import numpy as np
import pytest

from tailcut import Model
from tailcut.runtime.delivery import AnyThreadDelivery, EventHandler
from tailcut.runtime.request import Request
from tests.engines.models import perceptron

PIPELINE = """
import threading
import numpy as np
from tailcut import Pipeline, stage

LEAVE = threading.Event()


@stage(inputs={"y": "FP32[2]"}, outputs={"z": "FP32[2]"}, threads=True, max_batch_size=1)
def wait(y):
    LEAVE.wait(20)
    return y


pipeline = Pipeline("p", ["wide.onnx", wait])
"""
WIDTH = 65536


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entry")
    perceptron([WIDTH, 2], folder / "wide.onnx")
    (folder / "p.py").write_text(PIPELINE)
    with Model.open(f"{folder}/p.py:pipeline") as model:
        yield model


@pytest.fixture
def event(model):
    event = model.entry.steps[1].engine.stage.function.__globals__["LEAVE"]
    event.clear()
    yield event
    event.set()


def inputs(rows):
    return {"x": np.ones((rows, WIDTH), np.float32)}


def settled(model, **counts):
    looks = threading.Event()
    for _ in range(2000):
        if all(model.statistics()[name] == value for name, value in counts.items()):
            return
        looks.wait(0.005)
    assert {name: model.statistics()[name] for name in counts} == counts


def test_large_arrays_are_copied_with_pauses(model, event):
    """Into the rows of a first step that is a model; the answer is that of a request without pauses."""
    event.set()
    assert model.entry.steps[0].model.entry.slab is not None
    handler = EventHandler()
    steps = model.entry.start_in_steps(inputs(4), Request(handler, AnyThreadDelivery(), 4))
    assert len(list(steps)) >= 4
    model.entry.notify()
    assert handler.event.wait(20)
    assert np.array_equal(handler.outputs[0], model.infer_sync(inputs(4))["z"])


def test_a_request_that_is_given_up_in_a_pause_leaves_nothing_behind(model, event):
    """No row, and no request that counts as being computed."""
    before = model.statistics()["cancelled"]
    steps = model.entry.start_in_steps(inputs(4), Request(EventHandler(), AnyThreadDelivery(), 4))
    next(steps)
    steps.close()
    settled(model, computing=0, rows_in_use=0, cancelled=before + 1)


def test_a_client_that_leaves_is_taken_out_of_the_step_that_it_is_in(model, event):
    """Its work is neither computed there nor counted as another step's."""
    first, second = (step.model for step in model.entry.steps)
    before = [step.statistics()["cancelled"] for step in (first, second)]
    computed = second.statistics()["requests"]
    requests = [Request(EventHandler(), AnyThreadDelivery(), 1) for _ in range(2)]
    for request in requests:
        model.entry.start(inputs(1), request)
        model.entry.notify()
    looks = threading.Event()
    while second.statistics()["queued"] != 1 or second.statistics()["computing"] != 1:
        looks.wait(0.001)
    waiting = next(item for item, flow in model.entry._flows.items() if not flow.under_way.request.running)
    model.entry.cancel(waiting)
    event.set()
    settled(model, computing=0, queued=0)
    assert [step.statistics()["cancelled"] for step in (first, second)] == [before[0], before[1] + 1]
    assert second.statistics()["requests"] == computed + 1
