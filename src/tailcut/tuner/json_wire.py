"""Whether requests can be sent as JSON: it has no NaN, infinity or bytes that are not UTF-8, and is longer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from tailcut.errors import UsageError
from tailcut.spec import DType
from tailcut.tuner.records import TuneRequest, with_wire
from tailcut.wire.v2.call import BODY_BYTES, json_body

_SAMPLED = 4096  # values of an array, from which its length as JSON is estimated
_SURE = 0.03  # the error of that estimate is smaller


def is_json(array: np.ndarray) -> bool:
    """Whether JSON can represent all values of an array."""
    if DType.of(array.dtype) is not DType.BYTES:
        return array.dtype.kind in "iub" or bool(np.isfinite(array.astype(np.float64)).all())
    try:
        for item in array.reshape(-1).tolist():
            if isinstance(item, bytes):
                item.decode()
    except UnicodeDecodeError:
        return False
    return True


def not_json(requests: Sequence[Mapping[str, np.ndarray]]) -> str:
    """The first input that cannot be sent as JSON, and why, as a message; empty if all requests can.

    A request whose JSON body is larger than a server accepts cannot be sent either.
    """
    for request in requests:
        for name, array in request.items():
            if not is_json(array):
                what = "bytes that are not UTF-8" if array.dtype.hasobject else "NaN or infinity"
                return f"input {name!r} has {what} in the data, which JSON cannot represent"
        size_bytes = json_bytes(request)
        if abs(size_bytes - BODY_BYTES) < _SURE * BODY_BYTES:
            size_bytes = len(json_body(request))
        if size_bytes > BODY_BYTES:
            size = f"{size_bytes / 2**20:,.0f} MiB as JSON"
            return f"a request is {size}, over the {BODY_BYTES >> 20} MiB that a server accepts"
    return ""


def json_bytes(request: Mapping[str, np.ndarray]) -> int:
    """The approximate length of a request as JSON in bytes, estimated from a sample of its values.

    Bytes that are not UTF-8, which JSON cannot represent, count as the text that they nearly are.
    """
    random, size_bytes = np.random.default_rng(0), 0.0
    for array in request.values():
        some = array.flat[random.integers(array.size, size=_SAMPLED)] if array.size > _SAMPLED else array
        some = _as_text(some) if array.dtype.hasobject else some
        around_bytes = len(json_body({"": some.reshape(-1)[:0]}))
        values_bytes = len(json_body({"": some})) - around_bytes
        size_bytes += around_bytes + values_bytes * max(1.0, array.size / _SAMPLED)
    return int(size_bytes)


def _as_text(strings: np.ndarray) -> np.ndarray:
    """Strings as an array of `str`, whatever their bytes."""
    items = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in strings.reshape(-1)]
    return np.array(items, object).reshape(strings.shape)


def for_clients_of(wanted: TuneRequest, words: str) -> TuneRequest:
    """The request for a tune, adapted to data that JSON cannot represent: a re-checked profile gets binary tensors.

    Args:
        wanted: what the user asked for.
        words: why the data cannot be sent as JSON; empty if they can.

    Raises:
        UsageError: the data cannot be sent as JSON, and the clients send nothing else.
    """
    if words and wanted.wire == "json":
        raise UsageError(f"--wire json: {words}: use --wire binary")
    previous = wanted.previous
    if not words or previous is None or previous.settings.io.wire != "json":
        return wanted
    return replace(wanted, previous=msgspec.structs.replace(previous, settings=with_wire(previous.settings, "binary")))
