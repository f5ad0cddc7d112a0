"""TLS on the client's side: which certificates it trusts, and what went wrong, in words."""

from pathlib import Path
from typing import TYPE_CHECKING

from tailcut.errors import InvalidInputError, UnreachableError

if TYPE_CHECKING:
    import ssl


def client_context(ca: str | Path | None = None, *, verify: bool = True) -> "ssl.SSLContext":
    """What checks the server's certificate and name: against a file of certificates, or the system's authorities.

    Raises:
        InvalidInputError: the file cannot be read, or has no certificates.
    """
    import ssl  # noqa: PLC0415  20 ms, which clients without TLS need not spend

    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        raise InvalidInputError(f"{ca}: not a file of certificates in PEM") from None
    except OSError as error:
        raise InvalidInputError(f"{ca}: {error.strerror or error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def tls_failure(address: object, error: OSError) -> UnreachableError | None:
    """The error of a connection whose handshake failed; None where TLS is not why."""
    import ssl  # noqa: PLC0415  as above

    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "pass ca=FILE with the certificate of its authority"
        return UnreachableError(f"the certificate of {address} is not trusted: {error.verify_message}: {hint}")
    if isinstance(error, ssl.SSLError):
        return UnreachableError(f"no TLS with {address}: {error.reason or error}")
    return None


def wants_more(error: OSError) -> bool:
    """Whether a socket of TLS has nothing to read yet, although something came: half a record, or TLS's own."""
    import ssl  # noqa: PLC0415  as above

    return isinstance(error, ssl.SSLWantReadError)
