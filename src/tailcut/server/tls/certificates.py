"""The server's certificate and key: read from their files at the start and again on SIGHUP, as TLS contexts."""

import logging
import re
import shlex
import ssl
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tailcut.errors import UsageError

HTTP, GRPC = "http/1.1", "h2"  # ALPN protocol names (RFC 7301)
_log = logging.getLogger("tailcut")
_SOON_DAYS = 14  # how long before its expiry a certificate causes a warning
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
# OpenSSL's reasons where the key does not match: a key of the same type, or of another type.
_MISMATCHES = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
# Identifier octets of X.690; the validity comes after serial, algorithm and issuer (RFC 5280 section 4.1).
_VERSION, _UTC_TIME, _BEFORE_VALIDITY = 0xA0, 0x17, 3


class _EncryptedKeyError(Exception):
    """The file of the key is encrypted with a password."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts of one certificate, by the protocol that each negotiates."""

    http: ssl.SSLContext
    grpc: ssl.SSLContext
    valid_from: datetime
    valid_until: datetime

    def warning(self, now: datetime) -> str:
        """A warning about the certificate's period of validity; empty where there is none."""
        if now < self.valid_from:
            return f"the certificate is not valid before {self.valid_from:%Y-%m-%d %H:%M} UTC: clients will refuse it"
        if now >= self.valid_until:
            return f"the certificate expired on {self.valid_until:%Y-%m-%d %H:%M} UTC: clients will refuse it"
        if (self.valid_until - now).days < _SOON_DAYS:
            return f"the certificate expires on {self.valid_until:%Y-%m-%d %H:%M} UTC"
        return ""


@dataclass(slots=True)
class Certificates:
    """The contexts for new connections; established connections keep the context that they began with."""

    cert: Path
    key: Path
    now: Contexts

    @classmethod
    def read(cls, cert: Path, key: Path) -> "Certificates":
        """Read both files.

        Raises:
            UsageError: a file is missing or not PEM, or the key is encrypted or does not belong to the certificate.
        """
        return cls(cert, key, read_contexts(cert, key))

    def warn(self) -> None:
        """Log a warning about the certificate's validity, and one about a key that every user can read."""
        warning = self.now.warning(datetime.now(UTC))
        if warning:
            _log.warning("%s: %s", self.cert, warning)
        with suppress(OSError):
            if self.key.stat().st_mode & stat.S_IROTH:
                path = shlex.quote(str(self.key))
                _log.warning("%s: every user on this machine can read this key: run chmod o-r %s", self.key, path)

    def renew(self, *, logs: bool = True) -> bool:
        """Read both files again; where they cannot be used, keep the old certificate and log the reason.

        Args:
            logs: whether to log success, too.

        Returns:
            Whether the new certificate is used.
        """
        try:
            contexts = read_contexts(self.cert, self.key)
        except UsageError as error:
            _log.error("keeping the old TLS certificate: %s", error)
            return False
        self.now = contexts
        if logs:
            _log.info("TLS certificate read, valid until %s UTC", f"{contexts.valid_until:%Y-%m-%d %H:%M}")
            self.warn()
        return True


def read_contexts(cert: Path, key: Path) -> Contexts:
    """The contexts for a certificate (followed by its chain) and its key, from PEM files.

    Raises:
        UsageError: as in `Certificates.read`.
    """
    match = _PEM.search(_text(cert, "certificate"))
    if match is None:
        raise UsageError(f"{cert}: not a certificate in PEM (-----BEGIN CERTIFICATE-----)")
    if "PRIVATE KEY-----" not in _text(key, "key"):
        raise UsageError(f"{key}: not a private key in PEM (-----BEGIN PRIVATE KEY-----)")
    try:
        valid_from, valid_until = validity(ssl.PEM_cert_to_DER_cert(match[0]))
    except (ValueError, IndexError):
        raise UsageError(f"{cert}: the certificate is damaged") from None
    return Contexts(_context(cert, key, HTTP), _context(cert, key, GRPC), valid_from, valid_until)


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="latin-1")
    except OSError as error:
        raise UsageError(f"{path}: the TLS {what} cannot be read: {error.strerror}") from None


def _context(cert: Path, key: Path, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols([protocol])

    def password() -> str:
        raise _EncryptedKeyError

    try:
        context.load_cert_chain(cert, key, password)
    except _EncryptedKeyError:
        remedy = f"openssl pkey -in {key} -out FILE writes it without a password"
        raise UsageError(f"{key}: the key is encrypted, which is not supported: {remedy}") from None
    except ssl.SSLError as error:
        if error.reason in _MISMATCHES:
            raise UsageError(f"{key}: the key does not belong to the certificate {cert}") from None
        raise UsageError(f"{cert} and {key} cannot be used for TLS: {error.reason or error}") from None
    except OSError as error:
        raise UsageError(f"{cert} and {key} cannot be read: {error.strerror or error}") from None
    return context


def validity(der: bytes) -> tuple[datetime, datetime]:
    """The first and last time at which a certificate is valid (RFC 5280 section 4.1).

    The standard library has no function that reads it from a certificate in DER.

    Raises:
        ValueError: it is not a certificate.
        IndexError: it ends too early.
    """
    _, certificate, _ = _element(der)
    _, signed, _ = _element(certificate)
    tag, _, rest = _element(signed)
    if tag == _VERSION:
        signed = rest
    for _ in range(_BEFORE_VALIDITY):
        _, _, signed = _element(signed)
    _, times, _ = _element(signed)
    first_tag, first, rest = _element(times)
    last_tag, last, _ = _element(rest)
    return _time(first_tag, first), _time(last_tag, last)


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """The tag and content of the first element, and the bytes after it."""
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if start + length > len(data):
        raise IndexError
    return data[0], data[start : start + length], data[start + length :]


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # has two digits of a year from 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
