"""Which axis the numbers of channels belong to."""

import pytest

from tailcut.engines.channels import channel_axis, per_channel
from tailcut.errors import UnsupportedError


@pytest.mark.parametrize(
    ("dims", "layout", "axis"),
    [
        ((0, 3, 8, 8), "auto", 1),
        ((0, 8, 8, 3), "auto", 3),
        ((0, 3, 8, 3), "auto", 1),  # either may be: first, as most models have it
        ((0, 0, 0, 0), "auto", 1),
        ((0, 3, 8, 3), "last", 3),
        ((0, 8, 8, 3), "first", 1),
    ],
)
def test_the_axis(dims: tuple[int, ...], layout: str, axis: int) -> None:
    """The first one behind the rows, unless only the last one may be, or the layout says so."""
    assert channel_axis(3, dims, layout) == axis


@pytest.mark.parametrize(
    ("values", "dims", "shape"),
    [((1.0,), (0, 3, 8), ()), ((1.0, 2.0, 3.0), (0, 3, 8, 8), (3, 1, 1)), ((1.0, 2.0, 3.0), (0, 8, 8, 3), (3,))],
)
def test_the_shape(values: tuple[float, ...], dims: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """One that is broadcast along the channels."""
    assert per_channel(values, dims, "auto").shape == shape


@pytest.mark.parametrize(("dims", "words"), [((0,), "no channel axis"), ((0, 4, 8, 8), "has 4 channels")])
def test_channels_that_do_not_fit(dims: tuple[int, ...], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        per_channel((1.0, 2.0, 3.0), dims, "auto")
