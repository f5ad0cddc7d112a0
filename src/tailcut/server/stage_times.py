"""When one request passed each stage: kept until its answer has gone out, then recorded and traced."""

import msgspec

from tailcut.runtime.request import Batch, Request
from tailcut.runtime.tracing.timeline import StepTrace
from tailcut.server.served_model import ServedModel
from tailcut.server.tracing.records import TracedRequest
from tailcut.server.tracing.tracer import Tracer


class AnswerTimes(msgspec.Struct, gc=False):
    """Moments in monotonic nanoseconds, in the order of the stages, and the sizes of what was computed."""

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
    def of(  # noqa: PLR0913, PLR0917  one answer, and what only its exchange knows
        cls, request: Request, batch: Batch, began_ns: int, handed_ns: int, encoded_ns: int, rows: int, length: int
    ) -> "AnswerTimes":
        """Those of a request of this many rows that is answered by a batch."""
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
            batch.steps,
        )

    def record(self, served: ServedModel, written_ns: int) -> None:
        """The answer has gone out: write the record of its model's timeline."""
        served.timeline.record(*self._moments(), written_ns, self.rows, self.batch_rows, self.length, 200)

    def trace(self, tracer: Tracer, asked: TracedRequest, served: ServedModel, written_ns: int) -> None:
        """The answer to a sampled request has gone out: keep its record for the tracer."""
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
