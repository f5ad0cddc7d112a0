"""Certificates and keys from files: what is refused before anything is served, and what is warned of."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from tests.certificates import Pair, make_pair, needs_openssl, openssl
from tests.engines.models import perceptron
from tests.servers import serving

from tailcut.errors import UsageError
from tailcut.server.tls.certificates import read_contexts

pytestmark = needs_openssl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return make_pair(folder)


@cache
def rsa_pair(folder: Path) -> Pair:
    """Of another type than all others."""
    return make_pair(folder, "rsa", rsa=True)


def encrypted(pair: Pair, folder: Path) -> Path:
    path = folder / "encrypted.key"
    openssl("pkey", "-in", pair.key, "-aes256", "-passout", "pass:secret", "-out", path)
    return path


WRONG: dict[str, tuple[Callable[[Pair, Path], tuple[Path, Path]], str]] = {
    "no certificate": (lambda pair, folder: (folder / "none.pem", pair.key), "the TLS certificate cannot be read"),
    "no key": (lambda pair, folder: (pair.cert, folder / "none.key"), "the TLS key cannot be read"),
    "a folder": (lambda pair, folder: (folder, pair.key), "the TLS certificate cannot be read"),
    "not PEM": (lambda pair, folder: (rubbish(folder), pair.key), "not a certificate in PEM"),
    "a key that is none": (lambda pair, folder: (pair.cert, pair.cert), "not a private key in PEM"),
    "swapped": (lambda pair, folder: (pair.key, pair.cert), "not a certificate in PEM"),
    "another key": (lambda pair, folder: (pair.cert, make_pair(folder, "other").key), "does not belong"),
    "a key of another type": (
        lambda pair, folder: (pair.cert, rsa_pair(folder).key),
        "does not belong",
    ),
    "a certificate of another type": (
        lambda pair, folder: (rsa_pair(folder).cert, pair.key),
        "does not belong",
    ),
    "encrypted": (lambda pair, folder: (pair.cert, encrypted(pair, folder)), "the key is encrypted"),
    "damaged": (lambda pair, folder: (damaged(pair, folder), pair.key), "the certificate is damaged"),
    "cut short": (lambda pair, folder: (cut_short(pair, folder), pair.key), "not a certificate in PEM"),
    "a damaged key": (lambda pair, folder: (pair.cert, damaged_key(folder)), "cannot be used for TLS"),
}


def rubbish(folder: Path) -> Path:
    (folder / "rubbish.pem").write_bytes(bytes(range(256)))
    return folder / "rubbish.pem"


def damaged(pair: Pair, folder: Path) -> Path:
    lines = pair.cert.read_text().splitlines()
    path = folder / "damaged.pem"
    path.write_text("\n".join([lines[0], lines[1], lines[-1]]))
    return path


def cut_short(pair: Pair, folder: Path) -> Path:
    path = folder / "short.pem"
    path.write_text(pair.cert.read_text()[:200])
    return path


def damaged_key(folder: Path) -> Path:
    path = folder / "damaged.key"
    path.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    return path


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(refusal: Callable[..., str], folder: Path, pair: Pair, name: str) -> None:
    """Exit code 2 and one line, which names the file; no password is asked for."""
    make, words = WRONG[name]
    cert, key = make(pair, folder)
    text = refusal(perceptron([4, 8, 3], folder / "mlp.onnx"), "--tls-cert", cert, "--tls-key", key)
    assert words in text
    assert str(folder) in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("flag", ["--tls-cert", "--tls-key"])
def test_one_alone_is_refused(refusal: Callable[..., str], folder: Path, pair: Pair, flag: str) -> None:
    text = refusal(perceptron([4, 8, 3], folder / "mlp.onnx"), flag, pair.cert)
    assert "TLS needs both --tls-cert FILE and --tls-key FILE" in text


@pytest.mark.parametrize("rsa", [False, True])
def test_its_time_is_as_openssl_says(tmp_path: Path, rsa: bool) -> None:
    """Both forms of a date: the second one is used from the year 2050 on."""
    for days in (30, 20_000):
        pair = make_pair(tmp_path, "long", days=days, rsa=rsa)
        contexts = read_contexts(pair.cert, pair.key)
        lines = openssl("x509", "-in", pair.cert, "-noout", "-dates").splitlines()
        text = [
            datetime.strptime(line.partition("=")[2], "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC) for line in lines
        ]
        assert [contexts.valid_from, contexts.valid_until] == text


def test_what_is_warned_of(pair: Pair) -> None:
    """Before its time, after it, and in the last two weeks."""
    contexts = read_contexts(pair.cert, pair.key)
    day = timedelta(days=1)
    assert contexts.warning(contexts.valid_from) == ""
    assert "is not valid before" in contexts.warning(contexts.valid_from - day)
    assert contexts.warning(contexts.valid_until - 15 * day) == ""
    assert "expires on" in contexts.warning(contexts.valid_until - 13 * day)
    assert f"expired on {contexts.valid_until:%Y-%m-%d %H:%M} UTC" in contexts.warning(contexts.valid_until)


def test_other_text_around_a_certificate(pair: Pair, tmp_path: Path) -> None:
    """A chain, with what openssl writes between."""
    other = make_pair(tmp_path)
    path = tmp_path / "chain.pem"
    path.write_text(f"subject=CN = x\n\n{pair.cert.read_text()}\nissuer=x\n{other.cert.read_text()}")
    assert read_contexts(path, pair.key).valid_until == read_contexts(pair.cert, pair.key).valid_until
    with pytest.raises(UsageError, match="does not belong"):
        read_contexts(path, other.key)


def test_an_expired_one_is_served_with_a_warning(tmp_path: Path) -> None:
    """With its date; and a key that every user can read."""
    pair = make_pair(tmp_path, days=-1)
    pair.key.chmod(0o644)
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *pair.flags) as server:
        text = server.stderr.read_text()
        assert f"WARNING {pair.cert}: the certificate expired on 20" in text
        assert "every user on this machine can read this key" in text
        assert server.stop() == 0
