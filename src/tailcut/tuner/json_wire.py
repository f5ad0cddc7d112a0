"""Whether requests can be sent as JSON, which has no NaN, no infinity, and no bytes that are not UTF-8."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from tailcut.errors import UsageError
from tailcut.spec import DType
from tailcut.tuner.records import TuneRequest, with_wire


def is_json(array: np.ndarray) -> bool:
    """Whether JSON has words for all values."""
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
    """The first input that JSON cannot carry, and why, in words; empty where it carries all."""
    for request in requests:
        for name, array in request.items():
            if not is_json(array):
                what = "bytes that are not UTF-8" if array.dtype.hasobject else "NaN or infinity"
                return f"input {name!r} has {what} in the data, which JSON cannot carry"
    return ""


def for_clients_of(wanted: TuneRequest, words: str) -> TuneRequest:
    """What is wanted, where `words` say that JSON cannot carry the requests: a profile to re-check is asked in binary.

    Raises:
        UsageError: clients speak nothing else.
    """
    if words and wanted.wire == "json":
        raise UsageError(f"--wire json: {words}: use --wire binary")
    previous = wanted.previous
    if not words or previous is None or previous.settings.io.wire != "json":
        return wanted
    return replace(wanted, previous=msgspec.structs.replace(previous, settings=with_wire(previous.settings, "binary")))
