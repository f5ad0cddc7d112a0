"""The Open Inference Protocol v2 over gRPC, on the same loop as HTTP, with our own HTTP/2 (`wire/http2`).

A request is decoded, queued and answered on the loop's thread, like one over HTTP, and shares batches with those.
docs/decisions/017-http2-of-our-own.md says why grpcio's server is not used, and what that gains.
"""

from functools import partial
from typing import Any

from tailcut.server.grpc.connection import GrpcConnection, Maker
from tailcut.server.grpc.infer_calls import InferCall, StreamCall
from tailcut.server.grpc.queries import GrpcQueries
from tailcut.server.grpc.query_calls import REFUSED, AdminCall, QuestionCall, WatchCall, Watchers
from tailcut.server.grpc.templates import Plans
from tailcut.server.state import ServerState
from tailcut.wire.grpc.framing import CallError, CallHead, Status, error_end
from tailcut.wire.grpc.messages import HEALTH, HEALTH_SERVICE, METHODS, SERVICE

_ADMIN = {
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
}  # require the token, where the server has one
_OPEN = {
    f"/{SERVICE}/ServerLive",
    f"/{SERVICE}/ServerReady",
    f"/{HEALTH_SERVICE}/Check",
    f"/{HEALTH_SERVICE}/Watch",
}  # never require the token


class GrpcServer:
    """The gRPC side of a server: the inference service, the standard health service, and their connections."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self.closing = False
        self.plans = Plans(state)
        self.connections: set[GrpcConnection] = set()
        self._makers: dict[str, Maker] = {f"/{SERVICE}/{name}": self._maker(name) for name in METHODS}
        self._draining = False
        self._watchers = Watchers(state.loop)
        check = partial(QuestionCall, name="Check", handler=self._check, request=HEALTH["HealthCheckRequest"])
        watch = partial(WatchCall, name="Watch", status_of=self._status_of, watchers=self._watchers)
        self._makers |= {f"/{HEALTH_SERVICE}/Check": check, f"/{HEALTH_SERVICE}/Watch": watch}

    def connection(self) -> GrpcConnection:
        """The protocol object for an accepted socket."""
        return GrpcConnection(self)

    def maker(self, head: CallHead) -> Maker | bytes:
        """The function that makes a call with this head; or the block that ends one that is invalid or unknown."""
        plan, error, context = head.plan, head.error, self.state.context
        make = self._makers.get(plan.path)
        if plan.path and context.require_token and plan.path not in _OPEN and not context.admits(plan.authorization):
            error = CallError(Status.UNAUTHENTICATED, REFUSED)
        elif error is None and make is not None and context.counts.buffered_bytes > self.state.limits.buffered_bytes:
            error = CallError(Status.UNAVAILABLE, "too many messages in progress")
        if plan.refused is not None:
            return plan.refused
        if error is None and make is not None:
            return make
        error = error or CallError(Status.UNIMPLEMENTED, "unknown method")
        context.counts.grpc_replies[error.status.name] += 1
        return error_end(error.status, str(error), 1 if error.status is Status.UNAVAILABLE else None)

    def drain(self) -> None:
        """Report NOT_SERVING to health checks, old and new; calls are still answered."""
        self._draining = True
        self._watchers.tell()

    def refuse(self) -> None:
        """Do nothing: the listener refuses new connections."""

    def close(self) -> None:
        """Tell every client to open no more calls; those in progress are answered."""
        self.closing = True
        for connection in list(self.connections):
            connection.wind_down()

    def _maker(self, name: str) -> Maker:
        request, _, streams = METHODS[name]
        if streams:
            return partial(StreamCall, name=name)
        if name == "ModelInfer":
            return partial(InferCall, name=name)
        kind = AdminCall if name in _ADMIN else QuestionCall
        return partial(kind, name=name, handler=GrpcQueries(self.state.context).of(name), request=request)

    def _status_of(self, service: str) -> int:
        status = HEALTH["HealthCheckResponse"]
        if service not in {"", SERVICE}:
            return int(status.SERVICE_UNKNOWN)
        serving = not self._draining and self.state.context.is_live
        return int(status.SERVING if serving else status.NOT_SERVING)

    async def _check(self, request: Any) -> Any:
        status = self._status_of(request.service)
        if status == HEALTH["HealthCheckResponse"].SERVICE_UNKNOWN:
            raise CallError(Status.NOT_FOUND, "unknown service")
        return HEALTH["HealthCheckResponse"](status=status)
