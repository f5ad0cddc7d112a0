"""How long an output is for an input of a given length, learned from the sizes of many lengths."""

from collections.abc import Callable

import numpy as np
import pytest

from tailcut.runtime.cuts import Cut, learn_cut, probe_lengths


def learned(size_at: Callable[[int], int], buckets: tuple[int, ...]) -> Cut | None:
    return learn_cut(1, size_at, probe_lengths(buckets))


@pytest.mark.parametrize(
    "size_at",
    [
        lambda length: length,
        lambda length: 2 * length,
        lambda length: length + 3,
        lambda length: max(length - 4, 0) + 4 if length > 4 else length,
        lambda length: -(-length // 8),
        lambda length: (length + 8 - 16) // 8 + 1,
        lambda length: (length // 2 + 1) // 3,
        lambda length: 4 * (length // 4),
        lambda length: 2 * ((length + 5) // 7) + 1,
        lambda length: (length - 1) // 100 + 1,
        lambda length: 1 + (length > 90),
    ],
)
def test_every_size_that_convolutions_pools_and_resizes_make_is_learned(size_at: Callable[[int], int]) -> None:
    """Floors, ceilings, strides of strides, upsampling: the cut is right at all lengths up to the last bucket."""
    cut = learned(size_at, (16, 40, 128))
    assert cut is not None
    assert [cut.at(length) for length in range(1, 129)] == [size_at(length) for length in range(1, 129)]


@pytest.mark.parametrize(
    "size_at",
    [
        lambda length: length * length,
        lambda length: 128 - length,
        lambda length: max(length, 20),
        lambda length: length.bit_length(),
        lambda length: length % 5,
    ],
)
def test_a_size_of_another_form_is_not_cut(size_at: Callable[[int], int]) -> None:
    """What no stride and shift describe has no cut, so that padding is not offered."""
    assert learned(size_at, (16, 40, 128)) is None


def test_lengths_below_at_and_between_the_buckets_are_compared() -> None:
    """Each bucket, the length before it and one inside each gap; nothing beyond the last bucket."""
    lengths = probe_lengths((16, 40, 128))
    assert {1, 8, 15, 16, 28, 39, 40, 84, 127, 128} <= set(lengths)
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == 128
    assert probe_lengths((1,)) == [1]


def test_a_cut_is_a_view_of_its_axis() -> None:
    """The first elements of the axis, as many as belong to the length."""
    array = np.arange(24).reshape(2, 3, 4)
    taken = Cut(axis=2, anchor=16, size=4, stride=4).take(array, 9)
    np.testing.assert_array_equal(taken, array[:, :, :2])
    assert taken.base is array.base
