"""What the compiled load loop reads of an answer's head."""

import numpy as np
import pytest

from tailcut.errors import UnreachableError
from tailcut.wire.http1.answers import read_head

load = pytest.importorskip("tailcut.kernels.load")

HEADS = {
    "plain": b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n",
    "any case, no space": b"HTTP/1.1 503 Busy\r\ncontent-LENGTH:7\r\nRetry-After: 1\r\n\r\n",
    "closes": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "closes among others": b"HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\nContent-Length: 3\r\n\r\n",
    "1.0 closes": b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n",
    "1.0 keeps": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n",
    "no body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nDate: today\r\n\r\n",
}
FOREIGN = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n",
    "no status": b"HTTP/1.1 abc OK\r\nContent-Length: 1\r\n\r\n",
}
ODD = {
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "until the end": b"HTTP/1.1 200 OK\r\nServer: old\r\n\r\n",
}


def read(head: bytes) -> list[int]:
    result = np.zeros(4, np.int64)
    load.read_head(np.frombuffer(head, np.uint8), len(head), result)
    return result.tolist()


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_head_is_read_as_the_python_client_reads_it(head: bytes) -> None:
    """Status, length of the body, and whether the server closes behind it."""
    status, length, closes, odd = read(head)
    expected = read_head(head)
    assert (status, length, bool(closes), odd) == (expected.status, expected.length, expected.closes, 0)


@pytest.mark.parametrize("head", FOREIGN.values(), ids=FOREIGN)
def test_a_head_that_is_not_one_of_http(head: bytes) -> None:
    """The compiled loop says status 0 and closes, where the Python client's reader raises."""
    assert read(head) == [0, 0, 1, 0]
    with pytest.raises(UnreachableError):
        read_head(head)


@pytest.mark.parametrize("head", ODD.values(), ids=ODD)
def test_a_body_without_a_length_is_left_to_python(head: bytes) -> None:
    """Chunks, and bodies that end with the connection."""
    assert read(head)[3] == 1
