"""The analysis tells loops on vectors from scalar ones, with the reason; the assertion holds a claim against it."""

import platform
import re

import numba
import numpy as np
import pytest

from tailcut import assert_vectorized
from tailcut.errors import UsageError
from tailcut.kernels.vectorization import _compile_with_lines, analyse

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in {"x86_64", "amd64"}, reason="machine code is read on x86-64 only"
)
VECTOR, PAIR = "float32[::1]", "float32[::1],float32[::1]"


@numba.njit(fastmath={"contract"})
def axpy(a, x, y):
    for i in range(len(x)):
        y[i] += a * x[i]


@numba.njit
def recurrence(x):
    for i in range(1, len(x)):
        x[i] = x[i] * np.float32(0.5) + x[i - 1]


@numba.njit
def total(x):
    result = np.float32(0)
    for value in x:
        result += value
    return result


@numba.njit(fastmath={"reassoc"})
def total_any_order(x):
    result = np.float32(0)
    for i in range(len(x)):
        result += x[i]
    return result


@numba.njit
def inverse(x, out):
    for i in range(len(x)):
        out[i] = 1 / x[i]


@numba.njit
def tenth(x, out):
    for i in range(len(x)):
        out[i] = x[i] * 0.1


@numba.njit
def pick(x, places, out):
    for i in range(len(places)):
        out[i] = x[places[i]]


@numba.njit
def exponential(x, out):
    for i in range(len(x)):
        out[i] = np.exp(x[i])


@numba.njit
def position_of_largest(x):
    place, best = 0, x[0]
    for i in range(1, len(x)):
        if x[i] > best:
            place, best = i, x[i]
    return place


@numba.njit
def first_over(x):
    for i in range(len(x)):
        if x[i] > 3:
            return i
    return -1


@numba.njit
def running_total(x, out):
    result = np.float32(0)
    i = 0
    while i < len(x):
        result += x[i]
        out[i] = result
        i += 1


@numba.njit
def add(x, y):
    for i in range(len(x)):
        y[i] = x[i] + y[i]


@numba.njit
def library_calls(x, out):
    out += x * x
    return np.sum(x)


@numba.njit
def zero(x):
    for i in range(len(x)):
        x[i] = 0


@numba.njit
def no_loop(x):
    return x + 1


def the_loop(function, signature: str):
    (analysis,) = analyse(function, signature)
    (facts,) = analysis.loops
    return facts


def test_a_vectorised_loop():
    """Lanes, width, fused multiply-adds and the source's lines of a plain loop are found, and nothing is advised."""
    facts = the_loop(axpy, f"float32,{PAIR}")
    first = axpy.py_func.__code__.co_firstlineno
    counts = facts.loop.tally
    assert (facts.loop.lines.first, facts.loop.lines.last) == (first + 2, first + 3)
    assert facts.source == "for i in range(len(x)):\n    y[i] += a * x[i]"
    assert counts.vectorized
    assert counts.lanes * 32 == counts.width_bits
    assert counts.packed > 0
    assert counts.scalar == 0
    assert facts.reasons == facts.advice == ()


@pytest.mark.parametrize(
    ("function", "signature", "reason", "advice"),
    [
        (recurrence, VECTOR, "unsafe dependent memory operations", "earlier step wrote"),
        (total, VECTOR, "reorder floating-point", "fastmath={'reassoc'}"),
        (inverse, PAIR, "Early exit", "error_model='numpy'"),
        (pick, f"{VECTOR},int64[::1],{VECTOR}", "cannot identify array bounds", "aliasing"),
        (exponential, PAIR, "split up again", "SVML"),
        (position_of_largest, VECTOR, "identified as reduction", "carried from iteration to iteration"),
        (first_over, VECTOR, "early exit", "avoid break, return and raise"),
        (running_total, PAIR, "", "passes to the next"),
        (recurrence, "float32[:]", "", "layout A"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_scalar_loop(function, signature: str, reason: str, advice: str):
    """A loop that stays scalar is seen as such, with the compiler's own reason and what to do about it."""
    if function is exponential and numba.config.USING_SVML:
        pytest.skip("SVML is installed: exp has a vector form here")
    facts = the_loop(function, signature)
    assert not facts.loop.vectorized
    assert facts.loop.tally.lanes == 1
    assert reason in " ".join(facts.reasons)
    assert advice in " ".join(facts.advice)


@pytest.mark.parametrize(
    ("function", "signature", "advice"),
    [(tenth, PAIR, "float32 is converted to float64"), (add, "int32[::1],int64[::1]", "64-bit integers")],
)
def test_a_loop_on_fewer_lanes_than_it_could_have(function, signature: str, advice: str):
    """A loop on vectors of wide elements is vectorised, with advice on how to narrow them."""
    facts = the_loop(function, signature)
    assert facts.loop.vectorized
    assert facts.loop.tally.element_bits == 64
    assert advice in " ".join(facts.advice)


@pytest.mark.slow
def test_library_code_counts_for_the_line_that_calls_it():
    """An array expression and a numpy function inlined by numba are loops of their own lines."""
    (analysis,) = analyse(library_calls, PAIR)
    assert [(facts.source, facts.loop.vectorized) for facts in analysis.loops] == [
        ("out += x * x", True),
        ("return np.sum(x)", False),
    ]


def test_a_loop_that_the_compiler_replaced():
    """Filling with zeros becomes a call of memset: the loop is reported as gone, which is no failure."""
    (analysis,) = analyse(zero, VECTOR)
    assert [facts.loop.tally for facts in analysis.loops] == [None]
    assert analysis.vectorized


def test_the_code_that_is_read_is_the_code_that_runs():
    """Compiling again with lines changes no instruction of what numba runs."""
    axpy.compile(f"void(float32,{PAIR})")
    arguments = axpy.signatures[0]
    text, symbol, _ = _compile_with_lines(axpy, arguments)
    running = axpy.inspect_asm(arguments)
    own = re.search(r"^\s+\.globl\s+(\S*axpy\S*)$", running, re.MULTILINE)[1]

    def instructions(assembly: str, name: str) -> list[str]:
        body = assembly.split(f"\n{name}:\n", 1)[1].split("\t.size", 1)[0]
        lines = [line.strip() for line in body.splitlines()]
        return [line for line in lines if line and not line.startswith(".")]

    assert instructions(text, symbol) == instructions(running, own)


@pytest.mark.slow
def test_all_compiled_signatures_are_looked_at():
    """Without a signature, every form that is compiled is analysed, and the assertion covers each."""

    @numba.njit
    def scale(x):
        for i in range(len(x)):
            x[i] *= 2

    scale(np.ones(4, np.float32))
    assert_vectorized(scale, lanes=4)
    scale(np.ones(4, np.float64))
    assert [item.signature for item in analyse(scale)] == ["array(float32, 1d, C)", "array(float64, 1d, C)"]
    lanes = [item.loops[0].loop.tally.lanes for item in analyse(scale, reasons=False)]
    assert lanes[0] == 2 * lanes[1]
    with pytest.raises(AssertionError, match=f"do not run on {lanes[0]} lanes"):
        assert_vectorized(scale, lanes=lanes[0])


def test_the_assertion_passes_what_is_vectorised():
    """A sum in any order and a scaled sum are on vectors, by the signature named, compiled or not."""
    assert_vectorized(total_any_order, lanes=4, signature=VECTOR)
    assert_vectorized(axpy, lanes=4, signature=f"float32,{PAIR}")
    assert_vectorized(axpy, lanes=4, signature=f"void(float32,{PAIR})")


def test_the_assertion_fails_a_recurrence():
    """A scalar loop fails with its line, what was found, the compiler's reason and advice."""
    line = recurrence.py_func.__code__.co_firstlineno + 2
    with pytest.raises(AssertionError) as failure:
        assert_vectorized(recurrence, signature=VECTOR)
    text = str(failure.value)
    assert f"line {line}: for i in range(1, len(x)):" in text
    assert "0 packed" in text
    assert "the compiler: unsafe dependent memory" in text
    assert "advice: a step reads" in text


def test_the_assertion_fails_where_nothing_is_proven():
    """No loop, a plain function and a function never compiled are failures too: they prove nothing."""
    with pytest.raises(AssertionError, match="no loop"):
        assert_vectorized(no_loop, signature="float32")
    with pytest.raises(AssertionError, match=r"decorate it with @numba\.njit"):
        assert_vectorized(only_line)
    with pytest.raises(AssertionError, match="call it first"):
        assert_vectorized(numba.njit(lambda x: x))


@pytest.mark.parametrize(
    ("function", "signature", "words"),
    [
        (axpy, "float33[::1]", "not a signature"),
        (axpy, "float32", "does not compile"),
        (axpy, "float32,float32,float32", "does not compile"),
        (len, VECTOR, "not a numba function"),
        (numba.vectorize(lambda x: x + 1), VECTOR, "numba ufunc"),
    ],
)
def test_a_mistake_is_one_line(function, signature: str, words: str):
    """What cannot be analysed is the user's mistake, in one line."""
    with pytest.raises(UsageError, match=words) as failure:
        analyse(function, signature)
    assert "\n" not in str(failure.value)


def only_line(text):
    return text
