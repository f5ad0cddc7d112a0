"""What the algorithmic rung offers models whose requests differ in length, and which models bear it."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import masked_mean

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.lab.describe import lengths_of, rows_of_data
from tailcut.runtime.model import Model
from tailcut.runtime.profile import Profile
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.tuner.accuracy import compare
from tailcut.tuner.climb import Climb, Wanted
from tailcut.tuner.rungs import BASELINE, RUNGS, Candidate, Facts, starting_settings

IDS = TensorSpec("ids", DType.INT64, (None, None))
MASK = TensorSpec("mask", DType.INT64, (None, None))
FIXED = TensorSpec("x", DType.FP32, (None, 4))
MEAN = TensorSpec("y", DType.FP32, (None, 8))


def offered(inputs: tuple[TensorSpec, ...], lengths: tuple[int, ...]) -> list[Candidate]:
    facts = Facts(ModelSpec("m", inputs, (MEAN,)), 2, 2, frozenset(), lengths=lengths)
    groups = RUNGS[0].offer(facts, BASELINE)
    return [candidate for group in groups for candidate in group if candidate.settings.batching.padding]


def test_buckets_come_from_the_datas_lengths() -> None:
    """Powers of two that hold them, and their quartiles; every input with a free dimension is padded with 0."""
    powers, quartiles = offered((IDS, MASK, FIXED), (3, 5, 9, 12, 20, 30, 30, 31))
    assert powers.settings.batching.padding.buckets == (4, 8, 16, 32)
    assert quartiles.settings.batching.padding.buckets == (5, 12, 30, 31)
    assert [(one.name, one.value) for one in powers.settings.batching.padding.inputs] == [("ids", 0), ("mask", 0)]
    assert powers.settings.batching.max_batch == 8


def test_nothing_is_offered_where_there_is_nothing_to_pad() -> None:
    """All of one length, no free dimension, or two of them in one input."""
    image = TensorSpec("image", DType.FP32, (None, 3, None, None))
    assert offered((IDS, MASK), (16, 16)) == []
    assert offered((FIXED,), ()) == []
    assert offered((image,), (3, 4)) == []


def test_data_of_several_lengths_is_taken_in_turns() -> None:
    """Arrays NAME/GROUP of a data file are one group a length."""
    spec = ModelSpec("m", (IDS, MASK), (MEAN,))
    data = {f"{name}/{length}": np.ones((2, length), np.int64) for name in ("ids", "mask") for length in (3, 5)}
    assert lengths_of(spec, rows_of_data(spec, data, 10)) == (3, 5, 3, 5)
    assert lengths_of(spec, rows_of_data(spec, data, 3)) == (3, 5, 3)


@pytest.mark.parametrize("minds_mask", [True, False])
def test_only_a_model_whose_outputs_mind_the_mask_passes_the_accuracy_check(tmp_path: Path, minds_mask: bool) -> None:
    """One that counts the filling gives other answers, and its buckets are rejected before any timing."""
    path = masked_mean(tmp_path / "m.onnx", minds_mask=minds_mask)
    engine = open_engine(path, EngineOptions())
    random = np.random.default_rng(0)
    requests = [
        {"ids": random.integers(1, 32, (1, length)), "mask": np.ones((1, length), np.int64)} for length in range(2, 20)
    ]
    reference = [engine.run(request) for request in requests]
    facts = Facts(engine.spec, 2, 2, frozenset(), lengths=lengths_of(engine.spec, requests))
    groups = RUNGS[0].offer(facts, BASELINE)
    candidate = next(one for group in groups for one in group if one.settings.batching.padding)
    with Model.open(Profile.of_model(path, candidate.settings)) as model:
        found = compare(reference, [model.infer_sync(request) for request in requests], 0.999)
    assert found.right is minds_mask


@pytest.mark.parametrize(("minds_mask", "verdicts"), [(True, {"better", "worse", "indistinct"}), (False, {"rejected"})])
def test_buckets_are_raced_through_real_servers(tmp_path: Path, minds_mask: bool, verdicts: set[str]) -> None:
    """Timed against the best so far where the answers stay right, and rejected for its wrong answers where not."""
    path = masked_mean(tmp_path / "m.onnx", minds_mask=minds_mask)
    random = np.random.default_rng(0)
    data = {f"ids/{length}": random.integers(1, 32, (4, length)) for length in (3, 7, 12, 19)}
    data |= {name.replace("ids", "mask"): np.ones_like(ids) for name, ids in data.items()}
    climb = Climb(Wanted(path, data, rate=300.0, budget_s=10.0), lambda event: None)
    best = starting_settings()
    candidate = next(RUNGS[0].offer(climb._facts, best))[0]
    try:
        climb._measure_rate()
        entry, _ = climb._try(best, candidate, 1.5)
    finally:
        climb._retire()
    assert entry["setting"] == "batching.max_batch=8 batching.padding=4/8/16/32"
    assert entry["verdict"] in verdicts
    assert (entry["samples"] > 50) is minds_mask
    assert ("wrong answers" in entry["reason"]) is not minds_mask
