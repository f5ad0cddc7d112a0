"""Numbers that compiled code reads from JSON: bit for bit what orjson and numpy make of them, or left to these."""

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.effort import runs

from tailcut.kernels.numbers import read

DTYPES = [np.float32, np.float64]
DIGITS = st.one_of(
    st.integers(0, 10**19 - 1), st.integers(0, 10**40), st.integers(0, 10**21).map(lambda n: n << 64)
).map(str)
FRACTIONS = st.builds(lambda digits, length: f".{digits % 10**length:0{length}d}", st.integers(0), st.integers(1, 12))
EXPONENTS = st.builds("{}{}{}".format, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 999))
WRITTEN = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    DIGITS,
    st.one_of(st.just(""), FRACTIONS),
    st.one_of(st.just(""), EXPONENTS),
)
NUMBERS = st.one_of(st.floats(allow_nan=False, allow_infinity=False).map(repr), WRITTEN)


def reading(text: bytes, shape: tuple[int, ...], dtype: type) -> np.ndarray | None:
    """What it makes of a list, which must have as many numbers as the shape; None where it leaves it to others."""
    out = np.empty(int(np.prod(shape)), dtype)
    count = read(np.frombuffer(text, np.uint8), 0, len(text), np.array(shape, np.int64), out)
    return out.reshape(shape) if count == out.size else None


@settings(max_examples=runs(1500), deadline=None)
@given(NUMBERS)
@example("9007199254740993")  # halfway between two doubles
@example("9007199254740995")
@example("1.00000000000000011102230246251565404")
@example("-0")
@example("-0.0")
@example("0e400")
@example("5e-324")
@example("1.7976931348623159e308")
@example("3.4028235677973366e38")  # rounds to an infinite float32
@example("18446744073709551615")
@example("18446744073709551616")  # 2^64, and more multiples of it
@example("18446744073709551616.5")
@example("-340282346638528859811704183484516925440.000000")
@example("340282346638528859811704183484516925440")
@example("1" + "0" * 64)
@example("1.8446744073709551616")
@example("0.00018446744073709551616")
@example("18446744073709551.616")
def test_a_number_is_what_orjson_and_numpy_make_of_it(text: str) -> None:
    """Every bit is the same, the sign of zero included; anything doubtful is refused."""
    want = np.array(orjson.loads(f"[{text}]"), np.float64) if _is_json(text) else None
    for dtype in DTYPES:
        got = reading(f"[{text}]".encode(), (1,), dtype)
        if got is not None:
            assert want is not None
            assert got.tobytes() == want.astype(dtype).tobytes()


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


@pytest.mark.parametrize("digits", [6, 9, 17])
def test_usual_numbers_are_read(digits: int) -> None:
    """What clients send is not left to others: numbers with as many digits as their floats need."""
    values = np.random.default_rng(digits).standard_normal(500)
    text = ("[" + ", ".join(f"{value:.{digits}g}" for value in values) + "]").encode()
    for dtype in DTYPES:
        got = reading(text, (500,), dtype)
        assert got is not None
        assert got.tobytes() == np.array(orjson.loads(text)).astype(dtype).tobytes()


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("[1,2,3,4]", (2, 2)),
        ("[[1,2],[3,4]]", (2, 2)),
        (" [ [1 ,2 ] ,\n[3,\t4]\r]"[1:], (2, 2)),
        ("[[[1],[2]],[[3],[4]]]", (2, 2, 1)),
        ("[1E0,2e+0,0.3e1,40E-1]", (4,)),
    ],
)
def test_lists_that_fit_the_shape(text: str, shape: tuple[int, ...]) -> None:
    """Flat in any shape, or nested as it says; white space stands anywhere between."""
    got = reading(text.encode(), shape, np.float32)
    assert got is not None
    np.testing.assert_array_equal(got, np.arange(1, 5, dtype=np.float32).reshape(shape))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "[1,2,3]",
        "[1,2,3,4,5]",
        "[1,2,3,]",
        "[,1,2,3]",
        "[1,2,,3,4]",
        "[1 2,3,4]",
        "[01,2,3,4]",
        "[+1,2,3,4]",
        "[1.,2,3,4]",
        "[.1,2,3,4]",
        "[1e,2,3,4]",
        "[-,2,3,4]",
        "[1,2,3,NaN]",
        "[1,2,3,Infinity]",
        "[1,2,3,1e400]",
        "[1,2,3,1e99999999999999999999]",
        "[1,2,3,null]",
        "[1,2,3,true]",
        '[1,2,3,"4"]',
        "[[1,2],[3,4]",
        "[[1,2],[3],[4]]",
        "[[1,2,3],[4]]",
        "[[1,2],3,4]",
        "[1,2,[3,4]]",
        "[[[1,2],[3,4]]]",
        "[[1,2,3,4]]",
        "[1,2,3,4]]",
        "[1,2,3,4",
        "1,2,3,4]",
        "[1,2],[3,4]",
        "[[1,2][3,4]]",
        "[1,2,3,12345678901234567890]",
        "[1,2,3,--4]",
        "[1,2,3,4e-]",
    ],
)
def test_everything_else_is_left_to_others(text: str) -> None:
    """What is no JSON, does not fit [2, 2], or is not decided."""
    assert reading(text.encode(), (2, 2), np.float32) is None


def test_reading_stays_within_the_list() -> None:
    """Bytes behind the list are nobody's: a number at its end does not run on."""
    text = b"[1,2,3,4567]"
    out = np.empty(4, np.float32)
    for end in range(len(text)):
        assert read(np.frombuffer(text, np.uint8), 0, end, np.array([4]), out) == -1
