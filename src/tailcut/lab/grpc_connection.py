"""One gRPC channel of the load generator, with one call in flight; and a plain blocking exchange beside the load.

Requests are encoded before the load begins, as over HTTP: a call sends bytes and gets bytes, and no message is built
or read while latency is measured. Status codes are told as the HTTP statuses of the same meaning.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import grpc.aio
import numpy as np

from tailcut.errors import UsageError
from tailcut.lab.load import Outcome, Payload, Target
from tailcut.spec import DType
from tailcut.wire.messages import MESSAGES, METHODS, SERVICE
from tailcut.wire.v2_tensors import to_bytes

_ASK_S = 30.0
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one address share a connection
)
_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


def ask_grpc(target: Target, method: str, **fields: object) -> Any:
    """One blocking call; the answer's message.

    Raises:
        UsageError: nobody listens there, or the call is refused.
    """
    takes, gives, _ = METHODS[method]
    with grpc.insecure_channel(target.authority, options=_OPTIONS) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}", takes.SerializeToString, gives.FromString)
        try:
            return call(takes(**fields), timeout=_ASK_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise UsageError(f"no gRPC server answers at {target.authority}") from None
            raise UsageError(f"{target.authority} answers {error.code().name}: {error.details()}") from None


def grpc_payload(model: str, inputs: Mapping[str, np.ndarray]) -> Payload:
    """One ModelInfer call as bytes, tensors in their raw form."""
    dtypes = {name: DType.of(array.dtype) for name, array in inputs.items()}
    entries = [
        {"name": name, "datatype": dtypes[name].value, "shape": list(array.shape)} for name, array in inputs.items()
    ]
    raw = [to_bytes(array, dtypes[name]) for name, array in inputs.items()]
    message = MESSAGES["ModelInferRequest"](model_name=model, inputs=entries, raw_input_contents=raw)
    return Payload(message.SerializeToString())


async def connect_grpc(target: Target, on_done: Callable[["GrpcConnection", Outcome], None]) -> "GrpcConnection":
    """A channel to the target that is ready.

    Raises:
        UsageError: nobody listens.
    """
    channel = grpc.aio.insecure_channel(target.authority, options=_OPTIONS)
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}:
            await channel.close()
            raise UsageError(f"no gRPC server listens at {target.authority}")
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
    return GrpcConnection(channel, on_done)


class GrpcConnection:
    """One call at a time. It is always alive: a channel connects again by itself."""

    alive = True

    def __init__(self, channel: grpc.aio.Channel, on_done: Callable[["GrpcConnection", Outcome], None]) -> None:
        self._channel = channel
        self._infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        self._on_done = on_done
        self._task: asyncio.Task[None] | None = None

    def send(self, payload: Payload, planned_ns: int, free_ns: int) -> None:
        """Start a call."""
        self._task = asyncio.ensure_future(self._call(payload, planned_ns, free_ns))

    def close(self) -> None:
        """Break off; nothing more is told."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.ensure_future(self._channel.close())

    async def _call(self, payload: Payload, planned: int, free: int) -> None:
        sent = time.monotonic_ns()
        try:
            await self._infer(payload.request)
            status = 200
        except grpc.aio.AioRpcError as error:
            status = _HTTP_STATUS.get(error.code(), 500)
        done = time.monotonic_ns()
        self._on_done(self, Outcome(planned, free, sent, done, status, status == payload.expect_status))
