"""Errors of TLS on the client's side."""

from tailcut.errors import UnreachableError


def tls_failure(address: object, error: OSError) -> UnreachableError | None:
    """The error for a connection whose TLS handshake failed; None where TLS is not the reason."""
    import ssl  # noqa: PLC0415  20 ms, which clients without TLS need not spend

    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "pass ca=FILE with the certificate of its authority"
        return UnreachableError(f"the certificate of {address} is not trusted: {error.verify_message}: {hint}")
    if isinstance(error, ssl.SSLError):
        return UnreachableError(f"the TLS handshake with {address} failed: {error.reason or error}")
    return None


def wants_more(error: OSError) -> bool:
    """Whether a TLS socket has nothing to read yet, although bytes arrived: part of a record, or a message of TLS."""
    import ssl  # noqa: PLC0415  as above

    return isinstance(error, ssl.SSLWantReadError)
