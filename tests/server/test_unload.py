"""A model that goes answers its requests in progress first, whether they lie in rows or in arrays of their own."""

import asyncio
import json
import time
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import endless, identity
from tests.servers import serving

from tailcut.engines.base import EngineOptions
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, Settings
from tailcut.server.repository import ModelRepository
from tailcut.server.served_model import ServedModel
from tailcut.spec import DType

ROUNDS = 1 << 18  # about half a second


@pytest.mark.parametrize("rows", ["independent", "dependent"])
def test_what_computes_is_answered_before_a_model_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: str
) -> None:
    """However long that takes: the engine is not told to give up meanwhile."""
    monkeypatch.setattr("tailcut.runtime.worker_pool._PATIENCE_S", 0.05)
    settings = Settings(engine=EngineOptions(threads=1), batching=BatchingSettings(max_batch_size=4, rows=rows))  # type: ignore[arg-type]
    model = Model.open(Profile.of_model(endless(tmp_path / "endless.onnx"), settings))

    async def run() -> np.ndarray:
        repository = ModelRepository([ServedModel(model, "endless")], control=True)
        inputs = {"x": np.full((1, 4), 7, np.float32), "rounds": [[ROUNDS]]}
        answer = asyncio.create_task(model.infer(inputs))
        while not model.statistics()["computing"]:  # noqa: ASYNC110  a worker that begins tells nobody
            await asyncio.sleep(0)
        await repository.unload("endless")
        return (await answer)["y"]

    assert (asyncio.run(run()) == 7).all()


X = np.arange(8, dtype=np.float32).reshape(2, 4)
ROWS = X.tobytes()
TENSOR = {"name": "x", "datatype": "FP32", "shape": [2, 4]}
LISTED = json.dumps({"inputs": [TENSOR | {"data": X.tolist()}]}).encode()
BINARY = json.dumps({"inputs": [TENSOR | {"parameters": {"binary_data_size": len(ROWS)}}]}).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LISTED), LISTED)
FORMS = {
    "json": (f"Content-Length: {len(LISTED)}\r\n", LISTED),
    "chunked": ("Transfer-Encoding: chunked\r\n", CHUNKED),
    "binary": (
        f"Inference-Header-Content-Length: {len(BINARY)}\r\nContent-Length: {len(BINARY) + len(ROWS)}\r\n",
        BINARY + ROWS,
    ),
    "raw": (f"Inference-Header-Content-Length: 0\r\nContent-Length: {len(ROWS)}\r\n", ROWS),
}
POST = "POST /v2/{}\r\nHost: x\r\n{}\r\n"


def test_a_request_whose_body_comes_after_a_reload_is_answered(tmp_path: Path) -> None:
    """By the model that has taken the place of the one that its head was for, in whatever form it is sent."""
    path = identity(DType.FP32, (None, 4), tmp_path / "m.onnx")
    with serving(tmp_path, path, "--allow-model-control", "--no-auto") as server:
        for name, (head, body) in FORMS.items():
            with server.connect() as early, server.connect() as wire:
                early.send(POST.format("models/m/infer HTTP/1.1", head).encode() + body[:-3])
                wire.ask(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")  # what was sent before is read by now
                load = POST.format("repository/models/m/load HTTP/1.1", "Content-Length: 0\r\n")
                assert wire.ask(load.encode()).status == 200
                answer = early.ask(body[-3:])
                assert answer.status == 200, (name, answer.body)
                if name != "raw":
                    assert answer.json()["outputs"][0]["data"] == X.reshape(-1).tolist()
                else:
                    assert answer.body.endswith(ROWS)
        assert server.stop() == 0
        assert "WARNING" not in server.stderr.read_text()


def test_a_request_whose_model_is_unloaded_before_its_body_arrives_fails(tmp_path: Path) -> None:
    """The connection goes on."""
    paths = [identity(DType.FP32, (None, 4), tmp_path / f"{name}.onnx") for name in ("m", "n")]
    with serving(tmp_path, *paths, "--allow-model-control", "--no-auto") as server:
        with server.connect() as early, server.connect() as wire:
            head, body = FORMS["json"]
            early.send(POST.format("models/m/infer HTTP/1.1", head).encode() + body[:-3])
            unload = POST.format("repository/models/m/unload HTTP/1.1", "Content-Length: 0\r\n")
            assert wire.ask(unload.encode()).status == 200
            answer = early.ask(body[-3:])
            assert answer.status == 404, answer.body
            assert early.ask(POST.format("models/n/infer HTTP/1.1", head).encode() + body).status == 200
        assert server.stop() == 0


def test_the_time_of_a_request_counts_from_its_last_byte(tmp_path: Path) -> None:
    """In whatever form it is sent."""
    path = identity(DType.FP32, (None, 4), tmp_path / "m.onnx")
    with serving(tmp_path, path, "--deadline", "300ms", "--no-auto") as server:
        wires = {name: server.connect() for name in FORMS}
        for name, (head, body) in FORMS.items():
            wires[name].send(POST.format("models/m/infer HTTP/1.1", head).encode() + body[:-3])
        time.sleep(0.5)
        assert {name: wires[name].ask(FORMS[name][1][-3:]).status for name in FORMS} == dict.fromkeys(FORMS, 200)
        for wire in wires.values():
            wire.__exit__()
        assert server.stop() == 0


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_parameters_that_are_no_object_are_refused(tmp_path: Path, verb: str) -> None:
    """Nothing is done then."""
    path = identity(DType.FP32, (None, 4), tmp_path / "m.onnx")
    with serving(tmp_path, path, "--allow-model-control", "--no-auto") as server, server.connect() as wire:
        for body in (b'{"parameters":[1]}', b'{"parameters":[]}', b'{"parameters":"x"}'):
            head = POST.format(f"repository/models/m/{verb} HTTP/1.1", f"Content-Length: {len(body)}\r\n")
            answer = wire.ask(head.encode() + body)
            assert (answer.status, answer.json()) == (400, {"error": "parameters must be a JSON object"})
        assert wire.ask(b"GET /v2/models/m/ready HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
