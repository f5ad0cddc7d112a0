"""When a request passed each stage: in the timeline's order, and as the tracer wants it."""

from types import SimpleNamespace

from tailcut.runtime.request import Request
from tailcut.runtime.tracing.timeline import FIELDS, StepTrace, Timeline
from tailcut.server.stage_times import AnswerTimes

STEP = StepTrace("embed", 1, 2, 3, 4, 5, 6)


def times() -> AnswerTimes:
    request = Request(None, None, 2, ready_ns=20)
    steps = {request: (STEP,)}
    batch = SimpleNamespace(formed_ns=30, began_ns=40, ended_ns=50, rows=7, requests=3, steps=steps)
    return AnswerTimes.of(request, batch, 10, 60, 70, 2, 100)


def test_a_record_is_in_the_order_of_its_fields() -> None:
    """Eight moments, the rows of the request and of its batch, the length of the body, and the status."""
    timeline = Timeline(8)
    times().record(SimpleNamespace(timeline=timeline), 80)
    records, _ = timeline.copy(0)
    assert dict(zip(FIELDS, records[0].tolist(), strict=True)) | {"process": 0} == {
        "head": 10,
        "ready": 20,
        "formed": 30,
        "began": 40,
        "ended": 50,
        "handed": 60,
        "encoded": 70,
        "written": 80,
        "rows": 2,
        "batch_rows": 7,
        "body_bytes": 100,
        "status": 200,
        "process": 0,
    }


def test_a_trace_has_the_same() -> None:
    """With the requests of the batch, and the steps of a pipeline."""
    message: list[tuple[object, ...]] = []
    tracer = SimpleNamespace(answered=lambda *arguments: message.append(arguments))
    times().trace(tracer, "asked", "served", 80)
    assert message == [("asked", "served", (10, 20, 30, 40, 50, 60, 70, 80), 2, (7, 3), 100, (STEP,))]
