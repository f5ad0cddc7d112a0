"""Models that are no ONNX files: their profiles, and how they are opened and served."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import openvino as ov
import pytest
from tests.engines import models
from tests.servers import json_request, serving

from tailcut import Model
from tailcut.engines.openvino_core import core
from tailcut.errors import ProfileError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings

DATA = Path(__file__).parent.parent / "data" / "models"


def as_ir(folder: Path) -> Path:
    path = models.perceptron([4, 3], folder / "mlp.onnx")
    ov.save_model(core().read_model(str(path)), path.with_suffix(".xml"), compress_to_fp16=False)
    return path.with_suffix(".xml")


def test_a_profile_has_an_engine_that_computes_such_files(tmp_path: Path) -> None:
    """Whatever engine the given settings name; the empty engine, which measures the server, stays."""
    path = as_ir(tmp_path)
    assert Profile.of_model(path).settings.engine.name == "openvino"
    empty = msgspec.structs.replace(Settings().engine, name="none")
    settings = msgspec.structs.replace(Settings(), engine=empty)
    assert Profile.of_model(path, settings).settings.engine.name == "none"


def test_weights_beside_the_graph_belong_to_the_model(tmp_path: Path) -> None:
    """A profile is for an IR with its .bin file, and for a SavedModel with its variables."""
    for path, weights in [
        (as_ir(tmp_path), "mlp.bin"),
        (
            Path(shutil.copytree(DATA / "saved_model", tmp_path / "saved")),
            "saved/variables/variables.data-00000-of-00001",
        ),
    ]:
        profile = Profile.of_model(path).with_weights()
        profile.save(tmp_path / "m.profile.toml")
        profile.verify_model()
        assert profile.model.weights is not None
        changed = bytearray((tmp_path / weights).read_bytes())
        changed[len(changed) // 2] ^= 1
        (tmp_path / weights).write_bytes(changed)
        with pytest.raises(ProfileError, match=r"has (another SHA-256|other weights) than"):
            Profile.load(tmp_path / "m.profile.toml").verify_model()


def test_they_are_opened_with_measured_settings() -> None:
    """Batched only where the user says so, because no graph tells that the rows are independent."""
    truth = np.load(DATA / "tensorflow.npz")
    for batching, batched in [(None, False), ("on", True)]:
        with Model.open(DATA / "saved_model", batching=batching) as model:
            assert model.choice is not None
            assert model.rows.batched is batched
            assert ("--batching on" in model.rows.reason) is not batched
            assert np.allclose(model.infer_sync({"x": truth["x"]})["y"], truth["y"], atol=1e-6)


def test_they_are_served_side_by_side(tmp_path: Path) -> None:
    """One server with a SavedModel, a TensorFlow Lite model, a Paddle model and an IR."""
    truth = np.load(DATA / "tensorflow.npz")
    sources = [
        DATA / "saved_model",
        f"lite={DATA / 'dense.tflite'}",
        f"paddle={DATA / 'dense.pdmodel'}",
        as_ir(tmp_path),
    ]
    inputs = {"saved_model": "x", "lite": "serving_default_x", "paddle": "x"}
    with serving(tmp_path, *sources, "--no-auto") as server, server.connect() as wire:
        for name, x in inputs.items():
            tensor = {"name": x, "datatype": "FP32", "shape": [5, 4], "data": truth["x"].reshape(-1).tolist()}
            answer = wire.ask(json_request(name, {"inputs": [tensor]}))
            assert answer.status == 200, answer.body
            result = np.array(answer.json()["outputs"][0]["data"], np.float32).reshape(5, 3)
            assert np.allclose(result, truth["y"], atol=1e-6)
        config = wire.ask(b"GET /v2/models/mlp/config HTTP/1.1\r\nHost: x\r\n\r\n").json()
        assert config["backend"] == "openvino"
        assert wire.ask(b"GET /v2/models/mlp HTTP/1.1\r\nHost: x\r\n\r\n").json()["platform"] == "openvino"
        assert server.stop() == 0
