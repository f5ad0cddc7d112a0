"""How long requests are, and percentiles by quarter of the length."""

import numpy as np
import pytest

from tailcut.lab.lengths import LengthMeasure, lengths_record, measure_of
from tailcut.lab.records import LengthLatencies
from tailcut.spec import DType, ModelSpec, Rows, TensorSpec

IDS = LengthMeasure("ids", 1)


def spec(*inputs: TensorSpec, rows: Rows = Rows.INDEPENDENT) -> ModelSpec:
    return ModelSpec("m", inputs, (TensorSpec("y", DType.FP32, (None, 4)),), rows)


@pytest.mark.parametrize(
    ("model", "measure"),
    [
        (spec(TensorSpec("ids", DType.INT64, (None, None)), TensorSpec("mask", DType.INT64, (None, None))), IDS),
        (spec(TensorSpec("x", DType.FP32, (None, 3)), TensorSpec("ids", DType.INT64, (None, None))), IDS),
        (spec(TensorSpec("x", DType.FP32, (None, 3))), None),
        (spec(TensorSpec("x", DType.FP32, (None, 3)), rows=Rows.DEPENDENT), LengthMeasure("x", 0)),
        (spec(TensorSpec("x", DType.FP32, (None, None)), rows=Rows.DEPENDENT), LengthMeasure("x", 1)),
        (spec(TensorSpec("text", DType.BYTES, (None,))), LengthMeasure("text", None)),
        (spec(TensorSpec("text", DType.BYTES, (None,)), rows=Rows.UNKNOWN), LengthMeasure("text", None)),
        (spec(TensorSpec("x", DType.FP32, (4, 3))), None),
    ],
)
def test_what_a_models_length_is(model: ModelSpec, measure: LengthMeasure | None) -> None:
    """The first free axis beside the batch; else the bytes of strings; else nothing."""
    assert measure_of(model) == measure


def test_the_length_of_a_request() -> None:
    """Elements along an axis, or bytes as they are sent."""
    assert IDS.of({"ids": np.zeros((1, 7))}) == 7
    text = np.array([["ä", b"bc"]], object)
    assert LengthMeasure("text", None).of({"text": text}) == 4
    assert (IDS.unit, LengthMeasure("text", None).unit) == ("elements", "bytes")


def test_percentiles_by_quarter() -> None:
    """Each quarter has its range and its own percentiles; which are unknown where a quarter has too few samples."""
    lengths = np.tile(np.arange(1, 101), 20)
    record = lengths_record(IDS, lengths, lengths * 1e6, known=True)
    assert record is not None
    assert [getattr(record, key) for key in ("input", "unit", "min", "p25", "p50", "p75", "p99", "max")] == [
        "ids", "elements", 1, 25, 50, 75, 99, 100,
    ]  # fmt: skip
    ends = [(part.from_, part.to, part.samples) for part in record.quartiles]
    assert ends == [(1, 25, 500), (26, 50, 500), (51, 75, 500), (76, 100, 500)]
    assert [part.latency_ms.p99 for part in record.quartiles] == [25, 50, 75, 100]
    few = lengths_record(IDS, lengths[:400], lengths[:400] * 1e6, known=True)
    assert few is not None
    assert few.quartiles[0].latency_ms == LengthLatencies(p50=13, p95=24, p99=None)


def test_a_length_that_many_have() -> None:
    """Quarters that would hold the same length are one; no request is in two."""
    lengths = np.array([5] * 90 + [200] * 10)
    record = lengths_record(IDS, lengths, np.ones(100), known=True)
    assert record is not None
    assert [(part.from_, part.to, part.samples) for part in record.quartiles] == [(5, 5, 90), (200, 200, 10)]


def test_a_late_client_has_no_percentiles() -> None:
    """They would not be the server's; the lengths are known all the same."""
    record = lengths_record(IDS, np.array([3, 4]), np.ones(2), known=False)
    assert record is not None
    assert (record.min, record.max) == (3, 4)
    assert record.quartiles[0].latency_ms.p50 is None


def test_nothing_to_tell() -> None:
    """One size for all requests, or none answered."""
    assert lengths_record(None, None, np.ones(2), known=True) is None
    assert lengths_record(IDS, np.empty(0, np.int64), np.empty(0), known=True) is None
