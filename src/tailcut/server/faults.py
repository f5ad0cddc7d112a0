"""What clients are told of errors, over any protocol: words of engines and faults of the server go to the log."""

import logging

from tailcut.errors import Code, EngineError, TailcutError

_log = logging.getLogger("tailcut")


def public_message(error: TailcutError) -> str:
    """What a client is told, as valid UTF-8: the engine's own words stay in the log."""
    return "the model failed on this input" if error.code is Code.INTERNAL else valid_text(str(error))


def valid_text(text: str) -> str:
    """Text that can be encoded: halves of surrogate pairs, which a str may hold, become question marks."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def fault(error: Exception) -> str:
    """Log a fault of the server's own, which costs one message only; what its client is told."""
    _log.error("a message was not understood", exc_info=error)
    return "the server failed on this message"


def known(error: Exception) -> TailcutError:
    """An error that a client can be told; what is a fault of the server's goes to the log."""
    return error.without_frames() if isinstance(error, TailcutError) else EngineError(fault(error))
