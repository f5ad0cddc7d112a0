"""What a tune offers on a device, and what becomes of settings on the other one; no device is needed."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.engines import models

from tailcut.engines.base import CudaOptions, EngineOptions
from tailcut.runtime.settings import Settings
from tailcut.tuner.devices import device_choices, made_valid


@pytest.mark.parametrize(
    ("engine", "lower", "precisions"),
    [
        ("onnxruntime", False, {"f32"}),
        ("onnxruntime", True, {"f32", "tf32", "f16"}),
        ("torch", True, {"f32", "tf32", "bf16", "f16"}),
    ],
)
def test_precisions(engine: str, lower: bool, precisions: set[str]) -> None:
    """Less than float32 only where data can show that answers stay right; plain float32 comes first."""
    first, *others = device_choices(EngineOptions(name=engine), lower=lower, convolutions=False)  # type: ignore[arg-type]
    assert (first.precision, first.instances, first.layout) == ("f32", 1, "blocked")
    assert {one.precision for one in (first, *others)} == precisions
    assert {one.device for one in (first, *others)} == {"cuda"}
    assert {one.cuda.graphs for one in (first, *others)} == {True, False}


def test_layouts_are_for_convolutions() -> None:
    """Nothing else has channels."""
    layouts = {one.layout for one in device_choices(EngineOptions(), lower=False, convolutions=True)}
    assert layouts == {"blocked", "channels_last"}
    assert {one.layout for one in device_choices(EngineOptions(), lower=False, convolutions=False)} == {"blocked"}


@pytest.mark.parametrize(
    ("given", "valid"),
    [
        ({"device": "cpu", "precision": "tf32"}, {"device": "cpu", "precision": "f32"}),
        ({"device": "cuda", "precision": "int8"}, {"device": "cuda", "precision": "f32"}),
        ({"device": "cuda", "precision": "tf32"}, {"device": "cuda", "precision": "tf32"}),
        ({"device": "cuda", "name": "openvino"}, {"device": "cpu", "name": "openvino"}),
        ({"device": "cpu", "layout": "channels_last"}, {"layout": "blocked"}),
        ({"name": "torch", "device": "cuda", "compiler": "inductor"}, {"compiler": "eager", "device": "cuda"}),
        ({"name": "torch", "layout": "channels_last"}, {"layout": "channels_last"}),
        ({"device": "cuda", "cuda": CudaOptions(graphs=False)}, {"cuda": CudaOptions(graphs=False)}),
    ],
)
def test_settings_that_a_device_does_not_have(given: dict, valid: dict) -> None:
    """Become those that it has, so that each rung can be tried without the others."""
    engine = made_valid(Settings(engine=EngineOptions(**given))).engine
    assert {name: getattr(engine, name) for name in valid} == valid


def test_tune_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    """Before anything is measured; exit code 2, and no file is written."""
    path = models.perceptron([4, 3], tmp_path / "mlp.onnx")
    done = subprocess.run(
        [sys.executable, "-m", "tailcut", "tune", str(path), "--device", "cuda"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 0:
        pytest.skip("there is a device")
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("tailcut: device cuda: onnxruntime")
    assert list(tmp_path.iterdir()) == [path]
