"""ONNX on a device: on a stand-in everywhere, and through the CUDA provider where there is one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from tests.cases import CASES, check_same, save_all
from tests.engines import models

from tailcut.engines import EngineOptions, open_engine
from tailcut.engines.base import CudaOptions, U8Input
from tailcut.engines.cuda import onnx as cuda_onnx
from tailcut.engines.cuda.onnx import STAND_IN, OnnxCudaEngine, Placement
from tailcut.engines.cuda.provider import PROVIDER, missing_provider, provider_options
from tailcut.errors import DeviceError, InvalidInputError, ReleasedError, UnsupportedError

CUDA = EngineOptions(device="cuda")


def no_device(path: Path) -> str:
    """Why onnxruntime has no CUDA device here; "" where it has one."""
    try:
        open_engine(path, CUDA).close()
    except UnsupportedError as error:
        return str(error)
    return ""


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Placement:
    reason = no_device(models.perceptron([4, 3], tmp_path / "probe.onnx")) if request.param == "cuda" else ""
    if reason:
        pytest.skip(reason)
    return Placement() if request.param == "cuda" else STAND_IN


@pytest.fixture
def engine(place: Placement, tmp_path: Path) -> Iterator[OnnxCudaEngine]:
    opened = OnnxCudaEngine(models.perceptron([8, 16, 3], tmp_path / "mlp.onnx"), CUDA, placement=place)
    yield opened
    opened.close()


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, 8)).astype(np.float32)


def truth(folder: Path, x: np.ndarray) -> np.ndarray:
    engine = open_engine(folder / "mlp.onnx", EngineOptions(threads=1))
    answer = engine.run({"x": x})["y"]
    engine.close()
    return answer


def test_answers_are_those_of_the_cpu(engine: OnnxCudaEngine, tmp_path: Path) -> None:
    """For sizes that fill a bucket and sizes that do not, in any order, bound and run, each several times."""
    for count in (5, 8, 1, 3, 8, 2, 5, 3):
        x, y = rows(count), np.zeros((count, 3), np.float32)
        call = engine.bind({"x": x}, {"y": y})
        for _ in range(3):
            y[...] = 0
            call()
            assert np.allclose(y, truth(tmp_path, x), atol=1e-4)
        x *= 2  # the next call reads what the rows hold then
        call()
        assert np.allclose(y, truth(tmp_path, x), atol=1e-4)
        assert np.allclose(engine.run({"x": x})["y"], y, atol=1e-5)


@pytest.mark.parametrize("buckets", ["off", (3, 6)])
def test_buckets_are_those_of_the_settings(place: Placement, tmp_path: Path, buckets: Any) -> None:
    """None, or sizes of one's own: memory is bound for these, and the answers are the same."""
    path = models.perceptron([8, 16, 3], tmp_path / "mlp.onnx")
    engine = OnnxCudaEngine(path, EngineOptions(device="cuda", cuda=CudaOptions(buckets=buckets)), placement=place)
    for count in (5, 2, 5):
        assert np.allclose(engine.run({"x": rows(count)})["y"], truth(tmp_path, rows(count)), atol=1e-4)
    result = {shape[0] for _, shape in engine._bindings}
    assert result == ({2, 5} if buckets == "off" else {3, 6})


def test_each_thread_has_memory_of_its_own(engine: OnnxCudaEngine, tmp_path: Path) -> None:
    """Several at a time get their own answers."""
    truths = [truth(tmp_path, rows(1 + seed)) for seed in range(5)]

    def are_right(seed: int) -> bool:
        answers = [engine.run({"x": rows(1 + seed)})["y"] for _ in range(20)]
        return all(np.allclose(answer, truths[seed], atol=1e-4) for answer in answers)

    with ThreadPoolExecutor(5) as threads:
        assert all(threads.map(are_right, range(5)))


def test_outputs_without_a_size_come_as_they_are(place: Placement, tmp_path: Path) -> None:
    """They are computed without bound memory."""
    engine = OnnxCudaEngine(models.dynamic_sequence(tmp_path / "sequence.onnx"), CUDA, placement=place)
    x = np.ones((2, 5), np.float32)
    outputs = engine.run({"x": x})
    assert np.array_equal(outputs["double"], 2 * x)
    assert np.array_equal(outputs["total"], [[5], [5]])


def test_graphs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each length has a binding, the first ones keep their graphs, and the others are computed without."""
    monkeypatch.setattr(cuda_onnx, "_MOST_BINDINGS", 3)
    engine = OnnxCudaEngine(models.sums(tmp_path / "sums.onnx"), CUDA, placement=STAND_IN)
    engine._graphs = True  # as on a device
    numbers = []
    for length in [*range(1, 9), 1]:
        x = np.ones((2, length), np.float32)
        assert np.array_equal(engine.run({"x": x})["total"], [[length], [length]])
        [binding] = [item for (_, shape), item in engine._bindings.items() if shape == x.shape]
        numbers.append(binding.calls.get_run_config_entry("gpu_graph_id"))
    assert numbers == ["1", "2", "3", *["-1"] * 5, "1"]
    assert len(engine._bindings) <= 6


def test_pixels_are_normalised_where_the_model_is(place: Placement, tmp_path: Path) -> None:
    """A quarter of the bytes is copied, and the answers are those of the floats."""
    path = models.convolution(tmp_path / "convolution.onnx")
    fold = U8Input(scale=(1 / 255,), offset=(-0.5,))
    engine = OnnxCudaEngine(path, EngineOptions(device="cuda", u8_input=fold), placement=place)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), np.uint8)
    assert engine.spec.inputs[0].dtype == "UINT8"
    plain = open_engine(path, EngineOptions(threads=1))
    wanted = plain.run({"image": (pixels / np.float32(255) - np.float32(0.5)).astype(np.float32)})["scores"]
    assert np.allclose(engine.run({"image": pixels})["scores"], wanted, atol=1e-4)


@pytest.mark.parametrize("precision", ["f16", "tf32"])
def test_lower_precision_is_near(place: Placement, tmp_path: Path, precision: Any) -> None:
    """Half floats inside, and float32 at both ends."""
    path = models.perceptron([8, 16, 3], tmp_path / "mlp.onnx")
    engine = OnnxCudaEngine(path, EngineOptions(device="cuda", precision=precision), placement=place)
    answer, wanted = engine.run({"x": rows(3)})["y"], truth(tmp_path, rows(3))
    assert answer.dtype == np.float32
    assert np.allclose(answer, wanted, atol=2e-2)
    if precision == "f16":
        assert not np.array_equal(answer, wanted)


def test_a_failed_call_costs_its_batch_only(engine: OnnxCudaEngine, tmp_path: Path) -> None:
    """One clear line; the memory of its bucket is made anew."""
    engine.run({"x": rows(3)})
    session = engine._session

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def run_with_iobinding(self, *_: object) -> None:
            raise RuntimeError("Available memory of 12 is smaller than requested bytes of 99\nmore")

    engine._session = Full()
    with pytest.raises(DeviceError, match="onnxruntime: the device's memory is full") as caught:
        engine.run({"x": rows(3)})
    assert "\n" not in str(caught.value)
    assert not engine._bindings
    engine._session = session
    assert np.allclose(engine.run({"x": rows(3)})["y"], truth(tmp_path, rows(3)), atol=1e-4)


def test_a_closed_engine_says_so(engine: OnnxCudaEngine) -> None:
    """Bound calls as well; and arrays that do not fit are refused before."""
    call = engine.bind({"x": rows(2)}, {"y": np.zeros((2, 3), np.float32)})
    with pytest.raises(InvalidInputError):
        engine.bind({"x": rows(2)}, {"y": np.zeros((3, 3), np.float32)})
    engine.close()
    with pytest.raises(ReleasedError):
        call()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, {"use_tf32": "0", "enable_cuda_graph": "1", "device_id": "0", "prefer_nhwc": "0"}),
        ({"precision": "tf32"}, {"use_tf32": "1"}),
        ({"layout": "channels_last"}, {"prefer_nhwc": "1"}),
        ({"cuda": CudaOptions(index=2, memory_limit_mb=100)}, {"device_id": "2", "gpu_mem_limit": str(100 << 20)}),
        ({"cuda": CudaOptions(conv_search="exhaustive")}, {"cudnn_conv_algo_search": "EXHAUSTIVE"}),
    ],
)
def test_every_setting_reaches_the_provider(options: dict[str, Any], told: dict[str, str]) -> None:
    """Under the provider's own names; all values are text."""
    result = provider_options(EngineOptions(device="cuda", **options), graphs=True)
    assert result | told == result
    assert provider_options(EngineOptions(device="cuda"), graphs=False)["enable_cuda_graph"] == "0"
    assert "gpu_mem_limit" not in provider_options(EngineOptions(), graphs=True)


def test_a_build_without_cuda() -> None:
    """Is named in one line, with what to install."""
    reason = missing_provider("1.30", ["CPUExecutionProvider"])
    assert reason.startswith("device cuda: onnxruntime 1.30 is built without CUDA: pip uninstall onnxruntime, and pip ")
    assert not missing_provider("1.30", [PROVIDER, "CPUExecutionProvider"])


@pytest.mark.parametrize("precision", ["bf16", "int8", "int8_static"])
def test_precisions_that_the_provider_does_not_have(tmp_path: Path, precision: Any) -> None:
    """Are refused before anything is loaded."""
    path = models.perceptron([8, 3], tmp_path / "mlp.onnx")
    with pytest.raises(UnsupportedError, match=f"onnxruntime on device cuda has no precision {precision}"):
        open_engine(path, EngineOptions(device="cuda", precision=precision))


def test_without_a_device_it_says_what_is_missing(tmp_path: Path) -> None:
    """The package, or the driver where onnxruntime-gpu is installed; and tf32 is no precision of a CPU."""
    path = models.perceptron([8, 3], tmp_path / "mlp.onnx")
    reason = no_device(path)
    if not reason:
        pytest.skip("there is a device")
    there = PROVIDER in ort.get_available_providers()
    assert ("does not start: check nvidia-smi" if there else "is built without CUDA") in reason
    with pytest.raises(UnsupportedError, match="tf32 needs a CUDA device"):
        open_engine(path, EngineOptions(precision="tf32"))


@pytest.mark.parametrize("name", ["passed_on", "echo_of_one_row", "matched", "towers"])
def test_what_cannot_be_bound_is_computed_all_the_same(place: Placement, tmp_path: Path, name: str) -> None:
    """Outputs that are inputs, and inputs with different numbers of rows."""
    case = CASES[name]
    save_all(tmp_path, {name: case})
    engine = OnnxCudaEngine(tmp_path / f"{name}.onnx", CUDA, placement=place)
    for request, want in zip(case.requests, case.truths(), strict=True):
        if want is not None:
            check_same(engine.run(request), want)
    engine.close()
