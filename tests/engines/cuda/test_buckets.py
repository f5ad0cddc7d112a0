"""Which bucket a batch is computed in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailcut.engines.cuda.buckets import Buckets
from tailcut.errors import CapacityError


@given(st.integers(1, 5000), st.data())
def test_the_smallest_that_fits(most: int, data: st.DataObject) -> None:
    """It holds the rows, no smaller one does, and less than twice the rows are computed."""
    buckets = Buckets.up_to(most)
    rows = data.draw(st.integers(1, most))
    size = buckets.of(rows)
    assert size in buckets.sizes
    assert size >= rows
    assert all(other < rows for other in buckets.sizes if other < size)
    assert size < 2 * rows
    assert buckets.sizes[-1] == most


@pytest.mark.parametrize("rows", [0, -1, 9])
def test_what_fits_none(rows: int) -> None:
    """Is an error that names the largest."""
    with pytest.raises(CapacityError, match="the largest has 8"):
        Buckets.up_to(8).of(rows)


@pytest.mark.parametrize("sizes", [(), (0, 1), (2, 2), (4, 1)])
def test_buckets_ascend(sizes: tuple[int, ...]) -> None:
    """No bucket is empty or there twice."""
    with pytest.raises(ValueError, match="ascending"):
        Buckets(sizes)
