"""One tree of errors, each with a code that knows no transport: `server/` maps codes to HTTP, `cli/` to exit codes.

A caller's mistake is one of Python's own errors too (ValueError, TypeError, FileNotFoundError, LookupError), and so is
what passed its deadline (TimeoutError), so that code which knows nothing of Tailcut handles them.
"""

from enum import StrEnum
from typing import ClassVar, Self


class Code(StrEnum):
    """The kind of fault, which also says whether the caller, the server or time has to change."""

    INVALID = "invalid"  # the caller's input is wrong, and stays wrong
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"  # try again later
    DEADLINE = "deadline"
    INTERNAL = "internal"


class TailcutError(Exception):
    """The root: a message for the user, in one line that says what is wrong and what to do."""

    code: ClassVar[Code] = Code.INTERNAL

    def without_frames(self) -> Self:
        """The same error without its traceback, whose frames mostly have a local variable that refers to the error.

        Only a full garbage collection, which holds up the whole process, would free such a cycle.
        """
        self.__context__ = None
        return self.with_traceback(None)


class InvalidInputError(TailcutError, ValueError):
    """An input does not fit the model or the call: names the input, what was expected, and what came."""

    code = Code.INVALID


class InputTypeError(InvalidInputError, TypeError):
    """An input of another type than the model or the call takes."""


class ShapeMismatchError(InvalidInputError):
    """Two shapes that do not fit each other; the message names both."""


class UnsupportedError(TailcutError, ValueError):
    """A dtype, option or feature that this engine or machine does not have."""

    code = Code.UNSUPPORTED


class NotFoundError(TailcutError, LookupError):
    """An unknown model, version or output."""

    code = Code.NOT_FOUND


class ModelFileError(TailcutError, ValueError):
    """A model file that is missing, empty, corrupt or of another kind; the message names the file and the reason."""

    code = Code.INVALID


class MissingModelFileError(ModelFileError, FileNotFoundError):
    """A model file, or one with its weights, that is not there."""


class ProfileError(TailcutError, ValueError):
    """A profile that cannot be used: missing, corrupt, of another schema, or for another model."""

    code = Code.INVALID


class MissingProfileError(ProfileError, FileNotFoundError):
    """A profile that is not there."""


class UsageError(TailcutError, ValueError):
    """A user's mistake on the command line or in a call: unknown file, bad flag, port in use."""

    code = Code.INVALID


class ArgumentTypeError(UsageError, TypeError):
    """An argument of another type than the call takes."""


class MissingFileError(UsageError, FileNotFoundError):
    """A file that a call or a command line names, and that is not there."""


class TooLargeError(TailcutError, ValueError):
    """More bytes, rows or samples than a limit admits; the message carries both sizes."""

    code = Code.TOO_LARGE


class CapacityError(TooLargeError, MemoryError):
    """An arena or buffer is too small for what was asked; the message carries the sizes."""


class ReleasedError(TailcutError, RuntimeError):
    """A buffer, row or model was used after it was released or closed."""


class IllegalMoveError(TailcutError, RuntimeError):
    """A state machine was asked for a move that its table does not hold."""


class QueueFullError(TailcutError):  # no mistake of the caller's, and Python has no error for it
    """No row is free, or the work could not meet its deadline; try again after `retry_after_s`, which may be under 1.

    Until `opens_ns` (monotonic) the answer to a request like it would be the same. `late` says that it is the deadline.
    """

    code = Code.UNAVAILABLE

    def __init__(self, message: str, retry_after_s: float = 1.0, opens_ns: int = 0, *, late: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.opens_ns = opens_ns
        self.late = late


class UnreachableError(TailcutError, ConnectionError):
    """No server answers at an address, the connection broke off, or what answers is not such a server."""

    code = Code.UNAVAILABLE


class DeadlineExceededError(TailcutError, TimeoutError):
    """The work's deadline passed before its answer was there."""

    code = Code.DEADLINE


class EngineError(TailcutError, RuntimeError):
    """The engine raised while it ran a batch."""


class BatchLostError(EngineError):
    """What computed a batch ended with it: none of its requests is tried again."""


class DeviceError(EngineError):
    """The device of an engine could not compute a batch: its memory is full, or it lacks an operator."""


class DeviceLostError(DeviceError, BatchLostError):
    """The device computes nothing more in this process; the same batch would fail again."""
