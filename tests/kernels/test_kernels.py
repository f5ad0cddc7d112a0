"""Kernels do what their numpy twins do, run on vectors by the proof of their machine code, and release the GIL."""

import inspect
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.effort import runs

from tailcut import assert_vectorized
from tailcut.kernels import compiled, images, precision, reference, rows
from tailcut.kernels.isa import numba_isa
from tailcut.kernels.jit import prepared

MODULES = (images, precision, rows)
KERNELS = {
    name: kernel
    for module in MODULES
    for name, kernel in vars(module).items()
    if hasattr(kernel, "py_func") and not name.startswith("_")
}
OLDER = {
    "matmul_ikj": "float32[:,::1],float32[:,::1],float32[:,::1]",
    "matmul_tiled": "float32[:,::1],float32[:,::1],float32[:,::1]",
    "gather_rows": "float32[:,::1],int64[::1],float32[:,::1]",
    "normalize_u8": "uint8[:,:,::1],float32[::1],float32[::1],float32[:,:,::1]",
    "multiply_add_chains": "float32[::1],float32,float32,int64",
}
LANES = 8 if numba_isa() in {"avx512", "avx2"} else 4
on_x86 = pytest.mark.skipif(platform.machine().lower() not in {"x86_64", "amd64"}, reason="x86-64's machine code")

SCALE, OFFSET = np.array([0.5, 0.01, 2], np.float32), np.array([-1, 0, 3], np.float32)
FLOATS = arrays(np.float32, st.integers(0, 70), elements=st.floats(width=32))
ROWS = arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 70)), elements=st.floats(-1e4, 1e4, width=32))


def both(name: str, *inputs: object, outs: tuple[np.ndarray, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """What kernel and twin write, each into memory of its own that held something else before."""
    twins = [np.full_like(out, 99) for out in outs]
    KERNELS[name](*inputs, *outs)
    getattr(reference, name)(*inputs, *twins)
    return list(zip(outs, twins, strict=True))


def test_every_kernel_has_a_twin_and_is_prepared():
    """A kernel's twin has the same parameters, and its signatures are those that are compiled before workers start."""
    assert set(prepared()) == set(KERNELS)
    for name, kernel in KERNELS.items():
        assert inspect.signature(kernel.py_func) == inspect.signature(getattr(reference, name))
        assert kernel.targetoptions["nogil"]
        assert not kernel.targetoptions.get("parallel", False)
        assert prepared()[name]


@pytest.mark.slow
@on_x86
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_runs_on_vectors(name: str):
    """Every loop of every kernel is on vectors in the machine code."""
    for signature in prepared()[name]:
        assert_vectorized(KERNELS[name], lanes=LANES, signature=signature)


@pytest.mark.slow
@on_x86
@pytest.mark.parametrize("name", sorted(OLDER))
def test_the_matrix_and_gather_kernels_run_on_vectors(name: str):
    """So are the loops of the kernels for matrices, rows and planes."""
    assert_vectorized(getattr(compiled, name), lanes=LANES, signature=OLDER[name])


@pytest.mark.slow
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("name", ["normalize_nchw", "normalize_nhwc"])
@pytest.mark.parametrize(("size", "top", "left"), [((1, 1), 0, 0), ((9, 33), 2, 3), ((12, 40), 0, 0), ((3, 0), 1, 1)])
def test_images(name: str, size: tuple[int, int], top: int, left: int, swap: bool):
    """A crop anywhere in the image, in both orders of channels and of memory, is scaled by output channel."""
    image = np.random.default_rng(0).integers(0, 256, (12, 40, 3), np.uint8)
    shape = (3, *size) if name == "normalize_nchw" else (*size, 3)
    ((got, wanted),) = both(name, image, top, left, swap, SCALE, OFFSET, outs=(np.full(shape, 99, np.float32),))
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@settings(deadline=None, max_examples=runs(150))
@given(FLOATS)
def test_to_16_bits(values: np.ndarray):
    """Any float32, also infinite, subnormal or NaN, becomes the same bf16 and f16 as in ml_dtypes and numpy."""
    for name, dtype in (("float32_to_bf16", None), ("float32_to_f16", np.float16)):
        ((got, wanted),) = both(name, values, outs=(np.full(values.shape, 99, np.uint16),))
        numbers = ~np.isnan(values)
        assert np.array_equal(got[numbers], wanted[numbers]), dtype
        back = np.empty_like(values)
        KERNELS["bf16_to_float32" if dtype is None else "f16_to_float32"](got, back)
        assert np.array_equal(np.isnan(back), np.isnan(values))


@pytest.mark.parametrize("name", ["bf16_to_float32", "f16_to_float32"])
def test_from_16_bits(name: str):
    """All 65,536 patterns come out as ml_dtypes and numpy have them."""
    ((got, wanted),) = both(name, np.arange(65536).astype(np.uint16), outs=(np.empty(65536, np.float32),))
    np.testing.assert_array_equal(got, wanted)


@settings(deadline=None, max_examples=runs(100))
@given(ROWS, st.floats(2**-10, 100, width=32), st.integers(-128, 127))
def test_quantize(values: np.ndarray, scale: float, zero: int):
    """Each row is divided by its scale, rounded to even, moved and held in int8, exactly as numpy does it."""
    count = len(values)
    scales = (np.float32(scale) * np.arange(1, count + 1)).astype(np.float32)
    zeros = np.full(count, zero, np.int32)
    ((got, wanted),) = both("quantize_rows", values, scales, zeros, outs=(np.full(values.shape, 99, np.int8),))
    np.testing.assert_array_equal(got, wanted)
    ((got, wanted),) = both("dequantize_rows", got, scales, zeros, outs=(np.full(values.shape, 99, np.float32),))
    np.testing.assert_array_equal(got, wanted)


def test_ties_are_rounded_to_even():
    """Halves go to the even neighbour, as ONNX has it."""
    values = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 300, -300]], np.float32)
    out = np.empty((1, 7), np.int8)
    precision.quantize_rows(values, np.ones(1, np.float32), np.zeros(1, np.int32), out)
    assert out.tolist() == [[0, 2, 2, 0, -2, 127, -128]]


@settings(deadline=None, max_examples=runs(100))
@given(ROWS)
def test_softmax(values: np.ndarray):
    """Rows sum to one and match numpy within float32's rounding, however large their numbers."""
    ((got, wanted),) = both("softmax_rows", values, outs=(np.full(values.shape, 99, np.float32),))
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=1e-30)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)


def test_softmax_of_masked_entries():
    """A -inf among finite values counts as (almost) nothing."""
    out = np.empty((1, 3), np.float32)
    rows.softmax_rows(np.array([[0, -np.inf, 0]], np.float32), out)
    np.testing.assert_allclose(out, [[0.5, 0, 0.5]], atol=1e-30)


@settings(deadline=None, max_examples=runs(100))
@given(
    arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 70)), elements=st.sampled_from([-2, -1, 0, 1, 7]))
)
def test_top_k(values: np.ndarray):
    """The largest come falling, and of equal ones the first comes first."""
    for k in {1, min(5, values.shape[1]), values.shape[1]}:
        shape = (len(values), k)
        pairs = both("top_k_rows", values, outs=(np.empty(shape, np.float32), np.empty(shape, np.int64)))
        for got, wanted in pairs:
            np.testing.assert_array_equal(got, wanted)


def test_scatter():
    """Rows go where the indices say, bit for bit, and the others stay."""
    source = np.random.default_rng(0).standard_normal((3, 31)).astype(np.float32)
    out = np.full((5, 31), 99, np.float32)
    ((got, wanted),) = both("scatter_rows", source, np.array([4, 0, 2]), outs=(out,))
    np.testing.assert_array_equal(got, wanted)
    assert (got[[1, 3]] == 99).all()


def test_mean_pool():
    """The mean is over the tokens that count; where none does, it is zero."""
    random = np.random.default_rng(0)
    values = random.standard_normal((4, 6, 33)).astype(np.float32)
    mask = random.integers(0, 2, (4, 6))
    mask[0], mask[1] = 0, 1
    ((got, wanted),) = both("mean_pool", values, mask, outs=(np.full((4, 33), 99, np.float32),))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert (got[0] == 0).all()


@pytest.mark.slow
def test_prepare_compiles_what_calls_need():
    """After `prepare`, a call compiles nothing more."""
    code = (
        "import numpy as np; from tailcut.kernels import jit, rows; jit.prepare();"
        "before = len(rows.softmax_rows.signatures); x = np.ones((2, 3), np.float32); rows.softmax_rows(x, x.copy());"
        "assert before == len(rows.softmax_rows.signatures) == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
