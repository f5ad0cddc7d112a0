"""What clients learn of errors, over any protocol: messages of engines and faults of the server go to the log."""

import logging

from tailcut.errors import Code, EngineError, TailcutError

_log = logging.getLogger("tailcut")


def public_message(error: TailcutError) -> str:
    """The message for a client, as valid UTF-8: that of an engine is for the log only."""
    return "the model failed on this input" if error.code is Code.INTERNAL else valid_text(str(error))


def valid_text(text: str) -> str:
    """Text that can be encoded: halves of surrogate pairs, which a str may hold, become question marks."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def fault(error: Exception) -> str:
    """Log a fault of the server itself that costs one message only; returns the message for its client."""
    _log.error("the server failed on a message", exc_info=error)
    return "the server failed on this message"


def known(error: Exception) -> TailcutError:
    """The error for a client; any that is not a TailcutError is a fault of the server, and is logged."""
    return error.without_frames() if isinstance(error, TailcutError) else EngineError(fault(error))
