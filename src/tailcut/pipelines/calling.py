"""Calls a stage's function for the requests of a batch, and decides what a failed call tells the client."""

import logging
import os
from collections.abc import Callable, Sequence

import numpy as np

from tailcut.errors import EngineError, InvalidInputError, TailcutError
from tailcut.pipelines.layout import Packed, TensorLayout, Unpacked, rows_of, split_rows
from tailcut.pipelines.protocol import ReplyKind
from tailcut.pipelines.results import FailedCallError, RefusedInputError, call, call_filled
from tailcut.pipelines.stage import Stage

_log = logging.getLogger("tailcut")
_MESSAGE_BYTES = 4096  # of an author's message, at most


class Caller:
    """Runs a stage's function on the requests of a batch: on all rows together, or on each request by itself."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.inputs = TensorLayout(stage.inputs)
        self.outputs = TensorLayout(stage.outputs)

    def run(self, parts: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        """The outputs of each request.

        Raises:
            TailcutError: as `call`, or raised by the function itself.
        """
        stage = self.stage
        if stage.per_request or (len(parts) == 1 and not stage.fill):
            return self._apart(parts)
        if stage.fill:
            return call_filled(stage, self.inputs.together(parts), rows_of(parts))
        return split_rows(call(stage, self.inputs.together(parts)), rows_of(parts))

    def pack(self, parts: Sequence[Sequence[np.ndarray]]) -> Packed:
        """Pack the requests' inputs for a process: all rows together unless the function is called per request."""
        return self.inputs.pack(parts) if self.stage.per_request else self.inputs.pack_together(parts)

    def answer(self, asked: Unpacked, called: Callable[[], None]) -> Packed:
        """As `run`, but returns the outputs packed, with all rows together unless the function is called per request.

        Args:
            asked: the unpacked inputs.
            called: called after each call of a function that is called once per request.

        Raises:
            TailcutError: as `run`.
        """
        stage, parts = self.stage, asked.parts
        if stage.per_request:
            return self.outputs.pack(self._apart(parts, called))
        if stage.fill:
            return self.outputs.pack(call_filled(stage, self.inputs.together(parts), asked.rows))
        return self.outputs.pack_together([call(stage, self.inputs.together(parts))], asked.rows)

    def _apart(
        self, parts: Sequence[Sequence[np.ndarray]], called: Callable[[], None] = lambda: None
    ) -> list[list[np.ndarray]]:
        """Call the function once for each request; what it returns is kept from its next call, which may reuse it."""
        results: list[list[np.ndarray]] = []
        for arrays in parts:
            result = call(self.stage, arrays)
            results.append(result if len(parts) == 1 else kept(result))
            called()
        return results

    def unpack(self, region: np.ndarray, rows: Sequence[int]) -> list[list[np.ndarray]]:
        """The outputs of requests with this many rows, which a process has packed: views of the region.

        Args:
            region: uint8 [size], the packed outputs.
            rows: the number of rows of each request.

        Raises:
            EngineError: the region is not such a layout, or has other numbers of rows.
        """
        result = self.outputs.unpack(region)
        together = not (self.stage.per_request or self.stage.fill)
        counts = [sum(rows)] if together else list(rows)
        if rows_of(result.parts) != counts:
            raise EngineError(f"stage {self.stage.name!r}: its process returned outputs for other rows")
        return split_rows(result.parts[0], rows) if together and len(rows) > 1 else result.parts


def refusal(stage: Stage, error: BaseException) -> tuple[ReplyKind, str]:
    """What a failed call tells the client: the author's own message, or only the type of an unexpected exception.

    The text of an unexpected exception may contain parts of the request, so it goes to the log only.
    """
    if isinstance(error, RefusedInputError):
        return ReplyKind.INVALID, plain(error)
    message = plain(error) if isinstance(error, TailcutError) else ""
    if isinstance(error, InvalidInputError):
        return ReplyKind.INVALID, plain(f"stage {stage.name!r}{f': {message}' if message else ' refused the input'}")
    if message:
        return ReplyKind.FAILED, message
    return ReplyKind.FAILED, plain(f"stage {stage.name!r} failed: {type(error).__name__}")


def kept(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Copies of what a function returned, which it may overwrite later; arrays of strings are copies already."""
    return [array if array.dtype == object else array.copy() for array in arrays]


def plain(message: object) -> str:
    """An author's message as text that every protocol can send: valid UTF-8, at most 4096 bytes."""
    try:
        text = str(message)
    except Exception:  # noqa: BLE001  the author's class may have a faulty __str__
        text = type(message).__name__
    return text.encode(errors="replace")[:_MESSAGE_BYTES].decode(errors="ignore")


def log_fault(stage: Stage, error: BaseException) -> None:
    """Log the traceback of what a function raised, for its author, unless it refused its input on purpose."""
    by_function = isinstance(error, RefusedInputError | FailedCallError)
    fault = error.__cause__ if by_function else error
    if by_function or not isinstance(fault, TailcutError):
        _log.warning("stage %r raised", stage.name, exc_info=fault)


def end_forked(stage: Stage, pid: int) -> None:
    """End this process if it is one that the function forked, and that came back from the call.

    It shares the memory of results with the process that it was forked from, and would overwrite its answers.

    Args:
        stage: the stage, for the log.
        pid: id of the process that made the call.
    """
    if os.getpid() != pid:
        _log.error("stage %r: a process that it forked returned from the call: end it with os._exit", stage.name)
        os._exit(1)
