"""The answers of a pipeline's batch go back together: to each client its own, whatever becomes of the others."""

import threading

import numpy as np
import pytest

from tailcut import Model
from tailcut.runtime.delivery import AnyThreadDelivery, EventHandler
from tailcut.runtime.request import Request

PIPELINE = """
import threading
from tailcut import InvalidInputError, Pipeline, stage

GATE = threading.Event()


@stage(inputs={"x": "FP32"}, outputs={"y": "FP32"}, threads=True, max_batch_size=8)
def add(x):
    GATE.wait(20)
    if 13 in x:
        raise InvalidInputError("not 13")
    return x + 1


@stage(inputs={"y": "FP32"}, outputs={"z": "FP32"}, threads=True, max_batch_size=8)
def double(y):
    return 2 * y


one = Pipeline("one", [add])
two = Pipeline("two", [add, double])
"""


class Counting(AnyThreadDelivery):
    """Counts the batches that it delivers."""

    def __init__(self):
        self.batches = []

    def post(self, batch):
        self.batches.append(len(batch.members))
        super().post(batch)


@pytest.fixture(params=["one", "two"])
def model(request, tmp_path):
    (tmp_path / "p.py").write_text(PIPELINE)
    with Model.open(f"{tmp_path}/p.py:{request.param}") as model:
        yield model


def queued(model, values, deliveries):
    """Requests of one row: the first keeps the thread busy, and the others are one batch once the gate opens."""
    gate = model.entry.steps[0].engine.stage.function.__globals__["GATE"]
    requests = []
    for value, delivery in zip(values, deliveries, strict=True):
        request = Request(EventHandler(), delivery, 1)
        model.entry.start({"x": np.array([value], np.float32)}, request)
        model.entry.notify()
        while not requests and not model.entry.steps[0].model.statistics()["computing"]:
            threading.Event().wait(0.001)
        requests.append(request)
    return gate, requests


def expected(model, value):
    return (value + 1) * len(model.entry.steps)


def test_each_client_gets_its_own_answer_through_its_own_delivery(model):
    """Two deliveries with three requests each get one batch each; more only where a second step took fewer at once."""
    deliveries = [Counting(), Counting(), Counting()]
    gate, requests = queued(model, range(7), [deliveries[0], *deliveries[1:] * 3])
    gate.set()
    for value, request in enumerate(requests):
        assert request.handler.event.wait(20)
        assert request.handler.outputs[0].tolist() == [expected(model, value)]
    batches = [delivery.batches for delivery in deliveries]
    assert list(map(sum, batches)) == [1, 3, 3]
    assert len(model.entry.steps) > 1 or batches == [[1], [3], [3]]
    assert model.statistics()["requests"] == model.statistics()["rows"] == 7
    assert model.entry.stage_times()[-1].requests == 7


def test_one_that_fails_and_one_that_left_do_not_touch_the_others(model):
    """The first gets its error, the second nothing, and both are counted as what they are."""
    delivery = Counting()
    gate, requests = queued(model, [1, 13, 3, 4], [delivery] * 4)
    model.entry.cancel(requests[2])
    gate.set()
    for value, request in ((1, requests[0]), (4, requests[3])):
        assert request.handler.event.wait(20)
        assert request.handler.outputs[0].tolist() == [expected(model, value)]
    assert requests[1].handler.event.wait(20)
    assert str(requests[1].handler.error) == "stage 'add': not 13"
    assert not requests[2].handler.event.is_set()
    counts = model.statistics()
    assert (counts["requests"], counts["cancelled"], counts["computing"]) == (2, 1, 0)
