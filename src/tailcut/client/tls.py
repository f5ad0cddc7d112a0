"""What went wrong with TLS on the client's side, in words."""

from tailcut.errors import UnreachableError


def tls_failure(address: object, error: OSError) -> UnreachableError | None:
    """The error of a connection whose handshake failed; None where TLS is not why."""
    import ssl  # noqa: PLC0415  20 ms, which clients without TLS need not spend

    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "pass ca=FILE with the certificate of its authority"
        return UnreachableError(f"the certificate of {address} is not trusted: {error.verify_message}: {hint}")
    if isinstance(error, ssl.SSLError):
        return UnreachableError(f"the TLS handshake with {address} failed: {error.reason or error}")
    return None


def wants_more(error: OSError) -> bool:
    """Whether a socket of TLS has nothing to read yet, although something came: half a record, or TLS's own."""
    import ssl  # noqa: PLC0415  as above

    return isinstance(error, ssl.SSLWantReadError)
