"""Large JSON requests in steps: the same as at once, whatever stands where a piece is cut."""

import gc
import json
import time
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.effort import runs

from tailcut.errors import InvalidInputError
from tailcut.memory.shared import SharedRegions
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.v2 import WantedOutput, parse_request
from tailcut.wire.v2 import steps as v2_steps
from tailcut.wire.v2.steps import request_in_steps

OFF = SharedRegions()
STEP_S = 0.05  # of CPU time: ten times what a step takes, and less than any of these bodies takes at once


def spec(dtype: DType, *shape: int | None) -> ModelSpec:
    return ModelSpec("m", (TensorSpec("x", dtype, shape),), (TensorSpec("y", dtype, shape),))


FREE = spec(DType.FP32, None, None)
WORDS = spec(DType.BYTES, None)


def finish(steps: Generator[None, None, Any]) -> tuple[Any, int]:
    """The result of all steps, each of which is short, and how many there were.

    What earlier tests left in this process is not collected meanwhile: that alone may take longer than a step may.
    """
    count = 0
    gc.disable()
    try:
        while True:
            began = time.thread_time()
            try:
                next(steps)
            except StopIteration as end:
                assert time.thread_time() - began < STEP_S
                return end.value, count
            assert time.thread_time() - began < STEP_S
            count += 1
    finally:
        gc.enable()


def body(data: object, shape: list[int], datatype: str = "FP32", indent: int | None = None, **more: object) -> bytes:
    entry = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
    return json.dumps({"id": "a", "inputs": [entry], **more}, indent=indent).encode()


SCALAR = ModelSpec(
    "m", (TensorSpec("rate", DType.INT64, ()), TensorSpec("x", DType.FP32, (None,))), (TensorSpec("y", DType.FP32, ()),)
)


def padded(entries: list[dict[str, Any]]) -> bytes:
    return json.dumps({"id": "a" * v2_steps.AT_ONCE_BYTES, "inputs": entries}).encode()


@pytest.mark.parametrize("value", [16000, 0, True, -1, 1.5, "1", None, [7], {}])
@pytest.mark.parametrize("name", ["rate", "x"])
def test_data_that_is_no_list(name: str, value: object) -> None:
    """A number is a scalar's data and nothing else, however long the request: never a size of binary data."""
    entries = [
        {"name": "rate", "datatype": "INT64", "shape": [], "data": 5},
        {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]},
    ]
    next(entry for entry in entries if entry["name"] == name)["data"] = value
    text = padded(entries)
    for trailing in (b"", bytes(16), bytes(16_000)):
        results: list[object] = []
        for read in (parse_request, lambda *given: finish(request_in_steps(*given))[0]):
            try:
                request = read(SCALAR, text + trailing, len(text), OFF)
                results.append({key: array.tolist() for key, array in request.inputs.items()})
            except InvalidInputError as error:  # several things are wrong where bytes follow: either may be said
                results.append("refused" if trailing else str(error))
        assert results[0] == results[1]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("nested", [True, False])
def test_numbers(nested: bool, indent: int | None) -> None:
    """Half a million numbers, flat or nested, dense or one a line, are the array that they are when read at once."""
    array = np.random.default_rng(0).standard_normal((50, 2000)).astype(np.float32)
    raw = body((array if nested else array.reshape(-1)).tolist(), [50, 2000], indent=indent, outputs=[{"name": "y"}])
    request, steps = finish(request_in_steps(FREE, raw, None, OFF))
    assert steps > len(raw) // v2_steps.STEP_BYTES
    assert request.inputs["x"].tobytes() == array.tobytes()
    assert (request.id, request.outputs) == ("a", (WantedOutput("y", False),))


@pytest.mark.parametrize(
    ("dtype", "values"),
    [(DType.INT64, [-(2**63), 2**63 - 1, 0]), (DType.UINT64, [0, 2**64 - 1]), (DType.BOOL, [True, False])],
)
def test_other_numbers(dtype: DType, values: list[int]) -> None:
    """The largest and smallest of each kind are exact."""
    request, _ = finish(
        request_in_steps(spec(dtype, None), body(values * 20_000, [len(values) * 20_000], dtype.value), None, OFF)
    )
    assert request.inputs["x"].dtype == dtype.numpy
    assert request.inputs["x"].tolist() == values * 20_000


def test_strings() -> None:
    """Strings of brackets, quotes, backslashes and any length, where pieces are cut among them."""
    words = ['a"b', "\\", "[{]}:,", "é\\", "", "x" * 300, '","', "\\\\"] * 5000 + ["y" * 200_000, "\\" * 100_000, "z"]
    for data, shape in ((words, [len(words)]), ([words, words], [2, len(words)])):
        given_spec = spec(DType.BYTES, *[None] * len(shape))
        request, _ = finish(request_in_steps(given_spec, body(data, shape, "BYTES"), None, OFF))
        result = [item.decode() for item in request.inputs["x"].reshape(-1)]
        assert result == words * len(shape)


def test_binary_strings_and_data_beside_them() -> None:
    """A binary BYTES tensor behind a small head is read in steps too, beside one whose data stand in the head."""
    both = ModelSpec("m", (TensorSpec("x", DType.BYTES, (None,)), TensorSpec("z", DType.FP32, (2,))), ())
    data = b"".join(len(word).to_bytes(4, "little") + word for word in [b"ab", b"", b"\xff"] * 3000)
    inputs = [
        {"name": "x", "datatype": "BYTES", "shape": [9000], "parameters": {"binary_data_size": len(data)}},
        {"name": "z", "datatype": "FP32", "shape": [2], "data": [1, 2]},
    ]
    lead = json.dumps({"inputs": inputs}).encode()
    request, steps = finish(request_in_steps(both, lead + data, len(lead), OFF))
    assert request.inputs["x"].tolist() == [b"ab", b"", b"\xff"] * 3000
    assert request.inputs["z"].tolist() == [1, 2]
    assert steps > 3


WRONG = {
    "ragged": body([[0] * 300] * 299 + [[0] * 299], [300, 300]),
    "an element too many": body([0] * 90_001, [300, 300]),
    "an element too few": body([0] * 89_999, [300, 300]),
    "empty lists": body([[]] * 90_000, [90_000, 1]),
    "numbers where lists were": body([[[0]] * 45_000, [0] * 45_000], [90_000, 1]),
    "a bracket behind its number": body([[0] * 300] * 300, [300, 300]).replace(b"0], [0, ", b"0], 0[, "),
    "a comma too many": body([0] * 90_000, [300, 300]).replace(b"0]}", b"0,]}"),
    "a comma too few": body([0] * 90_000, [300, 300]).replace(b"0, 0", b"0  0"),
    "text": body([*[0] * 89_999, "0"], [300, 300]),
    "objects": body([*[0] * 89_999, {}], [300, 300]),
    "null": body([*[0] * 89_999, None], [300, 300]),
    "NaN": body([*[0] * 89_999, float("nan")], [300, 300]),
    "1e400": body([0] * 90_000, [300, 300]).replace(b"0]}", b"1e400]}"),
    "deep": body([0] * 90_000, [300, 300]).replace(b"[0", b"[" * 90_000 + b"0"),
    "deep outside of data": b'{"inputs":' + b"[" * 200_000,
    "no end": body([0] * 90_000, [300, 300])[:-3],
    "no end of a string": body(["a" * 90_000], [1], "BYTES")[:-5],
    "a number of 70,000 digits": body([0] * 90_000, [300, 300]).replace(b"0, 0, 0]", b"0, 0, " + b"1" * 70_000 + b"]"),
    "a large id": json.dumps({"id": "a" * 100_000, "inputs": []}).encode(),
    "many inputs": json.dumps({"inputs": [{"name": "x"}] * 10_000}).encode(),
    "many lists": b'{"inputs":[' + b'{"data":[1]},' * 20_000 + b"{}]}",
    "no UTF-8": body(["a" * 90_000], [1], "BYTES").replace(b"aaa", b"\xff", 1),
    "escaped quotes": body(['"' * 90_000], [2], "BYTES"),
    "quotes": body(["a"], [1], "BYTES").replace(b"a", b'"' * 90_000),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_bodies(name: str) -> None:
    """What is refused at once is refused in steps, in one line, and no step is long."""
    raw = WRONG[name]
    given_spec = WORDS if b"BYTES" in raw[:100] else FREE
    steps = request_in_steps(given_spec, raw, None, OFF)
    with pytest.raises(InvalidInputError) as caught:
        finish(steps)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    if "deep" not in name and "1e400" not in name:
        with pytest.raises(InvalidInputError):
            parse_request(given_spec, raw, None)


TEXTS = st.sampled_from([*'[]{},:" \\1e-.', '"data"', '"data":[', "[1,2]", '"a"', "true", "null", "\\u0041", "é"])


@settings(deadline=None, max_examples=runs(300))
@given(st.lists(TEXTS, max_size=60), st.integers(0, 2))
def test_any_text_means_the_same(pieces: list[str], kind: int) -> None:
    """With pieces of a few bytes: both ways read the same values, and what is refused at once is refused in steps."""
    given_spec, datatype = [(FREE, "FP32"), (WORDS, "BYTES"), (spec(DType.INT64, None), "INT64")][kind]
    shape = "[1,2]" if kind == 0 else "[2]"
    text = "".join(pieces)
    raw = f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":[{text}]}}]}}'.encode()
    with pytest.MonkeyPatch.context() as patch:
        for name, size in {"STEP_BYTES": 40, "_STEP_OF_STRINGS": 20, "_TOKENS_BYTES": 10, "_KEPT_BYTES": 0}.items():
            patch.setattr(v2_steps, name, size)
        try:
            inputs = finish(request_in_steps(given_spec, raw, None, OFF))[0].inputs["x"].tolist()
        except InvalidInputError:
            inputs = None
    try:
        expected = parse_request(given_spec, raw, None).inputs["x"].tolist()
    except InvalidInputError:
        assert inputs is None
        return
    assert inputs in (expected, None)  # in steps of a few bytes more is too long, but nothing means anything else


COLUMNS = ModelSpec(
    "m",
    tuple(TensorSpec(f"c{number}", DType.FP32, (None, 1)) for number in range(40)),
    (TensorSpec("y", DType.FP32, (None, 1)),),
)


@pytest.mark.parametrize("rows", [100, 1000])
def test_many_columns_of_a_table(rows: int) -> None:
    """Lists that are short by themselves, and together longer than what may stand around the data."""
    values = np.random.default_rng(0).random((40, rows)).astype(np.float32)
    inputs = [
        {"name": f"c{number}", "datatype": "FP32", "shape": [rows, 1], "data": values[number].tolist()}
        for number in range(40)
    ]
    request, _ = finish(request_in_steps(COLUMNS, json.dumps({"inputs": inputs}).encode(), None, OFF))
    assert all(np.array_equal(request.inputs[f"c{number}"][:, 0], values[number]) for number in range(40))


LONG = [0.5] * 4000
GOOD = {"name": "x", "datatype": "FP32", "shape": [1, 4000], "data": LONG}


@pytest.mark.parametrize("parameters", [{"data": [{"a": 1}]}, {"data": LONG}, {"data": ["b"] * 3000}])
def test_lists_of_parameters_are_not_the_tensors(parameters: dict[str, object]) -> None:
    """Whatever they are called."""
    text = json.dumps({"parameters": parameters, "inputs": [GOOD]}).encode()
    request, _ = finish(request_in_steps(FREE, text, None, OFF))
    assert request.inputs["x"].tolist() == [LONG]


@pytest.mark.parametrize("broken", ["[x,x]", "[1,,2]", f"[{'1 ' * 6000}]"])
def test_lists_that_nobody_reads_are_json_too(broken: str) -> None:
    """As in a small body; one that stands twice is read, too."""
    good = json.dumps(GOOD)
    for text in (
        f'{{"parameters":{{"data":{broken}}},"inputs":[{good}]}}',
        good.replace('"data"', f'"data":{broken},"data"'),
    ):
        whole = text if text.startswith('{"p') else f'{{"inputs":[{text}]}}'
        with pytest.raises(InvalidInputError, match="not valid JSON"):
            finish(request_in_steps(FREE, whole.encode(), None, OFF))
