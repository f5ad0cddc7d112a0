"""Lines of the access log."""

import logging

import pytest

from tailcut.server.access_log import log_grpc, log_http, trace_of
from tailcut.wire.http1.head import parse_head

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_line_has_no_query_and_no_header(caplog: pytest.LogCaptureFixture) -> None:
    """Method, path, status, size and time, and the fields beside them."""
    head = parse_head(b"POST /v2/models/m/infer?secret=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s\r\n\r\n")
    with caplog.at_level(logging.INFO, "tailcut.access"):
        log_http(head, 200, 12, 3_456_789, {})
    (line,) = caplog.records
    assert line.getMessage() == "POST /v2/models/m/infer 200 12 bytes 3456 us"
    assert line.fields["us"] == 3456  # type: ignore[attr-defined]


def test_the_trace_is_behind_it(caplog: pytest.LogCaptureFixture) -> None:
    """Where the client sent a well-formed one."""
    with caplog.at_level(logging.INFO, "tailcut.access"):
        log_grpc("ModelInfer", "OK", 1, 1000, trace_of(f"00-{TRACE}-00f067aa0ba902b7-01".encode()))
    assert TRACE in caplog.text
    assert trace_of(b"00-rubbish") == {}
