"""The Open Inference Protocol v2 over gRPC, on the same loop as HTTP: grpcio's sockets, our queue. The only gRPC place.

grpcio keeps HTTP/2 to a thread of its own and hands calls to the loop; a request is decoded, queued and answered there
like one of HTTP, and shares its batches. What that costs is in docs/decisions/009-grpc-by-grpcio.md.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tailcut.errors import Code, EngineError, QueueFullError, TailcutError, UsageError
from tailcut.runtime.batch import Batch, Ticket
from tailcut.runtime.inputs import check_inputs
from tailcut.server.access import log_grpc, trace_of, with_trace
from tailcut.server.grpc_questions import Questions
from tailcut.server.hub import Hub
from tailcut.server.replies import public_message
from tailcut.server.served import Served
from tailcut.wire.messages import MESSAGES, METHODS, SERVICE
from tailcut.wire.v2 import InferRequest, schedule_of, shared_outputs
from tailcut.wire.v2_grpc import infer_response, read_request

CODE_OF: Mapping[Code, grpc.StatusCode] = {
    Code.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.UNSUPPORTED: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.INTERNAL: grpc.StatusCode.INTERNAL,
}
_ADMIN = {
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
}  # need the token, where the server has one
_log = logging.getLogger("tailcut.grpc")
_IN_HAND = 64  # of one stream: read ahead, so that they share batches
_STOP_STEP_S = 0.02
_LAST_WORDS_S = 0.5  # for answers to reach the wire; what then is open still is a stream that nobody asks on
_HEAD_BYTES = 64 << 10  # names and shapes around the tensors of a message
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
)


class GrpcServer:
    """The gRPC side of a server: the inference service, and the standard health service."""

    def __init__(self, hub: Hub, *, shared: bool = False) -> None:
        limits = hub.limits
        self._hub = hub
        self._site = hub.site
        self._server = grpc.aio.server(
            options=[
                *_OPTIONS,
                ("grpc.so_reuseport", int(shared)),  # by workers of one server; else a port in use is a mistake
                ("grpc.max_receive_message_length", limits.body_bytes + _HEAD_BYTES),
                ("grpc.max_connection_idle_ms", int(limits.idle_timeout_s * 1000)),
            ],
            maximum_concurrent_rpcs=limits.connections,
        )
        self._health = health.aio.HealthServicer()
        self._in_hand: set[asyncio.Future[Any]] = set()
        self._draining: asyncio.Task[None] | None = None
        handlers = {name: self._handler(name) for name in METHODS}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen, and say that the server serves; returns the port.

        Raises:
            UsageError: the address cannot be had.
        """
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = self._server.add_insecure_port(place)
        except RuntimeError:
            raise UsageError(f"cannot listen for gRPC on {place}: in use, or not an address of this machine") from None
        await self._server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return bound

    def drain(self) -> None:
        """Tell who asks or watches that the server is about to go; calls are answered still."""
        self._draining = self._hub.loop.create_task(self._health.enter_graceful_shutdown())

    async def stop(self, patience_s: float) -> None:
        """Answer the requests in hand, for so long at most; then take no calls any more and end the streams."""
        end = self._hub.loop.time() + patience_s
        while self._in_hand and self._hub.loop.time() < end:  # noqa: ASYNC110  an event would cost every request
            await asyncio.sleep(_STOP_STEP_S)
        await self._server.stop(_LAST_WORDS_S)

    def _handler(self, name: str) -> Any:
        request, answer, streams = METHODS[name]
        parts = {"request_deserializer": request.FromString, "response_serializer": answer.SerializeToString}
        if streams:
            return grpc.stream_stream_rpc_method_handler(self._stream, **parts)
        if name == "ModelInfer":
            return grpc.unary_unary_rpc_method_handler(self._infer, **parts)
        return grpc.unary_unary_rpc_method_handler(self._plain(name, Questions(self._hub.site).of(name)), **parts)

    def _plain(self, name: str, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        async def call(request: Any, context: Any) -> Any:
            tale = _Tale(self._hub, name, context)
            if name in _ADMIN and not self._site.admits(tale.sent("authorization")):
                tale.end(grpc.StatusCode.UNAUTHENTICATED)
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this needs the server's token")
            try:
                answer = await handler(request)
            except TailcutError as error:
                await _abort(context, error, tale)
            tale.end(grpc.StatusCode.OK, answer)
            return answer

        return call

    async def _infer(self, request: Any, context: Any) -> Any:
        tale = _Tale(self._hub, "ModelInfer", context)
        call = self._call(context)
        try:
            call.begin(request)
            answer = await call.answer
        except TailcutError as error:
            call.answer.cancel()
            await _abort(context, error, tale)
        except asyncio.CancelledError:  # the client left, or its deadline passed
            call.cancel()
            tale.end(grpc.StatusCode.CANCELLED)
            raise
        tale.end(grpc.StatusCode.OK, answer)
        return answer

    def _call(self, context: Any, *, stream: bool = False) -> "_Call":
        call = _Call(self._hub, context.time_remaining(), stream=stream)
        self._in_hand.add(call.answer)
        call.answer.add_done_callback(self._in_hand.discard)
        return call

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> None:
        """Answers in the order of the requests; a request that fails costs only itself.

        It writes instead of yielding: a generator that grpcio drops is told late that its client has left.
        """
        calls: asyncio.Queue[_Call | None] = asyncio.Queue(_IN_HAND)
        begun: set[_Call] = set()
        reader = self._hub.loop.create_task(self._read(requests, context, calls, begun))
        try:
            while (call := await calls.get()) is not None:
                answer = MESSAGES["ModelStreamInferResponse"]()
                try:
                    answer.infer_response.CopyFrom(await call.answer)
                except TailcutError as error:
                    answer.error_message = public_message(error)
                    answer.infer_response.id = call.id
                begun.discard(call)
                _Tale(self._hub, "ModelStreamInfer", context, call.began_ns).end(
                    CODE_OF[call.error.code] if call.error else grpc.StatusCode.OK, answer
                )
                await context.write(answer)
            await reader  # raises what ended it early
        finally:
            reader.cancel()
            for call in begun:
                call.cancel()

    async def _read(
        self, requests: AsyncIterator[Any], context: Any, calls: "asyncio.Queue[_Call | None]", begun: "set[_Call]"
    ) -> None:
        try:
            async for request in requests:
                call = self._call(context, stream=True)
                begun.add(call)
                try:
                    call.begin(request)
                except TailcutError as error:
                    call.end(error)
                await calls.put(call)
        finally:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # else nobody takes it, and the queue may be full
                await calls.put(None)


async def _abort(context: Any, error: TailcutError, tale: "_Tale") -> None:
    code = CODE_OF[error.code]
    tale.end(code)
    if error.code is Code.INTERNAL:
        _log.warning("%s", with_trace(str(error), trace_of(tale.sent("traceparent"))))
    later = (("retry-after", str(error.retry_after_s)),) if isinstance(error, QueueFullError) else ()
    await context.abort(code, public_message(error), later)


class _Tale:
    """What is counted of a call, and logged where an access log is kept."""

    def __init__(self, hub: Hub, name: str, context: Any, began_ns: int = 0) -> None:
        self._hub = hub
        self._name = name
        self._context = context
        self._began_ns = began_ns or time.monotonic_ns()

    def sent(self, name: str) -> str:
        """A value of the call's metadata, empty where the client sent none."""
        return next((str(value) for key, value in self._context.invocation_metadata() or () if key == name), "")

    def end(self, code: grpc.StatusCode, answer: Any = None) -> None:
        """The call has its answer."""
        self._hub.site.counts.grpc_replies[code.name] += 1
        if self._hub.access:
            size = 0 if answer is None else answer.ByteSize()
            took_ns = time.monotonic_ns() - self._began_ns
            log_grpc(self._name, code.name, size, took_ns, trace_of(self.sent("traceparent")))


class _Call:
    """One inference request: the sink of its ticket, with a future for whoever answers."""

    def __init__(self, hub: Hub, remaining_s: float | None, *, stream: bool = False) -> None:
        self.id = ""
        self.began_ns = time.monotonic_ns()
        self.error: TailcutError | None = None
        self.answer: asyncio.Future[Any] = hub.loop.create_future()
        self._hub = hub
        self._remaining_s = remaining_s
        self._stream = stream
        self._ticket: Ticket | None = None
        self._served: Served = None  # type: ignore[assignment]  # set before there is a ticket
        self._request: InferRequest = None  # type: ignore[assignment]  # likewise

    def begin(self, message: Any) -> None:
        """Check the request and queue it.

        Raises:
            TailcutError: it is not admitted.
        """
        hub = self._hub
        self.id = message.id
        served = self._served = hub.site.models.find(message.model_name, message.model_version)
        model = served.model
        request = self._request = read_request(model.spec, message, hub.site.regions)
        arrays, rows = check_inputs(model.spec, request.inputs)
        timeout_ns, priority = schedule_of(request.parameters)
        if self._remaining_s is not None:
            left_ns = max(1, int(self._remaining_s * 1e9))
            timeout_ns = min(timeout_ns, left_ns) if timeout_ns else left_ns
        self._ticket = model.start(arrays, rows, self, hub.home, hub.deadline(timeout_ns), priority=priority)
        hub.home.kick_soon(model)

    def complete(self, ticket: Ticket, batch: Batch, index: int) -> None:
        """The engine has answered."""
        handed_ns = time.monotonic_ns()
        self._ticket = None
        self._hub.count_latency(batch.ended_ns - ticket.ready_ns)
        if self.answer.done():
            return
        served, request = self._served, self._request
        spec = served.model.spec
        outputs = dict(zip(spec.output_names, batch.arrays(index), strict=True))
        try:
            for place, data in shared_outputs(spec, request, outputs):
                self._hub.site.regions.write(place, data)
            self.answer.set_result(infer_response(spec, served.version, request, outputs, final=self._stream))
        except TailcutError as error:
            self.end(error)
        except Exception:  # noqa: BLE001  the client must not wait for ever for an answer that nobody can write
            _log.exception("the answer of model %r could not be written", spec.name)
            self.end(EngineError("the answer could not be written"))
        else:
            encoded_ns = time.monotonic_ns()  # grpcio writes it on a thread of its own: when is not known here
            moments = (self.began_ns, ticket.ready_ns, batch.formed_ns, batch.began_ns, batch.ended_ns, handed_ns)
            served.timeline.record(*moments, encoded_ns, encoded_ns, ticket.count, batch.rows, 0, 200)

    def fail(self, ticket: Ticket, error: TailcutError) -> None:
        """There will be no answer."""
        self._ticket = None
        self.end(error)

    def end(self, error: TailcutError) -> None:
        """The answer is an error."""
        if not self.answer.done():
            self.error = error
            self.answer.set_exception(error)

    def cancel(self) -> None:
        """Nobody waits any more: queued work goes with the client."""
        self.answer.cancel()
        if self._ticket is not None:
            self._served.model.cancel(self._ticket)
            self._ticket = None
