"""Self-signed certificates for tests, made by the openssl command."""

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not installed")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files in PEM."""

    cert: Path
    key: Path

    @property
    def flags(self) -> list[str]:
        """The options of `tailcut serve` for it."""
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]

    def client(self) -> ssl.SSLContext:
        """A context for clients that trust it."""
        return ssl.create_default_context(cafile=self.cert)


def openssl(*arguments: str | Path) -> str:
    """Run openssl; returns what it prints."""
    assert OPENSSL is not None
    done = subprocess.run([OPENSSL, *map(str, arguments)], check=True, capture_output=True, text=True)
    return done.stdout


def make_pair(folder: Path, name: str = "tls", *, days: int = 30, rsa: bool = False) -> Pair:
    """Make a certificate for localhost and 127.0.0.1, valid for this many days; if negative, it has expired."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    request, names = folder / f"{name}.csr", folder / f"{name}.names"
    names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:TRUE\n")
    kind = ["rsa:2048"] if rsa else ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    openssl("req", "-new", "-newkey", *kind, "-nodes", "-keyout", pair.key, "-subj", f"/CN={name}", "-out", request)
    openssl(
        *("x509", "-req", "-in", request, "-signkey", pair.key, "-days", str(days)),
        *("-extfile", names, "-out", pair.cert),
    )
    pair.key.chmod(0o600)
    return pair
