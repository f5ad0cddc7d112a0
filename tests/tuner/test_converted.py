"""Programs in the tuner: the engines of ONNX models compete on a copy, and the profile serves it as the program."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.engines.pytorch import programs
from tests.servers import Server, json_request, serving

from tailcut import Model
from tailcut.engines.base import EngineOptions
from tailcut.errors import ProfileError
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.converted import onnx_copy
from tailcut.tuner.model_space import ModelSpace
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.session import open_session
from tailcut.tuner.space import engine_choices

torch = programs.torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    programs.perceptron(folder / "mlp.pt2", 16, 32, 4)
    np.savez(folder / "rows.npz", x=rows(64))
    return folder


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 16)).astype(np.float32)


def truth(folder: Path, x: np.ndarray) -> np.ndarray:
    return torch.export.load(folder / "mlp.pt2").module()(torch.from_numpy(x)).detach().numpy()


def answered(server: Server, count: int) -> np.ndarray:
    tensor = {"name": "x", "shape": [count, 16], "datatype": "FP32", "data": rows(count).ravel().tolist()}
    with server.connect() as wire:
        reply = wire.ask(json_request("mlp", {"inputs": [tensor]}))
    assert reply.status == 200, reply.body
    (output,) = json.loads(reply.body)["outputs"]
    assert output["name"] == "output"
    return np.reshape(output["data"], output["shape"])


def offered(path: Path) -> tuple[set[str], list[str]]:
    """The engines that a tune of a program tries, and what it says."""
    text: list[str] = []
    session = open_session(
        TuneRequest(path, data={"x": rows(64)}, budget_s=10.0), lambda event: text.append(getattr(event, "text", ""))
    )
    space = ModelSpace(session)
    try:
        return {engine_choice.name for engine_choice in engine_choices(space.facts)}, text
    finally:
        space.close()


@pytest.mark.slow
def test_a_tune_measures_all_engines(folder: Path, tmp_path: Path) -> None:
    """PyTorch, onnxruntime and openvino; what wins is served with right answers and the program's names."""
    command = [sys.executable, "-m", "tailcut", "tune", "mlp.pt2", "--data", "rows.npz", "--budget", "20s", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    candidates = [item for rung in result["rungs"] for item in rung["candidates"]]
    measured = [candidate["setting"] for candidate in candidates if candidate["verdict"] == "estimated"]
    raced = [
        result["winner"],
        *(
            candidate["setting"]
            for candidate in candidates
            if candidate["verdict"] not in {"estimated", "skipped", "rejected"}
        ),
    ]
    for name in ("engine.name=torch", "engine.name=openvino"):
        assert any(name in item for item in measured)
    assert any("engine.name" not in item for item in measured)  # onnxruntime, as a bare configuration has it
    assert any(re.search("engine.name=(onnxruntime|openvino)", item) for item in raced)  # beside PyTorch, the baseline
    assert result["accuracy"]["right"]
    profile = Profile.load(folder / "mlp.profile.toml")
    assert profile.model.signature == ("input x FP32 [-1, 16]", "output output FP32 [-1, 4]")
    runs_copy = profile.settings.engine.name != "torch"
    assert (profile.engine_file != folder / "mlp.pt2") == runs_copy
    with serving(tmp_path, folder / "mlp.profile.toml") as server:
        assert np.allclose(answered(server, 2), truth(folder, rows(2)), atol=1e-4)


def test_the_engines_of_onnx_models_are_offered(folder: Path) -> None:
    """They are reported, and PyTorch is offered as well."""
    names, text = offered(folder / "mlp.pt2")
    assert names == {"torch", "onnxruntime", "openvino"}
    assert "converted the program to ONNX, for onnxruntime and openvino" in text


def test_one_line_says_why_there_is_no_copy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library is missing that converts: PyTorch is tuned alone."""
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    names, text = offered(folder / "mlp.pt2")
    assert names == {"torch"}
    (line,) = [item for item in text if "left out" in item]
    assert line.startswith("onnxruntime and openvino left out: this conversion needs onnxscript: pip install")


@pytest.mark.filterwarnings("ignore")
def test_a_copy_with_weights_in_a_file_of_their_own_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the profile it would be without them."""
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 0)
    names, text = offered(folder / "mlp.pt2")
    assert names == {"torch"}
    assert any("it has more weights than one file holds" in item for item in text)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_profile_serves_the_copy(folder: Path, tmp_path: Path, engine: str) -> None:
    """With the signature of the program, and answers as PyTorch computes them; both files are checked."""
    programs.perceptron(tmp_path / "mlp.pt2", 16, 32, 4)
    copy = onnx_copy(tmp_path / "mlp.pt2", tmp_path, ()).rename(tmp_path / "mlp.pt2.onnx")
    settings = Settings(engine=EngineOptions(name=engine, threads=1))  # type: ignore[arg-type]
    profile = Profile.of_model(tmp_path / "mlp.pt2").with_signature().with_copy(copy, settings)
    profile.save(tmp_path / "mlp.profile.toml")
    with serving(tmp_path, tmp_path / "mlp.profile.toml") as server:
        assert np.allclose(answered(server, 3), truth(folder, rows(3)), atol=1e-4)
    with Model.open(tmp_path / "mlp.profile.toml") as model:
        assert np.allclose(model.infer_sync({"x": rows(3)})["output"], truth(folder, rows(3)), atol=1e-4)
    copy.write_bytes(copy.read_bytes() + b"\0")
    with pytest.raises(ProfileError, match="has another SHA-256"):
        Model.open(tmp_path / "mlp.profile.toml")


def test_copies_have_the_names_of_programs_with_several_outputs(tmp_path: Path) -> None:
    """Their order and their free dimensions, too."""
    path = onnx_copy(programs.encoder(tmp_path / "encoder.pt2"), tmp_path, ())
    with Model.open(path) as model:
        assert model.spec.output_names == ("scores", "hidden")
