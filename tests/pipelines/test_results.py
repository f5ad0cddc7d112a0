"""What a function returns is taken in every form that is clear, and refused in one line in every other."""

import tracemalloc

import numpy as np
import pytest

from tailcut import stage
from tailcut.errors import EngineError, InvalidInputError, UnreachableError, UsageError
from tailcut.pipelines.calling import Caller, log_fault, refusal
from tailcut.pipelines.protocol import ReplyKind

ONE = {"inputs": {"x": "FP32[2]"}, "outputs": {"y": "FP32[2]"}}
TWO = {"inputs": {"x": "FP32[2]"}, "outputs": {"y": "FP32[2]", "label": "BYTES"}}
X = np.ones((3, 2), np.float32)


def run(spec, function, parts=((X,),)):
    return Caller(stage(**spec, name="s")(function)).run(parts)


@pytest.mark.parametrize("value", [X, (X,), [[1, 1]] * 3, {"y": X}, X[:, ::-1]])
def test_one_output_in_each_form(value):
    """An array, a list, a tuple of one, a dict."""
    ((y,),) = run(ONE, lambda x: value)
    assert np.array_equal(y, X)
    assert y.dtype == np.float32
    assert y.flags.c_contiguous


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize(
    ("output", "row", "want"),
    [
        ("BYTES", lambda number: f"{number}", b"%d"),
        ("FP32[1]", lambda number: np.full(1, number, np.float32), None),
        ("INT64", lambda number: number, None),
        ("INT64[-1]", lambda number: [number], None),
    ],
)
def test_one_output_as_a_tuple_of_its_rows(rows, output, row, want):
    """Also where there is one row; a tuple of one with all rows is the output itself."""
    spec = {"inputs": {"x": "FP32[2]"}, "outputs": {"y": output}}
    part = (np.ones((rows, 2), np.float32),)
    values = [row(number) for number in range(rows)]
    for result in (tuple(values), (values,)):
        ((y,),) = run(spec, lambda x, result=result: result, [part])
        assert y.reshape(-1).tolist() == [want % number if want else number for number in range(rows)]


@pytest.mark.parametrize("label", [["a", b"b", "c"], np.array(["a", "b", "c"]), np.array([b"a", b"b", b"c"])])
def test_strings_become_bytes(label):
    """Whatever kind of string they are."""
    ((_, got),) = run(TWO, lambda x: (X, label))
    assert got.tolist() == [b"a", b"b", b"c"]


@pytest.mark.parametrize("fill", [None, {"label": b"-\0"}])
def test_strings_of_a_list_keep_every_byte(fill):
    """NULs at their end too, and beside longer ones; in lists, arrays of objects, and as filling."""
    shape = "BYTES" if fill is None else "BYTES[-1]"
    spec = {"inputs": {"x": "FP32[2]"}, "outputs": {"label": shape}} | ({} if fill is None else {"fill": fill})
    items = [b"\x01\x00\x00", "b\0", b"\0"]
    want = [b"\x01\x00\x00", b"b\0", b"\0"]
    for label in (items, np.array(items, object)):
        if fill is None:
            ((got,),) = run(spec, lambda x, label=label: label)
            assert got.tolist() == want
        else:
            ((got,),) = run(spec, lambda x, label=label: [[item] for item in label[:2]] + [list(label[1:])])
            assert got.tolist() == [[want[0], b"-\0"], [want[1], b"-\0"], want[1:]]


def test_a_long_string_costs_its_own_bytes():
    """Not those of every row beside it."""
    x = np.ones((500, 2), np.float32)
    spec = {"inputs": {"x": "FP32[2]"}, "outputs": {"label": "BYTES"}}
    tracemalloc.start()
    try:
        ((got,),) = run(spec, lambda x: ["a" * 1_000_000, *["b"] * 499], [(x,)])
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert got[499] == b"b"


@pytest.mark.parametrize(
    ("output", "value", "got"),
    [
        ("INT64", [0.9, 1.0, 2.0], "float64"),
        ("INT64", ["7", "8", "9"], "<U1"),
        ("INT8", [1, 2, 300], "int64"),
        ("UINT8", [1, 2, -1], "int64"),
        ("FP32", [None, 1.0, 2.0], "object"),
        ("FP32", ["1", "2", "3"], "<U1"),
        ("BOOL", [0.5, 0.0, 1.0], "float64"),
    ],
)
def test_numbers_of_a_list_are_of_the_declared_kind(output, value, got):
    """None is cut, wrapped, or made of a text."""
    spec = {"inputs": {"x": "FP32[2]"}, "outputs": {"y": output}}
    with pytest.raises(EngineError, match=f"stage 's': output 'y': expected {output} .*, got {got}"):
        run(spec, lambda x: value)


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("INT64", [1, 2, 3]),
        ("UINT8", [0, 1, 255]),
        ("INT64", [True, False, True]),
        ("FP32", [1, 2, 3]),
        ("FP16", [1.5, 2, np.float32(3)]),
        ("BF16", [1.5, 2, float("inf")]),
        ("BOOL", [True, False, np.False_]),
    ],
)
def test_numbers_of_the_declared_kind_are_taken(output, value):
    """Whole numbers as floats too."""
    ((y,),) = run({"inputs": {"x": "FP32[2]"}, "outputs": {"y": output}}, lambda x: value)
    assert y.tolist() == value


def test_a_str_that_is_no_text_is_the_functions_fault():
    """As every other result that cannot be sent, and not that of its client."""
    with pytest.raises(EngineError, match="output 'label': a str has half of a surrogate pair"):
        run(TWO, lambda x: (X, ["a", "\ud800", "b"]))


@pytest.mark.parametrize(
    ("output", "fill"),
    [("INT64[-1]", "pad"), ("INT64[-1]", 0.5), ("UINT8[-1]", 256), ("BYTES[-1]", 0), ("FP32[-1]", [])],
)
def test_fill_is_of_the_outputs_dtype(output, fill):
    """Which is found out when the file is read."""
    with pytest.raises(UsageError, match=r"stage 's': fill of 'y' is .*, which is not of type"):
        stage(inputs={"x": "FP32"}, outputs={"y": output}, fill={"y": fill}, name="s")(lambda x: x)


@pytest.mark.parametrize(
    "nothing", [[], np.empty(0, np.float32), np.empty((0, 4), np.float32)], ids=["list", "flat", "shaped"]
)
@pytest.mark.parametrize("fill", [None, {"y": -1}], ids=["whole", "filled"])
def test_a_row_without_items_is_an_empty_list(nothing, fill):
    """As a detector has it that found no boxes: alone, and beside a row with one."""
    spec = {"inputs": {"x": "FP32"}, "outputs": {"y": "FP32[-1, 4]"}, "fill": fill}
    ((alone,),) = run(spec, lambda x: [nothing], ((np.ones(1, np.float32),),))
    assert alone.shape == (1, 0, 4)
    if fill:
        ((beside,),) = run(spec, lambda x: [nothing, [[1, 2, 3, 4]]], ((np.ones(2, np.float32),),))
        assert beside.tolist() == [[[-1] * 4], [[1, 2, 3, 4]]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "must return y, got None: is a return missing"),
        (X.astype(np.float64), r"output 'y': expected FP32 \(float32\), got float64"),
        (X[:2], r"output 'y': expected \[3, 2\] for 3 rows, got \[2, 2\]"),
        (np.ones((3, 3), np.float32), r"output 'y': expected FP32 \[-1, 2\], got \[3, 3\]"),
        (np.float32(1), r"for 3 rows, got \[\]"),
        ({"z": X}, "must return y, got z"),
        ([[1], [1, 2], [3]], "got a value that cannot be converted"),
        ((row for row in X), r"output 'y': expected FP32 \[-1, 2\], got generator: return an array or a list"),
        (np.ma.masked_less(X, 2), r"output 'y': expected FP32 \[-1, 2\], got a masked array: return .filled"),
        ({1.0, 2.0}, "got set: return an array or a list"),
        (map(list, X), "got map: return an array or a list"),
    ],
)
def test_what_is_wrong_is_named(value, message):
    """Stage, output, expected and got."""
    with pytest.raises(EngineError, match=f"stage 's'.*{message}"):
        run(ONE, lambda x: value)


def test_strings_are_in_a_list():
    """No generator is looked into."""
    with pytest.raises(
        EngineError, match=r"output 'label': expected BYTES \[-1\], got generator: return an array or a"
    ):
        run(TWO, lambda x: (X, (f"{row}" for row in x)))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InvalidInputError("send JPEG"), "stage 's': send JPEG"),
        (InvalidInputError(), "stage 's' refused the input"),
        (EngineError("no device"), "no device"),
        (EngineError(), "stage 's' failed: EngineError"),
    ],
)
def test_an_error_without_a_text_names_the_stage(error, message):
    """And ends in no colon."""
    assert refusal(stage(**ONE, name="s")(lambda x: x), error)[1] == message


@pytest.mark.parametrize(("value", "message"), [(X, "got ndarray"), ((X,), "got 1 values"), ((X, None), "got None")])
def test_two_outputs_are_two(value, message):
    """In order, or by name."""
    with pytest.raises(EngineError, match=message):
        run(TWO, lambda x: value)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_list_of_rows_is_no_list_of_outputs(rows):
    """With as many rows as outputs, each request would silently get values of another one."""
    spec = {"inputs": {"x": "FP32[2]"}, "outputs": {"y": "FP32", "z": "FP32"}}
    parts = [(np.ones((1, 2), np.float32),)] * rows
    with pytest.raises(
        EngineError, match=r"must return y, z as a tuple .*, got list: a list of rows\? return one list per"
    ):
        run(spec, lambda x: [(row[0], row[1]) for row in x], parts)


def test_requests_share_a_call_where_sizes_are_fixed():
    """And have their own rows back."""
    calls = []
    parts = run(ONE, lambda x: (calls.append(len(x)), x * 2)[1], [(X,), (X[:1] * 5,)])
    assert calls == [4]
    assert [part[0].tolist() for part in parts] == [(X * 2).tolist(), [[10, 10]]]


def test_requests_are_called_apart_where_a_size_is_free():
    """No answer has the length of a neighbour's."""
    spec = {"inputs": {"n": "INT64"}, "outputs": {"y": "INT64[-1]"}}
    parts = run(spec, lambda n: np.ones((len(n), n.max()), np.int64), [(np.array([2, 3]),), (np.array([5]),)])
    assert [part[0].shape for part in parts] == [(2, 3), (1, 5)]


def test_names_that_are_no_parameters_are_given_in_order():
    """Models have inputs called input.1."""
    spec = {"inputs": {"input.1": "FP32[2]", "input.2": "FP32[2]"}, "outputs": {"y": "FP32[2]"}}
    ((y,),) = run(spec, lambda a, b: a - b, [(X * 3, X)])
    assert np.array_equal(y, X * 2)


FILLED = {
    "inputs": {"n": "INT64"},
    "outputs": {"y": "INT64[-1]", "m": "FP32[2, -1]", "n2": "INT64"},
    "fill": {"y": -7, "m": 0.5},
}


def ragged(n):
    return {"y": [list(range(k)) for k in n], "m": [np.ones((2, k), np.float32) for k in n], "n2": n * 2}


def test_filled_rows_share_a_call_and_have_their_own_requests_length():
    """Each request is filled up to its own longest row, as it is alone."""
    calls = []
    requests = [(np.array([2, 3]),), (np.array([1]),), (np.array([0, 5, 1]),)]
    together = run(FILLED, lambda n: (calls.append(len(n)), ragged(n))[1], requests)
    assert calls == [6]
    for got, request in zip(together, requests, strict=True):
        (alone,) = run(FILLED, ragged, [request])
        assert [array.tolist() for array in got] == [array.tolist() for array in alone]
        assert [array.dtype for array in got] == [array.dtype for array in alone]
    assert together[0][0].tolist() == [[0, 1, -7], [0, 1, 2]]
    assert together[1][1].tolist() == [[[1], [1]]]
    assert together[2][1].shape == (3, 2, 5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((2, 3), np.int64), "expected a list of one array for each of 2 rows, got ndarray"),
        ([[1]], "for each of 2 rows, got 1 rows"),
        ([[1], [[2]]], r"output 'y': expected \[1, -1\] for 1 rows, got \[1, 1, 1\]"),
        ([[1], np.ones(2)], "expected INT64 .int64., got float64"),
    ],
)
def test_filled_rows_are_checked(value, message):
    """One by one."""
    spec = {"inputs": {"n": "INT64"}, "outputs": {"y": "INT64[-1]"}, "fill": {"y": 0}}
    with pytest.raises(EngineError, match=message):
        run(spec, lambda n: value, [(np.array([1]),), (np.array([1]),)])


def test_fill_is_for_every_output_of_a_free_size():
    """And for no other."""
    with pytest.raises(UsageError, match="fill must have a value for each output of a free size"):
        stage(**FILLED | {"fill": {"y": 0}}, name="s")(ragged)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
@pytest.mark.parametrize("form", [list, tuple, lambda rows: np.array([*rows, None], object)[:-1], lambda rows: rows[0]])
def test_buffers_in_place_of_bytes_say_what_to_return(kind, form):
    """numpy takes them for lists of numbers."""
    with pytest.raises(EngineError, match=f"expected str or bytes in each element, got {kind.__name__}: return bytes"):
        run(
            {"inputs": {"x": "FP32[2]"}, "outputs": {"y": "BYTES"}},
            lambda x: form([kind(b"a"), kind(b"b"), kind(b"c")]),
        )


@pytest.mark.parametrize("error", [UnreachableError("no server listens"), UsageError("is both"), EngineError("own")])
def test_another_error_of_ours_is_the_functions_failure(error, caplog):
    """As of a client that it uses: the log has the stage and a traceback, and what is a ValueError, too, is no 400."""

    def raises(x):
        raise error

    function = stage(**ONE, name="s")(raises)
    with pytest.raises(EngineError, match=f"^stage 's' failed: {type(error).__name__}: {error}$") as raised:
        Caller(function).run([[X]])
    assert refusal(function, raised.value) == (ReplyKind.FAILED, str(raised.value))
    log_fault(function, raised.value)
    assert "stage 's' raised" in caplog.text
    assert "in raises" in caplog.text
