"""When one request passed each stage; kept until its answer has gone out, then recorded and traced."""

import msgspec

from tailcut.runtime.request import Batch, Request
from tailcut.runtime.tracing.timeline import StepTrace
from tailcut.server.served_model import ServedModel
from tailcut.server.tracing.records import TracedRequest
from tailcut.server.tracing.tracer import Tracer


class AnswerTimes(msgspec.Struct, gc=False):
    """Times in monotonic nanoseconds, in the order of the stages, and the sizes of request, body and batch."""

    began_ns: int
    ready_ns: int
    formed_ns: int
    compute_began_ns: int
    ended_ns: int
    handed_ns: int
    encoded_ns: int
    rows: int  # of the request
    batch_rows: int
    batch_requests: int
    length: int  # of the request's body
    steps: tuple[StepTrace, ...]  # of a pipeline

    @classmethod
    def of(  # noqa: PLR0913, PLR0917  one answer, and all that is known of it
        cls, request: Request, batch: Batch, began_ns: int, handed_ns: int, encoded_ns: int, rows: int, length: int
    ) -> "AnswerTimes":
        """The times of a request with this many rows that a batch answers."""
        return cls(
            began_ns,
            request.ready_ns,
            batch.formed_ns,
            batch.began_ns,
            batch.ended_ns,
            handed_ns,
            encoded_ns,
            rows,
            batch.rows,
            batch.requests,
            length,
            batch.steps.get(request, ()),
        )

    def record(self, served: ServedModel, written_ns: int) -> None:
        """Write the record to the model's timeline, when the answer has gone out."""
        served.timeline.record(*self._moments(), written_ns, self.rows, self.batch_rows, self.length, 200)

    def trace(self, tracer: Tracer, asked: TracedRequest, served: ServedModel, written_ns: int) -> None:
        """Hand the record of a sampled request to the tracer, when the answer has gone out."""
        size = self.batch_rows, self.batch_requests
        tracer.answered(asked, served, (*self._moments(), written_ns), self.rows, size, self.length, self.steps)

    def _moments(self) -> tuple[int, int, int, int, int, int, int]:
        return (
            self.began_ns,
            self.ready_ns,
            self.formed_ns,
            self.compute_began_ns,
            self.ended_ns,
            self.handed_ns,
            self.encoded_ns,
        )
