"""A model with two engines: where its batches are computed, and what the second does when the first's device fails."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from onnx import helper
from tests.engines import models
from tests.servers import serving

from tailcut.engines.base import Arrays, Bound, EngineOptions
from tailcut.engines.onnxruntime import OnnxRuntimeEngine
from tailcut.errors import DeviceError, DeviceLostError, EngineError, ProfileError, UnsupportedError, UsageError
from tailcut.runtime.limits import Limits
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.second import with_cpu
from tailcut.runtime.settings import BatchingSettings, SecondEngine, Settings
from tailcut.spec import DType

QUICK, SLOW = EngineOptions(threads=1), EngineOptions(threads=1, graph="off")
WIDTH = 4


def folded(path: Path) -> Path:
    """y = x + c, and c is a product of large constants: an optimised graph has it once, another at every call."""
    side = 640
    factor = np.full((side, side), 1 / side, np.float32)
    nodes = [
        helper.make_node("MatMul", ["a", "a"], ["b"]),
        helper.make_node("MatMul", ["b", "a"], ["c"]),
        helper.make_node("ReduceMean", ["c"], ["d"], keepdims=0),  # 1 / side
        helper.make_node("Add", ["x", "d"], ["e"]),
        *[helper.make_node("Softplus", ["e" if not n else f"e{n - 1}"], [f"e{n}"]) for n in range(40)],
        helper.make_node("Identity", ["e39"], ["y"]),
    ]
    ends = [models.value("x", DType.FP32, (None, WIDTH))], [models.value("y", DType.FP32, (None, WIDTH))]
    return models.save(path, nodes, *ends, {"a": factor})


def profile(path: Path, first: EngineOptions, second: EngineOptions, use: str = "route") -> Profile:
    settings = Settings(
        engine=first,
        batching=BatchingSettings(max_batch_size=1, second=SecondEngine(use=use, engine=second)),  # type: ignore[arg-type]
    )
    return Profile.of_model(path, settings)


def row(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Model]]:
    """A server whose first engine is a hundred times slower than its second, and a model with the quick one alone."""
    folder = tmp_path_factory.mktemp("routed")
    path = folded(folder / "folded.onnx")
    profile(path, SLOW, QUICK).save(folder / "folded.profile.toml")
    with (
        serving(folder, folder / "folded.profile.toml") as server,
        Model.open(Profile.of_model(path, Settings(engine=QUICK))) as truth,
    ):
        yield server.address, truth


def batches(address: str) -> tuple[int, int]:
    """Those of the first engine, and of the second."""
    import urllib.request

    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    result = {line.split("{")[0]: float(line.rpartition(" ")[2]) for line in lines if "{" in line and "folded" in line}
    second = int(result["tailcut_second_engine_batches_total"])
    return int(result["nv_inference_exec_count"]) - second, second


def ask(client: triton.InferenceServerClient, truth: Model, seed: int) -> None:
    tensor = triton.InferInput("x", [1, WIDTH], "FP32")
    tensor.set_data_from_numpy(row(seed))
    answer = client.infer("folded", [tensor]).as_numpy("y")
    assert np.allclose(answer, truth.infer_sync({"x": row(seed)})["y"], atol=1e-4)


def test_a_slow_engine_is_avoided(served: tuple[str, Model]) -> None:
    """Requests that come one by one are answered by the quick engine, though the slow one is idle and named first."""
    address, truth = served
    before = batches(address)
    with triton.InferenceServerClient(address) as client:
        for seed in range(40):
            ask(client, truth, seed)
    first, second = (after - was for after, was in zip(batches(address), before, strict=True))
    assert first + second == 40
    assert second >= 36


@pytest.mark.slow
def test_a_long_queue_uses_both(tmp_path: Path) -> None:
    """What the quick engine would get to later than the slow one is done with, the slow one computes; all is right."""
    path = folded(tmp_path / "folded.onnx")
    with (
        Model.open(profile(path, QUICK, SLOW), limits=Limits(queue_rows=8192)) as model,
        Model.open(Profile.of_model(path, Settings(engine=QUICK))) as truth,
    ):
        wrong: list[int] = []

        def work(seed: int) -> None:
            x = np.repeat(row(seed), 1000, axis=0)  # in parts of one row
            wrong.extend([seed] * (not np.allclose(model.infer_sync({"x": x})["y"], expected[seed], atol=1e-4)))

        expected = [truth.infer_sync({"x": row(seed)})["y"] for seed in range(4)]
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = model.statistics()
    assert not wrong
    assert counts["rows"] == 4000
    assert 0 < counts["second"] < counts["batches"] / 4


class Failing(OnnxRuntimeEngine):
    """An engine whose device fails as often as it is told to."""

    error: EngineError = DeviceError("the device's memory is full")
    left = 0

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        call = super().bind(inputs, outputs)

        def checked() -> None:
            if self.left:
                self.left -= 1
                raise self.error
            call()

        return checked


@pytest.mark.parametrize(("error", "rescued"), [(DeviceError("full"), 1), (DeviceLostError("lost"), 3)])
def test_the_second_engine_computes_what_a_device_could_not(tmp_path: Path, error: EngineError, rescued: int) -> None:
    """One batch where memory was short, and every batch from then on where the device is lost."""
    path = models.perceptron([4, 3], tmp_path / "mlp.onnx")
    engine = Failing(path, QUICK)
    with Model(profile(path, QUICK, QUICK, "fallback"), engine, Limits()) as model:
        truth = engine.run({"x": row(1)})["y"]
        engine.error, engine.left = error, 1
        for _ in range(3):
            assert np.allclose(model.infer_sync({"x": row(1)})["y"], truth, atol=1e-5)
        counts = model.statistics()
    assert (counts["rescued"], counts["failed"], counts["batches"]) == (rescued, 0, 3)


def test_without_a_second_engine_the_batch_fails_alone(tmp_path: Path) -> None:
    """The CPU stands in only where the profile says so; the next batch is computed."""
    path = models.perceptron([4, 3], tmp_path / "mlp.onnx")
    engine = Failing(path, QUICK)
    settings = Settings(engine=QUICK, batching=BatchingSettings(max_batch_size=1))
    with Model(Profile.of_model(path, settings), engine, Limits()) as model:
        engine.left = 1
        with pytest.raises(DeviceError, match="the device's memory is full"):
            model.infer_sync({"x": row(1)})
        model.infer_sync({"x": row(1)})
        assert model.statistics()["rescued"] == 0


def test_both_engines_are_the_same_model(tmp_path: Path) -> None:
    """Other inputs, outputs or mixed rows are refused in one line, and so are settings that do not go together."""
    path = models.two_in_two_out(tmp_path / "two.onnx")
    one_output = EngineOptions(threads=1, outputs=("total",))
    with pytest.raises(UnsupportedError, match="other inputs or outputs than the first engine"):
        Model.open(profile(path, QUICK, one_output))
    settings = Settings(batching=BatchingSettings(dispatch="inline", second=SecondEngine()))
    Profile.of_model(path, settings).save(tmp_path / "two.profile.toml")
    with pytest.raises(ProfileError, match="second with use = 'route' needs dispatch = 'worker'"):
        Profile.load(tmp_path / "two.profile.toml")


def test_the_cpu_beside_a_device(tmp_path: Path) -> None:
    """It computes in float32 with threads of its own; a model that is on the CPU already needs no second one."""
    path = models.perceptron([4, 3], tmp_path / "mlp.onnx")
    on_device = Profile.of_model(path, Settings(engine=EngineOptions(device="cuda", precision="f16", instances=2)))
    second = with_cpu(on_device, "route").settings.batching.second
    assert second is not None
    assert (second.use, second.engine.device, second.engine.precision, second.engine.instances) == (
        "route",
        "cpu",
        "f32",
        1,
    )
    with pytest.raises(UsageError, match="--also-cpu route: mlp is on the CPU already: add --device cuda"):
        with_cpu(Profile.of_model(path), "route")
