"""Aligned arrays and matrices: where they start, what they hold, what they refuse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.forked import fork, succeeded

from tailcut.errors import CapacityError, InvalidInputError, ShapeMismatchError
from tailcut.memory.aligned import AlignedMatrix, aligned_empty


@given(
    shape=st.lists(st.integers(0, 9), max_size=4).map(tuple),
    dtype=st.sampled_from([np.bool_, np.uint8, np.int16, np.float32, np.float64]),
    power=st.integers(0, 13),
)
def test_starts_on_the_boundary(shape: tuple[int, ...], dtype: type, power: int) -> None:
    """Any shape, dtype and power-of-two alignment: an aligned, writable, C-contiguous array of zeros."""
    array = aligned_empty(shape, dtype, 1 << power)
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.ctypes.data % (1 << power) == 0 or not array.size
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert not array.any()


@pytest.mark.parametrize("huge_pages", [False, True])
def test_large_memory(huge_pages: bool) -> None:
    """Several megabytes, with and without huge pages, are writable to the last element and outlive their maker."""
    array = aligned_empty((3, 1 << 20), np.float32, huge_pages=huge_pages)
    assert array.ctypes.data % (2 << 20 if huge_pages else 64) == 0
    array[-1, -1] = 7
    view = array[-1]
    del array
    assert view[-1] == 7


@pytest.mark.parametrize("alignment", [0, -64, 3, 48])
def test_alignment_must_be_a_power_of_two(alignment: int) -> None:
    """Anything else is refused by value."""
    with pytest.raises(InvalidInputError, match=f"power of two, got {alignment}"):
        aligned_empty(4, np.float32, alignment)


def test_objects_have_no_place_in_raw_memory() -> None:
    """A dtype of Python objects is refused."""
    with pytest.raises(InvalidInputError, match="Python objects"):
        aligned_empty(4, object)


def test_negative_dimensions() -> None:
    """A negative dimension is refused, also where two of them would multiply to a size that exists."""
    for shape in [(-1,), (-2, -3)]:
        with pytest.raises(InvalidInputError, match="negative"):
            aligned_empty(shape, np.float32)


@pytest.mark.parametrize("shape", [(1 << 46,), (1 << 40, 1 << 40)])
def test_no_memory_of_that_size(shape: tuple[int, ...]) -> None:
    """More than the address space holds is one clear error, also where the product overflows 64 bits."""
    with pytest.raises(CapacityError, match="no memory for"):
        aligned_empty(shape, np.float32)


@pytest.mark.parametrize("cols", [1, 15, 16, 17, 64])
def test_every_row_is_aligned(cols: int) -> None:
    """Rows are padded, so that each starts on a 64-byte boundary; the padding does not show."""
    matrix = AlignedMatrix(5, cols)
    assert matrix.array.shape == matrix.shape == (5, cols)
    assert all(matrix.array[row].ctypes.data % 64 == 0 for row in range(5))


def test_elements() -> None:
    """[r, c] reads and writes one element, in row-major order of the source."""
    matrix = AlignedMatrix.from_array([[1, 2, 3], [4, 5, 6]])
    assert matrix[1, 0] == 4.0
    matrix[1, 0] = 9
    assert matrix.array.tolist() == [[1, 2, 3], [9, 5, 6]]
    with pytest.raises(IndexError):
        matrix[2, 0]
    assert repr(matrix) == "AlignedMatrix(2, 3)"


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_product(rows: int, inner: int, cols: int) -> None:
    """@ and matmul(out=) give numpy's product, rows aligned."""
    random = np.random.default_rng(rows * 1600 + inner * 40 + cols)
    a = AlignedMatrix.from_array(random.standard_normal((rows, inner)))
    b = AlignedMatrix.from_array(random.standard_normal((inner, cols)))
    wanted = a.array.copy() @ b.array.copy()
    out = AlignedMatrix(rows, cols)
    assert a.matmul(b, out=out) is out
    np.testing.assert_allclose(out.array, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose((a @ b).array, wanted, rtol=1e-4, atol=1e-5)


def test_mismatch_names_both_shapes() -> None:
    """Factors that do not fit, and an out that does not, are refused with both shapes."""
    with pytest.raises(ShapeMismatchError, match="4 x 3 by 2 x 5"):
        AlignedMatrix(4, 3) @ AlignedMatrix(2, 5)
    with pytest.raises(ShapeMismatchError, match="out is 4 x 4, the product is 4 x 5"):
        AlignedMatrix(4, 3).matmul(AlignedMatrix(3, 5), out=AlignedMatrix(4, 4))
    with pytest.raises(ShapeMismatchError, match=r"\(2, 2, 2\)"):
        AlignedMatrix.from_array(np.zeros((2, 2, 2)))


def test_out_must_not_be_a_factor() -> None:
    """The product is not written over what it is made from."""
    a = AlignedMatrix(3, 3)
    with pytest.raises(InvalidInputError, match="out must not be one of the factors"):
        a.matmul(AlignedMatrix(3, 3), out=a)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (-1, 2)])
def test_empty_matrix(shape: tuple[int, int]) -> None:
    """A matrix without elements is refused."""
    with pytest.raises(InvalidInputError, match="at least one row and column"):
        AlignedMatrix(*shape)


@pytest.mark.parametrize("huge_pages", [False, True])
def test_a_forked_child_writes_into_its_own_copy(huge_pages: bool) -> None:
    """Also in arrays of several MiB, which are mapped: the parent's values stay."""
    array = aligned_empty(1 << 20, np.float32, huge_pages=huge_pages)
    array.fill(1)
    assert succeeded(fork(lambda: array.fill(2)))
    assert (array == 1).all()
