"""What a gRPC client can make the server keep, wait for, or do for nothing: raw frames against short limits."""

import gzip
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests import frames as h2
from tests.frames import Client, frame, word
from tests.server.test_grpc import method
from tests.server.workers.test_supervisor import LINUX, workers
from tests.servers import Server, serving, until

from tailcut.wire.grpc.messages import METHODS, SERVICE

LIMITS = ["--head-timeout", "300ms", "--body-timeout", "600ms", "--write-timeout", "600ms", "--idle-timeout", "1s"]
INFER = h2.literal(*h2.fields(f"/{SERVICE}/ModelInfer"))
STREAM = h2.literal(*h2.fields(f"/{SERVICE}/ModelStreamInfer"))
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Impatient, with room for 8 connections and 8 MiB of messages."""
    folder = tmp_path_factory.mktemp("bounds")
    flags = ["--grpc-port", "0", "--max-connections", "8", "--max-buffered", "8", "--max-body", "16", *LIMITS]
    sources = [models / f"{name}.onnx" for name in ("mlp", "big")]
    with serving(folder, *sources, *flags) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.stderr.read_text()


@pytest.fixture(scope="module")
def patient(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With the usual limits of time, for messages that a busy machine takes a while to send."""
    folder = tmp_path_factory.mktemp("patient")
    flags = ["--grpc-port", "0", "--max-buffered", "8", "--max-body", "16"]
    with serving(folder, *(models / f"{name}.onnx" for name in ("mlp", "big")), *flags) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.stderr.read_text()


@pytest.fixture(autouse=True)
def nothing_is_kept(request: pytest.FixtureRequest) -> Iterator[None]:
    """Rows, buffers and connections are back where they were, and the next call is answered exactly."""
    server = request.getfixturevalue("patient" if "patient" in request.fixturenames else "server")
    yield
    until(lambda: server.metric("tailcut_rows_in_use") == server.metric("tailcut_body_buffer_bytes") == 0, server)
    with Client(server.host, server.grpc_port or 0) as client:
        client.send(call(1, infer("mlp", np.ones((1, 4), np.float32))))
        text, data = client.status(1)
        assert text["grpc-status"] == "0"
        assert answer_of(data).model_name == "mlp"


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.host, server.grpc_port or 0) as client:
        yield client


def infer(model: str, array: np.ndarray) -> bytes:
    request = METHODS["ModelInfer"][0](model_name=model, raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    return bytes(request.SerializeToString())


def prefixed(message: bytes) -> bytes:
    return b"\0" + word(len(message)) + message


def data_frames(stream: int, data: bytes, *, end: bool = True) -> bytes:
    pieces = [data[at : at + 16384] for at in range(0, len(data), 16384)]
    return b"".join(
        frame(h2.DATA, h2.END_STREAM * (end and at == len(pieces) - 1), stream, piece)
        for at, piece in enumerate(pieces)
    )


def call(stream: int, message: bytes, block: bytes = INFER) -> bytes:
    return frame(h2.HEADERS, h2.END_HEADERS, stream, block) + data_frames(stream, prefixed(message))


def answer_of(data: bytes) -> object:
    return METHODS["ModelInfer"][1].FromString(data[5:])


def test_large_messages(patient: Server) -> None:
    """Several megabytes each way, several at once, through grpcio: every value comes back."""
    rows = np.arange(32 * 50_000, dtype=np.float32).reshape(32, 50_000)
    request = METHODS["ModelInfer"][0].FromString(infer("big", rows[:20]))
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"{patient.host}:{patient.grpc_port}", options) as channel:
        call = method(channel, "ModelInfer")
        for _ in range(3):
            assert call(request, timeout=20).raw_output_contents[0] == rows[:20].tobytes()
        answers = list(method(channel, "ModelStreamInfer")(iter([request] * 4), timeout=20))
        assert [answer.infer_response.raw_output_contents[0] == rows[:20].tobytes() for answer in answers] == [True] * 4


def test_compressed_by_grpcio(patient: Server) -> None:
    """A client that compresses is understood."""
    request = METHODS["ModelInfer"][0].FromString(infer("big", np.zeros((2, 50_000), np.float32)))
    for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        with grpc.insecure_channel(f"{patient.host}:{patient.grpc_port}") as channel:
            answer = method(channel, "ModelInfer")(request, compression=compression, timeout=20)
            assert answer.raw_output_contents[0] == bytes(400_000)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A hundred megabytes of zeros."""
    return gzip.compress(bytes(100 * MIB))


def test_a_small_message_that_inflates_to_a_large_one(bomb: bytes, patient: Server) -> None:
    """RESOURCE_EXHAUSTED, without room for it ever being made."""
    block = h2.literal(*h2.fields(f"/{SERVICE}/ModelInfer", grpc_encoding="gzip"))
    with Client(patient.host, patient.grpc_port or 0) as client:
        client.send(frame(h2.HEADERS, h2.END_HEADERS, 1, block), data_frames(1, b"\1" + word(len(bomb)) + bomb))
        assert client.status(1)[0]["grpc-status"] == "8"


def test_windows_of_a_few_bytes(patient: Server) -> None:
    """An answer goes out as the client opens its window, and is whole in the end."""
    row = np.arange(4, dtype=np.float32)[None]
    with Client(patient.host, patient.grpc_port or 0, h2.PREFACE + h2.settings(window=3)) as client:
        client.send(call(1, infer("mlp", row)))
        data = b""
        for item in client.frames():
            if item.kind == h2.DATA:
                data += item.payload
                assert len(item.payload) <= 7
                client.send(frame(h2.WINDOW, 0, 1, word(7)))
            if item.kind == h2.HEADERS and item.flags & h2.END_STREAM:
                break
        assert len(data) == 5 + int.from_bytes(data[1:5], "big")


def test_a_client_that_never_opens_its_window(server: Server) -> None:
    """After the write timeout the connection ends, and its answer is not kept."""
    with Client(server.host, server.grpc_port or 0, h2.PREFACE + h2.settings(window=0)) as client:
        client.send(call(1, infer("mlp", np.ones((1, 4), np.float32))))
        client.closed()


def test_a_client_that_never_reads(models: Path, tmp_path: Path) -> None:
    """Answers that TCP does not take end the connection after the write timeout, and are not kept."""
    hello = h2.PREFACE + h2.settings(window=(1 << 31) - 1) + frame(h2.WINDOW, 0, 0, word(1 << 30))
    message = infer("big", np.zeros((20, 50_000), np.float32))
    flags = ["--grpc-port", "0", "--write-timeout", "300ms", "--write-rate", "1048576"]
    with serving(tmp_path, models / "big.onnx", *flags) as server:
        with Client(server.host, server.grpc_port or 0, hello) as client:
            client.send(*(call(stream, message) for stream in (1, 3, 5)))
            until(lambda: server.metric("tailcut_connections") == 2, server)  # its own, and the one that asks
            until(lambda: server.metric("tailcut_connections") == 1, server)
            received = 0
            with suppress(ConnectionResetError):
                while piece := client.sock.recv(1 << 20):
                    received += len(piece)
            assert received < 3 * 4_000_000
        until(lambda: server.metric("tailcut_rows_in_use") == server.metric("tailcut_body_buffer_bytes") == 0, server)
        assert server.stop() == 0


def test_a_message_that_does_not_arrive(client: Client) -> None:
    """DEADLINE_EXCEEDED after the body timeout; other calls of the connection are answered meanwhile and after."""
    whole = call(1, infer("mlp", np.ones((1, 4), np.float32)))
    client.send(whole[:-10])
    client.sock.settimeout(20)
    client.send(b"")
    # A frame cut short holds up its connection; a message cut between frames only its call.
    rest = frame(h2.HEADERS, h2.END_HEADERS, 3, INFER) + frame(h2.DATA, 0, 3, prefixed(bytes(100))[:50])
    client.send(whole[-10:], rest, call(5, infer("mlp", np.ones((1, 4), np.float32))))
    assert client.status(5)[0]["grpc-status"] == "0"
    assert client.status(3)[0]["grpc-status"] == "4"


def test_a_frame_that_does_not_arrive(client: Client) -> None:
    """The connection ends after the body timeout: nothing behind the frame could be understood."""
    client.send(call(1, infer("mlp", np.ones((1, 4), np.float32))))
    assert client.status(1)[0]["grpc-status"] == "0"
    client.send(h2.request(3, b"x")[:-5])
    assert h2.GOAWAY not in {item.kind for item in client.closed()}


def test_silence(server: Server) -> None:
    """Who does not say the preface goes after the head timeout; who has no call, after the idle timeout."""
    with Client(server.host, server.grpc_port or 0, b"") as client:
        assert {item.kind for item in client.closed()} == {h2.SETTINGS, h2.WINDOW}
    with Client(server.host, server.grpc_port or 0) as client:
        assert client.closed()[-1].kind == h2.GOAWAY


@pytest.mark.slow
def test_a_quiet_stream_is_asked_whether_its_client_lives(server: Server) -> None:
    """A stream may be quiet for as long as its client answers a ping; one that does not is gone."""
    with Client(server.host, server.grpc_port or 0) as client:
        client.send(frame(h2.HEADERS, h2.END_HEADERS, 1, STREAM))
        ping = client.until(h2.PING)
        client.send(frame(h2.PING, 1, 0, ping.payload))
        assert client.until(h2.PING).payload == ping.payload
        client.closed()


@pytest.mark.parametrize(("kind", "answer"), [("application/grpc", ("200", "8")), ("text/plain", ("431", None))])
def test_metadata_over_the_limit(client: Client, kind: str, answer: tuple) -> None:
    """Ends its call, and neither the one that is on its way nor the next one."""
    message = infer("mlp", np.ones((1, 4), np.float32))
    head, *data = frame(h2.HEADERS, h2.END_HEADERS, 1, INFER), data_frames(1, prefixed(message))
    client.send(head)
    fields = [(name, kind if name == "content-type" else value) for name, value in h2.fields(f"/{SERVICE}/ModelInfer")]
    block = h2.literal(*fields) + b"".join(b"\0\x01a\x7f\x81\x07" + 1024 * b"v" for _ in range(20))
    client.send(
        frame(h2.HEADERS, 0, 3, block[:16000]),
        frame(h2.CONTINUATION, h2.END_HEADERS, 3, block[16000:]),
        data_frames(3, prefixed(message)),
    )
    text, _ = client.status(3)
    assert (text[":status"], text.get("grpc-status")) == answer
    assert answer[1] is None or "16384" in text["grpc-message"]
    client.send(*data)
    assert client.status(1)[0]["grpc-status"] == "0"
    client.send(call(5, message))
    assert client.status(5)[0]["grpc-status"] == "0"


def test_metadata_without_an_end(client: Client) -> None:
    """Over 64 KiB the connection ends, and is told why."""
    block = INFER + b"".join(b"\0\x01a\x7f\x81\x07" + 1024 * b"v" for _ in range(70))
    pieces = [block[at : at + 16000] for at in range(0, len(block), 16000)]
    client.send(frame(h2.HEADERS, 0, 1, pieces[0]), *[frame(h2.CONTINUATION, 0, 1, piece) for piece in pieces[1:]])
    assert b"header block that does not end" in client.until(h2.GOAWAY).payload


def test_messages_of_all_connections_together(server: Server) -> None:
    """Over the limit of bytes that are kept, the next message is UNAVAILABLE, and says when to come again."""
    with Client(server.host, server.grpc_port or 0) as first, Client(server.host, server.grpc_port or 0) as second:
        first.send(frame(h2.HEADERS, h2.END_HEADERS, 1, INFER), frame(h2.DATA, 0, 1, prefixed(bytes(7 * MIB))[:100]))
        until(lambda: server.metric("tailcut_body_buffer_bytes") >= 7 * MIB, server)
        second.send(frame(h2.HEADERS, h2.END_HEADERS, 1, INFER), frame(h2.DATA, 0, 1, prefixed(bytes(2 * MIB))[:100]))
        text = second.status(1)[0]
        assert (text["grpc-status"], text["retry-after"]) == ("14", "1")
        first.send(frame(h2.RST, 0, 1, word(8)))


@pytest.mark.parametrize("size", [8 * MIB, 8 * MIB + 1000, 12 * MIB])
@pytest.mark.parametrize(("block", "before"), [(INFER, 0), (STREAM, 0), (STREAM, 1)], ids=["call", "stream", "second"])
def test_a_message_that_never_finds_room(client: Client, size: int, block: bytes, before: int) -> None:
    """RESOURCE_EXHAUSTED as soon as it is announced, and no word of coming again, whichever call it is of."""
    row = prefixed(infer("mlp", np.ones((1, 4), np.float32)))
    client.send(frame(h2.HEADERS, h2.END_HEADERS, 1, block), frame(h2.DATA, 0, 1, row * before + b"\0" + word(size)))
    text = client.status(1)[0]
    assert text["grpc-status"] == "8"
    assert not {"retry-after", "grpc-retry-pushback-ms"} & text.keys()


def test_connections_are_the_servers(server: Server) -> None:
    """They count together with HTTP's, and the one idle longest makes room."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server.host, server.grpc_port or 0)) for _ in range(12)]
        clients[-1].until(h2.SETTINGS)
        until(lambda: server.metric("tailcut_connections") <= 8, server)  # who asks comes and goes, too
        assert clients[0].closed()[-1].kind == h2.GOAWAY


def test_floods_end_their_connection_only(server: Server) -> None:
    """Rapid resets are answered with ENHANCE_YOUR_CALM, and what they asked for is not computed any more."""
    message = infer("mlp", np.ones((1, 4), np.float32))
    with Client(server.host, server.grpc_port or 0) as client:
        for number in range(3000):
            try:
                client.send(call(2 * number + 1, message), frame(h2.RST, 0, 2 * number + 1, word(8)))
            except ConnectionError:
                break
        try:
            last = client.closed()[-1]
        except ConnectionResetError:  # its own frames were still on the way
            return
        assert (last.kind, last.code) == (h2.GOAWAY, 11)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "12"),
        (prefixed(b"") * 2, "12"),
        (prefixed(bytes(9))[:8], "12"),
        (b"\1" + word(0), "13"),
        (prefixed(b"\xff" * 9), "3"),
        (b"\0\xff\xff\xff\xff", "8"),
    ],
)
def test_messages_that_are_none(client: Client, data: bytes, status: str) -> None:
    """None, two, a part of one, compressed by nothing, rubbish, over every limit: the call's status says so."""
    client.send(frame(h2.HEADERS, h2.END_HEADERS, 1, INFER), frame(h2.DATA, h2.END_STREAM, 1, data))
    assert client.status(1)[0]["grpc-status"] == status


def test_streams_of_messages(patient: Server) -> None:
    """Thousands in one go are answered in order, a bad one with its error; a last one cut short ends the stream."""
    good, bad = infer("mlp", np.ones((1, 4), np.float32)), infer("mlp", np.ones((1, 5), np.float32))
    messages = b"".join(prefixed(good if number % 3 else bad) for number in range(3000))
    with Client(patient.host, patient.grpc_port or 0) as client:
        client.send(frame(h2.WINDOW, 0, 0, word(1 << 30)), h2.settings(window=1 << 30))
        client.send(frame(h2.HEADERS, h2.END_HEADERS, 1, STREAM), data_frames(1, messages + b"\0"))
        text, data = client.status(1)
    assert text["grpc-status"] == "13"
    answers, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at + 1 : at + 5], "big")
        answers.append(METHODS["ModelStreamInfer"][1].FromString(data[at + 5 : at + 5 + size]))
        at += 5 + size
    assert [bool(answer.error_message) for answer in answers] == [number % 3 == 0 for number in range(3000)]


def test_what_is_no_grpc(client: Client, server: Server) -> None:
    """Another content is 415, another method 405; HTTP/1.1 on the port ends at once."""
    fields = dict(h2.fields(f"/{SERVICE}/ModelInfer"))
    client.send(h2.request(1, b"x", h2.literal(*(fields | {"content-type": "text/html"}).items())))
    assert client.status(1)[0][":status"] == "415"
    client.send(h2.request(3, None, h2.literal(*(fields | {":method": "GET"}).items())))
    assert client.status(3)[0][":status"] == "405"
    with Client(server.host, server.grpc_port or 0, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as other:
        assert other.closed()[-1].code == 1


def test_drain_with_open_streams(models: Path, tmp_path: Path) -> None:
    """SIGTERM: calls go on; then GOAWAY; whatever is still open ends with UNAVAILABLE, and the exit is clean."""
    with (
        serving(tmp_path, models / "mlp.onnx", "--grpc-port", "0", "--drain", "300ms") as server,
        Client(server.host, server.grpc_port or 0) as client,
    ):
        message = prefixed(infer("mlp", np.ones((1, 4), np.float32)))
        client.send(frame(h2.HEADERS, h2.END_HEADERS, 1, STREAM), frame(h2.DATA, 0, 1, message))
        client.until(h2.DATA, 1)
        server.process.send_signal(signal.SIGTERM)
        client.send(frame(h2.DATA, 0, 1, message))
        client.until(h2.DATA, 1)
        assert client.until(h2.GOAWAY).code == 0
        assert client.status(1)[0]["grpc-status"] == "14"
        assert server.process.wait(20) == 0


@pytest.mark.slow
@LINUX
def test_a_retired_worker_answers_what_it_has(models: Path, tmp_path: Path) -> None:
    """SIGHUP: clients keep being answered over gRPC while every worker is replaced, and none sees an error."""
    with serving(tmp_path, models / "mlp.onnx", "--workers", "2", "--grpc-port", str(_free_port())) as server:
        before = set(workers(server))
        request = METHODS["ModelInfer"][0].FromString(infer("mlp", np.ones((1, 4), np.float32)))
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}", options) as channel:
            ask = method(channel, "ModelInfer")
            ask(request, timeout=20)
            server.process.send_signal(signal.SIGHUP)
            asked = 0

            def are_replaced() -> bool:
                nonlocal asked
                assert ask(request, timeout=20).outputs
                asked += 1
                return not before & set(workers(server))

            until(are_replaced, server)
            assert ask(request, timeout=20).outputs
            assert asked > 1
        assert server.stop() == 0


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_a_client_that_takes_a_byte_at_a_time(server: Server) -> None:
    """The write timeout is a total, and a byte now and then buys no time; a client that reads on has its answer."""
    message = infer("big", np.zeros((20, 50_000), np.float32))
    hello = h2.PREFACE + h2.settings(window=0) + frame(h2.WINDOW, 0, 0, word(1 << 30))
    for size in (1, 256 << 10):
        got, ended = 0, False
        with Client(server.host, server.grpc_port or 0, hello) as client:
            client.send(call(1, message))
            for _ in range(200):  # ten seconds
                try:
                    client.send(frame(h2.WINDOW, 0, 1, word(size)))
                    select.select([], [], [], 0.05)
                    while select.select([client.sock], [], [], 0)[0] and not ended:
                        piece = client.sock.recv(1 << 20)
                        got += len(piece)
                        ended = not piece
                except ConnectionError:
                    ended = True
                if ended or got > 4_000_000:
                    break
        assert ended == (size == 1)
        assert (got > 4_000_000) == (size > 1)


def test_large_typed_lists(patient: Server) -> None:
    """A million floats as a typed list come back exactly, compressed or not; the call beside them is answered."""
    values = np.random.default_rng(0).standard_normal((20, 50_000)).astype(np.float32)
    request = METHODS["ModelInfer"][0](model_name="big")
    entry = request.inputs.add(name="x", datatype="FP32", shape=values.shape)
    entry.contents.fp32_contents.extend(values.reshape(-1).tolist())
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"{patient.host}:{patient.grpc_port}", options) as channel:
        ask = method(channel, "ModelInfer")
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            answer = ask(request, timeout=20, compression=compression)
            assert answer.raw_output_contents[0] == values.tobytes()
            assert answer.outputs[0].shape == [20, 50_000]
