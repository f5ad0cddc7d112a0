"""JSON requests whose lists are read apart from what stands around them."""

import json
import time
from collections.abc import Iterator

import numpy as np
import orjson
import pytest

from tailcut.errors import InvalidInputError
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.wire.v2 import lists, parse_request
from tailcut.wire.v2 import request as v2_request

Y = TensorSpec("y", DType.FP32, (None, 2))
ONE = ModelSpec("m", (TensorSpec("x", DType.FP32, (None, 3)),), (Y,))
TWO = ModelSpec("m", (TensorSpec("a", DType.FP64, (None, 2)), TensorSpec("b", DType.INT32, (None, 1))), (Y,))
ENTRY = '{"name":"x","datatype":"FP32","shape":[1,3],"data":%s}'
A = '{"data":%s,"name":"a","datatype":"FP64","shape":[2,2]}'
B = '{"name":"b","datatype":"INT32","shape":[2,1],"data":%s}'


@pytest.fixture(params=["compiled", "orjson"], autouse=True)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both ways of reading a list."""
    v2_request._list_plans.clear()
    monkeypatch.setattr(lists, "_reader", None)
    if request.param == "compiled":
        lists.load()
    return


@pytest.mark.parametrize("data", ["[1,2.5,-3e-2]", "[ 1 , 2.5\n,-3E-2 ]", "[[1,2.5,-0.03]]"])
@pytest.mark.parametrize("around", ['{"inputs":[%s]}', '{"id":"q","inputs":[%s],"parameters":{"priority":2}}'])
def test_the_second_request_is_read_as_the_first(around: str, data: str) -> None:
    """What stands around the list is kept; the numbers are this request's own."""
    for factor in (1, 2):
        values = (np.array([1, 2.5, -0.03]) * factor).astype(np.float32)
        text = around % (ENTRY % data)
        if factor == 2:
            text = around % (ENTRY % orjson.dumps(values.tolist()).decode())
        got = parse_request(ONE, text.encode(), None)
        np.testing.assert_array_equal(got.inputs["x"], values.reshape(1, 3))
        assert got.id == ("q" if "id" in text else None)
        assert got.parameters == ({"priority": 2} if "id" in text else {})


def test_several_inputs_come_in_the_models_order() -> None:
    """Each list is its own input's, in whatever order they stand."""
    for scale in (1, 10):
        b, a = [[5 * scale], [6 * scale]], [1.5, 2, 3, 4 * scale]
        both = ",".join([B % orjson.dumps(b).decode(), A % orjson.dumps(a).decode()])
        text = f'{{"inputs":[{both}]}}'
        got = parse_request(TWO, text.encode(), None)
        assert list(got.inputs) == ["a", "b"]
        assert got.inputs["a"].tolist() == [[1.5, 2.0], [3.0, 4.0 * scale]]
        assert got.inputs["b"].tolist() == b
        assert [array.dtype for array in got.inputs.values()] == [np.float64, np.int32]


@pytest.mark.parametrize(
    "text",
    [
        '{"inputs":[%s],"parameters":{"data":[1,2]}}' % (ENTRY % "[1,2,3]"),
        '{"parameters":{"data":[1,2]},"inputs":[%s]}' % (ENTRY % "[1,2,3]"),
        '{"inputs":[],"inputs":[%s]}' % (ENTRY % "[1,2,3]"),
        '{"inputs":[%s],' % (ENTRY % "[4,5,6]") + '"inputs":[%s]}' % (ENTRY % "[1,2,3]"),
        '{"inputs":[%s]}' % (ENTRY % '[4,5,6],"data":[1,2,3]'),
        '{"id":"\\"data\\":[","inputs":[%s]}' % (ENTRY % "[1,2,3]"),
        '{"id":"}","inputs":[%s]}' % (ENTRY % "[1,2,3]"),
    ],
)
def test_a_list_elsewhere_is_not_an_inputs(text: str) -> None:
    """Lists that only look like data of an input are read with the rest, and no mark ever shows."""
    for _ in range(2):
        got = parse_request(ONE, text.encode(), None)
        assert got.inputs["x"].tolist() == [[1.0, 2.0, 3.0]]
        assert lists.MARK not in repr((got.id, got.parameters))
        assert got.parameters in ({}, {"data": [1, 2]})


def test_a_mark_cannot_be_sent() -> None:
    """It is another in each process, and a string is no list anyway."""
    guess = "0" * len(lists.MARK)
    text = '{"inputs":[%s],"id":' % (ENTRY % "[1,2,3]") + f'"{guess}0"}}'
    assert parse_request(ONE, text.encode(), None).id == f"{guess}0"


def test_a_list_without_quotes_is_taken_out() -> None:
    """The usual request: the place of its list is found, and what is left is short."""
    text = ('{"inputs":[%s]}' % (ENTRY % "[1,2,3]")).encode()
    rest, spans = lists.take_lists(text) or (b"", [])
    assert [text[start:end] for start, end in spans] == [b"[1,2,3]"]
    assert rest == text.replace(b"[1,2,3]", b'"%b0"' % lists.MARK.encode())


@pytest.mark.parametrize(
    "around",
    [
        '{"id":"data","inputs":[%s]}',
        '{"id":"a \\"data","inputs":[%s]}',
        '{"id":"\\"data\\":[1]","inputs":[%s]}',
        '{"id":"data:[","inputs":[%s]}',
        '{"parameters":{"data":1},"inputs":[%s]}',
        '{"parameters":{"a":"data"},"inputs":[%s]}',
        '{"parameters":{"\\"data": "\\"data\\" : [" },"inputs":[%s]}',
        '{"outputs":[{"name":"data"}],"inputs":[%s]}',
        '{"outputs":[{"name":"data","parameters":{"data":"data"}}],"inputs":[%s],"id":"data"}',
    ],
)
@pytest.mark.parametrize("entry", ['{"name":"data","datatype":"FP32","shape":[1,3],"data" :\n %s}', ENTRY])
def test_only_the_key_of_a_list_is_taken_for_one(entry: str, around: str) -> None:
    """Whatever else is called "data", before its list or behind it: the rest is known by its bytes from then on."""
    name = "data" if '"name":"data"' in entry else "x"
    outputs = (TensorSpec("data", DType.FP32, (None, 2)),) if "outputs" in around else (Y,)
    spec = ModelSpec("m", (TensorSpec(name, DType.FP32, (None, 3)),), outputs)
    for number in range(3):
        values = f"[{number},2.5,-3]"
        text = (around % (entry % values)).encode()
        rest, spans = lists.take_lists(text) or (b"", [])
        assert [text[start:end] for start, end in spans] == [values.encode()]
        assert rest == text.replace(values.encode(), b'"%b0"' % lists.MARK.encode())
        assert parse_request(spec, text, None).inputs[name].tolist() == [[number, 2.5, -3.0]]
    assert len(v2_request._list_plans) == 1


def test_inputs_called_data_beside_others() -> None:
    """Each list is that of its own input, whichever of them has the name of the key."""
    spec = ModelSpec("m", tuple(TensorSpec(name, DType.FP32, (None, 2)) for name in ("data", "shape")), (Y,))
    for entries in (
        ['"name":"data","data":[1,2],"shape":[1,2]', '"name":"shape","shape":[1,2],"data":[3,4]'],
        ['"data":[3,4],"shape":[1,2],"name":"shape"', '"shape":[1,2],"name":"data","data":[1,2]'],
    ):
        text = ",".join(f'{{{entry},"datatype":"FP32"}}' for entry in entries)
        got = parse_request(spec, f'{{"inputs":[{text}]}}'.encode(), None)
        assert {name: array.tolist() for name, array in got.inputs.items()} == {"data": [[1, 2]], "shape": [[3, 4]]}
    assert len(v2_request._list_plans) == 2


def test_many_keys_without_a_list_take_no_time() -> None:
    """Each is looked at once."""
    text = b'{"parameters":{' + b'"data"' * 50_000 + b" " * 50_000 + b'"data"'
    began_s = time.thread_time()
    assert lists.take_lists(text) is None
    assert time.thread_time() - began_s < 2  # it takes 0.1 s


def test_numbers_are_rounded_as_numpy_does() -> None:
    """Subnormal, huge and whole numbers, and those halfway between two float32."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 600, np.uint32).view(np.float32)
    halfway = [1 + 2**-24, 1 + 3 * 2**-24, 2**24 + 1, 1e-45, 7e-46, 3.4028235e38, 0, 123456789012345678]
    wanted = [*values[np.isfinite(values)].tolist(), *halfway]
    for count in (3, 300):
        spec = ModelSpec("m", (TensorSpec("x", DType.FP32, (None, count)),), (Y,))
        for start in range(0, len(wanted) - count, count):
            row = wanted[start : start + count]
            entry = {"name": "x", "datatype": "FP32", "shape": [1, count], "data": row}
            got = parse_request(spec, orjson.dumps({"inputs": [entry]}), None).inputs["x"]
            np.testing.assert_array_equal(got, np.array([row], np.float64).astype(np.float32))


@pytest.mark.parametrize(
    "element", ["true", "false", "null", '"1"', "1e39", "-3.4028236e38", "[1]", "{}", f"1{'0' * 50}"]
)
def test_what_is_no_float32_is_refused(element: str) -> None:
    """With the same error, whether or not a request like it came before."""
    text = f'{{"inputs":[{ENTRY}]}}' % "[1,%s,3]"
    errors = []
    for _ in range(2):
        with pytest.raises(InvalidInputError) as refusal:
            parse_request(ONE, (text % element).encode(), None)
        errors.append(str(refusal.value))
        parse_request(ONE, (text % "2").encode(), None)
    assert errors[0] == errors[1]


TEXT = ModelSpec("m", (TensorSpec("t", DType.BYTES, (None,)), TensorSpec("n", DType.INT32, (None,))), (Y,))
TEXTS = (
    '{"inputs":[{"name":"t","datatype":"BYTES","shape":[2],"data":%s},'
    '{"name":"n","datatype":"INT32","shape":[2],"data":[1,2]}]}'
)
SIGNS = ['"', "\\", '\\"', "]", '"]', '["a"]', '","', "}", '"data":["x"]', "\\u0041"]
AWKWARD = [*SIGNS, "\u00e9\U0001f600", "\n\t\x7f", "", "a" * 5000]


@pytest.mark.parametrize("gap", ["", " ", "\n\t\r "])
def test_strings_are_read_like_numbers(gap: str) -> None:
    """Strings with whatever JSON has as signs are read as they were written, and what stands around them is kept."""
    for string in AWKWARD:
        for escape in (False, True):
            quoted = [json.dumps(text, ensure_ascii=escape) for text in (string, "b")]
            data = f"[{gap}{quoted[0]}{gap},{gap}{quoted[1]}{gap}]"
            got = parse_request(TEXT, (TEXTS % data).encode(), None)
            assert got.inputs["t"].tolist() == [string.encode(), b"b"]
            assert got.inputs["n"].tolist() == [1, 2]
    assert len(v2_request._list_plans) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (r'["\q","b"]', "not valid JSON"),
        ('["a\n","b"]', "not valid JSON"),
        (r'["\ud800","b"]', "not valid JSON"),
        ('["a","b"', "not valid JSON"),
        ('["a","b",]', "not valid JSON"),
        ('["a"]', "expected 2 elements"),
        ('["a",2]', "got an integer"),
        ('["a",["b"]]', "got a list"),
        ("[1,2]", "got an integer"),
        ("[]", "expected 2 elements"),
    ],
)
def test_what_is_no_list_of_strings_is_refused(data: str, message: str) -> None:
    """With the message for the whole text, the first time and when what stands around is known."""
    for _ in range(2):
        with pytest.raises(InvalidInputError, match=message):
            parse_request(TEXT, (TEXTS % data).encode(), None)
        parse_request(TEXT, (TEXTS % '["a","b"]').encode(), None)


def test_strings_take_the_time_of_their_bytes() -> None:
    """No text makes the search for the end of a list go back."""
    for data in ('["' + "\\\\" * 100_000, "[" + '"a",' * 100_000, '["' + "a" * 400_000):
        began = time.perf_counter()
        with pytest.raises(InvalidInputError):
            parse_request(TEXT, (TEXTS % data).encode(), None)
        assert time.perf_counter() - began < 1
