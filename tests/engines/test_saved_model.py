"""SavedModels are called by their signature, and refused where OpenVINO would leave out what it does."""

import logging
from pathlib import Path

import numpy as np
import pytest

from tailcut.engines import Engine, EngineOptions, open_engine
from tailcut.engines.saved_model import Signature, read_signature
from tailcut.errors import ModelFileError, UnsupportedError

DATA = Path(__file__).parent.parent / "data" / "models"  # made by scripts/make_model_files.py


def opened(name: str) -> Engine:
    return open_engine(DATA / name, EngineOptions(name="openvino", threads=1))


@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("saved_model", Signature(("x",), ("y",))),
        ("tensorflow_1", Signature(("images",), ("scores",))),
        ("not_counted", Signature(("x",), ("version", "x"))),
        ("counter", Signature(("x",), ("y",), "AssignAddVariableOp")),
    ],
)
def test_the_signature_of_a_file(name: str, signature: Signature) -> None:
    """Assignments count where the default signature runs them, and not in another, nor where variables are restored."""
    assert read_signature(DATA / name) == signature


def test_a_count_of_calls_is_refused() -> None:
    """OpenVINO drops the assignment, and answers each call as the first."""
    with pytest.raises(UnsupportedError, match=r"keeps a state between calls \(AssignAddVariableOp\)"):
        opened("counter")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_signature", r"the model has no signature: save it with signatures=\.\.\."),
        ("two_signatures", "has the signatures count, double, and none is serving_default"),
    ],
)
def test_without_a_default_signature(name: str, words: str) -> None:
    """One line: OpenVINO returns an empty model, or one that takes the inputs of all signatures."""
    with pytest.raises(UnsupportedError, match=words):
        opened(name)


@pytest.mark.parametrize(
    ("name", "x", "y", "factor"), [("tensorflow_1", "images", "scores", 3), ("not_counted", "x", "x", 2)]
)
def test_outputs_have_the_names_of_the_signature(
    name: str, x: str, y: str, factor: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Not those of the graph, nor with a number where an input has the name, too; a constant that is lost is named."""
    with caplog.at_level(logging.WARNING, "tailcut"):
        engine = opened(name)
    assert (engine.spec.input_names, engine.spec.output_names) == ((x,), (y,))
    request = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(engine.run({x: request})[y], factor * request)
    lost = f"{DATA / name}: openvino leaves out the outputs that are constant: version"
    assert caplog.messages == ([lost] if name == "not_counted" else [])
    engine.close()


def test_a_graph_that_is_cut_short_is_one_line(tmp_path: Path) -> None:
    """Wherever it ends, it is read or refused."""
    whole = (DATA / "counter" / "saved_model.pb").read_bytes()
    for size in (1, 2, 3, 50, len(whole) // 2, len(whole) - 1):
        (tmp_path / "saved_model.pb").write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match="cannot be read"):
            read_signature(tmp_path)
