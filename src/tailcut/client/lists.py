"""Converts lists in a call to arrays of the model's dtypes. No socket.

Numpy chooses another dtype for a list than most models have: whole numbers become INT64, and floats FP64. So the client
asks the server for the model's inputs first, at most every ten seconds, because a new version may have others. As in
`Model.infer`, a number is refused where the dtype cannot hold it.
"""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tailcut.client.requests import Encoder, InferenceCall, OutgoingRequest
from tailcut.errors import UnreachableError
from tailcut.runtime.inputs import from_list
from tailcut.spec import DType, TensorSpec
from tailcut.wire.http1.answers import HttpAnswer
from tailcut.wire.memo import BytesMemo
from tailcut.wire.v2.call import model_path

_KNOWN_S = 10.0
_KEPT = 256
Tensors = Mapping[str, TensorSpec]


class ListConverter:
    """Knows the inputs of models for a short time. A call is a generator, as in `shared.py`."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: BytesMemo[tuple[str, str], tuple[float, Tensors]] = BytesMemo(_KEPT)

    def converted(self, call: InferenceCall) -> Generator[OutgoingRequest, HttpAnswer, InferenceCall]:
        """The call with arrays in place of lists. Names that the model does not have are left for the server to refuse.

        Raises:
            InvalidInputError: a number is out of the range of its input's dtype, or lists differ in length.
            InputTypeError: a list has something else than numbers, or than strings.
            UnreachableError: the server speaks another protocol.
        """
        key = call.model, call.version
        asked_s, tensors = self._known.get(key, (0.0, {}))
        now_s = time.monotonic()
        if now_s >= asked_s + _KNOWN_S or not tensors:
            answer = yield OutgoingRequest(self._encoder.get(model_path(*key)))
            tensors = _inputs_of(answer.json())
            self._known.keep(key, (now_s, tensors))
        inputs: dict[str, Any] = dict(call.inputs)
        for name in call.lists():
            if name in tensors:
                inputs[name] = from_list(tensors[name], inputs[name])
        return replace(call, inputs=inputs)


def _inputs_of(metadata: Any) -> Tensors:
    try:
        return {entry["name"]: _tensor(**entry) for entry in metadata["inputs"]}
    except (KeyError, TypeError, ValueError):
        raise UnreachableError("the server's description of the model is not that of the v2 protocol") from None


def _tensor(name: str, datatype: str, shape: Sequence[int], **_: object) -> TensorSpec:
    return TensorSpec(name, DType(datatype), tuple(None if dim < 0 else dim for dim in shape))
