"""Models whose rows belong together, through the library: each request is answered as onnxruntime answers it alone."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.cases import CASES, Arrays, Case, check_same
from tests.effort import THOROUGH, runs, some
from tests.engines.models import identity, masked_mean, perceptron

from tailcut.engines.base import EngineOptions
from tailcut.errors import EngineError, InvalidInputError, UnsupportedError
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, PaddedInput, PaddingSettings, Settings
from tailcut.spec import DType, Rows

CLIENTS = 12
TRUTHS = {name: case.truths() for name, case in CASES.items()}


@contextmanager
def opened(folder: Path, case: Case, engine: str, **batching: object) -> Iterator[Model]:
    path = folder / "case.onnx"
    onnx.save(case.model, path)
    settings = Settings(engine=EngineOptions(name=engine, threads=1), batching=BatchingSettings(**batching))  # type: ignore[arg-type]
    with Model.open(Profile.of_model(path, settings)) as model:
        yield model


def check(model: Model, request: Arrays, want: Arrays | None) -> None:
    if want is None:
        with pytest.raises((EngineError, InvalidInputError)):
            model.infer_sync(request)
    else:
        check_same(model.infer_sync(request), want)


@pytest.mark.parametrize(
    ("engine", "name"),
    [("onnxruntime", name) for name in CASES] + [("openvino", name) for name in some(CASES)],
)
def test_every_answer_is_the_requests_own(tmp_path: Path, engine: str, name: str) -> None:
    """Alone and from twelve threads at once, with more rows than the largest batch, and with a largest batch of 1.

    That one, in which nothing can be shared, with every third case on onnxruntime; `make test-all` has both with all.
    """
    case, truths = CASES[name], TRUTHS[name]
    if engine == "openvino" and case.openvino:
        pytest.skip(case.openvino)
    one_by_one = THOROUGH or (engine == "onnxruntime" and name in some(CASES))
    for max_batch_size in (4, 1) if one_by_one else (4,):
        with opened(tmp_path, case, engine, max_batch_size=max_batch_size) as model:
            assert model.spec.batched == case.batched
            for request, want in zip(case.requests, truths, strict=True):
                check(model, request, want)
            faults: list[BaseException] = []
            start = threading.Barrier(CLIENTS)

            def ask(first: int, model: Model = model, start: threading.Barrier = start, faults: list = faults) -> None:
                start.wait()
                try:
                    for turn in range(runs(3) * len(case.requests)):
                        index = (first + turn) % len(case.requests)
                        check(model, case.requests[index], truths[index])
                except BaseException as fault:  # noqa: BLE001  told by the test's own thread
                    faults.append(fault)

            threads = [threading.Thread(target=ask, args=(first,)) for first in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not faults, faults[0]


@pytest.mark.parametrize("dispatch", ["worker", "inline", "adaptive"])
@pytest.mark.parametrize("name", ["running_sum", "pairwise", "found", "mean_of_all", "sentences"])
def test_from_an_event_loop(tmp_path: Path, name: str, dispatch: str) -> None:
    """Wherever a batch is computed."""
    case = CASES[name]

    async def ask_all(model: Model) -> list[Arrays]:
        return await asyncio.gather(*[model.infer(request) for request in case.requests * 4])

    with opened(tmp_path, case, "onnxruntime", max_batch_size=4, dispatch=dispatch) as model:
        for got, want in zip(asyncio.run(ask_all(model)), TRUTHS[name] * 4, strict=True):
            assert want is not None
            check_same(got, want)


def test_parallel_instances(tmp_path: Path) -> None:
    """Several requests compute at a time, each in arrays of its own."""
    path = tmp_path / "case.onnx"
    onnx.save(CASES["gram"].model, path)
    settings = Settings(engine=EngineOptions(threads=1, instances=3), batching=BatchingSettings(max_batch_size=8))
    with Model.open(Profile.of_model(path, settings)) as model:
        assert model._pool.size == 3
        requests = [{"x": np.full((n % 7 + 1, 4), n, np.float32)} for n in range(60)]

        async def ask_all() -> list[Arrays]:
            return await asyncio.gather(*[model.infer(request) for request in requests])

        for got, request in zip(asyncio.run(ask_all()), requests, strict=True):
            assert np.allclose(got["y"], request["x"] @ request["x"].T)
        assert model.statistics()["batches"] == model.statistics()["requests"] == len(requests)


@pytest.mark.parametrize("name", ["unknown_names", "unnamed_axes", "every_axis_another_name"])
def test_strange_names_are_batched_all_the_same(tmp_path: Path, name: str) -> None:
    """Requests at the same time share engine calls, whatever the axes are called."""
    case = CASES[name]
    rows = [{next(iter(case.requests[0])): np.full((1, 4), n, np.float32)} for n in range(64)]
    with opened(tmp_path, case, "onnxruntime", max_batch_size=16) as model:

        async def ask_all() -> list[Arrays]:
            return await asyncio.gather(*[model.infer(row) for row in rows])

        asyncio.run(ask_all())
        counts = model.statistics()
        assert counts["requests"] == len(rows)
        assert counts["batches"] < len(rows) / 2


def test_the_user_turns_batching_off(tmp_path: Path) -> None:
    """Each request is a call of its own, and may then have no rows."""
    path = perceptron([4, 3], tmp_path / "m.onnx")
    with Model.open(path, batching="off") as model:
        assert model.rows.rows is Rows.DEPENDENT
        assert model.entry.scheduler.slab is None
        assert model.infer_sync({"x": np.empty((0, 4), np.float32)})["y"].shape == (0, 3)
        assert model.infer_sync({"x": np.ones((50, 4), np.float32)})["y"].shape == (50, 3)
        assert model.statistics()["batches"] == 2
    with Model.open(path) as model, pytest.raises(InvalidInputError, match="0 rows"):
        model.infer_sync({"x": np.empty((0, 4), np.float32)})


def test_the_user_turns_batching_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Against the evidence there is one line of warning; where the shapes rule it out it is a mistake."""
    path = tmp_path / "m.onnx"
    onnx.save(CASES["quantised_together"].model, path)
    with Model.open(path, batching="on") as model:
        assert model.spec.batched
        assert model.entry.scheduler.slab is not None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "DynamicQuantizeLinear" in caplog.text
    onnx.save(CASES["mean_of_all"].model, path)
    with pytest.raises(UnsupportedError, match="cannot be batched"):
        Model.open(path, batching="on")


def test_the_word_of_the_call_comes_before_the_profiles(tmp_path: Path) -> None:
    """And that before the evidence."""
    profile = Profile.of_model(
        perceptron([4, 3], tmp_path / "m.onnx"), Settings(batching=BatchingSettings(max_batch_size=4, rows="dependent"))
    )
    for batching, batched in ((None, False), ("auto", True), ("on", True), ("off", False)):
        with Model.open(profile, batching=batching) as model:
            assert model.spec.batched == batched


@pytest.mark.parametrize("dispatch", ["worker", "inline", "adaptive"])
def test_inputs_with_rows_of_their_own(tmp_path: Path, dispatch: str) -> None:
    """Computed whole and alone, beside requests that are rows and share batches; no row stays in use."""
    case = CASES["towers"]
    rows = [{"a": np.full((1, 8), n, np.float32), "b": np.full((1, 4), n, np.float32)} for n in range(8)]
    uneven = {"a": np.ones((1, 8), np.float32), "b": np.ones((9, 4), np.float32)}

    async def ask_all(model: Model) -> list[Arrays]:
        return await asyncio.gather(*[model.infer(request) for request in [*rows, uneven, *rows]])

    with opened(tmp_path, case, "onnxruntime", max_batch_size=4, dispatch=dispatch) as model:
        assert model.entry.slab is not None
        before = model.statistics()["batches"]
        answers = asyncio.run(ask_all(model))
        assert answers[8]["image"].shape == (1, 3)
        assert answers[8]["text"].shape == (9, 3)
        for first, second in zip(answers[:8], answers[9:], strict=True):
            check_same(first, second)
        assert model.statistics()["batches"] - before < len(answers)
        assert model.statistics()["rows_in_use"] == 0


def test_inputs_on_one_axis_have_equal_rows(tmp_path: Path) -> None:
    """Where the file gives the first axes one name, or none; and no input of a batched model is without rows."""
    case = CASES["towers"]
    for name in ("images", ""):
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for value in [*model.graph.input, *model.graph.output]:
            value.type.tensor_type.shape.dim[0].dim_param = name
        with (
            opened(tmp_path, Case(model, case.requests), "onnxruntime") as same,
            pytest.raises(InvalidInputError, match="differ in their number of rows"),
        ):
            same.infer_sync(case.requests[0])
    with opened(tmp_path, case, "onnxruntime") as model, pytest.raises(InvalidInputError, match="0 rows"):
        model.infer_sync({"a": np.empty((0, 8), np.float32), "b": np.ones((3, 4), np.float32)})


def test_int8_is_not_batched(tmp_path: Path) -> None:
    """What onnxruntime's quantiser makes of a graph takes one scale for all rows; the proof sees it, too."""
    profile = Profile.of_model(
        perceptron([64, 32], tmp_path / "m.onnx"),
        Settings(engine=EngineOptions(precision="int8"), batching=BatchingSettings(max_batch_size=4)),
    )
    with Model.open(profile) as model:
        assert not model.spec.batched
        assert "DynamicQuantizeLinear" in model.rows.reason
    with Model.open(profile, batching="on") as model:
        assert model.spec.batched


def test_requests_that_are_not_batched_are_not_padded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A profile's buckets are left out with a warning, and each request is computed at its own length."""
    padding = PaddingSettings(buckets=(8, 16), inputs=(PaddedInput(name="ids"), PaddedInput(name="mask")))
    settings = Settings(batching=BatchingSettings(max_batch_size=4, padding=padding))
    with Model.open(Profile.of_model(masked_mean(tmp_path / "m.onnx"), settings), batching="off") as model:
        assert "not padded" in caplog.text
        ids = np.ones((2, 5), np.int64)
        assert model.infer_sync({"ids": ids, "mask": ids})["tokens"].shape == (2, 5, 8)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_bfloat16_of_any_length(tmp_path: Path, rows: int) -> None:
    """onnxruntime allocates the outputs, whose sizes are not known before."""
    with Model.open(identity(DType.BF16, (None, None), tmp_path / "m.onnx"), batching="off") as model:
        x = np.arange(rows * 3).reshape(rows, 3).astype(DType.BF16.numpy)
        got = model.infer_sync({"x": x})["y"]
        assert got.dtype == x.dtype
        assert np.array_equal(got, x)
