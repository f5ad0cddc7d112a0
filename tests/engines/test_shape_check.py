"""OpenVINO answers rightly whatever sizes it was asked first, or says that it does not."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from onnx import helper
from tests.engines import models

from tailcut.engines import Engine, EngineOptions, open_engine, shape_check
from tailcut.engines.agreement import distance
from tailcut.engines.openvino_core import core
from tailcut.engines.openvino_instance import Instance
from tailcut.engines.shape_check import Reference, ShapeCheck, shapes_of
from tailcut.errors import EngineError, UnsupportedError
from tailcut.spec import DType, Rows

F32 = DType.FP32


def numbers(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(shape[-1]).standard_normal(shape).astype(np.float32)}


def opened(path: Path, name: str = "openvino", **options: Any) -> Engine:
    return open_engine(path, EngineOptions(**{"name": name, "threads": 1, **options}))


def refuse_to_search(_engine: Engine, *, seed: int = 0) -> None:
    raise UnsupportedError("nothing is accepted")


def test_attention_is_right_after_a_single_key(tmp_path: Path) -> None:
    """OpenVINO 2026.4.1 by itself is off by a factor of 20 and more from 31 keys on, once its first request had one."""
    path = models.attention(tmp_path / "attention.onnx")
    engine, truth = opened(path), opened(path, "onnxruntime")
    for length in (1, 2, 31, 40, 64, 1, 40):
        request = numbers(1, length, 16)
        assert distance(truth.run(request), engine.run(request)) < 1e-4
    engine.close()


def test_attention_over_bound_rows_is_right_after_a_single_row(tmp_path: Path) -> None:
    """The same where the keys are the rows of a request, on arrays that stay bound."""
    path = models.attention(tmp_path / "attention.onnx", over_rows=True)
    engine, truth = opened(path), opened(path, "onnxruntime")
    engine.spec = replace(engine.spec, rows=Rows.INDEPENDENT)  # only a batched model's arrays are bound
    for rows in (1, 40, 3, 64):
        request, answer = numbers(rows, 16), {"y": np.empty((rows, 16), np.float32)}
        call = engine.bind(request, answer)
        for _ in range(2):
            call()
            assert distance(truth.run(request), answer) < 1e-4
    engine.close()


def test_every_instance_is_right_after_a_single_key(tmp_path: Path) -> None:
    """The streams of one compiled model remember sizes apart from each other: two instances share none."""
    path = models.attention(tmp_path / "attention.onnx")
    engine, truth = opened(path, instances=2), opened(path, "onnxruntime")
    requests = [numbers(1, length, 16) for length in (1, 1, 40, 40, 64, 64)] * 10
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(engine.run, requests))
    assert max(distance(truth.run(r), a) for r, a in zip(requests, answers, strict=True)) < 1e-4
    engine.close()


def test_a_model_without_known_sizes_is_compiled_anew_when_its_first_size_spoiled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No made-up request comes first here, so a single key does; one line says what happened at 40."""
    monkeypatch.setattr(shape_check, "find_samples", refuse_to_search)
    path = models.attention(tmp_path / "attention.onnx")
    engine, truth = opened(path), opened(path, "onnxruntime")
    with caplog.at_level(logging.WARNING, "tailcut"):
        for length in (1, 2, 40, 40, 1, 64):
            request = numbers(1, length, 16)
            assert distance(truth.run(request), engine.run(request)) < 1e-4
    message = [record.getMessage() for record in caplog.records]
    assert len(message) <= 1  # none, once openvino has mended it
    assert all("x [1, 40, 16]" in line and "recompiled" in line for line in message)
    engine.close()


def test_a_refused_size_leaves_the_others_right(tmp_path: Path) -> None:
    """Sizes that the model refuses never reach OpenVINO, which by itself refuses the next good request as well."""
    path = models.halved_and_doubled(tmp_path / "even.onnx")
    engine, truth = opened(path), opened(path, "onnxruntime")
    for size in (8, 5, 8, 16, 7, 16, 8):
        request = numbers(1, 1, size, size)
        if size % 2:
            with pytest.raises(EngineError, match="onnxruntime failed"):
                engine.run(request)
        else:
            assert distance(truth.run(request), engine.run(request)) < 1e-6
    engine.close()


def test_sizes_that_do_not_fit_a_window_never_reach_openvino(tmp_path: Path) -> None:
    """By itself it answers them with what is in memory, or ends the process; the line names the operator."""
    path = models.pooled(tmp_path / "pooled.onnx")
    engine, truth = opened(path), opened(path, "onnxruntime")
    for height in (8, 1, 2, 1, 6):
        request = numbers(2, 3, height, 10)
        if height == 1:
            with pytest.raises(EngineError, match=r"^openvino refuses these sizes: .*Kernel.*: use the engine onnxr"):
                engine.run(request)
        else:
            assert distance(truth.run(request), engine.run(request)) < 1e-4
    engine.close()


def test_a_random_model_is_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its answers cannot be compared with anything, so they are not."""
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])]
    ends = [[models.value(name, F32, (None, None))] for name in ("x", "y")]
    engine = opened(models.save(tmp_path / "random.onnx", nodes, *ends))
    for length in (1, 5, 9):
        assert engine.run(numbers(1, length))["y"].shape == (1, length)
    assert not caplog.records
    engine.close()


class Factory:
    """Compiled models y = factor * x, a factor after the other, the last one again and again."""

    def __init__(self, folder: Path, *factors: float) -> None:
        self.folder = folder
        self.factors = list(factors)
        self.compiled = 0

    def path(self, factor: float) -> Path:
        nodes = [helper.make_node("Mul", ["x", "k"], ["y"])]
        ends = [[models.value(name, F32, (None, None))] for name in ("x", "y")]
        return models.save(self.folder / "scaled.onnx", nodes, *ends, {"k": np.array(factor, np.float32)})

    def __call__(self) -> Any:
        self.compiled += 1
        factor = self.factors.pop(0) if len(self.factors) > 1 else self.factors[0]
        return core().compile_model(self.path(factor), "CPU")


def onnxruntime(engine: Engine) -> Reference:
    return Reference(engine, "onnxruntime", "use the engine onnxruntime")


def checked(folder: Path, truth: float, *factors: float) -> tuple[ShapeCheck, Instance, Factory]:
    """A check against y = truth * x, and an instance that begins right."""
    factory = Factory(folder, truth, *factors)
    reference = opened(factory.path(truth), "onnxruntime")
    check = ShapeCheck("scaled", onnxruntime(reference), factory, "f32")
    instance = Instance(factory(), reference.spec)
    check.admit(instance)
    return check, instance, factory


def spoil(instance: Instance, factory: Factory) -> None:
    instance.take_over(core().compile_model(factory.path(50), "CPU"))


def test_a_wrong_answer_is_mended_by_compiling_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The instance answers the size rightly afterwards, and knows it."""
    check, instance, factory = checked(tmp_path, 1, 1)
    spoil(instance, factory)
    request = numbers(1, 3)
    check.prove(instance, request, shapes_of(request))
    assert instance.run(request)["y"] == pytest.approx(request["x"])
    assert shapes_of(request) in instance.proven
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        f"scaled: openvino {ov.__version__.split('-')[0]} gave wrong outputs for requests of x [1, 3]"
    )
    assert line.endswith("until it was recompiled: off by 4900.0% from onnxruntime")


def test_a_size_that_stays_wrong_is_refused_in_one_line(tmp_path: Path) -> None:
    """The line names the engine, its version, the sizes and the way out; other sizes go on being served."""
    check, instance, factory = checked(tmp_path, 1, 7, 9, 1)
    spoil(instance, factory)
    request, other = numbers(1, 3), numbers(1, 4)
    for compiled in (4, 4):  # the second time it is known
        with pytest.raises(
            EngineError, match=r"^scaled: openvino 20\S+ .*x \[1, 3\].*recompiled.*: use the engine onnx"
        ):
            check.prove(instance, request, shapes_of(request))
        assert factory.compiled == compiled
    check.prove(instance, other, shapes_of(other))
    assert instance.run(other)["y"] == pytest.approx(other["x"])


def test_an_engine_that_computes_in_its_own_way_is_accepted_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every fresh model differs from the reference in the same way: that is logged once, not for the next sizes."""
    check, instance, factory = checked(tmp_path, 1, 1.3)
    instance.take_over(factory())
    check._canary = None  # as if this had been so from the start
    for width in (3, 4, 5):
        request = numbers(1, width)
        check.prove(instance, request, shapes_of(request))
    assert len(caplog.records) == 1
    assert "differ from those of onnxruntime (off by 30.0%" in caplog.text


@pytest.mark.parametrize("factor", [0, 2.2, 50])
def test_an_engine_that_is_off_by_the_whole_answer_is_refused(tmp_path: Path, factor: float) -> None:
    """However well its fresh models agree with each other; no size that was accepted before widens what is accepted."""
    check, instance, factory = checked(tmp_path, 1, 1.6, 1.6, 1.6, factor)
    instance.take_over(factory())
    check._canary = None  # as if this had been so from the start
    near, far = numbers(1, 3), numbers(1, 4)
    check.prove(instance, near, shapes_of(near))
    check._canary = None
    instance.take_over(factory())
    for _ in range(2):
        with pytest.raises(EngineError, match=r"wrong outputs for requests of x \[1, 4\], even when recompiled"):
            check.prove(instance, far, shapes_of(far))


def test_an_answer_is_accepted_where_the_reference_has_no_number(tmp_path: Path) -> None:
    """As where all of a row is masked: only the other elements can be wrong."""
    check, instance, _ = checked(tmp_path, 1, 1.3)
    wanted, answer = (np.array(values, np.float32) for values in ([np.nan, 1, 2], [0, 1.1, 2.1]))
    assert check._accept({"y": wanted}, {"y": answer})
    assert not check._accept({"y": wanted}, {"y": answer * 3})
    assert not check._accept({"y": answer}, {"y": wanted})
    assert instance.proven


@pytest.mark.parametrize(
    ("wanted", "answer", "accepted", "exempt"),
    [
        (np.arange(8), np.arange(8)[::-1], True, True),  # the same ones in another order
        (np.array([100]), np.array([101]), True, True),  # a count
        (np.arange(9), np.arange(4), True, True),  # as many as were found
        (np.arange(8), np.full(8, -(2**31)), False, False),
        (np.arange(1, 9), np.zeros(8, np.int64), False, False),
        (np.ones(8, bool), np.zeros(8, bool), False, False),
        (np.array([3]), np.array([700]), True, False),  # the better one of two that are nearly the same
    ],
)
def test_integers_all_of_which_differ_are_wrong(
    tmp_path: Path, wanted: np.ndarray, answer: np.ndarray, *, accepted: bool, exempt: bool
) -> None:
    """Unless they are in another order, of another number or near; only these are not compared again."""
    check, _, _ = checked(tmp_path, 1)
    assert check._accept({"y": wanted}, {"y": answer}) == accepted
    assert ("y" in check._incomparable) == exempt


@pytest.mark.parametrize(
    ("wanted", "answer", "reason"),
    [
        (np.zeros(2), np.zeros(3), "output 'y' has shape [3], and [2] with onnxruntime"),
        (np.zeros(2), np.zeros(2, int), "output 'y' has type int64, and float64 with onnxruntime"),
        (
            np.array([np.nan, 1]),
            np.array([0, 1.0]),
            "output 'y' has NaN or infinity in other places than onnxruntime",
        ),
        (np.ones(2), np.full(2, 1.5), "off by 50.0% from onnxruntime"),
    ],
)
def test_differences_are_named(tmp_path: Path, wanted: np.ndarray, answer: np.ndarray, reason: str) -> None:
    check, _, _ = checked(tmp_path, 1)
    assert check._off({"y": wanted}, {"y": answer}) == reason


class Boxes(Factory):
    """Compiled models y = factor * x, and boxes: one integer, or more or fewer of them, by the factor."""

    def __init__(self, folder: Path, *factors: float, many: bool) -> None:
        super().__init__(folder, *factors)
        self.many = many

    def path(self, factor: float) -> Path:
        count = round(factor * 100)
        boxes = np.arange(count) if self.many else np.array([count])
        nodes = [helper.make_node("Mul", ["x", "k"], ["y"]), helper.make_node("Identity", ["found"], ["boxes"])]
        x, y = (models.value(name, F32, (None, None)) for name in ("x", "y"))
        weights = {"k": np.array(factor, np.float32), "found": boxes}
        outputs = [y, models.value("boxes", DType.INT64, ("found",))]
        return models.save(self.folder / "boxes.onnx", nodes, [x], outputs, weights)


@pytest.mark.parametrize("many", [True, False])
def test_integers_and_other_sizes_are_its_own_way_and_the_rest_is_still_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, many: bool
) -> None:
    """A detector may find other boxes, which is logged once; its other outputs must be right for new sizes."""
    factory = Boxes(tmp_path, 1.01, 1.01, 1.01, 3, many=many)
    reference = opened(factory.path(1), "onnxruntime")
    check = ShapeCheck("boxes", onnxruntime(reference), factory, "f32")
    instance = Instance(factory(), reference.spec)
    check.admit(instance)
    request = numbers(1, 3)
    check.prove(instance, request, shapes_of(request))
    assert (factory.compiled, len(caplog.records)) == (3, 1)
    check._canary = None
    instance.take_over(factory())
    request = numbers(1, 4)
    with pytest.raises(EngineError, match=r"wrong outputs for requests of x \[1, 4\]"):
        check.prove(instance, request, shapes_of(request))


def test_an_engine_that_is_wrong_from_the_start_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    """Not a request but the engine fails."""
    with pytest.raises(UnsupportedError, match=r"use the engine onnxruntime"):
        lying(tmp_path)


def lying(folder: Path) -> None:
    factory = Factory(folder, 5, 7, 9, 11)
    reference = opened(factory.path(1), "onnxruntime")
    ShapeCheck("scaled", onnxruntime(reference), factory, "f32").admit(Instance(factory(), reference.spec))


@pytest.mark.parametrize(
    ("expected", "result", "far"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([3.0, 4.0], [3.0, 9.0], 1.0),
        ([1e-9, 0.0], [0.0, 0.0], 1e-3),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([np.nan, np.nan], [np.nan, np.nan], 0.0),
        ([np.inf, 1.0], [2.0, 1.0], np.inf),
        ([1, 2, 3, 4], [1, 2, 3, 5], 0.25),
        ([1.0], [1.0, 1.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_distance(expected: list[float], result: list[float], far: float) -> None:
    """A share of the norm for floats, a share of the elements for integers, infinite where nothing can be compared."""
    assert distance({"y": np.array(expected)}, {"y": np.array(result)}) == pytest.approx(far, rel=0.5)
