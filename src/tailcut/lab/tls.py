"""TLS for the load generator: which certificates it trusts, and messages about failed connections."""

import ssl
from functools import cache
from pathlib import Path

from tailcut.errors import InvalidInputError, UsageError
from tailcut.lab.load import LoadTarget
from tailcut.tls import client_context


@cache
def _context(ca: str | None) -> ssl.SSLContext:
    try:
        return client_context(ca)
    except InvalidInputError as error:
        raise UsageError(str(error)) from None


def tls_context(target: LoadTarget) -> ssl.SSLContext | None:
    """The context that checks the server's certificate and name; None for a target without TLS.

    Raises:
        UsageError: the file of trusted certificates cannot be read, or has none.
    """
    return _context(target.ca) if target.tls else None


def trusted_certificates(target: LoadTarget) -> bytes | None:
    """The content of the file of trusted certificates; None: the system's authorities.

    Raises:
        UsageError: as in `tls_context`.
    """
    _context(target.ca)
    return None if target.ca is None else Path(target.ca).read_bytes()


def reason(error: Exception) -> str:
    """Why a connection failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}): add --ca FILE with that of its authority"
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake failed: {error.reason or error}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
