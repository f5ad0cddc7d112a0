"""Classifies errors of a device by the texts of CUDA, PyTorch and onnxruntime. Pure.

Their errors have no common base class and no code, so their text has to do. The words are those of CUDA's
`cudaGetErrorString` (CUDA Runtime API, error types), of PyTorch's dispatcher and allocator, and of onnxruntime's arena.
"""

import re
from enum import Enum, auto

from tailcut.errors import DeviceError, DeviceLostError, EngineError

_REASON_CHARS = 200


class Fault(Enum):
    """Kinds of faults."""

    FULL = auto()  # no memory: a smaller batch may fit
    LOST = auto()  # the context is broken for good: every further call fails, until the process ends
    UNSUPPORTED = auto()  # the device cannot compute an operator
    OTHER = auto()  # caused by the model or the request


_FULL = r"out of memory|ALLOC_FAILED|Failed to allocate memory|smaller than requested bytes|memory allocation failure"
_LOST = (
    r"illegal memory access|unspecified launch failure|device-side assert|illegal instruction|misaligned address"
    r"|hardware stack error|uncorrectable|GPU is lost|fallen off the bus|launch timed out|invalid device context"
    r"|busy or unavailable|CUDA error: unknown error|CUDA failure (?:7\d\d|214|999)\b"
)
_UNSUPPORTED = (
    r"no kernel image|not implemented|NOT_IMPLEMENTED|Could not run '|Could not find an implementation"
    r"|not supported on (?:CUDA|this device)|NOT_SUPPORTED|operation not supported"
)
_WORDS = ((Fault.FULL, _FULL), (Fault.LOST, _LOST), (Fault.UNSUPPORTED, _UNSUPPORTED))


def fault_of(text: str) -> Fault:
    """The kind of fault in an error's text."""
    return next((fault for fault, words in _WORDS if re.search(words, text, re.IGNORECASE)), Fault.OTHER)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:_REASON_CHARS]


def device_error(error: BaseException, engine: str) -> EngineError:
    """The error of a batch, in one line, for an exception of an engine that computed on the device."""
    text, reason = str(error), first_line(error)
    match fault_of(text):
        case Fault.FULL:
            return DeviceError(
                f"{engine}: the device's memory is full: use smaller batches or fewer instances, or --also-cpu"
            )
        case Fault.LOST:
            return DeviceLostError(f"{engine}: the CUDA device is lost to this process, restart it: {reason}")
        case Fault.UNSUPPORTED:
            return DeviceError(f"{engine}: the device cannot compute an operator of the model: {reason}")
        case Fault.OTHER:
            return EngineError(f"{engine} failed on the device: {reason}")
