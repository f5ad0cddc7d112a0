"""The requirements of some options of `tailcut serve`: packages, the content of files, a system folder."""

import logging
import os
import re
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailcut.server.tls.certificates import Certificates
    from tailcut.server.tracing.settings import TracingSettings
    from tailcut.server.workers.process import WorkerProcess

_TOKEN = re.compile(r"[\x21-\x7e]+")  # characters that are safe in a header
_TOKEN_MOST = 4096  # characters: clients and proxies limit headers to 8 KiB
_log = logging.getLogger("tailcut")


def read_token(path: Path, *, warns: bool = True) -> str:
    """The token in a file.

    Args:
        path: of the file.
        warns: whether to log a warning if every user can read it.

    Raises:
        UsageError: the file cannot be read, or does not contain one token that a client can send.
    """
    from tailcut.errors import UsageError

    try:
        mode, token = path.stat().st_mode, path.read_text(encoding="latin-1").strip()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if mode & stat.S_IROTH and warns:
        _log.warning(
            "%s: every user on this machine can read this token: run chmod o-r %s", path, shlex.quote(str(path))
        )
    if not _TOKEN.fullmatch(token):
        raise UsageError(f"{path}: must contain one token of ASCII characters without spaces")
    if len(token) > _TOKEN_MOST:
        raise UsageError(f"{path}: the token has {len(token)} characters (at most {_TOKEN_MOST})")
    return token


def check_needs(*, grpc: bool, shared_memory: str | None, require_token: bool, token_file: Path | None) -> None:
    """Check the requirements of command-line options.

    Raises:
        UsageError: a package, a prefix of shared memory or the file of the token is missing.
    """
    from tailcut.errors import UsageError

    if grpc:
        need_grpc()
    if shared_memory is not None:
        need_shared_memory(shared_memory)
    if require_token and token_file is None:
        raise UsageError("--require-token needs --token-file FILE, the file with the token")


def read_certificates(cert: Path | None, key: Path | None) -> "Certificates | None":
    """The certificate and the key of `--tls-cert` and `--tls-key`; None if neither is given.

    Raises:
        UsageError: only one of them is given, or they cannot be used.
    """
    from tailcut.errors import UsageError
    from tailcut.server.tls.certificates import Certificates

    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UsageError("TLS needs both --tls-cert FILE and --tls-key FILE")
    return Certificates.read(cert, key)


def log_certificates(certificates: "Certificates | None", worker: "WorkerProcess | None") -> None:
    """Log problems of a certificate that can still be used; with several workers, only the first one logs."""
    if certificates is not None and (worker is None or worker.post == 0):
        certificates.warn()


def need_shared_memory(prefix: str) -> None:
    """Check that a prefix for keys of shared memory is given, and that the machine has POSIX shared memory.

    Raises:
        UsageError: it is empty, or there is no /dev/shm.
    """
    from tailcut.errors import UsageError

    if not prefix.strip("/") and prefix != "/":  # must be explicit: an unset shell variable gives an empty prefix
        raise UsageError('--shared-memory needs a prefix of the keys to accept; use "/" to accept any')
    if not Path("/dev/shm").is_dir():  # noqa: S108  shm_open(3)'s own folder
        raise UsageError("--shared-memory needs /dev/shm, which this machine does not have")
    if prefix == "/":
        _log.warning(
            "--shared-memory / accepts any key: every client can make the server read and write everything in "
            "/dev/shm that the server's user has access to"
        )


def need_grpc() -> None:
    """Check that the packages for gRPC are installed.

    Raises:
        UsageError: they are not.
    """
    from importlib.util import find_spec

    from tailcut.errors import UsageError

    if not all(find_spec(name) for name in ("google", "google.protobuf")):
        raise UsageError("--grpc-port needs gRPC, which is not installed: pip install 'tailcut[grpc]'")


def tracing_settings(
    endpoint: str | None, share: float | None, worker: "WorkerProcess | None"
) -> "TracingSettings | None":
    """The settings of `--otlp-endpoint`, `--trace-sample` and OpenTelemetry's variables; None without tracing.

    Raises:
        UsageError: the options cannot be used, or the packages that they need are not installed.
    """
    from tailcut.errors import UsageError
    from tailcut.server.tracing.settings import read_settings

    settings = read_settings(endpoint, share, os.environ)
    if settings is None:
        return None
    logs = worker is None or worker.post == 0
    if _has_opentelemetry():
        for reason in settings.ignored if logs else ():
            _log.warning("%s", reason)
        return settings
    missing = "OpenTelemetry, which is not installed: pip install 'tailcut[otel]'"
    if settings.asked:
        raise UsageError(f"traces need {missing}")
    if logs:  # not an error: the variables may be set for everything on this machine
        _log.warning("no traces, although OTEL_EXPORTER_OTLP_ENDPOINT is set: they need %s", missing)
    return None


def _has_opentelemetry() -> bool:
    from importlib.util import find_spec

    try:
        return all(find_spec(f"opentelemetry.{name}") for name in ("sdk.trace", "exporter.otlp.proto.http"))
    except ModuleNotFoundError:  # a parent package is missing
        return False


def latency_limit_ns(slo: str) -> int:
    """The latency of `--slo` in nanoseconds.

    Raises:
        UsageError: it is not a duration greater than 0.
    """
    from tailcut.durations import parse_limit

    return max(1, round(parse_limit(slo, "--slo") * 1e9))
