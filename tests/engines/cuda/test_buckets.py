"""Which bucket a batch is computed in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailcut.engines.cuda.buckets import Buckets, bucket_of

MOST = 65536  # rows of a batch that a profile may have


@given(st.integers(1, MOST))
def test_the_smallest_that_fits(rows: int) -> None:
    """Every batch that a profile allows has one; less than twice its rows are computed."""
    size = bucket_of("auto")(rows)
    assert size.bit_count() == 1
    assert rows <= size < 2 * rows


@pytest.mark.parametrize("sizes", [(), (0, 1), (2, 2), (4, 1)])
def test_buckets_ascend(sizes: tuple[int, ...]) -> None:
    """No bucket is empty or there twice."""
    with pytest.raises(ValueError, match="ascending"):
        Buckets(sizes)


@pytest.mark.parametrize(
    ("setting", "sizes"),
    [
        ("auto", {1: 1, 3: 4, 4: 4, 13: 16, 25: 32, 1024: 1024, 1025: 2048, MOST: MOST}),
        ("off", {1: 1, 3: 3, 13: 13, 5000: 5000}),
        ((3, 12, 24), {1: 3, 3: 3, 4: 12, 13: 24, 25: 32, 33: 64, 1025: 2048}),
        ((1024,), {1: 1024, 1025: 2048}),
        ((5000,), {1: 5000, 4999: 5000, 5001: 8192}),
    ],
)
def test_what_the_setting_says(setting: Any, sizes: dict[int, int]) -> None:
    """Powers of two, none, or those of a profile, beyond which there are powers of two."""
    bucket = bucket_of(setting)
    assert {rows: bucket(rows) for rows in sizes} == sizes


@given(st.sets(st.integers(1, MOST), min_size=1), st.integers(1, MOST))
def test_own_sizes_hold_what_powers_of_two_hold(sizes: set[int], rows: int) -> None:
    """The smallest of them that does, whatever the profile lists."""
    size = bucket_of(tuple(sorted(sizes)))(rows)
    assert size >= rows
    assert size == min((item for item in sizes if item >= rows), default=bucket_of("auto")(rows))
