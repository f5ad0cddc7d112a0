"""One gRPC channel of the load generator, with one call in flight; and blocking calls outside of load.

Requests are encoded before the load begins, as over HTTP: a call sends and receives bytes, and no message is built or
parsed while latency is measured. Status codes are reported as HTTP statuses of the same meaning.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
import numpy as np

from tailcut.errors import UsageError
from tailcut.lab.load import LoadTarget, NotListeningError, Payload, RequestOutcome
from tailcut.lab.tls import trusted_certificates
from tailcut.spec import DType, TensorSpec
from tailcut.wire.grpc.messages import MESSAGES, METHODS, SERVICE
from tailcut.wire.v2.tensors import from_bytes, to_bytes

_ASK_S = 30.0
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # otherwise, channels to one address would share a connection
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


def ask_grpc(target: LoadTarget, method: str, **fields: object) -> Any:
    """Make one blocking call; returns the message of the answer.

    Raises:
        UsageError: no server listens there, or the call is refused.
    """
    takes, gives, _ = METHODS[method]
    with _channel(grpc, target) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}", takes.SerializeToString, gives.FromString)
        try:
            return call(takes(**fields), timeout=_ASK_S, metadata=tuple(target.fields.items()))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise UsageError(f"no gRPC server answers at {target.authority}") from None
            raise UsageError(f"{target.authority} answers {error.code().name}: {error.details()}") from None


def grpc_payload(model: str, inputs: Mapping[str, np.ndarray]) -> Payload:
    """One ModelInfer request as bytes, with raw tensors."""
    return Payload(MESSAGES["ModelInferRequest"](**_fields(model, inputs)).SerializeToString())


def infer_once_grpc(target: LoadTarget, model: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Make one inference; returns the outputs by name.

    Raises:
        UsageError: no server listens there, or the call is refused.
    """
    response = ask_grpc(target, "ModelInfer", **_fields(model, inputs))
    outputs = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        tensor = TensorSpec(output.name, DType(output.datatype), tuple(output.shape))
        outputs[output.name] = from_bytes(tensor, tuple(output.shape), memoryview(raw), 0, len(raw))
    return outputs


def shared_call(model: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> bytes:
    """One ModelInfer request as bytes, with tensors in shared memory, from the entries of a JSON request."""
    kinds = {str: "string_param", int: "int64_param", bool: "bool_param"}
    sides = [
        [
            {**entry, "parameters": {key: {kinds[type(value)]: value} for key, value in entry["parameters"].items()}}
            for entry in side
        ]
        for side in (inputs, outputs)
    ]
    message = MESSAGES["ModelInferRequest"](model_name=model, inputs=sides[0], outputs=sides[1])
    encoded: bytes = message.SerializeToString()
    return encoded


def call_once(target: LoadTarget, request: bytes) -> None:
    """Send an encoded ModelInfer request, and wait for the answer.

    Raises:
        UsageError: as in `ask_grpc`.
    """
    message = MESSAGES["ModelInferRequest"].FromString(request)
    ask_grpc(target, "ModelInfer", **{field.name: value for field, value in message.ListFields()})


def _fields(model: str, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    dtypes = {name: DType.of(array.dtype) for name, array in inputs.items()}
    entries = [
        {"name": name, "datatype": dtypes[name].value, "shape": list(array.shape)} for name, array in inputs.items()
    ]
    raw = [to_bytes(array, dtypes[name]) for name, array in inputs.items()]
    return {"model_name": model, "inputs": entries, "raw_input_contents": raw}


async def connect_grpc(
    target: LoadTarget, on_done: Callable[["GrpcLoadConnection", RequestOutcome], None]
) -> "GrpcLoadConnection":
    """Open a channel to the target, and wait until it is ready.

    Raises:
        NotListeningError: no server listens.
    """
    channel = _channel(grpc.aio, target)
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}:
            await channel.close()
            raise NotListeningError(f"no gRPC server listens at {target.authority}")
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
    return GrpcLoadConnection(channel, on_done, tuple(target.fields.items()))


def _channel(module: Any, target: LoadTarget) -> Any:
    """A channel of grpc or grpc.aio to the target.

    Raises:
        UsageError: the file of trusted certificates cannot be read, or has none.
    """
    if not target.tls:
        return module.insecure_channel(target.authority, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(trusted_certificates(target))
    return module.secure_channel(target.authority, credentials, options=_OPTIONS)


class GrpcLoadConnection:
    """A channel with one call at a time. It is always alive, because channels reconnect by themselves."""

    alive = True
    _numbers = itertools.count()

    def __init__(
        self,
        channel: grpc.aio.Channel,
        on_done: Callable[["GrpcLoadConnection", RequestOutcome], None],
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._metadata = metadata
        self._channel = channel
        self._infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        self._on_done = on_done
        self._number = next(self._numbers)
        self._task: asyncio.Task[None] | None = None

    def send(self, payload: Payload, planned_ns: int, free_ns: int) -> None:
        """Send a request; see `Carrier.send`."""
        self._task = asyncio.ensure_future(self._call(payload, planned_ns, free_ns))

    def close(self) -> None:
        """Close the channel; `on_done` is not called any more."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.ensure_future(self._channel.close())

    async def _call(self, payload: Payload, planned: int, free: int) -> None:
        sent = time.monotonic_ns()
        try:
            await self._infer(payload.at(self._number), metadata=self._metadata)
            status = 200
        except grpc.aio.AioRpcError as error:
            status = _HTTP_STATUS.get(error.code(), 500)
        done = time.monotonic_ns()
        expected = status == payload.expect_status
        self._on_done(self, RequestOutcome(planned, free, sent, done, status, expected, payload.length))
