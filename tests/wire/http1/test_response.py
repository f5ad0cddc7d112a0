"""Responses as bytes, read by the standard library's parser."""

import io
from http import HTTPStatus
from http.client import HTTPResponse

import pytest

from tailcut.wire.http1.response import BINARY, CLOSE, END, OK, date_line, dated, head, reply


class Socket:
    """Enough of a socket for `HTTPResponse`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def parsed(data: bytes) -> HTTPResponse:
    response = HTTPResponse(Socket(data))
    response.begin()
    return response


@pytest.mark.parametrize("status", [200, 400, 404, 413, 431, 503])
@pytest.mark.parametrize("close", [False, True])
def test_a_reply_is_what_a_parser_reads(status: int, close: bool) -> None:
    """Status, reason, type, length, whether the connection stays, and the body."""
    response = parsed(reply(status, b"body", content_type=BINARY, close=close, headers={"Retry-After": "1"}))
    assert (response.status, response.reason) == (status, HTTPStatus(status).phrase)
    assert response.getheader("Content-Type") == "application/octet-stream"
    assert response.getheader("Retry-After") == "1"
    assert response.will_close is close
    assert response.read() == b"body"


def test_a_date_stands_behind_the_status_line() -> None:
    """In the form of RFC 9110, in Greenwich's time."""
    assert date_line(784111777) == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    response = parsed(dated(head(200, 0), date_line(784111777)))
    assert response.getheader("Date") == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert response.getheader("Content-Length") == "0"


def test_the_parts_of_a_quick_answer_fit_together() -> None:
    """A status line, a header without its end, and an end that keeps or closes the connection."""
    for end, closes in ((END, False), (CLOSE, True)):
        assert parsed(OK + b"Content-Length: 0" + end).will_close is closes
