"""Which of the data's requests share a batch: those of one shape, and padded, those of one bucket."""

import numpy as np
import pytest

from tailcut.runtime.settings import PaddedInput, PaddingSettings
from tailcut.tuner.shapes import ALIKE, ShapeMix, mix_of, padded_mix

INPUTS = (PaddedInput(name="ids"),)


def request(length: int, rows: int = 1) -> dict[str, np.ndarray]:
    return {"ids": np.zeros((rows, length), np.int64)}


def test_requests_of_one_shape_are_alike() -> None:
    """Whatever their numbers of rows; where the first dimension is no batch, it is a part of the shape."""
    assert mix_of([request(8), request(8, 3)], batched=True) == ALIKE
    assert mix_of([request(8), request(8, 3)], batched=False).shares == (0.5, 0.5)
    assert mix_of([], batched=True) == ALIKE


def test_shapes_have_their_shares() -> None:
    """The most frequent first, and drawn as often."""
    mix = mix_of([request(length) for length in (3, 8, 8, 5)], batched=True)
    assert mix == ShapeMix((0.5, 0.25, 0.25))
    counts = np.bincount(mix.keys(8000, 1), minlength=3) / 8000
    assert counts == pytest.approx([0.5, 0.25, 0.25], abs=0.02)
    assert (mix.keys(8000, 1) == mix.keys(8000, 1)).all()
    assert not ALIKE.keys(100, 1).any()


def test_a_bucket_is_a_shape_and_longer() -> None:
    """Each request is filled up to its bucket; what is longer than the last one keeps its length."""
    padding = PaddingSettings(buckets=(4, 8), inputs=INPUTS)
    assert padded_mix([(2,), (4,), (6,), (8,)], padding) == ShapeMix((0.5, 0.5), 24 / 20)
    assert padded_mix([(2,), (10,)], padding) == ShapeMix((0.5, 0.5), 14 / 12)


def test_two_dimensions() -> None:
    """Height and width have buckets of their own, and areas count."""
    padding = PaddingSettings(buckets=(32,), second_buckets=(100, 200), inputs=INPUTS)
    assert padded_mix([(32, 100), (32, 50), (16, 150)], padding) == ShapeMix(
        (2 / 3, 1 / 3), (3200 + 3200 + 6400) / (3200 + 1600 + 2400)
    )


def test_padding_without_lengths_is_refused() -> None:
    """There is no share of anything then."""
    with pytest.raises(ValueError, match="lengths"):
        padded_mix([], PaddingSettings(buckets=(4,), inputs=INPUTS))
