"""Which free axes have one length, by the data."""

import numpy as np
import pytest

from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.tuner.dimensions import data_lengths, learned_places


def spec(**shapes: tuple[int | None, ...]) -> ModelSpec:
    return ModelSpec("m", tuple(TensorSpec(name, DType.FP32, shape) for name, shape in shapes.items()), ())


def requests(*shapes: dict[str, tuple[int, ...]]) -> list[dict[str, np.ndarray]]:
    return [{name: np.zeros(shape, np.float32) for name, shape in item.items()} for item in shapes]


def test_axes_of_equal_sizes_are_one_dimension() -> None:
    """A sequence in two inputs; an axis that is fixed is none."""
    data = requests({"ids": (1, 5), "mask": (1, 5), "x": (1, 4)}, {"ids": (2, 9), "mask": (2, 9), "x": (2, 4)})
    places = learned_places(spec(ids=(None, None), mask=(None, None), x=(None, 4)), data)
    assert places == {"ids": ((1, 0),), "mask": ((1, 0),)}
    assert data_lengths(places, data) == ((5,), (9,))


def test_height_and_width_are_two() -> None:
    data = requests({"image": (1, 3, 8, 9)}, {"image": (1, 3, 16, 12)})
    places = learned_places(spec(image=(None, 3, None, None)), data)
    assert places == {"image": ((2, 0), (3, 1))}
    assert data_lengths(places, data) == ((8, 9), (16, 12))


@pytest.mark.parametrize("shape", [(None, 4), (None, None, None, None)])
def test_no_dimension_or_three(shape: tuple[int | None, ...]) -> None:
    """Are not padded."""
    data = requests({"x": (1, 4)} if shape == (None, 4) else {"x": (1, 2, 3, 4)})
    assert learned_places(spec(x=shape), data) is None
    assert data_lengths(None, data) == ()
