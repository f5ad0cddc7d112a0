"""Pixels for normalised floats: parsing, both ways of a request, and a whole tune whose clients send uint8."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as triton
from onnx import helper
from tests.engines.models import save, value
from tests.servers import serving

from tailcut.engines.base import U8Input
from tailcut.errors import UsageError
from tailcut.lab.data import ONLY_INPUT
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec
from tailcut.tuner.pixels import as_floats, as_pixels, check_channels, parse_normalize, snapped

IMAGENET = "0.485,0.456,0.406/0.229,0.224,0.225"
FIRST = TensorSpec("x", DType.FP32, (None, 3, 8, 8))
LAST = TensorSpec("x", DType.FP32, (None, 8, 8, 3))


def spec_of(tensor: TensorSpec) -> ModelSpec:
    return ModelSpec("m", (tensor,), (TensorSpec("y", DType.FP32, (None, 2)),), Rows.INDEPENDENT)


@pytest.mark.parametrize(
    "text", ["", "0.5", "1,2/3", "a/b", "0/0", "nan/1", "0/inf", "1/2/3", "0.1,0.2,0.3/1,1,0"], ids=repr
)
def test_what_is_no_normalisation_is_refused(text: str) -> None:
    """In one line that shows how to write it."""
    with pytest.raises(UsageError, match="MEAN/STD"):
        parse_normalize(text)


@pytest.mark.parametrize("tensor", [FIRST, LAST], ids=["channels first", "channels last"])
@pytest.mark.parametrize("text", ["0/1", "0.5/0.25", IMAGENET])
def test_pixels_come_back(tensor: TensorSpec, text: str) -> None:
    """Floats by torchvision's own formula are the pixels that they came from, whatever the layout."""
    fold, spec = parse_normalize(text), spec_of(tensor)
    pixels = np.random.default_rng(0).integers(0, 256, (5, *tensor.row_shape), np.uint8)
    mean, deviation = (np.array([float(item) for item in part.split(",")], np.float32) for part in text.split("/"))
    around = (-1, 1, 1) if tensor is FIRST and len(mean) > 1 else (-1,)
    floats = (pixels / np.float32(255) - mean.reshape(around)) / deviation.reshape(around)
    np.testing.assert_array_equal(as_pixels(fold, spec, {"x": floats})["x"], pixels)
    np.testing.assert_allclose(as_floats(fold, spec, {"x": pixels})["x"], floats, rtol=1e-5, atol=1e-6)


def test_arrays_of_a_data_file() -> None:
    """Groups of a length are normalised like the input they belong to; other arrays and floats stay as they are."""
    spec, ones = spec_of(FIRST), np.ones((1, 3, 8, 8), np.uint8)
    arrays = {"x/0": ones, "x/1": ones.astype(np.float32), "labels": np.ones(1, np.uint8)}
    floats = as_floats(parse_normalize("0/1"), spec, arrays)
    assert floats["x/0"].dtype == np.float32
    assert floats["x/0"].max() == np.float32(1 / 255)
    assert floats["x/1"] is arrays["x/1"]
    assert floats["labels"] is arrays["labels"]


def test_values_beyond_all_pixels() -> None:
    """Of a data file they are refused with the distance; a made-up request is moved to the nearest pixels."""
    fold, spec = U8Input(scale=(1 / 255,), offset=(0.0,)), spec_of(FIRST)
    request = {"x": np.full((1, 3, 8, 8), 3.0, np.float32)}
    assert snapped(fold, spec, request, exactly=False)["x"].max() == pytest.approx(1.0)
    with pytest.raises(UsageError, match=r"input 'x' has values that match no pixel .* 510 pixel steps away"):
        snapped(fold, spec, request, exactly=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_no_pixel(value: float) -> None:
    """It is refused, and does not become pixel 0."""
    request = {"x": np.full((1, 3, 8, 8), value, np.float32)}
    with pytest.raises(UsageError, match=r"^--normalize does not fit the data: input 'x' has NaN or infinity"):
        snapped(parse_normalize("0/1"), spec_of(FIRST), request, exactly=True)


def test_whole_numbers_are_pixels() -> None:
    """JSON has no uint8. Not where another line has floats: 0 and 1 are then the ends of a scale."""
    spec, fold = spec_of(FIRST), parse_normalize("0/1")
    ones = np.ones((1, 3, 8, 8), np.int64)
    floats = as_floats(fold, spec, {"x/1": 255 * ones, "x/2": 0 * ones, "labels/1": np.array(3)})
    assert [floats[f"x/{line}"].max() for line in (1, 2)] == [1.0, 0.0]
    assert floats["labels/1"] == 3
    mixed = {"x/1": ones, "x/2": 0.5 * ones}
    assert as_floats(fold, spec, mixed) == mixed
    beyond = {"x": 256 * ones}
    assert as_floats(fold, spec, beyond) == beyond
    assert as_floats(fold, spec, {ONLY_INPUT: 255 * ones})[ONLY_INPUT].max() == 1.0


GRAY, FREE = (TensorSpec("x", DType.FP32, (None, channels, 28, 28)) for channels in (1, None))
TABLE, ROW = TensorSpec("x", DType.FP32, (None, 8)), TensorSpec("x", DType.FP32, (None,))


@pytest.mark.parametrize(
    ("tensor", "found"), [(GRAY, "1 along axis 1"), (TABLE, "8 along axis 1"), (ROW, "no channels")], ids=str
)
def test_as_many_numbers_as_channels(tensor: TensorSpec, found: str) -> None:
    """An input with another number of channels is named beside --normalize; one number is for all."""
    words = f"--normalize has numbers for 3 channels, but input 'x' has {found}: write one number for all"
    with pytest.raises(UsageError, match=re.escape(words)):
        check_channels(parse_normalize(IMAGENET), spec_of(tensor))
    check_channels(parse_normalize("0/1"), spec_of(tensor))
    for fits in (FIRST, LAST, FREE):
        check_channels(parse_normalize(IMAGENET), spec_of(fits))


def test_data_with_other_channels_than_the_model() -> None:
    """The data are named where the model says its channels, and both where it does not."""
    fold, images = parse_normalize(IMAGENET), {"x": np.zeros((5, 28, 28, 3), np.uint8)}
    with pytest.raises(
        UsageError, match=re.escape("array 'x' of the data file is uint8 [5, 28, 28, 3], the model takes")
    ):
        as_floats(fold, spec_of(FIRST), images)
    with pytest.raises(
        UsageError, match=r"^--normalize has numbers for 3 channels, but an array of input 'x' is \[5, 28"
    ):
        as_floats(fold, spec_of(FREE), images)


def image_model(path: Path) -> Path:
    """A convolution over images of any size, a global mean and a dense layer; a second output costs another layer."""
    random = np.random.default_rng(3)
    weights = {
        "kernel": random.standard_normal((8, 3, 3, 3)),
        "head": random.standard_normal((8, 4)),
        "other": random.standard_normal((8, 64)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["conv"], pads=[1] * 4),
        helper.make_node("Relu", ["conv"], ["active"]),
        helper.make_node("ReduceMean", ["active"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "head"], ["y"]),
        helper.make_node("MatMul", ["mean", "other"], ["z"]),
    ]
    inputs = [value("x", DType.FP32, (None, 3, None, None))]
    outputs = [value("y", DType.FP32, (None, 4)), value("z", DType.FP32, (None, 64))]
    return save(path, nodes, inputs, outputs, {name: array.astype(np.float32) for name, array in weights.items()})


@pytest.mark.slow
def test_a_tune_whose_clients_send_pixels(tmp_path: Path) -> None:
    """The profile takes uint8, serves the output that was asked for, and answers as the bare model does for floats."""
    model = image_model(tmp_path / "m.onnx")
    pixels = np.random.default_rng(1).integers(0, 256, (40, 3, 32, 32), np.uint8)
    np.save(tmp_path / "data.npy", pixels)
    command = [sys.executable, "-m", "tailcut", "tune", str(model), "--data", "data.npy", "--budget", "8s", "--json"]
    command += ["--normalize", IMAGENET, "--outputs", "y", "--fix", "x:2=32,x:3=32", "--local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["settings"]["engine"]["outputs"] == ["y"]
    assert result["settings"]["engine"]["u8_input"] is not None
    assert result["accuracy"]["right"]
    with serving(tmp_path, tmp_path / "m.profile.toml", "--uds", tmp_path / "socket") as server:
        client = triton.InferenceServerClient(server.address)
        metadata = client.get_model_metadata("m")
        assert [(item["datatype"], item["shape"]) for item in metadata["inputs"]] == [("UINT8", [-1, 3, 32, 32])]
        assert [item["name"] for item in metadata["outputs"]] == ["y"]
        asked = triton.InferInput("x", [4, 3, 32, 32], "UINT8")
        asked.set_data_from_numpy(pixels[:4])
        answer = client.infer("m", [asked]).as_numpy("y")
    floats = as_floats(parse_normalize(IMAGENET), spec_of(FIRST), {"x": pixels[:4]})
    truth = ort.InferenceSession(model).run(["y"], floats)[0]
    # Within what the gate allows: the least cosine of a row.
    for row, right in zip(answer, truth, strict=True):
        assert float(row @ right / np.linalg.norm(row) / np.linalg.norm(right)) > 0.999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--normalize", "1,2/3"], "MEAN/STD"),
        (["--normalize", "0/1"], "no float input that could be sent as pixels"),
        (["--fix", "n"], "--fix: 'n' is not NAME=SIZE"),
        (["--fix", "depth=3"], "--fix: no input of the model has a dimension 'depth'"),
        (["--outputs", "nope"], "--outputs: the model has no output 'nope': it has "),
    ],
)
def test_options_that_do_not_fit_the_model(
    tmp_path: Path, mistake: Callable[..., str], options: list[str], message: str
) -> None:
    """Each is one line, before anything is measured."""
    nodes = [helper.make_node("Identity", ["n"], ["m"])]
    ends = [[value(name, DType.INT64, (None, 4))] for name in ("n", "m")]
    model = save(tmp_path / "m.onnx", nodes, *ends)
    assert message in mistake(tmp_path, "tune", str(model), "--budget", "5s", *options)
