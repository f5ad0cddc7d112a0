"""What a profile keeps of the requests in the data."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.engines.models import identity

from tailcut.engines.filling import SampleInput
from tailcut.errors import ProfileError
from tailcut.runtime.profile import Profile
from tailcut.runtime.samples import SampleRequest, kinds_of
from tailcut.spec import DType, ModelSpec, TensorSpec

SPEC = ModelSpec(
    "text",
    (
        TensorSpec("ids", DType.INT64, (None, None)),
        TensorSpec("mask", DType.INT64, (None, None)),
        TensorSpec("scale", DType.FP32, (None, 2)),
        TensorSpec("rate", DType.INT64, ()),
        TensorSpec("past", DType.FP32, (None, None, 4)),
        TensorSpec("text", DType.BYTES, (None, 1)),
    ),
    (),
)


def request(length: int, rows: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(length)
    return {
        "ids": random.integers(7, 900, (rows, length)),
        "mask": np.arange(length) < np.full((rows, 1), max(length - 1, 1)),
        "scale": random.standard_normal((rows, 2)).astype(np.float32),
        "rate": np.array(16_000),
        "past": np.zeros((rows, 0, 4), np.float32),
        "text": np.full((rows, 1), "a", object),
    }


def test_the_usual_the_smallest_and_the_largest_sizes_are_kept() -> None:
    """Four kinds at most, the most frequent one first."""
    kinds = kinds_of(SPEC, [request(length) for length in (8, 30, 30, 30, 64, 8, 12, 400)])
    assert [kind.inputs["ids"].shape for kind in kinds] == [(-1, 30), (-1, 8), (-1, 400), (-1, 64)]
    assert {kind.rows for kind in kinds} == {1}


def test_values_are_those_of_requests_that_were_answered() -> None:
    """An index that is out of range in one request of the data is not what a server warms up with."""
    bad = request(30) | {"ids": np.full((1, 30), 5000)}
    good = [request(30), request(8)]
    kinds = kinds_of(SPEC, [*good, bad], good)
    assert [kind.inputs["ids"].shape for kind in kinds] == [(-1, 30), (-1, 8)]
    assert {kind.inputs["ids"].high for kind in kinds} <= set(range(900 + 1))


def test_values_are_like_those_of_the_data() -> None:
    """Integers in their range, masks of ones and zeros, constants, and states of length zero; requests can be made."""
    (kind,) = kinds_of(SPEC, [request(50, rows=2) for _ in range(3)])
    made = kind.of(SPEC).make(kind.rows, seed=1)
    data = request(50, rows=2)
    assert {name: array.shape for name, array in made.items()} == {name: array.shape for name, array in data.items()}
    assert made["ids"].min() >= data["ids"].min()
    assert made["ids"].max() <= data["ids"].max()
    assert set(made["mask"].flat) == {0, 1}
    assert made["rate"] == 16_000


def test_sizes_of_inputs_that_differ_in_their_first_axis_are_kept_as_they_are() -> None:
    """An image against several texts."""
    spec = ModelSpec("clip", tuple(TensorSpec(name, DType.FP32, (None, None)) for name in ("image", "text")), ())
    (kind,) = kinds_of(spec, [{"image": np.ones((1, 4)), "text": np.ones((3, 4))}])
    assert {name: array.shape for name, array in kind.of(spec).make(1, 0).items()} == {"image": (1, 4), "text": (3, 4)}


def test_nothing_is_kept_where_all_sizes_are_fixed() -> None:
    """Or where there is no data."""
    fixed = ModelSpec("fixed", (TensorSpec("x", DType.FP32, (None, 3)),), ())
    assert kinds_of(fixed, [{"x": np.ones((1, 3))}]) == kinds_of(SPEC, []) == ()


@pytest.mark.parametrize("shape", [(-1,), (-1, 3), (-1, -4), (2, 4, 4)])
def test_samples_that_do_not_fit_the_model_are_refused(shape: tuple[int, ...]) -> None:
    """A profile is a text file, and may be edited by hand."""
    spec = ModelSpec("echo", (TensorSpec("x", DType.FP32, (None, 4)),), ())
    with pytest.raises(ProfileError, match="do not fit input 'x'"):
        SampleRequest(inputs={"x": SampleInput(shape=shape)}).of(spec)


def test_a_profile_keeps_them_and_is_read_without_them(tmp_path: Path) -> None:
    """A file of an earlier version has none; one with kinds comes back as it was written."""
    bare = Profile.of_model(identity(DType.FP32, (None, None), tmp_path / "echo.onnx"))
    bare.save(tmp_path / "bare.toml")
    assert "samples" not in (tmp_path / "bare.toml").read_text()
    assert Profile.load(tmp_path / "bare.toml").samples == ()
    kinds = kinds_of(SPEC, [request(9), request(5)])
    msgspec.structs.replace(bare, samples=kinds).save(tmp_path / "full.toml")
    assert Profile.load(tmp_path / "full.toml").samples == kinds
