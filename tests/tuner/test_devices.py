"""What a tune offers on a device, and what becomes of settings on the other one; no device is needed."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.engines import models

from tailcut.engines.base import CudaOptions, EngineOptions
from tailcut.runtime.settings import BatchingSettings, SecondEngine, Settings, check
from tailcut.tuner.devices import device_choices, made_valid, second_engines


@pytest.mark.parametrize(
    ("engine", "lower", "precisions"),
    [
        ("onnxruntime", False, {"f32"}),
        ("onnxruntime", True, {"f32", "tf32", "f16"}),
        ("torch", True, {"f32", "tf32", "bf16", "f16"}),
        ("torch", False, {"f32"}),
    ],
)
def test_precisions(engine: str, lower: bool, precisions: set[str]) -> None:
    """Less than float32 only where data can show that answers stay right; plain float32 comes first."""
    first, *others = device_choices(EngineOptions(name=engine), lower=lower, convolutions=False)  # type: ignore[arg-type]
    assert (first.precision, first.instances, first.layout) == ("f32", 1, "blocked")
    assert {item.precision for item in (first, *others)} == precisions
    assert {item.device for item in (first, *others)} == {"cuda"}
    assert {item.cuda.graphs for item in (first, *others)} == {True, False}


@pytest.mark.parametrize(
    ("engine", "lower", "precisions"),
    [
        ("onnxruntime", True, []),
        ("torch", False, ["f32"]),
        ("torch", True, ["f32", "tf32", "bf16", "f16", "int8"]),
    ],
)
def test_what_compiles_is_offered_last(engine: str, lower: bool, precisions: list[str]) -> None:
    """By torch alone, where it can; int8 is only offered compiled, because weights are made floats at each call."""
    base = EngineOptions(name=engine)  # type: ignore[arg-type]
    without = list(device_choices(base, lower=lower, convolutions=True))
    choices = list(device_choices(base, lower=lower, convolutions=True, compiler=True))
    assert choices[: len(without)] == without
    compiled = choices[len(without) :]
    assert [item.precision for item in compiled] == precisions
    assert all((item.device, item.compiler, item.cuda.graphs) == ("cuda", "inductor", True) for item in compiled)
    assert not any(item.precision == "int8" for item in without)


def test_the_cpu_beside_a_device() -> None:
    """Each engine of the file's kind, and bfloat16 where it is allowed; a CPU is left to the loop and the launches."""
    first = EngineOptions(name="onnxruntime", device="cuda", precision="f16", outputs=("y",), fixed_dims=("n=4",))
    result = list(second_engines(first, ("onnxruntime", "openvino"), cpus=8, bf16=True))
    kinds = [(item.engine.name, item.engine.precision) for item in result]
    assert kinds == [("onnxruntime", "f32"), ("openvino", "f32"), ("openvino", "bf16")]
    assert {item.use for item in result} == {"route"}
    for item in result:
        engine = item.engine
        assert (engine.device, engine.threads, engine.instances, engine.spinning) == ("cpu", 7, 1, False)
        assert (engine.outputs, engine.fixed_dims) == (first.outputs, first.fixed_dims)
    assert not list(second_engines(EngineOptions(), ("onnxruntime", "openvino"), cpus=8, bf16=True))
    [alone] = second_engines(EngineOptions(name="torch", device="cuda"), ("torch",), cpus=1, bf16=False)
    assert (alone.engine.name, alone.engine.threads) == ("torch", 1)


CPU = SecondEngine(engine=EngineOptions(threads=1))


@pytest.mark.parametrize(
    ("engine", "batching", "stays"),
    [
        ({"device": "cuda"}, {}, True),
        ({"device": "cuda"}, {"dispatch": "inline"}, False),
        ({"device": "cuda"}, {"max_queue_delay_us": 100}, False),
        ({}, {}, False),  # the rungs before the device's: the same engine twice
        ({"name": "openvino"}, {}, True),  # as somebody wrote it
    ],
)
def test_a_second_engine_stays_where_it_is_valid(engine: dict, batching: dict, stays: bool) -> None:
    """Each rung is tried without the others, and every profile that is tried can be served."""
    settings = Settings(engine=EngineOptions(**engine), batching=BatchingSettings(second=CPU, **batching))
    result = made_valid(settings)
    check(result)
    assert (result.batching.second == CPU) is stays


def test_layouts_are_for_convolutions() -> None:
    """Nothing else has channels."""
    layouts = {
        device_choice.layout for device_choice in device_choices(EngineOptions(), lower=False, convolutions=True)
    }
    assert layouts == {"blocked", "channels_last"}
    assert {
        device_choice.layout for device_choice in device_choices(EngineOptions(), lower=False, convolutions=False)
    } == {"blocked"}


@pytest.mark.parametrize(
    ("given", "valid"),
    [
        ({"device": "cpu", "precision": "tf32"}, {"device": "cpu", "precision": "f32"}),
        ({"device": "cuda", "precision": "int8"}, {"device": "cuda", "precision": "f32"}),
        ({"device": "cuda", "precision": "tf32"}, {"device": "cuda", "precision": "tf32"}),
        ({"device": "cuda", "name": "openvino"}, {"device": "cpu", "name": "openvino"}),
        ({"device": "cpu", "layout": "channels_last"}, {"layout": "blocked"}),
        ({"name": "torch", "device": "cuda", "compiler": "inductor"}, {"compiler": "inductor", "device": "cuda"}),
        ({"name": "torch", "device": "cuda", "compiler": "aot_inductor"}, {"compiler": "eager", "device": "cuda"}),
        ({"name": "onnxruntime", "device": "cuda", "compiler": "inductor"}, {"compiler": "eager"}),
        ({"name": "torch", "device": "cuda", "precision": "int8"}, {"precision": "int8"}),
        ({"name": "torch", "precision": "int8"}, {"precision": "f32"}),
        ({"name": "onnxruntime", "precision": "int8"}, {"precision": "int8"}),
        ({"name": "torch", "layout": "channels_last"}, {"layout": "channels_last"}),
        ({"device": "cuda", "cuda": CudaOptions(graphs=False)}, {"cuda": CudaOptions(graphs=False)}),
    ],
)
def test_settings_that_a_device_does_not_have(given: dict, valid: dict) -> None:
    """Become those that it has, so that each rung can be tried without the others."""
    engine = made_valid(Settings(engine=EngineOptions(**given))).engine
    assert {name: getattr(engine, name) for name in valid} == valid


@pytest.mark.slow
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
