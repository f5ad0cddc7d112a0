"""The load generator over TLS and with a token: both protocols, several processes, and whom it trusts."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.certificates import Pair, make_pair, needs_openssl
from tests.schemas import validated
from tests.servers import Server, serving

from tailcut.cli.main import main
from tailcut.models import digits_model

pytestmark = needs_openssl

FAST = ["--duration", "200ms", "--warmup", "50ms", "--json"]
CLOSED = ["--concurrency", "2"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text("secret")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def server(pair: Pair, token: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = [*pair.flags, "--token-file", str(token), "--require-token", "--grpc-port", "0"]
    with serving(tmp_path_factory.mktemp("secure"), digits_model(), *flags) as running:
        yield running
        assert running.stop() == 0


@pytest.mark.parametrize(
    ("scheme", "flags", "transport"),
    [
        pytest.param("https", CLOSED, "HTTP over TLS, binary tensors", marks=pytest.mark.slow),
        pytest.param(
            "https",
            [*CLOSED, "--processes", "2", "--wire", "json"],
            "HTTP over TLS, json tensors",
            marks=pytest.mark.slow,
        ),
        ("https", ["--rate", "200"], "HTTP over TLS, binary tensors"),
        ("grpcs", CLOSED, "gRPC over TLS, binary tensors"),
    ],
)
def test_bench(  # noqa: PLR0917  a case is its parameters
    server: Server,
    pair: Pair,
    token: Path,
    capsys: pytest.CaptureFixture[str],
    scheme: str,
    flags: list[str],
    transport: str,
) -> None:
    """Every request is answered, and the result says what it travelled over, and not the token."""
    port = server.grpc_port if scheme == "grpcs" else server.port
    access = ["--ca", str(pair.cert), "--token-file", str(token)]
    assert main(["bench", f"{scheme}://localhost:{port}", *access, *FAST, *flags]) == 0
    out = capsys.readouterr().out
    record = validated("bench", out)
    assert record["transport"] == transport
    assert all(run["samples"] > 0 and not run["errors"] for run in record["runs"])
    assert "secret" not in out


def test_explain(server: Server, pair: Pair, token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    access = ["--ca", str(pair.cert), "--token-file", str(token)]
    assert main(["explain", f"https://localhost:{server.port}", *access, "--duration", "200ms", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "digits"


def test_what_is_refused(
    server: Server, pair: Pair, token: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each: no trust, no such file, no TLS, no token."""
    (tmp_path / "ca.pem").write_text("rubbish")
    url, grpc_url = f"https://localhost:{server.port}", f"grpcs://localhost:{server.grpc_port}"
    ca = ["--ca", str(pair.cert)]
    cases = [
        ([url], "its certificate is not trusted (self-signed certificate): add --ca FILE"),
        ([grpc_url], "no gRPC server answers"),
        ([url, "--ca", str(tmp_path / "ca.pem")], "ca.pem: not a file of certificates in PEM"),
        ([url, "--ca", str(tmp_path / "none.pem")], "none.pem: No such file or directory"),
        ([server.url, *ca], "--ca needs TLS"),
        ([server.url], "this port takes TLS only: use https://"),
        ([url, *ca], "this request requires the server's token"),
        ([grpc_url, *ca], "UNAUTHENTICATED: this request requires the server's token"),
        ([url, *ca, "--token-file", str(tmp_path / "ca")], "No such file or directory"),
    ]
    for arguments, words in cases:
        assert main(["bench", *arguments, *FAST]) == 2, words
        out, err = capsys.readouterr()
        assert words in err
        assert out == ""
