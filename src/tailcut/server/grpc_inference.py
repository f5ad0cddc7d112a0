"""One inference request over gRPC: from its message to a ticket, and from the engine's answer to a message."""

import logging
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from tailcut.errors import EngineError, InvalidInputError, TailcutError
from tailcut.runtime.batch import Batch, Ticket
from tailcut.runtime.inputs import check_inputs
from tailcut.server.hub import Hub
from tailcut.server.served import Served
from tailcut.wire.messages import MESSAGES
from tailcut.wire.v2 import InferRequest, schedule_of, shared_outputs
from tailcut.wire.v2_grpc import infer_response, read_request

_log = logging.getLogger("tailcut.grpc")
_read = MESSAGES["ModelInferRequest"].FromString


class Inference:
    """The sink of its ticket; `done` is called once there is an answer or an error, never from inside `begin`."""

    __slots__ = (
        "_done",
        "_final",
        "_hub",
        "_request",
        "_served",
        "_ticket",
        "answer",
        "began_ns",
        "error",
        "id",
        "moments",
    )

    def __init__(self, hub: Hub, began_ns: int, done: Callable[["Inference"], None], *, final: bool = False) -> None:
        self.id = ""
        self.began_ns = began_ns
        self.answer: Any = None
        self.error: TailcutError | None = None
        self.moments: tuple[int, ...] = ()  # for the timeline, but for the last
        self._hub = hub
        self._done = done
        self._final = final
        self._ticket: Ticket | None = None
        self._served: Served = None  # type: ignore[assignment]  # set before there is a ticket
        self._request: InferRequest = None  # type: ignore[assignment]  # likewise

    def begin(self, data: bytes, left_ns: int) -> None:
        """Check the request and queue it; `left_ns` is what the call has left, or 0.

        Raises:
            TailcutError: it is not admitted.
        """
        hub = self._hub
        try:
            message = _read(data)
        except DecodeError:
            raise InvalidInputError("the message is no ModelInferRequest") from None
        self.id = message.id
        served = self._served = hub.site.models.find(message.model_name, message.model_version)
        model = served.model
        request = self._request = read_request(model.spec, message, hub.site.regions)
        arrays, rows = check_inputs(model.spec, request.inputs)
        schedule = schedule_of(request.parameters)
        timeout_ns = schedule.timeout_ns
        if left_ns:
            timeout_ns = min(timeout_ns, left_ns) if timeout_ns else left_ns
        deadline_ns = hub.deadline(timeout_ns)
        self._ticket = model.start(arrays, rows, self, hub.home, deadline_ns, priority=schedule.priority)
        hub.home.kick_soon(model)

    def complete(self, ticket: Ticket, batch: Batch, index: int) -> None:
        """The engine has answered."""
        handed_ns = time.monotonic_ns()
        self._ticket = None
        self._hub.count_latency(batch.ended_ns - ticket.ready_ns)
        served, request = self._served, self._request
        spec = served.model.spec
        outputs = dict(zip(spec.output_names, batch.arrays(index), strict=True))
        try:
            for place, data in shared_outputs(spec, request, outputs):
                self._hub.site.regions.write(place, data)
            self.answer = infer_response(spec, served.version, request, outputs, final=self._final)
        except TailcutError as error:
            self.error = error
        except Exception:  # noqa: BLE001  the client must not wait for ever for an answer that nobody can write
            _log.exception("the answer of model %r could not be written", spec.name)
            self.error = EngineError("the answer could not be written")
        else:
            times = (self.began_ns, ticket.ready_ns, batch.formed_ns, batch.began_ns, batch.ended_ns, handed_ns)
            self.moments = (*times, time.monotonic_ns(), ticket.count, batch.rows)
        self._done(self)
        if self._hub.spin_ns:
            self._hub.stay_awake(batch.ended_ns)

    def fail(self, ticket: Ticket, error: TailcutError) -> None:
        """There will be no answer."""
        self._ticket = None
        self.error = error
        self._done(self)

    def written(self, now_ns: int) -> None:
        """Its answer has gone out: when it passed each stage is known."""
        *times, rows, batch_rows = self.moments
        self._served.timeline.record(*times, now_ns, rows, batch_rows, 0, 200)

    def cancel(self) -> None:
        """Nobody waits any more: queued work goes with the client."""
        if self._ticket is not None:
            self._served.model.cancel(self._ticket)
            self._ticket = None
