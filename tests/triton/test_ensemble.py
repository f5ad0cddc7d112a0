"""An ensemble is checked, and answers as its models do one after the other."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.triton.repositories import add_model, twice

from tailcut.errors import InvalidInputError, TailcutError, UsageError
from tailcut.runtime.limits import Limits
from tailcut.triton.library import Library, LoadedModel, Overrides

ENSEMBLE = twice("first", "second")


def loaded(folder: Path, text: str) -> LoadedModel:
    add_model(folder, "first")
    add_model(folder, "second")
    add_model(folder, "bytes", kind="simple_int8")
    (folder / "both" / "1").mkdir(parents=True)
    (folder / "both" / "config.pbtxt").write_text(text)
    [model] = Library(folder, Overrides(Limits(), measures=False)).load("both", 1)
    return model


def request() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.integers(0, 100, (3, 16), np.int32) for name in ("A", "B")}


def test_the_steps_are_computed_one_after_the_other(tmp_path: Path) -> None:
    """(a + b) + (a - b) is 2 a."""
    item = loaded(tmp_path, ENSEMBLE)
    with item.model as model:
        assert model.spec.input_names == ("A", "B")
        assert model.spec.batched
        answer = model.infer_sync(request())
        assert list(answer) == ["TWICE"]
        assert np.array_equal(answer["TWICE"], 2 * request()["A"])
    assert item.config["platform"] == "ensemble"


def test_steps_in_any_order_and_outputs_of_any_step(tmp_path: Path) -> None:
    """The configuration's order means nothing; a model may be used twice, and a tensor feed several inputs."""
    text = """
    platform: "ensemble" max_batch_size: 8
    input [ { name: "A" data_type: TYPE_INT32 dims: 16 }, { name: "B" data_type: TYPE_INT32 dims: 16 } ]
    output [ { name: "SUM" data_type: TYPE_INT32 dims: 16 }, { name: "FOUR" data_type: TYPE_INT32 dims: 16 } ]
    ensemble_scheduling { step [
      { model_name: "first" model_version: 1
        input_map { key: "INPUT0" value: "twice" } input_map { key: "INPUT1" value: "twice" }
        output_map { key: "OUTPUT0" value: "FOUR" } },
      { model_name: "second" input_map { key: "INPUT0" value: "A" } input_map { key: "INPUT1" value: "A" }
        output_map { key: "OUTPUT0" value: "twice" } },
      { model_name: "first" input_map { key: "INPUT0" value: "A" } input_map { key: "INPUT1" value: "B" }
        output_map { key: "OUTPUT0" value: "SUM" } }
    ] }"""
    with loaded(tmp_path, text).model as model:
        answer, asked = model.infer_sync(request()), request()
        assert np.array_equal(answer["FOUR"], 4 * asked["A"])
        assert np.array_equal(answer["SUM"], asked["A"] + asked["B"])


ACROSS = """
platform: "onnxruntime_onnx" max_batch_size: 8
input [ { name: "X" data_type: TYPE_INT32 dims: 16 } ] output [ { name: "Y" data_type: TYPE_INT32 dims: 16 } ]
"""
THEN_ACROSS = """
platform: "ensemble" max_batch_size: 8
input [ { name: "A" data_type: TYPE_INT32 dims: 16 }, { name: "B" data_type: TYPE_INT32 dims: 16 } ]
output [ { name: "MOST" data_type: TYPE_INT32 dims: 16 } ]
ensemble_scheduling { step [
  { model_name: "first"
    input_map { key: "INPUT0" value: "A" } input_map { key: "INPUT1" value: "B" }
    output_map { key: "OUTPUT0" value: "sum" } },
  { model_name: "across" input_map { key: "X" value: "sum" } output_map { key: "Y" value: "MOST" } }
] }
"""


def across_rows(path: Path) -> None:
    """X [batch, 16] -> Y: what each column of X has beyond its smallest number, so that rows depend on each other."""
    nodes = [
        helper.make_node("ReduceMin", ["X", "first"], ["least"], keepdims=1),
        helper.make_node("Sub", ["X", "least"], ["Y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", 16])] for name in ("X", "Y")]
    first = helper.make_tensor("first", TensorProto.INT64, [1], [0])
    graph = helper.make_graph(nodes, "across", *ends, initializer=[first])
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.mark.parametrize("rows", [(4, 1), (4, 2), (0, 0)])
def test_rows_that_differ_are_refused_where_a_later_step_mixes_them(tmp_path: Path, rows: tuple[int, int]) -> None:
    """The ensemble itself has no rows then, but its first step has; what is refused leaves nothing behind."""
    across_rows(tmp_path / "across" / "1" / "model.onnx")
    (tmp_path / "across" / "config.pbtxt").write_text(ACROSS)
    with loaded(tmp_path, THEN_ACROSS).model as model:
        assert not model.spec.batched
        given = {name: np.full((count, 16), 3, np.int32) for name, count in zip("AB", rows, strict=True)}
        with pytest.raises(InvalidInputError, match=r"number of rows: {'A': 4, 'B': |input 'A' has a batch of 0 rows"):
            model.infer_sync(given)
        assert model.statistics()["computing"] == model.statistics()["rows_in_use"] == 0
        asked = request()
        total = asked["A"] + asked["B"]
        assert np.array_equal(model.infer_sync(asked)["MOST"], total - total.min(axis=0))


AND_ACROSS = """
platform: "ensemble" max_batch_size: 8
input [ { name: "A" data_type: TYPE_INT32 dims: 16 }, { name: "C" data_type: TYPE_INT32 dims: 16 } ]
output [ { name: "MOST" data_type: TYPE_INT32 dims: 16 } ]
ensemble_scheduling { step [
  { model_name: "first"
    input_map { key: "INPUT0" value: "A" } input_map { key: "INPUT1" value: "A" }
    output_map { key: "OUTPUT0" value: "sum" } },
  { model_name: "second" input_map { key: "INPUT0" value: "sum" } input_map { key: "INPUT1" value: "C" }
    output_map { key: "OUTPUT0" value: "more" } },
  { model_name: "across" input_map { key: "X" value: "more" } output_map { key: "Y" value: "MOST" } }
] }
"""


@pytest.mark.parametrize("rows", [(4, 1), (4, 2), (4, 0)])
def test_rows_of_inputs_that_a_later_step_takes_are_those_of_the_request(tmp_path: Path, rows: tuple[int, int]) -> None:
    """The client is told before anything is computed, also where the graph of that step would spread a single row."""
    across_rows(tmp_path / "across" / "1" / "model.onnx")
    (tmp_path / "across" / "config.pbtxt").write_text(ACROSS)
    with loaded(tmp_path, AND_ACROSS).model as model:
        given = {name: np.full((count, 16), 3, np.int32) for name, count in zip("AC", rows, strict=True)}
        with pytest.raises(InvalidInputError, match=rf"number of rows: {{'A': 4, 'C': {rows[1]}}}"):
            model.infer_sync(given)
        assert model.statistics()["computing"] == model.statistics()["batches"] == 0


def test_a_version_that_is_not_served_is_no_step(tmp_path: Path) -> None:
    """The line names the step and the versions that are."""
    text = ENSEMBLE.replace('"second" model_version: -1', '"second" model_version: 3')
    with pytest.raises(UsageError, match=r"step 'second': model_version 3 is not among those that are served: 1$"):
        loaded(tmp_path, text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: (path / "config.pbtxt").write_text('backend: "python"'), "config.pbtxt: backend 'python' is not"),
        (lambda path: (path / "1" / "model.onnx").unlink(), "1: has no model file"),
        (lambda path: (path / "1").rename(path / "draft"), ": has no version to serve"),
        (lambda path: (path / "1" / "model.onnx").write_text("none"), "1/model.onnx: "),
        (lambda path: (path / "config.pbtxt").write_text("nonsense"), "config.pbtxt: not a model configuration"),
    ],
)
def test_a_step_whose_model_cannot_be_loaded_is_named(
    tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    """With the path of what is wrong there."""
    loaded(tmp_path, ENSEMBLE).model.close()
    second = tmp_path / "second"
    change(second)
    place = re.escape(f"{tmp_path}/both/config.pbtxt: step 'second': {second}")
    with pytest.raises(TailcutError, match=f"^{place}/?{words}"):
        Library(tmp_path, Overrides(Limits(), measures=False)).load("both", 1)


def test_a_step_that_cannot_begin_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises: a model that is unloaded waits for all that has begun."""
    with loaded(tmp_path, ENSEMBLE).model as model:
        first = model.entry.steps[0].model.entry
        monkeypatch.setattr(first, "start", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.infer_sync(request())
        assert model.statistics()["computing"] == 0


def test_free_dimensions_are_those_of_the_models(tmp_path: Path) -> None:
    """What a model does not take is refused before anything is computed."""
    with loaded(tmp_path, ENSEMBLE.replace("dims: 16 }, {", "dims: -1 }, {")).model as model:
        assert model.spec.inputs[0].shape == (None, 16)
        with pytest.raises(InvalidInputError, match="'A'"):
            model.infer_sync(request() | {"A": np.zeros((3, 4), np.int32)})


def test_a_model_that_changes_changes_its_ensembles(tmp_path: Path) -> None:
    """They have copies of their own; one that goes is gone."""
    loaded(tmp_path, ENSEMBLE).model.close()
    library = Library(tmp_path, Overrides(Limits(), measures=False))
    assert library.changes() == {}
    shutil.copytree(tmp_path / "first" / "1", tmp_path / "first" / "2")
    assert library.changes() == {"first": True, "both": True}
    shutil.rmtree(tmp_path / "bytes")
    assert library.changes() == {"bytes": False}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"second" model', '"third" model', "step 'third': the repository has no such model"),
        ('"second" model', '"both" model', "step 'both': an ensemble cannot be a step of another one"),
        ('"second" model', '"bytes" model', r"expected INT8 \[-1, 16\], got INT32 \[-1, 16\]"),
        ('value: "sum" } input', 'value: "product" } input', "'product' is neither an input of the ensemble"),
        ('key: "INPUT1" value: "difference"', 'key: "INPUT9" value: "difference"', "lacks input 'INPUT1'"),
        ('key: "OUTPUT1" value: "difference"', 'key: "OUTPUT9" value: "difference"', "has no output 'OUTPUT9'"),
        ('value: "TWICE" }', 'value: "sum" }', "'sum' comes from two sources"),
        ('value: "TWICE" }', 'value: "other" }', "output 'TWICE' of the ensemble comes from no step"),
        ('value: "A" } input', 'value: "TWICE" } input', "first, second wait for each other"),
        ("dims: 16 } ]\nensemble", "dims: 4 } ]\nensemble", "output 'TWICE' of the ensemble: expected"),
    ],
)
def test_steps_that_do_not_fit(tmp_path: Path, old: str, new: str, words: str) -> None:
    """One line that names the step and the tensor."""
    assert old in ENSEMBLE
    with pytest.raises(UsageError, match=words):
        loaded(tmp_path, ENSEMBLE.replace(old, new))


def test_the_largest_batch_is_that_of_the_ensemble(tmp_path: Path) -> None:
    """Where it is the smaller one: no step computes more rows at a time; larger requests are answered in parts."""
    with loaded(tmp_path / "small", ENSEMBLE.replace("max_batch_size: 8", "max_batch_size: 2")).model as model:
        assert model.entry.max_batch_size == 2
        assert [step.model.entry.max_batch_size for step in model.entry.steps] == [2, 2]
        assert np.array_equal(model.infer_sync(request())["TWICE"], 2 * request()["A"])
    with loaded(tmp_path / "large", ENSEMBLE.replace("max_batch_size: 8", "max_batch_size: 64")).model as model:
        assert model.entry.max_batch_size == 8


MORE = """
version_policy { all {} } default_model_filename: "m.onnx"
instance_group { count: 2 } model_warmup { name: "w" batch_size: 1 } response_cache { enable: true }
parameters { key: "mine" value { string_value: "1" } } optimization { eager_batching: true }
"""


def test_fields_that_its_models_have_instead_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A line for each, with what is done instead."""
    caplog.set_level("INFO", "tailcut")
    text = ENSEMBLE.replace('"first" model_version: -1', '"first" model_namespace: "there" model_version: -1')
    text = text.replace("ensemble_scheduling {", "ensemble_scheduling { max_inflight_requests: 4")
    loaded(tmp_path, text + MORE).model.close()
    notes = [message for message in caplog.messages if message.startswith("both: config.pbtxt: ")]
    fields = {note.split(": ")[2].removesuffix(" is not used").removesuffix(" are not used") for note in notes}
    assert fields == {
        "instance_group",
        "version_policy",
        "default_model_filename",
        "model_warmup",
        "response_cache",
        "parameters mine",
        "optimization",
        "max_inflight_requests of ensemble_scheduling",
        "model_namespace of ensemble_scheduling",
    }


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "dims: 16 }, {",
            "dims: 16 reshape { shape: 16 } }, {",
            "'A' of the ensemble has a reshape, which is not served",
        ),
        ("dims: 16 }, {", "dims: 16 optional: true }, {", "input 'A' is optional, which is not supported"),
        (
            "ensemble_scheduling",
            "model_transaction_policy { decoupled: true } ensemble_scheduling",
            "a decoupled model",
        ),
    ],
)
def test_what_would_change_answers_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    """In one line that names the configuration."""
    with pytest.raises(TailcutError, match=f"both/config.pbtxt: {words}"):
        loaded(tmp_path, ENSEMBLE.replace(old, new))
