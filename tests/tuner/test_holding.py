"""When waiting for company is offered at all: from what a row costs alone, what two cost, and the rate."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from tests.engines.models import perceptron
from tests.tuner.test_rungs import BOUND, FACTS, offers

from tailcut.engines import open_engine
from tailcut.engines.base import EngineOptions
from tailcut.tuner.holding import Sharing, measure
from tailcut.tuner.rungs import BASELINE


def test_waiting_is_offered_where_company_saves_more_than_it_keeps_waiting() -> None:
    """Two rows at the price of 1.1: one that comes within 2 ms is worth 1.8 ms of waiting, or not at 400 a second."""
    sharing = Sharing(alone_s=2e-3, pair_s=2.2e-3)
    assert sharing.waits_us(600) == (2000,)
    assert sharing.waits_us(1200) == (1000, 2000)
    assert sharing.waits_us(400) == ()


def test_a_model_whose_rows_share_nothing_is_never_told_to_wait() -> None:
    """Two rows cost two."""
    assert Sharing(alone_s=2e-3, pair_s=4e-3).waits_us(1e6) == ()


def test_half_of_what_single_rows_carry_is_too_little_traffic_for_waiting() -> None:
    """The tuner's own rate: the next row is due after the time of two, and can save that of one at most."""
    assert Sharing(alone_s=2e-3, pair_s=2e-3).waits_us(0.5 / 2e-3) == ()


def test_what_is_not_known_offers_nothing() -> None:
    """A model without a batch is not measured, and before the rate is known there is none."""
    assert Sharing().waits_us(1000) == ()
    assert Sharing(1e-3, 1e-3).waits_us(0) == ()


def test_the_rung_offers_the_waits_once_batches_are_kept() -> None:
    """Alone, by the loop's own thread, or where no wait can pay, nobody is held back."""
    facts = replace(FACTS, waits_us=(1000, 2000))
    assert [name for name in offers(0, facts) if "hold" in name] == ["batching.hold_us=1000", "batching.hold_us=2000"]
    assert not any("hold" in name for name in offers(0, facts, BASELINE))
    assert not any("hold" in name for name in offers(0))
    assert BOUND.batching.max_batch > 1


def test_a_real_engine_is_measured(tmp_path: Path) -> None:
    """A call of two rows of a small model costs less than two calls."""
    engine = open_engine(perceptron([16, 32, 4], tmp_path / "m.onnx"), EngineOptions(threads=1))
    try:
        found = measure(engine, {"x": np.zeros((3, 16), np.float32)})
    finally:
        engine.close()
    assert 0 < found.pair_s < 2 * found.alone_s
