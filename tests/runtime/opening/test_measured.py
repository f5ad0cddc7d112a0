"""What is chosen for real models, by the library and by the server."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tests.engines.models import endless, identity, masked_mean, no_batch, perceptron, save, value

from tailcut.engines import open_engine
from tailcut.errors import EngineError
from tailcut.runtime.model import Model, measured_model
from tailcut.runtime.opening import measured
from tailcut.runtime.opening.defaults import LEAST_BATCH, SAFE_SETTINGS, ServingPlace, TimeComparison
from tailcut.runtime.profile import Profile, with_batching
from tailcut.spec import DType


def test_a_small_model_computes_inline(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The choice and its reason are one log line; engine and precision are the bare model's, and so is the answer."""
    path = perceptron([16, 32, 4], tmp_path / "small.onnx")
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    with caplog.at_level(logging.INFO, "tailcut"), Model.open(path) as model:
        settings = model.profile.settings
        assert model.entry.scheduler.dispatch == "inline"
        assert (settings.engine.threads, settings.engine.name, settings.engine.precision) == (1, "onnxruntime", "f32")
        assert settings.batching.max_batch_size >= LEAST_BATCH
        answer = model.infer_sync({"x": x})["y"]
    lines = [line for line in caplog.messages if line.startswith("small: ")]
    assert len(lines) == 1
    assert lines[0].startswith(
        f"small: threads=1 dispatch=inline max_batch_size={settings.batching.max_batch_size}: 1 row takes "
    )
    bare = open_engine(path, SAFE_SETTINGS.engine)
    np.testing.assert_allclose(answer, bare.run({"x": x})["y"], rtol=1e-5, atol=1e-6)
    bare.close()


def test_without_auto_the_settings_are_fixed(tmp_path: Path) -> None:
    """Those of a Profile are, too: only a bare model's are chosen."""
    path = perceptron([16, 32, 4], tmp_path / "small.onnx")
    with Model.open(path, auto=False) as model:
        assert model.profile.settings == SAFE_SETTINGS
    profile = Profile.of_model(path)
    with Model.open(profile) as model:
        assert model.profile == profile


def test_a_model_that_refuses_made_up_inputs_keeps_the_fixed_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line says so and why, and the model serves."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["folded"]),
        helper.make_node("ReduceSum", ["folded", "axes"], ["y"]),
    ]
    ends = [value("x", DType.FP32, (None, None))], [value("y", DType.FP32, (None, None))]
    weights = {"shape": np.array([-1, 1009]), "axes": np.array([0])}
    path = save(tmp_path / "odd.onnx", nodes, *ends, weights)
    with caplog.at_level(logging.INFO, "tailcut"), Model.open(path) as model:
        assert model.profile.settings == SAFE_SETTINGS
        assert model.infer_sync({"x": np.ones((1, 2018), np.float32)})["y"].tolist() == [[2.0] * 1009]
    assert "fixed settings, because nothing could be measured: " in caplog.text


def test_an_engine_that_fails_while_it_is_measured_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fixed settings: what it answers to requests is not decided by made-up inputs."""

    def fail(*_: object) -> dict[int, float]:
        raise EngineError("no memory for so many rows")

    monkeypatch.setattr(measured, "time_sizes", fail)
    with Model.open(perceptron([16, 32, 4], tmp_path / "small.onnx")) as model:
        assert model.profile.settings == SAFE_SETTINGS
        assert model.choice is not None
        assert model.choice.reason == "fixed settings, because nothing could be measured: no memory for so many rows"
        assert model.infer_sync({"x": np.ones((1, 16), np.float32)})["y"].shape == (1, 4)


@pytest.mark.parametrize("kind", ["endless", "lengths", "strings", "dependent"])
def test_what_takes_unknown_time_gets_a_worker(tmp_path: Path, kind: str) -> None:
    """A loop that values control, free lengths, strings, and requests that run whole with as many rows as they like."""
    path = tmp_path / "m.onnx"
    match kind:
        case "endless":
            endless(path)
        case "lengths":
            masked_mean(path)
        case "strings":
            identity(DType.BYTES, (None, 2), path)
        case _:
            perceptron([16, 32, 4], path)
    with Model.open(path, batching="off" if kind == "dependent" else None) as model:
        assert model.profile.settings.batching.dispatch == "worker"
        assert model.profile.settings.batching.max_batch_size == SAFE_SETTINGS.batching.max_batch_size
        assert model.entry.scheduler.max_batch_size == (32 if kind in {"lengths", "strings"} else 1)


def test_requests_that_share_no_call_are_computed_by_several_instances(tmp_path: Path) -> None:
    """As many as there are cores, on one session; each answers for itself."""
    profile = with_batching(Profile.of_model(perceptron([16, 32, 4], tmp_path / "m.onnx"), SAFE_SETTINGS), "off")
    x = np.random.default_rng(0).standard_normal((40, 5, 16)).astype(np.float32)
    with measured_model(profile, ServingPlace(cpus=3, threads=3)) as model:
        assert model.profile.settings.engine.instances == 3
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda rows: model.infer_sync({"x": rows})["y"], x))
        for rows, answer in zip(x, answers, strict=True):
            np.testing.assert_array_equal(answer, model.infer_sync({"x": rows})["y"])


def test_a_model_without_any_free_size_is_timed(tmp_path: Path) -> None:
    """Its requests take the same time each, so a short one may be computed on the event loop's own thread."""
    with Model.open(no_batch(tmp_path / "scaled.onnx")) as model:
        assert model.profile.settings.batching.dispatch in {"inline", "adaptive"}
        assert model.choice is not None
        assert "1 row takes" in model.choice.reason


def test_a_loop_that_values_control_never_keeps_the_event_loop(tmp_path: Path) -> None:
    """Not even where the user has its requests batched, and its rows take the same memory each."""
    with Model.open(endless(tmp_path / "endless.onnx"), batching="on") as model:
        assert model.entry.scheduler.dispatch != "inline"
        assert model.choice is not None
        assert "operator Loop may run for any time" in model.choice.reason


def test_a_batch_fixed_at_1_is_measured_as_such(tmp_path: Path) -> None:
    """One row, on the loop's thread where that is short: also on a machine whose stalls make it seem longer."""
    with Model.open(identity(DType.FP32, (1, 8), tmp_path / "one.onnx")) as model:
        assert model.entry.scheduler.dispatch in {"inline", "adaptive"}
        assert model.entry.scheduler.max_batch_size == 1
        assert (model.infer_sync({"x": np.ones((1, 8), np.float32)})["y"] == 1).all()


def test_the_sessions_compared_are_closed_but_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than two are open, and the one that is kept has the options of the profile."""
    opened, most = [], 0

    def watched(*arguments: object) -> object:
        nonlocal most
        engine = open_engine(*arguments)  # type: ignore[arg-type]
        opened.append(engine)
        most = max(most, sum(item._session is not None for item in opened))
        return engine

    monkeypatch.setattr(measured, "open_engine", watched)
    monkeypatch.setattr(measured, "PARALLEL_NS", 0)
    profile = Profile.of_model(perceptron([16, 32, 4], tmp_path / "small.onnx"), SAFE_SETTINGS)
    with measured_model(profile, ServingPlace(cpus=4, threads=2)) as model:
        alive = [engine for engine in opened if engine._session is not None]
        assert [engine.options for engine in alive] == [model.profile.settings.engine]
    assert len(opened) >= 2
    assert most == 2


@pytest.mark.parametrize("alone", [True, False])
def test_one_measurement_is_for_a_model_alone_and_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    """Threads that spin are compared in both cases, and chosen for a model alone."""
    monkeypatch.setattr(measured, "PARALLEL_NS", 0)
    monkeypatch.setattr(measured, "compare", lambda *_: TimeComparison(0.5, 0.5, 0.9))
    profile = Profile.of_model(perceptron([16, 32, 4], tmp_path / "small.onnx"), SAFE_SETTINGS)
    with measured_model(profile, ServingPlace(cpus=4, threads=2, alone=alone)) as model:
        choice = model.choice
        assert choice is not None
        assert model.profile.settings.engine.spinning is choice.spinning is alone
    for models in (1, 2):
        result = choice.among(models)
        assert (result.alone, result.spinning, "spinning" in result.reason) == (models == 1,) * 3
        assert result.among(2 if alone else 1).among(1 if alone else 2) == choice


def test_fixed_settings_do_not_spin_beside_other_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing could be measured."""

    def fail(*_: object) -> dict[int, float]:
        raise EngineError("no memory for so many rows")

    monkeypatch.setattr(measured, "time_sizes", fail)
    profile = Profile.of_model(perceptron([16, 32, 4], tmp_path / "small.onnx"), SAFE_SETTINGS)
    with measured_model(profile, ServingPlace(cpus=2, threads=2, alone=False)) as model:
        assert model.choice is not None
        assert not model.profile.settings.engine.spinning
        assert model.choice.among(1).apply(SAFE_SETTINGS) == SAFE_SETTINGS


def test_a_model_that_is_slow_to_load_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes with one thread for each core, where its file is not small."""
    opened = []

    def counted(*arguments: object) -> object:
        opened.append(open_engine(*arguments))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr(measured, "open_engine", counted)
    monkeypatch.setattr(measured, "_LOAD_SHARE", 0.0)
    monkeypatch.setattr(measured, "_SMALL_BYTES", 0)
    profile = Profile.of_model(perceptron([16, 32, 4], tmp_path / "small.onnx"), SAFE_SETTINGS)
    with measured_model(profile, ServingPlace(cpus=2, threads=2)) as model:
        assert model.profile.settings.engine.threads == 2
    assert len(opened) == 1


def test_measuring_keeps_to_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However unclear it stays which of two sessions is better."""
    monkeypatch.setattr(measured, "PARALLEL_NS", 0)
    monkeypatch.setattr(measured, "is_clear", lambda _: False)
    profile = Profile.of_model(perceptron([256, 1024, 10], tmp_path / "m.onnx"), SAFE_SETTINGS)
    with measured_model(profile, ServingPlace(cpus=2, threads=2), budget_s=0.1):
        pass  # what only the first one does: imports
    began = time.process_time()
    with measured_model(profile, ServingPlace(cpus=2, threads=2), budget_s=0.2):
        assert time.process_time() - began < 1.5


def test_a_model_that_is_slow_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What finding a request for it took says enough: a thread for each core, a worker, small batches."""
    monkeypatch.setattr(measured, "time_calls", None)
    monkeypatch.setattr(measured, "time_sizes", None)
    profile = Profile.of_model(perceptron([16, 32, 4], tmp_path / "m.onnx"), SAFE_SETTINGS)
    result = measured.find_samples

    def find_slowly(*arguments: object, **options: object) -> object:
        threading.Event().wait(0.05)
        return result(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(measured, "find_samples", find_slowly)
    with measured_model(profile, ServingPlace(cpus=2, threads=2), budget_s=0.04) as model:
        settings = model.profile.settings
        assert (settings.engine.threads, settings.batching.dispatch) == (2, "worker")
        assert settings.batching.max_batch_size == LEAST_BATCH
