"""Bodies that stop half-way, on a server with few rows and little room for bodies."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.server.sound import check_back, check_clean, usage
from tests.servers import Server, Wire, raw_request, serving

BIG = [np.full(50_000, number, np.float32).tobytes() for number in range(9)]


@pytest.fixture(scope="module")
def narrow(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = ["--queue", "4", "--max-batch-size", "1", "--max-body", "1", "--max-buffered", "2"]
    with serving(tmp_path_factory.mktemp("narrow"), models / "big.onnx", models / "mlp.onnx", *limits) as server:
        yield server
        assert server.stop() == 0


@pytest.fixture(autouse=True)
def sound_afterwards(narrow: Server) -> Iterator[None]:
    before = usage(narrow)
    yield
    check_back(narrow, before)


def test_slow_uploads_leave_rows_to_others(narrow: Server) -> None:
    """While half of the rows wait for bodies, others are collected apart: who sends at once is answered at once."""
    slow = [narrow.connect() for _ in range(8)]
    for wire, body in zip(slow, BIG, strict=False):
        wire.send(raw_request("big", body)[:120_000])
    while narrow.metric("tailcut_body_buffer_bytes") < 5 * 200_000:
        pass  # each look is an answer of the server
    assert narrow.metric("tailcut_rows_in_use") == 3
    with narrow.connect() as quick:
        for _ in range(5):
            assert quick.ask(raw_request("big", BIG[8])).body.endswith(BIG[8])
    for wire, body in zip(slow, BIG, strict=False):
        with wire:
            answer = wire.ask(raw_request("big", body)[120_000:])
            assert answer.status == 200
            assert answer.body.endswith(body)


def _begin(wire: Wire, kind: str) -> None:
    size = 900_000
    length = f"Content-Length: {size}" if kind == "plain" else "Transfer-Encoding: chunked"
    wire.send(f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
    wire.send((b"" if kind == "plain" else b"%x\r\n" % size) + b" " * (size - 1))


@pytest.mark.parametrize("kind", ["plain", "chunked"])
def test_bodies_together_are_bounded(narrow: Server, kind: str) -> None:
    """The third body of 900 KB finds no room in 2 MiB: 503, and when to come again."""
    with narrow.connect() as first, narrow.connect() as second, narrow.connect() as third:
        _begin(first, kind)
        _begin(second, kind)
        while narrow.metric("tailcut_body_buffer_bytes") < 1_790_000:
            pass  # each look is an answer of the server
        _begin(third, kind)
        answer = third.read()
        assert answer.status == 503
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "1000")
        check_clean(answer)
