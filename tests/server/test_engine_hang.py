"""An engine that hangs behind a real server."""

import time
from pathlib import Path

from tests.engines.models import endless
from tests.servers import TIMEOUT_S, json_request, serving


def request_for(rounds: int, model: str = "endless") -> bytes:
    entries = [("x", "FP32", [1, 4], [1, 2, 3, 4]), ("rounds", "INT64", [1, 1], [rounds])]
    keys = ("name", "datatype", "shape", "data")
    return json_request(model, {"inputs": [dict(zip(keys, entry, strict=True)) for entry in entries]})


def test_a_hanging_engine_is_answered_with_504_and_replaced(tmp_path: Path) -> None:
    """The server stays ready, the next request on the same connection is right, and no row is lost."""
    with (
        serving(tmp_path, endless(tmp_path / "endless.onnx"), "--engine-timeout", "1s") as server,
        server.connect() as wire,
    ):
        answer = wire.ask(request_for(1 << 40))
        assert answer.status == 504
        assert answer.json()["error"] == "the engine did not answer within 1 s: the call was abandoned"
        answer = wire.ask(request_for(3))
        assert answer.status == 200
        assert answer.json()["outputs"][0]["data"] == [1, 2, 3, 4]
        assert wire.ask(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
        end = time.monotonic() + TIMEOUT_S
        while server.metric("tailcut_rows_in_use") and time.monotonic() < end:
            pass  # each look is a request; the row comes back when the engine has given up
        assert server.metric("tailcut_rows_in_use") == 0
        assert server.metric("tailcut_hung_total") == 1
        assert server.stop() == 0
