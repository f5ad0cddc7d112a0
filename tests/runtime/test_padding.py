"""Requests of different lengths that share a batch."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.engines.models import dynamic_sequence, identity, masked_mean, no_batch, two_in_two_out

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.errors import InvalidInputError, ProfileError, UnsupportedError
from tailcut.runtime.home import AnyThread, EventSink
from tailcut.runtime.model import Model
from tailcut.runtime.profile import BatchingSettings, PaddedInput, PaddingSettings, Profile, Settings
from tailcut.spec import DType

IDS_AND_MASK = (PaddedInput(name="ids"), PaddedInput(name="mask"))
Request = dict[str, np.ndarray]


def opened(
    path: Path, *buckets: int, inputs: tuple[PaddedInput, ...] = IDS_AND_MASK, engine: str = "onnxruntime"
) -> Model:
    padding = PaddingSettings(buckets=buckets, inputs=inputs)
    batching = BatchingSettings(max_batch=8, dispatch="inline", padding=padding)
    settings = Settings(engine=EngineOptions(name=engine, threads=1), batching=batching)
    return Model.open(Profile.of_model(path, settings))


def sentence(length: int, rows: int = 1) -> Request:
    random = np.random.default_rng(length)
    return {"ids": random.integers(0, 32, (rows, length)), "mask": np.ones((rows, length), np.int64)}


def together(model: Model, requests: list[Request]) -> list[dict[str, np.ndarray]]:
    """All queued before the first computes."""
    sinks = [EventSink() for _ in requests]
    for request, sink in zip(requests, sinks, strict=True):
        model.start(request, len(request["ids"]), sink, AnyThread())
    model.kick()
    return [dict(zip(model.spec.output_names, sink.outputs or [], strict=True)) for sink in sinks]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_answers_are_those_of_the_request_alone(tmp_path: Path, engine: str) -> None:
    """Lengths 1 to 16 in buckets of 8 and 16, and one longer than any: cut to their own length, and two batches."""
    path = masked_mean(tmp_path / "m.onnx")
    alone = open_engine(path, EngineOptions(threads=1))
    requests = [sentence(length) for length in (3, 8, 5, 16, 9, 1, 12, 21)]
    with opened(path, 8, 16, engine=engine) as model:
        for request, answer in zip(requests, together(model, requests), strict=True):
            for name, expected in alone.run(request).items():
                assert answer[name].shape == expected.shape
                np.testing.assert_allclose(answer[name], expected, rtol=1e-4, atol=1e-5)
        assert model.statistics()["batches"] == 3


def test_nothing_of_an_earlier_request_is_left_in_the_padding(tmp_path: Path) -> None:
    """A model that minds no mask shows the filling: it is the pad value, whatever stood there before."""
    path = dynamic_sequence(tmp_path / "sum.onnx")
    with opened(path, 8, inputs=(PaddedInput(name="x", value=0.5),)) as model:
        for length in (8, 2, 7, 3):
            x = np.full((2, length), 100, np.float32)
            answer = model.infer_sync({"x": x})
            assert (answer["total"] == 100 * length + 0.5 * (8 - length)).all()
            np.testing.assert_array_equal(answer["double"], x + x)


def test_several_rows_and_splits(tmp_path: Path) -> None:
    """A request of more rows than the largest batch is split, padded, cut, and put together in order."""
    path = masked_mean(tmp_path / "m.onnx")
    alone = open_engine(path, EngineOptions(threads=1))
    with opened(path, 8, 16) as model:
        request = sentence(11, rows=19)
        answer = model.infer_sync(request)
        for name, expected in alone.run(request).items():
            np.testing.assert_allclose(answer[name], expected, rtol=1e-4, atol=1e-5)


def test_inputs_of_different_lengths(tmp_path: Path) -> None:
    """One request has one length: the error names both."""
    with opened(masked_mean(tmp_path / "m.onnx"), 8) as model, pytest.raises(InvalidInputError, match="'mask': 4"):
        model.infer_sync({"ids": sentence(3)["ids"], "mask": sentence(4)["mask"]})


def test_models_that_cannot_be_padded(tmp_path: Path) -> None:
    """Each is refused at start, with the reason."""
    mean = masked_mean(tmp_path / "m.onnx")
    cases = [
        (mean, (PaddedInput(name="words"),), "no input 'words'"),
        (mean, (PaddedInput(name="ids"),), "'mask' has no fixed size"),
        (mean, (PaddedInput(name="ids", value=0.5), PaddedInput(name="mask")), "INT64, which does not hold 0.5"),
        (no_batch(tmp_path / "n.onnx"), (PaddedInput(name="x"),), "no batch dimension"),
        (two_in_two_out(tmp_path / "t.onnx"), (PaddedInput(name="a"),), "0 free dimensions"),
        (identity(DType.FP32, (None, None, None), tmp_path / "i.onnx"), (PaddedInput(name="x"),), "2 free dimensions"),
        (identity(DType.BYTES, (None, None), tmp_path / "b.onnx"), (PaddedInput(name="x"),), "BYTES"),
    ]
    for path, inputs, words in cases:
        with pytest.raises(UnsupportedError, match=words):
            opened(path, 8, inputs=inputs)


def test_a_profile_keeps_its_buckets(tmp_path: Path) -> None:
    """Written and read back the same; shown in one word; buckets that do not rise are refused in one line."""
    padding = PaddingSettings(buckets=(8, 16), inputs=IDS_AND_MASK)
    settings = Settings(batching=BatchingSettings(max_batch=4, padding=padding))
    profile = Profile.of_model(masked_mean(tmp_path / "m.onnx"), settings)
    profile.save(tmp_path / "m.profile.toml")
    assert Profile.load(tmp_path / "m.profile.toml").settings == settings
    assert settings.describe() == "batching.max_batch=4 batching.padding=8/16"
    wrong = msgspec.structs.replace(padding, buckets=(16, 8))
    settings = Settings(batching=BatchingSettings(padding=wrong))
    msgspec.structs.replace(profile, settings=settings).save(tmp_path / "m.profile.toml")
    with pytest.raises(ProfileError, match="rising buckets"):
        Profile.load(tmp_path / "m.profile.toml")
