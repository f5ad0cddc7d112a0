"""Reloads the certificate and the token, where nothing else has changed.

Replacing a worker ends its connections. New models need that, because their settings belong to the process; a new
certificate or token does not. So the supervisor notes the state of all files that workers read, and on SIGHUP tells
workers to reload only the certificate or the token, where only these have changed. It reads them itself first, so that
a mistake is logged once, and no worker is told. A server of one process does the same for itself, because reloading a
model needs memory beside the old one.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tailcut.errors import TailcutError
from tailcut.server.tls.certificates import Certificates

CERTIFICATE, TOKEN = b"c", b"t"  # orders to a worker
Stamp = tuple[int, ...]
_log = logging.getLogger("tailcut")


def stamps(files: Iterable[Path]) -> dict[Path, Stamp | None]:
    """A stamp for each file, which changes when the file is written or replaced; None where it is missing."""
    return {file: _stamp(file) for file in files}


def _stamp(file: Path) -> Stamp | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(slots=True)
class Secrets:
    """The certificate and token, which can be reloaded without the models.

    Args:
        certificates: of the ports, where they speak TLS.
        token_file: the file of the token, where there is one.
        read_token: reads the token from it.
        models: lists all other files that are read; None where they are not known.
    """

    certificates: Certificates | None
    token_file: Path | None
    read_token: Callable[[], str] | None
    models: Callable[[], Sequence[Path] | None]
    _known: dict[Path, Stamp | None] = field(init=False, default_factory=dict)
    _of_models: dict[Path, Stamp | None] | None = field(init=False, default=None)  # None: not known

    def note(self) -> None:
        """Note the stamps of all files; call it before they are read."""
        self._known = stamps(self._files())
        files = self.models()
        self._of_models = None if files is None else stamps(files)

    def forget(self) -> None:
        """Forget the stamps of models, because some of the served ones are not those in the files."""
        self._of_models = None

    def changed_alone(self) -> bool:
        """Whether the certificate or the token has changed, and nothing else."""
        known = self._of_models
        return known is not None and stamps(known) == known and stamps(self._files()) != self._known

    def read(self) -> bytes:
        """Reload both; returns the orders for those that can be used. Errors are logged, and the old one is kept."""
        current = stamps(self._files())
        right = self.certificates is None or self.certificates.renew()
        orders = CERTIFICATE if self.certificates is not None and right else b""
        try:
            if self.read_token is not None:
                self.read_token()
                orders += TOKEN
        except (TailcutError, OSError) as error:
            _log.error("keeping the old token: %s", error)
            right = False
        if right:
            self._known = current
        return orders

    def _files(self) -> list[Path]:
        tls = [] if self.certificates is None else [self.certificates.cert, self.certificates.key]
        return tls if self.token_file is None else [*tls, self.token_file]
