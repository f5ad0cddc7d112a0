"""Both clients against a real server, and against peers that misbehave."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.client.peers import BUSY, HOLD, TIMEOUT_S, Unasked, X, good, peer, reply
from tests.engines.models import perceptron
from tests.servers import Server, serving

import tailcut
from tailcut.client import Hedge, Retries
from tailcut.errors import (
    ArgumentTypeError,
    DeadlineExceededError,
    InputTypeError,
    InvalidInputError,
    NotFoundError,
    QueueFullError,
    ReleasedError,
    TooLargeError,
    UnreachableError,
)


def test_infer_over_every_transport(make: type, url: str) -> None:
    """Answers are those of the model, call after call over one kept connection."""
    random = np.random.default_rng(0)
    with make(url) as client:
        for rows in (1, 3, 7):
            x = random.standard_normal((rows, 1000)).astype(np.float32)
            np.testing.assert_array_equal(client.infer("echo", {"x": x})["y"], x)
        assert client.ready()
        assert client.live()
        assert client.ready("echo", "1")
        assert not client.ready("none")
        assert client.metadata("echo")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1000]}]
        assert client.metadata()["name"] == "tailcut"


def test_dtypes_and_several_tensors(make: type, server: Server) -> None:
    """Half floats, two inputs with two outputs, and one output alone."""
    with make(server.url) as client:
        half = np.array([[1.5, -2.25]], np.float16)
        np.testing.assert_array_equal(client.infer("half", {"x": half})["y"], half)
        inputs = client.metadata("pair")["inputs"]
        arrays = {item["name"]: np.full([2, *item["shape"][1:]], 1, np.float32) for item in inputs}
        both = client.infer("pair", arrays)
        assert len(both) == 2
        name = list(both)[1]
        (alone,) = client.infer("pair", arrays, outputs=[name]).items()
        assert alone[0] == name
        np.testing.assert_array_equal(alone[1], both[name])


@pytest.mark.parametrize(
    ("model", "x", "kind"),
    [
        ("mlp", np.zeros((1, 5), np.float32), InvalidInputError),
        ("mlp", np.zeros((1, 4), np.float64), InvalidInputError),
        ("none", np.zeros((1, 4), np.float32), NotFoundError),
        ("echo", np.zeros((1000, 1000), np.float32), TooLargeError),
    ],
)
def test_the_servers_errors_are_typed(make: type, server: Server, model: str, x: np.ndarray, kind: type) -> None:
    """Each has its kind and the server's words, and the next call passes."""
    with make(server.url) as client:
        with pytest.raises(kind) as raised:
            client.infer(model, {"x": x})
        assert str(raised.value)
        assert client.infer("mlp", {"x": np.zeros((1, 4), np.float32)})["y"].shape == (1, 3)


def test_many_threads_share_a_client(server: Server) -> None:
    """Every thread gets its own answers."""
    wrong: list[float] = []

    def work(number: int) -> None:
        for step in range(50):
            x = np.full((1, 1000), number * 100 + step, np.float32)
            if not (client.infer("echo", {"x": x})["y"] == x).all():
                wrong.append(number)

    with tailcut.Client(server.url) as client:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert wrong == []


def test_many_calls_at_once(server: Server) -> None:
    """Every call of one event loop gets its own answer."""

    async def work() -> None:
        async with tailcut.AsyncClient(server.url) as client:
            inputs = [np.full((1, 1000), number, np.float32) for number in range(100)]
            answers = await asyncio.gather(*(client.infer("echo", {"x": x}) for x in inputs))
        assert all((answer["y"] == x).all() for answer, x in zip(answers, inputs, strict=True))

    asyncio.run(work())


def test_nobody_listens(make: type) -> None:
    """Said in one line, after the tries that were asked for; readiness is simply false."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with make(f"127.0.0.1:{port}", retries=Retries(limit=1, pause_s=0.0)) as client:
        with pytest.raises(UnreachableError, match=f"no server listens at 127.0.0.1:{port}"):
            client.infer("m", X)
        assert not client.ready()


def test_busy_and_then_not(make: type) -> None:
    """503 is tried again on the same connection until the limit, and not with other errors."""
    with peer([BUSY, BUSY, good(3.0)]) as result, make(result.url) as client:
        assert client.infer("m", X)["y"] == 3.0
        assert (result.connections, len(result.requests)) == (1, 3)
        assert len(set(result.requests)) == 1
    with peer([BUSY, BUSY]) as result, make(result.url, retries=Retries(limit=1)) as client:
        with pytest.raises(QueueFullError, match="full"):
            client.infer("m", X)
        assert len(result.requests) == 2
    with peer([reply(500, b'{"error": "no"}')]) as result, make(result.url) as client:
        with pytest.raises(tailcut.errors.EngineError):
            client.infer("m", X)
        assert len(result.requests) == 1


def test_a_retry_that_would_be_late_is_not_waited_for(make: type) -> None:
    """A server that asks for a minute is not tried again within ten seconds: the error comes at once."""
    with (
        peer([reply(503, b'{"error": "full"}', "Retry-After: 60")]) as result,
        make(result.url, timeout_s=10.0) as client,
    ):
        with pytest.raises(QueueFullError) as raised:
            client.infer("m", X)
        assert raised.value.retry_after_s == 60
        assert len(result.requests) == 1


@pytest.mark.parametrize("name", ["Retry-After", "Retry-After-Ms"])
def test_a_server_that_is_busy_for_ever(make: type, name: str) -> None:
    """However many digits say so: no try would be in time."""
    busy = reply(503, b'{"error": "full"}', f"{name}: {'9' * 5000}")
    with peer([busy]) as result, make(result.url) as client, pytest.raises(QueueFullError, match="full"):
        client.infer("m", X)


def test_a_stale_connection_is_replaced(make: type) -> None:
    """A kept connection that the server has closed costs nothing: the call goes over a new one."""
    with peer([good(1.0)], [good(2.0)]) as result, make(result.url) as client:
        assert client.infer("m", X)["y"] == 1.0
        assert client.infer("m", X)["y"] == 2.0
        assert result.connections == 2


@pytest.mark.parametrize("unasked", [good(9.0), reply(408, b"", "Connection: close"), b"H"])
def test_what_comes_between_calls_is_no_answer(make: type, unasked: bytes) -> None:
    """A connection on which something came that was not asked for is closed; the next call has one of its own."""
    with (
        peer([good(1.0), Unasked(unasked), HOLD], [good(2.0), good(3.0)]) as result,
        make(result.url) as client,
    ):
        assert client.infer("m", X)["y"] == 1.0
        result.send_unasked()
        assert [float(client.infer("m", X)["y"][0]) for _ in range(2)] == [2.0, 3.0]
        assert result.connections == 2
        assert result.gone.acquire(timeout=TIMEOUT_S)


def test_an_answer_that_breaks_off_is_not_asked_for_again(make: type) -> None:
    """On a new connection nobody knows what the server did: that is the caller's to decide."""
    for cut in (0, 10, len(good()) - 1):
        with peer([good()[:cut]]) as result, make(result.url) as client:
            with pytest.raises(UnreachableError, match="closed the connection"):
                client.infer("m", X)
            assert len(result.requests) == 1


def test_answers_without_a_length(make: type) -> None:
    """One in chunks leaves the connection usable; one that ends with its connection is whole when that is closed."""
    head, body = good(3.0).split(b"\r\n\r\n", 1)
    fields = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length"))
    chunked = fields + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    until_closed = fields + b"\r\n\r\n" + body
    with peer([chunked, good(), until_closed], [good(4.0)]) as result, make(result.url) as client:
        assert [float(client.infer("m", X)["y"][0]) for _ in range(4)] == [3.0, 1.0, 3.0, 4.0]
        assert result.connections == 2


def test_the_deadline_holds(make: type) -> None:
    """No answer in time is an error of its own, and the connection is closed so that the server learns of it."""
    with peer([HOLD]) as result, make(result.url) as client:
        with pytest.raises(DeadlineExceededError):
            client.infer("m", X, timeout_s=0.05)
        assert result.gone.acquire(timeout=TIMEOUT_S)
        assert b'"timeout":50000' in result.requests[0]


def test_a_peer_of_another_protocol(make: type) -> None:
    """Its first frame, as a gRPC port sends it, is enough."""
    with peer([b"\0\0\x12\x04" + bytes(23), HOLD]) as result, make(result.url) as client:
        with pytest.raises(UnreachableError, match="does not speak HTTP/1"):
            client.infer("m", X)
        assert result.gone.acquire(timeout=TIMEOUT_S)


def test_connection_close_is_honoured(make: type) -> None:
    """After an answer that says so, the next call opens a connection of its own."""
    closing = good().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    with peer([closing, good()], [good()]) as result, make(result.url) as client:
        client.infer("m", X)
        client.infer("m", X)
        assert result.connections == 2


def test_the_first_answer_wins(make: type) -> None:
    """When the first copy hangs, a second goes out on another connection; the loser's connection is closed."""
    with peer([HOLD], [good(2.0)]) as result:
        with make(result.url, hedge=Hedge(after_s=0.01)) as client:
            assert client.infer("m", X)["y"] == 2.0
        assert result.gone.acquire(timeout=TIMEOUT_S)
        assert len(result.requests) == 2


def test_a_refused_copy_does_not_end_the_first(make: type) -> None:
    """503 for one of the copies counts only when there is no other to wait for."""
    release = threading.Event()

    def slow() -> Iterator[bytes]:
        release.wait(TIMEOUT_S)
        yield good(4.0)

    class Second(list):
        def __iter__(self) -> Iterator[bytes]:
            yield BUSY
            release.set()

    class First(list):
        def __iter__(self) -> Iterator[bytes]:
            return slow()

    with peer(First(), Second()) as result, make(result.url, hedge=Hedge(after_s=0.01)) as client:
        assert client.infer("m", X)["y"] == 4.0
        assert result.connections == 2


def test_a_quick_call_is_not_sent_twice(make: type) -> None:
    """A hedge that is not due sends nothing."""
    with peer([good(), good()]) as result, make(result.url, hedge=Hedge(after_s=TIMEOUT_S)) as client:
        client.infer("m", X)
        client.infer("m", X)
        assert (result.connections, len(result.requests)) == (1, 2)


def test_a_closed_client(make: type) -> None:
    """Calls after `close` say so; closing again does nothing."""
    client = make("127.0.0.1:1")
    with client:
        client.close()
        with pytest.raises(ReleasedError, match="closed"):
            client.infer("m", X)
        with pytest.raises(ReleasedError, match="closed"):
            client.ready()


def test_a_cancelled_call_closes_its_connection() -> None:
    """The server learns that nobody waits; the client goes on."""

    async def work(url: str) -> None:
        async with tailcut.AsyncClient(url) as client:
            task = asyncio.ensure_future(client.infer("m", X))
            while not result.requests:  # noqa: ASYNC110  the peer is a thread
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.infer("m", X))["y"] == 1.0

    with peer([HOLD], [good()]) as result:
        asyncio.run(work(result.url))
        assert result.gone.acquire(timeout=TIMEOUT_S)


@pytest.mark.slow
def test_a_killed_worker_is_not_noticed(tmp_path: Path) -> None:
    """Calls over kept connections go on without an error while workers are killed: such calls are sent again."""
    perceptron([4, 3], tmp_path / "m.onnx")
    with serving(tmp_path, tmp_path / "m.onnx", "--workers", "2") as server, tailcut.Client(server.url) as client:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        if not children.exists():
            pytest.skip("reads /proc")
        x = {"x": np.zeros((1, 4), np.float32)}
        for _ in range(2):
            client.infer("m", x)
            victim = int(children.read_text().split()[0])
            os.kill(victim, signal.SIGKILL)
            while victim in map(int, children.read_text().split()):
                client.infer("m", x)
        client.infer("m", x)
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"retries": 0}, "retries must be None or tailcut.client.Retries, such as Retries(limit=3), got int"),
        ({"retries": False}, "retries must be None or tailcut.client.Retries, such as Retries(limit=3), got bool"),
        ({"hedge": True}, "hedge must be None or tailcut.client.Hedge, such as Hedge(), got bool"),
        ({"shared_memory": True}, "shared_memory must be None or the prefix of its names"),
        ({"token": 5}, "token must be None or a str, got int"),
        ({"ca": 5}, "ca must be None or the path of a file of certificates, got int"),
        ({"verify": "ca.pem"}, "verify must be True or False, got 'ca.pem': a file of certificates is for ca"),
        ({"connections": "64"}, "connections must be a whole number, 0 or more, got '64'"),
        ({"url": 8000}, "the URL of a server is a str such as 'http://HOST:PORT', or a list of them, got 8000"),
        ({"url": None}, "the URL of a server is a str"),
        ({"url": ["h:1", 5]}, "the URL of a server is a str"),
    ],
)
def test_settings_are_checked_when_a_client_is_made(make: type, settings: dict, words: str) -> None:
    """Not at the first call, or at the first failure."""
    with pytest.raises(ArgumentTypeError) as caught:
        make(**({"url": "http://127.0.0.1:1"} | settings))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (("mlp", X["x"]), InputTypeError, "inputs are arrays by name, as in {'x': array}, got ndarray"),
        (("mlp", "x"), InputTypeError, "inputs are arrays by name, as in {'x': array}, got str"),
        ((None, X), ArgumentTypeError, "model must be a str, got None"),
        ((["mlp"], X), ArgumentTypeError, "model must be a str, got ['mlp']"),
        (("mlp", X, ("version", 1)), ArgumentTypeError, "version must be a str, got 1"),
        (("mlp", X, ("outputs", "y")), ArgumentTypeError, "outputs must be None or a list of names, such as ['y']"),
        (("mlp", X, ("outputs", [1])), ArgumentTypeError, "outputs must be None or a list of names"),
        (("mlp", X, ("traceparent", 5)), InvalidInputError, "5 is not a W3C traceparent"),
        (("mlp", {"\ud800": X["x"]}), InvalidInputError, "the name of an input or output cannot be sent"),
        (("\ud800", X), InvalidInputError, "the name or version of a model has half of a surrogate pair"),
    ],
)
def test_wrong_arguments_of_a_call(make: type, call: tuple, kind: type, words: str) -> None:
    """They are refused by one line, before a server is asked."""
    with make("http://127.0.0.1:1") as client, pytest.raises(kind) as caught:
        client.infer(*call[:2], **dict(call[2:]))
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["metadata", "ready"])
def test_the_name_of_a_model_is_a_str(make: type, name: str) -> None:
    """Where a server is asked about it, too."""
    with make("http://127.0.0.1:1") as client, pytest.raises(ArgumentTypeError, match="must be a str"):
        getattr(client, name)("mlp", 1)


def test_no_retries_at_all(make: type) -> None:
    """A limit of 0 is one try."""
    with peer([BUSY]) as served, make(served.url, retries=Retries(limit=0)) as client:
        with pytest.raises(QueueFullError, match="full"):
            client.infer("m", X)
        assert len(served.requests) == 1


def test_one_loop_after_the_other() -> None:
    """An asyncio client opens connections of its own in the next loop, and closes those of a loop that has ended."""
    with peer(*([good(number), HOLD] for number in range(3))) as served:
        client = tailcut.AsyncClient(served.url)
        for number in range(3):
            assert asyncio.run(client.infer("m", X))["y"] == number
            assert number == 0 or served.gone.acquire(timeout=TIMEOUT_S)
        asyncio.run(client.close())
        assert served.gone.acquire(timeout=TIMEOUT_S)
        assert served.connections == 3


def test_more_inputs_than_one_system_call_sends(make: type) -> None:
    """The kernel takes 1,024 pieces of memory at a time: the request is sent in several calls, and whole."""
    inputs = {f"x{number}": np.full(2, number, np.float32) for number in range(1100)}
    with peer([good()]) as server, make(server.url, timeout_s=TIMEOUT_S) as client:
        np.testing.assert_array_equal(client.infer("m", inputs)["y"], [1.0])
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.endswith(np.concatenate(list(inputs.values())).tobytes())


def test_a_compressed_answer_is_named(make: type) -> None:
    """No client asks for one, but a proxy may send it: the message has the coding."""
    answer = reply(200, b"\x1f\x8b", "Content-Encoding: gzip")
    with (
        peer([answer] * 2) as server,
        make(server.url) as client,
        pytest.raises(UnreachableError, match=r"compressed \(Content-Encoding: gzip\)"),
    ):
        client.infer("m", X)
