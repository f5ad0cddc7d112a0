"""Which bucket a batch is computed in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailcut.engines.cuda.buckets import LARGEST, Buckets, bucket_of
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


@pytest.mark.parametrize(
    ("setting", "sizes"),
    [
        ("auto", {1: 1, 3: 4, 4: 4, 13: 16, 25: 32, 1024: 1024}),
        ("off", {1: 1, 3: 3, 13: 13, 5000: 5000}),
        ((3, 12, 24), {1: 3, 3: 3, 4: 12, 13: 24, 25: 32, 33: 64, 1024: 1024}),
        ((1024,), {1: 1024}),
        ((5000,), {1: 5000, 4999: 5000}),
    ],
)
def test_what_the_setting_says(setting: Any, sizes: dict[int, int]) -> None:
    """Powers of two, none, or those of a profile, beyond which there are powers of two."""
    bucket = bucket_of(setting)
    assert {rows: bucket(rows) for rows in sizes} == sizes


@given(st.sets(st.integers(1, LARGEST), min_size=1), st.integers(1, LARGEST))
def test_own_sizes_hold_what_powers_of_two_hold(sizes: set[int], rows: int) -> None:
    """The smallest of them that does, whatever the profile lists."""
    size = bucket_of(tuple(sorted(sizes)))(rows)
    assert size >= rows
    assert size == min((one for one in sizes if one >= rows), default=bucket_of("auto")(rows))
