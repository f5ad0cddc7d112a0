"""TLS on both ports, with clients not our own; what hostile ones do to it; and a renewal that no client notices."""

import http.client
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tests.certificates import Pair, make_pair, needs_openssl
from tests.engines.models import identity, perceptron
from tests.server.workers.test_supervisor import workers
from tests.servers import TIMEOUT_S, Answer, Server, Wire, raw_request, serving, steady_clients, until

from tailcut.spec import DType
from tailcut.wire.grpc.messages import METHODS, SERVICE

pytestmark = needs_openssl

CURL = shutil.which("curl")
BODY = np.ones((1, 4), np.float32).tobytes()
BIG = np.arange(50_000, dtype=np.float32).reshape(1, -1)
METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"), rsa=True)


@contextmanager
def over_tls(folder: Path, pair: Pair, *flags: str) -> Iterator[Server]:
    """mlp and big (50,000 numbers) with TLS on both ports, and a plain Unix socket."""
    sources = [
        perceptron([4, 8, 3], folder / "mlp.onnx"),
        identity(DType.FP32, (None, 50_000), folder / "big.onnx"),
    ]
    ports = ["--grpc-port", "0", "--uds", str(folder / "socket"), "--no-auto"]
    with serving(folder, *sources, *pair.flags, *ports, *flags) as running:
        running.stderr.with_name("uds").write_text(str(folder / "socket"))
        yield running
        assert running.stop() == 0


@pytest.fixture(scope="module")
def server(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with short limits."""
    flags = ["--head-timeout", "1s", "--write-timeout", "1s", "--write-rate", "1048576"]
    with over_tls(tmp_path_factory.mktemp("tls"), pair, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def patient(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One with the usual limits, for crowds that a busy machine takes a while to bring."""
    with over_tls(tmp_path_factory.mktemp("patient"), pair) as running:
        yield running


def connect(server: Server, context: ssl.SSLContext, port: int | None = None) -> Wire:
    """A client that checks the certificate."""
    plain = socket.create_connection((server.host, port or server.port), TIMEOUT_S)
    return Wire(context.wrap_socket(plain, server_hostname="localhost"))


def over_unix(server: Server) -> Wire:
    plain = socket.socket(socket.AF_UNIX)
    plain.settimeout(TIMEOUT_S)
    plain.connect(server.stderr.with_name("uds").read_text())
    return Wire(plain)


def metric(server: Server, name: str) -> float:
    """Asked over the Unix socket, so that the question takes no part in what is asked about."""
    with over_unix(server) as wire:
        lines = wire.ask(METRICS).body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest.mark.parametrize("flags", [["--tlsv1.3"], ["--tls-max", "1.2"], ["--http2"]], ids=str)
def test_curl(server: Server, pair: Pair, flags: list[str]) -> None:
    """Each version of TLS, and a client that would rather speak HTTP/2; the connection is kept."""
    url = f"https://localhost:{server.port}/v2/health/ready"
    command = [str(CURL), "-sS", "--cacert", str(pair.cert), *flags, "-w", "%{http_code} %{num_connects}\n", url, url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ('{"ready":true}200 1\n{"ready":true}200 0\n', "")


def test_http_client(server: Server, pair: Pair) -> None:
    """Python's own client: small, large, chunked and pipelined, exact to the bit, over one connection."""
    client = http.client.HTTPSConnection("localhost", server.port, timeout=TIMEOUT_S, context=pair.client())
    raw = {"Inference-Header-Content-Length": "0"}
    for rows in (1, 3, 1):
        body = np.repeat(BIG, rows, 0).tobytes()
        for sent in (body, iter([body[:70_000], body[70_000:]])):
            client.request("POST", "/v2/models/big/infer", sent, raw)
            answer = client.getresponse()
            content = answer.read()
            assert answer.status == 200
            assert content[int(answer.headers["Inference-Header-Content-Length"]) :] == body
    client.close()
    with connect(server, pair.client()) as wire:
        wire.send(raw_request("mlp", BODY) * 20)
        assert len({wire.read().body for _ in range(20)}) == 1
        assert isinstance(wire.sock, ssl.SSLSocket)
        assert wire.sock.version() == "TLSv1.3"
        wire.send(raw_request("mlp", BODY, "Connection: close"))
        assert wire.read().status == 200
        assert wire.closed()


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_tritonclient(server: Server, pair: Pair, kind: str) -> None:
    """NVIDIA's clients, each with its own switch for TLS."""
    if kind == "http":
        module, options = tritonclient.http, {"ssl_options": {"ca_certs": str(pair.cert)}, "insecure": False}
        client = module.InferenceServerClient(f"localhost:{server.port}", ssl=True, **options)
    else:
        module, options = tritonclient.grpc, {"root_certificates": str(pair.cert)}
        client = module.InferenceServerClient(f"localhost:{server.grpc_port}", ssl=True, **options)
    assert client.is_server_ready()
    tensor = module.InferInput("x", [2, 50_000], "FP32")
    tensor.set_data_from_numpy(np.repeat(BIG, 2, 0))
    for _ in range(5):
        assert np.array_equal(client.infer("big", [tensor]).as_numpy("y"), np.repeat(BIG, 2, 0))
    client.close()


def test_grpcio(server: Server, pair: Pair) -> None:
    """Many calls at once on one channel; a client that trusts another authority gets none through."""
    request = METHODS["ModelInfer"][0](model_name="big", raw_input_contents=[BIG.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=BIG.shape)
    message = request.SerializeToString()
    credentials = grpc.ssl_channel_credentials(pair.cert.read_bytes())
    with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        answers = [call.result(TIMEOUT_S) for call in [infer.future(message) for _ in range(20)]]
    outputs = {METHODS["ModelInfer"][1].FromString(answer).raw_output_contents[0] for answer in answers}
    assert outputs == {BIG.tobytes()}


def test_alpn(server: Server, pair: Pair) -> None:
    """Each port agrees on its own protocol."""
    for port, protocol in ((server.port, "http/1.1"), (server.grpc_port, "h2")):
        context = pair.client()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with connect(server, context, port) as wire:
            assert isinstance(wire.sock, ssl.SSLSocket)
            assert wire.sock.selected_alpn_protocol() == protocol


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(server: Server, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL"):
        connect(server, context)


def test_http_without_tls_gets_an_error(server: Server) -> None:
    """400 on the port for HTTP, nothing on the one for gRPC; both close."""
    with server.connect() as wire:
        answer = wire.ask(METRICS)
        assert answer.status == 400
        assert "https://" in answer.json()["error"]
        assert wire.closed()
    with Wire(socket.create_connection((server.host, server.grpc_port), TIMEOUT_S)) as wire:
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert wire.closed()


HELLO = bytes.fromhex("16030100")  # of a record that goes on


@pytest.mark.parametrize("port", ["http", "grpc"])
def test_a_handshake_has_one_time_limit(server: Server, pair: Pair, port: str) -> None:
    """Silent clients, those that stop, and rubbish: all are ended, and count as connections until then."""
    before = metric(server, "tailcut_connections")
    place = (server.host, server.port if port == "http" else server.grpc_port)
    silent = [Wire(socket.create_connection(place, TIMEOUT_S)) for _ in range(20)]
    for wire in silent[10:]:
        wire.send(HELLO)
    until(lambda: metric(server, "tailcut_connections") == before + 20, server)
    with connect(server, pair.client()) as wire:  # meanwhile others are served
        assert wire.ask(raw_request("mlp", BODY)).status == 200
    rubbish = [b"\x16" + bytes(range(256)) * 40, b"\x16\x03\x01\xff\xff" + bytes(1000), b"\x16\x03\x01\x00\x05hello"]
    for data in rubbish:
        with Wire(socket.create_connection(place, TIMEOUT_S)) as wire:
            wire.send(data)
            wire.sock.shutdown(socket.SHUT_WR)
            assert wire.closed()
    for wire in silent:
        assert wire.closed()
        wire.sock.close()
    until(lambda: metric(server, "tailcut_connections") == before, server)


def test_a_broken_record_ends_its_connection_only(server: Server, pair: Pair) -> None:
    with connect(server, pair.client()) as wire, connect(server, pair.client()) as other:
        assert wire.ask(raw_request("mlp", BODY)).status == 200
        socket.socket.send(wire.sock, b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises((ConnectionError, ssl.SSLError)):
            wire.read()
        assert other.ask(raw_request("mlp", BODY)).status == 200


def test_many_handshakes_at_once(patient: Server, pair: Pair) -> None:
    """All of a crowd are served, however long their signatures take together."""
    right: list[int] = []

    def ask() -> None:
        with connect(patient, pair.client()) as wire:
            right.append(wire.ask(raw_request("mlp", BODY)).status)

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [200] * 32


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped here")
def test_handshakes_take_turns(patient: Server, pair: Pair) -> None:
    """Hundreds that come in one pass of the loop, a tenth of a second's work, never hold it for half of that."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = pair.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    before = metric(patient, "tailcut_connections")
    crowd = [Wire(socket.create_connection((patient.host, patient.port), TIMEOUT_S)) for _ in range(300)]
    until(lambda: metric(patient, "tailcut_connections") == before + len(crowd), patient)
    patient.process.send_signal(signal.SIGSTOP)
    for wire in crowd:
        wire.send(hello)
    patient.process.send_signal(signal.SIGCONT)
    for wire in crowd:
        assert wire.sock.recv(1) == b"\x16"
        wire.sock.close()
    until(lambda: metric(patient, "tailcut_connections") == before, patient)
    assert metric(patient, "tailcut_loop_longest_stall_cpu_seconds") < 0.05


def test_a_client_that_ends_its_side_has_its_answer(server: Server, pair: Pair) -> None:
    """Without TLS's word for it, and with it, which TLS 1.3 has for one side."""
    with connect(server, pair.client()) as wire:
        wire.send(raw_request("big", BIG.tobytes()))
        socket.socket.shutdown(wire.sock, socket.SHUT_WR)
        assert wire.read().status == 200
        assert wire.closed()
    plain = socket.create_connection((server.host, server.port), TIMEOUT_S)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = pair.client().wrap_bio(incoming, outgoing, server_hostname="localhost")

    def carry(step: Callable[[], object]) -> object:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(1 << 16))

    with plain:
        carry(tls.do_handshake)
        tls.write(raw_request("mlp", BODY))
        with pytest.raises(ssl.SSLWantReadError):
            tls.unwrap()
        plain.sendall(outgoing.read())
        data = carry(lambda: tls.read(1 << 16))
        assert isinstance(data, bytes)
        assert data.startswith(b"HTTP/1.1 200")


def test_an_answer_that_waits_for_the_kernel_is_whole(patient: Server, pair: Pair) -> None:
    """20 MB, of which most is not encrypted yet when the client ends its side and the server has closed."""
    body = np.repeat(BIG, 100, 0).tobytes()
    with connect(patient, pair.client()) as wire:
        wire.send(raw_request("big", body, "Connection: close"))
        pieces = [wire.sock.recv(1)]
        socket.socket.shutdown(wire.sock, socket.SHUT_WR)
        while piece := wire.sock.recv(1 << 20):
            pieces.append(piece)
    assert b"".join(pieces).endswith(body)


def test_a_client_that_never_reads(server: Server, pair: Pair) -> None:
    """What it leaves unread is counted, nothing more of it is read, and it is ended; others are served."""
    request = raw_request("big", BIG.tobytes())
    with connect(server, pair.client()) as wire:
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            wire.send(request * 100)
        until(lambda: metric(server, "tailcut_body_buffer_bytes") > 0, server)
        with connect(server, pair.client()) as other:
            assert other.ask(raw_request("mlp", BODY)).status == 200
        until(lambda: metric(server, "tailcut_body_buffer_bytes") == 0, server)


def test_the_fast_path_is_not_for_it(server: Server, pair: Pair) -> None:
    """What its socket brings is encrypted; the same requests over the Unix socket take the fast path."""
    with connect(server, pair.client()) as wire, over_unix(server) as plain:
        answers = {wire.ask(raw_request("mlp", BODY)).body for _ in range(150)}
        assert metric(server, "tailcut_connections_express") == 0
        answers |= {plain.ask(raw_request("mlp", BODY)).body for _ in range(8)}
        assert metric(server, "tailcut_connections_express") == 1
        answers |= {wire.ask(raw_request("mlp", BODY)).body for _ in range(8)}
        assert len(answers) == 1


def serial(wire: Wire) -> str:
    """Which certificate a connection began with."""
    assert isinstance(wire.sock, ssl.SSLSocket)
    result = wire.sock.getpeercert()
    assert result is not None
    return str(result["serialNumber"])


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_renewal_loses_nothing(tmp_path: Path, workers: int) -> None:
    """New connections get the new certificate, no request fails, and files that are not right change nothing."""
    old, new, other = make_pair(tmp_path), make_pair(tmp_path, "new"), make_pair(tmp_path, "other")
    context = old.client()
    context.load_verify_locations(new.cert)

    def now() -> str:
        with connect(server, context) as wire:
            assert wire.ask(raw_request("mlp", BODY)).status == 200
            return serial(wire)

    flags = [*old.flags, "--workers", str(workers), "--drain", "500ms"]
    words = "does not belong to the certificate"
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *flags) as server:
        first = now()
        with steady_clients(raw_request("mlp", BODY), partial(connect, server, context)) as wrong:
            with connect(server, context) as kept:
                assert kept.ask(raw_request("mlp", BODY)).status == 200
                shutil.copy(new.cert, old.cert)
                shutil.copy(new.key, old.key)
                server.process.send_signal(signal.SIGHUP)
                until(lambda: {now() for _ in range(8)}.isdisjoint({first}), server)
                assert kept.ask(raw_request("mlp", BODY)).headers.get("connection") != "close"
            second = now()
            shutil.copy(other.key, old.key)
            server.process.send_signal(signal.SIGHUP)
            until(lambda: now() == second and words in server.stderr.read_text(), server)
        assert now() == second
        assert wrong == []
        assert server.stderr.read_text().count(words) == 1
        assert "was replaced" not in server.stderr.read_text()
        assert server.stop() == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.mark.slow
def test_several_workers_keep_their_connections(tmp_path: Path) -> None:
    """Over HTTP and gRPC, on every worker, when certificate and token are renewed, and not when a model is, too."""
    old, new, token = make_pair(tmp_path), make_pair(tmp_path, "new"), tmp_path / "token"
    token.write_text("first")
    token.chmod(0o600)
    both = old.client()
    both.load_verify_locations(new.cert)
    roots = old.cert.read_bytes() + new.cert.read_bytes()
    port = free_port()
    model = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    flags = [*old.flags, "--workers", "2", "--grpc-port", str(port), "--token-file", str(token), "--require-token"]
    message = METHODS["ModelInfer"][0](model_name="mlp", raw_input_contents=[BODY])
    message.inputs.add(name="x", datatype="FP32", shape=[1, 4])

    def renew(words: str, times: int) -> None:
        server.process.send_signal(signal.SIGHUP)
        until(lambda: server.stderr.read_text().count(words) == times, server)

    def ask(wire: Wire, word: str) -> Answer:
        return wire.ask(raw_request("mlp", BODY, f"Authorization: Bearer {word}"))

    with serving(tmp_path, model, "--no-auto", *flags) as server, ExitStack() as stack:
        wires = [stack.enter_context(connect(server, both)) for _ in range(8)]
        credentials = grpc.ssl_channel_credentials(roots)
        states: list[grpc.ChannelConnectivity] = []
        channel = stack.enter_context(grpc.secure_channel(f"localhost:{port}", credentials))
        channel.subscribe(states.append)
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")

        def ask_grpc(word: str) -> bytes:
            metadata = [("authorization", f"Bearer {word}")]
            return bytes(infer(message.SerializeToString(), timeout=TIMEOUT_S, metadata=metadata))

        expected = ask_grpc("first")
        assert {ask(wire, "first").status for wire in wires} == {200}
        shutil.copy(new.cert, old.cert)
        shutil.copy(new.key, old.key)
        token.write_text("second")
        renew("all workers are kept", 1)
        for wire in wires:
            until(lambda wire=wire: ask(wire, "first").status == 401, server)
            answer = ask(wire, "second")
            assert (answer.status, answer.headers.get("connection")) == (200, None)
        until(lambda: refused(ask_grpc, "first"), server)
        assert ask_grpc("second") == expected
        assert states.count(grpc.ChannelConnectivity.READY) == 1
        with connect(server, new.client()) as wire:
            assert ask(wire, "second").status == 200
        token.write_text("two words")
        renew("keeping the old token", 1)
        assert {ask(wire, "second").status for wire in wires} == {200}
        token.write_text("third")
        perceptron([4, 8, 5], model)
        renew("was replaced", 2)
        assert server.stderr.read_text().count("all workers are kept") == 2
        assert all(wire.closed() for wire in wires)
        assert server.stop() == 0


@pytest.mark.slow
def test_a_certificate_that_breaks_while_a_worker_starts(tmp_path: Path) -> None:
    """It ends with the order to read the token in its socket; the old workers go on, and nothing is a traceback."""
    pair, token = make_pair(tmp_path), tmp_path / "token"
    token.write_text("first")
    token.chmod(0o600)
    model = perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    flags = [*pair.flags, "--workers", "2", "--token-file", str(token)]
    with serving(tmp_path, model, "--no-auto", *flags) as server:
        before = workers(server)
        perceptron([4, 8, 5], model)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(workers(server)) == 3, server)
        pair.cert.write_text("nothing")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "the old ones keep serving" in server.stderr.read_text(), server)
        assert workers(server) == before
        assert server.stop() == 0
        assert "Traceback" not in server.stderr.read_text()


def refused(ask: Callable[[str], object], word: str) -> bool:
    """Whether a call is refused for its token."""
    try:
        ask(word)
    except grpc.RpcError as error:
        return bool(error.code() is grpc.StatusCode.UNAUTHENTICATED)
    return False


@pytest.mark.slow
def test_sigterm_answers_everything(tmp_path: Path) -> None:
    """Clients that ask without a pause are answered until the server says that it closes."""
    pair = make_pair(tmp_path)
    ends: list[object] = []

    def ask() -> None:
        try:
            with connect(server, pair.client()) as wire:
                while True:
                    answer = wire.ask(raw_request("mlp", BODY))
                    if answer.status != 200 or answer.headers.get("connection") == "close":
                        ends.append((answer.status, wire.closed()))
                        return
        except OSError as error:
            ends.append(error)

    flags = [*pair.flags, "--drain", "200ms"]
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *flags) as server:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert server.process.wait(TIMEOUT_S) == 0
    assert ends == [(200, True)] * 4
