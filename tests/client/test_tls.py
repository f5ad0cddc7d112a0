"""Both clients over TLS, with a token: what arrives, whom they trust, and what they say where they do not."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.certificates import Pair, make_pair, needs_openssl
from tests.engines.models import identity
from tests.servers import Server, serving

import tailcut
from tailcut.client import Hedge
from tailcut.errors import InvalidInputError, TailcutError, UnreachableError
from tailcut.spec import DType

pytestmark = needs_openssl

ROWS = np.arange(150_000, dtype=np.float32).reshape(3, -1)
SMALL = np.arange(4, dtype=np.float32).reshape(1, 4)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def secure(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """big (50,000 numbers) and small (4), with TLS, and a token for everything."""
    folder = tmp_path_factory.mktemp("secure")
    (folder / "token").write_text("secret")
    (folder / "token").chmod(0o600)
    sources = [
        identity(DType.FP32, (None, 50_000), folder / "big.onnx"),
        identity(DType.FP32, (None, 4), folder / "small.onnx"),
    ]
    flags = [*pair.flags, "--token-file", str(folder / "token"), "--require-token", "--no-auto", "--host", "0.0.0.0"]
    with serving(folder, *sources, *flags) as running:
        yield running
        assert running.stop() == 0


def url(server: Server, host: str = "localhost") -> str:
    return f"https://{host}:{server.port}"


def test_calls(make: type, secure: Server, pair: Pair) -> None:
    """Small and large arrays, exact; metadata and health; by name and by address."""
    for host in ("localhost", "127.0.0.1"):
        with make(url(secure, host), ca=pair.cert, token="secret") as client:
            for _ in range(10):
                assert np.array_equal(client.infer("small", {"x": SMALL})["y"], SMALL)
            assert np.array_equal(client.infer("big", {"x": ROWS})["y"], ROWS)
            assert client.metadata("big")["name"] == "big"
            assert client.ready()
            assert client.ready("big")
            assert client.live()


def test_without_the_right_token(make: type, secure: Server, pair: Pair) -> None:
    """The server's own words; its health is open."""
    for token in (None, "wrong"):
        with make(url(secure), ca=pair.cert, token=token) as client:
            with pytest.raises(TailcutError, match="this request requires the server's token"):
                client.infer("small", {"x": SMALL})
            assert client.ready()
            assert not client.ready("small")


@pytest.mark.parametrize("token", ["two words", "", "line\r\nX-Other: 1", "k\N{LATIN SMALL LETTER E WITH ACUTE}y"])
def test_a_token_that_is_none(secure: Server, pair: Pair, token: str) -> None:
    with pytest.raises(InvalidInputError, match="printable ASCII"):
        tailcut.Client(url(secure), ca=pair.cert, token=token)


def test_whom_it_trusts(make: type, secure: Server, pair: Pair, tmp_path: Path) -> None:
    """The system's authorities did not sign it, nor did another; its name is checked; `verify=False` checks nothing."""
    other = make_pair(tmp_path, "other")
    for ca in (None, other.cert):
        with make(url(secure), ca=ca, token="secret") as client:
            with pytest.raises(UnreachableError, match=r"is not trusted: .*: pass ca=FILE"):
                client.infer("small", {"x": SMALL})
            assert not client.live()
    with make(url(secure, "127.0.0.2"), ca=pair.cert) as client, pytest.raises(UnreachableError, match=r"127\.0\.0\.2"):
        client.metadata()
    with make(url(secure, "127.0.0.2"), verify=False, token="secret") as client:
        assert np.array_equal(client.infer("small", {"x": SMALL})["y"], SMALL)


def test_a_file_that_is_no_authority(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("rubbish")
    for name, words in (("ca.pem", "not a file of certificates"), ("none.pem", "No such file")):
        with pytest.raises(InvalidInputError, match=words):
            tailcut.Client("https://localhost:1", ca=tmp_path / name)


def test_tls_where_there_is_none(make: type, server: Server, secure: Server) -> None:
    """Each way round; neither is tried again and again."""
    with make(f"https://{server.address}", verify=False) as client, pytest.raises(UnreachableError):
        client.metadata()
    with make(f"http://{secure.address}") as client, pytest.raises(InvalidInputError, match="takes TLS only"):
        client.metadata()
    with make("https://127.0.0.1:1") as client, pytest.raises(UnreachableError, match="no server listens"):
        client.metadata()


def test_hedged_calls(make: type, secure: Server, pair: Pair) -> None:
    """Copies that go out at once: the first answer counts, whatever else came on either connection."""
    with make(url(secure), ca=pair.cert, token="secret", hedge=Hedge(after_s=0.0, share=1.0)) as client:
        for _ in range(20):
            assert np.array_equal(client.infer("small", {"x": SMALL})["y"], SMALL)
        for _ in range(5):
            assert np.array_equal(client.infer("big", {"x": ROWS})["y"], ROWS)


def test_many_threads(secure: Server, pair: Pair) -> None:
    right: list[bool] = []

    def ask(number: int) -> None:
        right.extend(
            np.array_equal(client.infer("small", {"x": SMALL + number})["y"], SMALL + number) for _ in range(20)
        )

    with tailcut.Client(url(secure), ca=pair.cert, token="secret") as client:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert right == [True] * 160


def test_a_kept_connection_that_the_server_closes(make: type, pair: Pair, tmp_path: Path) -> None:
    """The next call finds out, and goes over a new one."""
    path = identity(DType.FP32, (None, 4), tmp_path / "small.onnx")
    with serving(tmp_path, path, *pair.flags, "--idle-timeout", "300ms", "--no-auto") as server:
        with make(url(server), ca=pair.cert) as client:
            assert np.array_equal(client.infer("small", {"x": SMALL})["y"], SMALL)
            threading.Event().wait(0.9)
            assert np.array_equal(client.infer("small", {"x": SMALL})["y"], SMALL)
        assert server.stop() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_both_sides_of_a_fork(secure: Server, pair: Pair) -> None:
    """The child's connections are its own, and what it closes, the parent still has."""
    with tailcut.Client(url(secure), ca=pair.cert, token="secret") as client:
        assert np.array_equal(client.infer("small", {"x": SMALL})["y"], SMALL)
        child = os.fork()
        if not child:
            good = np.array_equal(client.infer("small", {"x": SMALL + 1})["y"], SMALL + 1)
            os._exit(0 if good else 1)
        assert np.array_equal(client.infer("small", {"x": SMALL})["y"], SMALL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert np.array_equal(client.infer("small", {"x": SMALL})["y"], SMALL)
