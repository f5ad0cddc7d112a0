"""`GET /live`: an event a second while a client watches, and a bounded, clean end of every stream."""

import asyncio
import http.client
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tests.certificates import make_pair, needs_openssl
from tests.engines.models import perceptron
from tests.servers import TIMEOUT_S, Server, raw_request, serving

from tailcut.live.records import About, End, Findings, Record, View, from_data
from tailcut.server.broadcast import Broadcast
from tailcut.server.context import Context
from tailcut.server.limits import ServerLimits
from tailcut.server.repository import ModelRepository

WATCH = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
ROW = np.ones((1, 4), np.float32).tobytes()
MOST = ServerLimits().watchers


class Stream:
    """A client that watches, on a bare socket."""

    def __init__(self, sock: socket.socket, request: bytes = WATCH) -> None:
        self.sock = sock
        sock.sendall(request)
        self._file = sock.makefile("rb")
        self.status = int(self._file.readline().split()[1])
        lines = iter(self._file.readline, b"\r\n")
        self.headers = {
            name.lower(): value for name, _, value in (line.decode().strip().partition(": ") for line in lines)
        }

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self.sock.close()

    def next(self) -> Record:
        """The next record; ConnectionError where the stream has ended."""
        event = self._file.readline()
        data = self._file.readline()
        assert data == b"" or self._file.readline() == b"\n"
        if not data:
            raise ConnectionError("the stream has ended")
        record = from_data(data.removeprefix(b"data: "))
        assert event == f"event: {type(record).__name__.lower()}\n".encode()
        return record

    def view(self) -> View:
        """The next view."""
        while not isinstance(record := self.next(), View):
            pass
        return record

    def rest(self) -> list[Record]:
        """What still comes until the end."""
        records = []
        try:
            while True:
                records.append(self.next())
        except ConnectionError:
            return records


class Watcher:
    """One that takes everything."""

    def show(self, view: bytes) -> None: ...
    def tell(self, kind: str, event: bytes) -> None: ...
    def end(self, event: bytes) -> None: ...


@contextmanager
def watching(server: Server, *headers: str) -> Iterator[Stream]:
    request = "\r\n".join(["GET /live HTTP/1.1", "Host: x", *headers, "", ""]).encode()
    with closing(Stream(socket.create_connection((server.host, server.port), TIMEOUT_S), request)) as stream:
        yield stream


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("live")
    with serving(folder, perceptron([4, 8, 3], folder / "mlp.onnx"), "--slo", "1s") as running:
        yield running
        assert running.stop() == 0


def test_records_of_a_stream(server: Server) -> None:
    """First what the server is, soon the doctor's findings, and each second what happened in it."""
    with watching(server) as stream, server.connect() as wire:
        assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
        assert (stream.headers["connection"], "content-length" in stream.headers) == ("close", False)
        about = stream.next()
        assert isinstance(about, About)
        (model,) = about.models
        assert (about.slo_ms, model.name, model.version) == (1000.0, "mlp", "1")
        assert model.settings["batching.dispatch"] in {"inline", "adaptive", "worker"}
        assert set(model.changed) <= set(model.settings)
        records = [stream.next(), stream.next()]
        assert any(isinstance(record, Findings) for record in records)
        quiet = next(record for record in records if isinstance(record, View))
        assert quiet.models[0].second.requests == 0
        assert quiet.models[0].second.p50_us is None
        asked, got = 200, 0
        for _ in range(asked):
            assert wire.ask(raw_request("mlp", ROW)).status == 200
        views = []
        while got < asked:
            views.append(stream.view())
            got += views[-1].models[0].second.requests
        assert got == asked
        assert sum(view.replies.get("200", 0) for view in views) >= asked
        latest = views[-1].models[0]
        assert latest.recent.requests >= 1
        assert latest.recent.p95_us is not None
        assert latest.recent.p95_us < 1e6
        assert latest.recent.within_slo == 1.0
        assert sum(view.models[0].looked_at for view in views) == asked
        assert any(view.models[0].slow for view in views)
        assert views[-1].processes[0].pid == server.process.pid


def test_several_watchers_see_the_same(server: Server) -> None:
    """One view a second, made once, for all."""
    with watching(server) as item, watching(server) as two:
        first = item.view()
        other = two.view()
        while other.clock_s < first.clock_s:
            other = two.view()
        while first.clock_s < other.clock_s:
            first = item.view()
        assert first == other


def test_watchers_are_bounded(server: Server) -> None:
    """503 with the reason and when to try again; a place is free when one leaves."""
    streams = []
    try:
        for _ in range(MOST):
            streams.append(Stream(socket.create_connection((server.host, server.port), TIMEOUT_S)))
            assert streams[-1].status == 200
        with server.connect() as wire:
            answer = wire.ask(WATCH)
            assert answer.status == 503
            assert str(MOST) in answer.json()["error"]
            assert int(answer.headers["retry-after"]) > 0
            assert wire.ask(raw_request("mlp", ROW)).status == 200  # its connection lives on
        streams.pop().close()
        while streams[0].view().connections > len(streams):  # until the server has seen it
            pass
        with watching(server) as stream:
            assert stream.status == 200
    finally:
        for item in streams:
            item.close()


@pytest.mark.parametrize("path", ["/", "/live"])
def test_other_methods(server: Server, path: str) -> None:
    """HEAD as GET without a body, and everything else refused with what is allowed."""
    with server.connect() as wire:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            answer = wire.ask(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
            assert (answer.status, answer.headers["allow"]) == (405, "GET")
        wire.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert wire.closed()
        head, _, rest = wire.pending().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert rest == b""


def test_what_a_client_sends_behind_it_is_not_read(server: Server) -> None:
    """A stream is the last answer of its connection, over HTTP/1.0 as well."""
    with ExitStack() as both:
        streams = []
        for version in ("1.0", "1.1"):
            lines = f"GET /live HTTP/{version}\r\nHost: x\r\n\r\n".encode()
            sock = socket.create_connection((server.host, server.port), TIMEOUT_S)
            streams.append(both.enter_context(closing(Stream(sock, lines + raw_request("mlp", ROW) * 50))))
        for stream in streams:
            assert isinstance(stream.next(), About)
            assert stream.view().models[0].second.requests == 0
            stream.sock.sendall(b"\0" * 100_000)
        for stream in streams:
            assert stream.view().connections >= 2


def test_a_client_that_ends_its_side_ends_the_stream(server: Server) -> None:
    """Nothing can be asked of it any more; what it was sent it can read."""
    with watching(server) as stream:
        stream.sock.shutdown(socket.SHUT_WR)
        records = stream.rest()
        assert isinstance(records[0], About)


@pytest.mark.slow
def test_a_client_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    """After --write-timeout, with no more held for it than one full write buffer; the others are not held up."""
    flags = ["--write-timeout", "2s", "--write-rate", "1048576", "--uds", str(tmp_path / "socket"), "--no-auto"]
    perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    # Much to say of few models, so that a view is made each second.
    models = [f"{name}={tmp_path / 'mlp.onnx'}" for name in ("a" * 6000 + str(number) for number in range(8))]
    with serving(tmp_path, *models, *flags) as server:
        with socket.socket(socket.AF_UNIX) as sock:  # whose buffers are small
            sock.connect(str(tmp_path / "socket"))
            sock.sendall(WATCH)
            with watching(server) as other:
                seconds, held = 0, [0]
                while (view := other.view()).connections > 1:
                    held.append(view.buffered_bytes)
                    seconds += 1
        assert seconds > 1
        assert 0 < max(held) < 512 << 10
        assert server.stop() == 0


@pytest.mark.slow
def test_a_client_that_reads_late_misses_views_alone(tmp_path: Path) -> None:
    """What was told once, such as other models, it gets when it reads again."""
    perceptron([4, 8, 3], tmp_path / "mlp.onnx")
    # Much to say of each model, so that the buffers of a Unix socket, which are small, are full after a second or two.
    models = [f"{name}={tmp_path / 'mlp.onnx'}" for name in ("a" * 6000 + str(number) for number in range(8))]
    with serving(tmp_path, *models, "--uds", str(tmp_path / "socket"), "--no-auto") as server:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(TIMEOUT_S)
        sock.connect(str(tmp_path / "socket"))
        with closing(Stream(sock)) as late, watching(server) as other:
            assert isinstance(other.next(), About)
            while not other.view().buffered_bytes:
                pass
            perceptron([4, 16, 3], tmp_path / "mlp.onnx")
            server.process.send_signal(signal.SIGHUP)
            while not isinstance(other.next(), About):
                pass
            seen = other.view().clock_s
            records = [late.next()]
            while not (isinstance(record := records[-1], View) and record.clock_s > seen):
                records.append(late.next())
        kinds = [type(record) for record in records]
        assert (kinds.count(About), kinds.count(Findings)) == (2, 1)
        clocks = [record.clock_s for record in records if isinstance(record, View)]
        assert max(after - before for before, after in pairwise(clocks)) > 1.9
        assert server.stop() == 0


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without the page, for three tests; the last of them stops it."""
    folder = tmp_path_factory.mktemp("plain")
    with serving(folder, perceptron([4, 8, 3], folder / "mlp.onnx"), "--no-ui", "--drain", "1s") as running:
        yield running


def test_without_the_page(plain: Server) -> None:
    """--no-ui: no page, and none in the document; the figures stay, as /metrics does."""
    with plain.connect() as wire:
        assert wire.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").status == 404
        paths = wire.ask(b"GET /v2/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n").json()["paths"]
        assert ("/" in paths, "/live" in paths) == (False, True)
    with watching(plain) as stream:
        assert isinstance(stream.next(), About)


def test_sighup_goes_on_with_the_new_models(plain: Server) -> None:
    """A single process reads its models anew: its streams are told of them and go on."""
    with watching(plain) as stream:
        stream.view()
        perceptron([4, 16, 3], plain.stderr.parent / "mlp.onnx")
        plain.process.send_signal(signal.SIGHUP)
        while not isinstance(stream.next(), About):
            pass
        assert stream.view().models[0].name == "mlp"


def test_draining_ends_the_streams(plain: Server) -> None:
    """Each is told why; no new one begins, and the server does not wait for them."""
    with watching(plain) as stream:
        stream.view()
        plain.process.send_signal(signal.SIGTERM)
        assert stream.rest()[-1] == End(reason="stopping")
        with plain.connect() as wire:
            answer = wire.ask(WATCH)
        assert (answer.status, answer.json()["error"]) == (503, "the server is stopping")
    assert plain.process.wait(TIMEOUT_S) == 0


def test_another_token_ends_the_streams(tmp_path: Path) -> None:
    """Those that came with the old one have to show the new one; without one there is a page that says nothing."""
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    flags = ["--token-file", str(token), "--require-token"]
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *flags) as server:
        with server.connect() as wire:
            assert wire.ask(WATCH).status == 401
            page = wire.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (page.status, b"mlp" in page.body) == (401, False)
        with watching(server, "Authorization: Bearer secret") as stream:
            stream.view()
            token.write_text("another")
            server.process.send_signal(signal.SIGHUP)
            assert stream.rest()[-1] == End(reason="renewed")
        with watching(server, "Authorization: Bearer secret") as stream:
            assert stream.status == 401
        with watching(server, "Authorization: Bearer another") as stream:
            assert stream.status == 200
        assert server.stop() == 0


@pytest.mark.slow
def test_several_workers(tmp_path: Path) -> None:
    """Any worker shows the whole server, and a renewal moves the streams to the new ones."""
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), "--workers", "2") as server:
        clients = [server.connect() for _ in range(4)]
        with watching(server) as stream:
            stream.view()
            for client in clients:
                for _ in range(25):
                    assert client.ask(raw_request("mlp", ROW)).status == 200
            got, rates = 0, set()
            while got < 100:
                view = stream.view()
                got += view.models[0].second.requests
                rates |= {process.worker for process in view.processes if process.rate}
            assert (got, rates) == (100, {0, 1})
            assert {process.worker for process in view.processes} == {0, 1}
            for client in clients:
                client.sock.close()
            server.process.send_signal(signal.SIGHUP)
            assert stream.rest()[-1] == End(reason="renewed")
        with watching(server) as stream:
            assert stream.view().ready
        assert server.stop() == 0


@needs_openssl
def test_over_tls(tmp_path: Path) -> None:
    """The same events; the page comes over it, too."""
    pair = make_pair(tmp_path)
    with serving(tmp_path, perceptron([4, 8, 3], tmp_path / "mlp.onnx"), *pair.flags) as server:
        context: ssl.SSLContext = pair.client()
        plain = socket.create_connection((server.host, server.port), TIMEOUT_S)
        with closing(Stream(context.wrap_socket(plain, server_hostname="localhost"))) as stream:
            assert isinstance(stream.next(), About)
            assert stream.view().connections >= 1
        connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=TIMEOUT_S)
        connection.request("GET", "/")
        assert connection.getresponse().headers["Content-Type"].startswith("text/html")
        connection.close()
        assert server.stop() == 0


def test_nothing_runs_while_nobody_watches() -> None:
    """The first watcher starts the only timer, and the last one's leaving ends it."""

    async def timers() -> list[bool]:
        broadcast = Broadcast(Context(ModelRepository([])), ServerLimits(), asyncio.get_running_loop())
        item, two = Watcher(), Watcher()
        seen = [broadcast._timer is not None]
        for client in (item, two):
            broadcast.join(client)
            seen.append(broadcast._timer is not None)
        for client in (item, item, two):
            broadcast.leave(client)
            seen.append(broadcast._timer is not None)
        assert broadcast._looking is not None
        await broadcast._looking
        return seen

    assert asyncio.run(timers()) == [False, True, True, True, True, False]


def test_figures_that_take_long_come_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that watching keeps to its share of the loop, however many models there are."""

    def burn(broadcast: Broadcast) -> None:
        until = time.thread_time_ns() + 30_000_000
        while time.thread_time_ns() < until:
            pass

    async def pause_s() -> float:
        monkeypatch.setattr(Broadcast, "_show", burn)
        loop = asyncio.get_running_loop()
        broadcast = Broadcast(Context(ModelRepository([])), ServerLimits(), loop)
        broadcast.join(Watcher())
        assert broadcast._timer is not None
        broadcast._timer.cancel()
        due = loop.time() + 10
        broadcast._tick(due)
        wait_s = broadcast._timer.when() - due
        broadcast._timer.cancel()
        assert broadcast._looking is not None
        await broadcast._looking
        return wait_s

    assert asyncio.run(pause_s()) >= 3.0
