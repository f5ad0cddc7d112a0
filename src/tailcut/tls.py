"""Which certificates TLS clients trust, for `tailcut.client` and the load generator."""

from pathlib import Path
from typing import TYPE_CHECKING

from tailcut.errors import InvalidInputError

if TYPE_CHECKING:
    import ssl


def client_context(ca: str | Path | None = None, *, verify: bool = True) -> "ssl.SSLContext":
    """A context that checks the server's certificate and name against a file of certificates, or the system's own.

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
