"""Tailcut's errors are one tree, and a caller's mistakes are Python's own errors as well."""

import gc
import inspect
import pickle
import weakref
from pathlib import Path

import numpy as np
import pytest

import tailcut
from tailcut import errors
from tailcut.engines import EngineOptions, open_engine
from tailcut.errors import Code, TailcutError
from tailcut.kernels.vectorization import analyse
from tailcut.lab import record
from tests.engines.models import perceptron

TREE = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, TailcutError)]


@pytest.mark.parametrize("error", TREE, ids=lambda error: error.__name__)
def test_every_error_is_one_of_the_tree(error: type[TailcutError]) -> None:
    """A code, the message as it was given, also after a way through another process."""
    again = pickle.loads(pickle.dumps(error("what is wrong: what to do")))
    assert type(again) is error
    assert str(again) == "what is wrong: what to do"
    assert again.code in Code
    if error.code in {Code.INVALID, Code.TOO_LARGE, Code.UNSUPPORTED}:
        assert issubclass(error, ValueError)


def mlp(folder: Path) -> Path:
    return perceptron([4, 2], folder / "m.onnx")


def infer(folder: Path, inputs: object) -> None:
    with tailcut.Model.open(mlp(folder)) as model:
        model.infer_sync(inputs)


def late(folder: Path) -> None:
    with tailcut.Model.open(mlp(folder)) as model:
        model.infer_sync({"x": np.zeros((1, 4), np.float32)}, timeout_s=-1.0)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda folder: tailcut.Model.open(folder / "none.onnx"), FileNotFoundError),
        (lambda folder: tailcut.Model.open(folder / "none.toml"), FileNotFoundError),
        (tailcut.Model.open, ValueError),
        (lambda folder: record.read_record(folder / "none.json"), FileNotFoundError),
        (lambda folder: open_engine(mlp(folder), EngineOptions(precision="bf16")), ValueError),
        (lambda folder: infer(folder, {"y": [[1.0]]}), ValueError),
        (lambda folder: infer(folder, [[1.0, 2.0, 3.0, 4.0]]), TypeError),
        (lambda folder: infer(folder, np.zeros((1, 4), np.float32)), TypeError),
        (lambda folder: infer(folder, np.zeros(4, np.float32)), TypeError),
        (lambda folder: infer(folder, {"x": np.zeros((1, 4))}), TypeError),
        (lambda folder: infer(folder, {"x": np.zeros((1, 5), np.float32)}), ValueError),
        (late, TimeoutError),
        (lambda folder: analyse(len), TypeError),
        (lambda folder: tailcut.Client("ftp://127.0.0.1"), ValueError),
        (lambda folder: tailcut.Arena(0), ValueError),
    ],
)
def test_mistakes_are_pythons_own_errors(tmp_path: Path, call, kind: type[Exception]) -> None:
    """Code that knows nothing of Tailcut catches them, and so does `except TailcutError`; the message is one line."""
    with pytest.raises(kind) as caught:
        call(tmp_path)
    assert isinstance(caught.value, TailcutError)
    assert len(str(caught.value).splitlines()) == 1


def test_an_error_without_frames_keeps_nobody() -> None:
    """Who keeps an error that was raised below is freed with the last reference, without a collection."""

    class Keeper:
        error: TailcutError | None = None

        def fail(self) -> None:
            try:
                try:
                    _ = {}["below"]
                except KeyError:
                    raise errors.InvalidInputError("wrong") from None
            except TailcutError as error:
                self.error = error.without_frames()

    gc.disable()
    try:
        keeper = Keeper()
        keeper.fail()
        assert str(keeper.error) == "wrong"
        gone = weakref.ref(keeper)
        del keeper
        assert gone() is None
    finally:
        gc.enable()
