"""Which candidate is next, and what stays: decided on ratios alone."""

import pytest

from tailcut.runtime.profile import Settings
from tailcut.spec import DType, ModelSpec, TensorSpec
from tailcut.stats import Interval, Verdict
from tailcut.tuner.ladder import Ladder, judge
from tailcut.tuner.race import Ratios
from tailcut.tuner.rungs import RUNGS, Candidate, Facts, Rung, changed, starting_settings

SPEC = ModelSpec("m", (TensorSpec("x", DType.FP32, (None, 4)),), (TensorSpec("y", DType.FP32, (None, 2)),))
FACTS = Facts(SPEC, usable_cpus=4, hardware_cpus=4, isa=frozenset({"avx512_bf16"}))
SHORTER, LONGER, UNSURE = Interval(0.5, 0.4, 0.6), Interval(1.5, 1.3, 1.7), Interval(0.9, 0.6, 1.3)
FASTER, SLOWER = Interval(2.0, 1.8, 2.2), Interval(0.5, 0.4, 0.6)


@pytest.mark.parametrize(
    ("ratios", "verdict", "keep", "words"),
    [
        (Ratios({"p99": SHORTER}), Verdict.BETTER, True, "p99 x0.50 (0.40 to 0.60)"),
        (Ratios({"p99": SHORTER, "p95": LONGER}, SLOWER), Verdict.BETTER, True, "throughput x0.50"),
        (Ratios({"p99": LONGER, "p95": SHORTER}, FASTER), Verdict.WORSE, False, "p99 x1.50"),
        (Ratios({"p99": UNSURE, "p95": SHORTER}), Verdict.BETTER, True, "p95 x0.50 (0.40 to 0.60), p99 x0.90"),
        (Ratios({"p99": UNSURE, "p95": UNSURE}, FASTER), Verdict.BETTER, True, "throughput x2.00 (1.80 to 2.20)"),
        (Ratios({"p99": UNSURE, "p95": UNSURE}, SLOWER), Verdict.INDISTINCT, False, "no telling apart"),
        (Ratios({"p99": Interval(1.2, 0.9, 1.6)}, FASTER), Verdict.INDISTINCT, False, "no telling apart"),
        (Ratios({"p50": UNSURE}), Verdict.INDISTINCT, False, "p50"),
    ],
)
def test_the_tail_decides(ratios: Ratios, verdict: Verdict, keep: bool, words: str) -> None:
    """p99 where it can be told; else what lies below it, and throughput, as long as the tail does not look longer."""
    found = judge(ratios)
    assert (found.verdict, found.keep) == (verdict, keep)
    assert words in found.reason


def climb(ladder: Ladder, rung: Rung, keep: set[str]) -> list[str]:
    """Try all of a rung's candidates and keep those named; returns what was offered."""
    offered = []
    for candidate in ladder.candidates(rung):
        offered.append(candidate.setting)
        if candidate.setting in keep:
            ladder.keep(rung, candidate)
    return offered


def test_a_candidate_stands_on_what_was_kept() -> None:
    """After bound rows are kept, batch sizes are offered with bound rows; the last one kept is the best."""
    ladder = Ladder(FACTS, starting_settings(), RUNGS)
    offered = climb(ladder, RUNGS[0], {"batching.bind=True", "batching.max_batch=8"})
    assert offered[0] == "batching.bind=True"
    assert ladder.best.batching.bind
    assert ladder.best.batching.max_batch == 8
    assert ladder.kept == {"algorithmic": ["batching.bind=True", "batching.max_batch=8"]}


def test_what_is_the_best_already_is_not_tried_again() -> None:
    """A candidate equal to the best so far is left out."""
    best = changed(starting_settings(), memory={"gc_freeze": True})
    ladder = Ladder(FACTS, best, RUNGS)
    assert "memory.gc_freeze=True" not in climb(ladder, RUNGS[4], set())


def test_rungs_are_climbed_in_the_fixed_order() -> None:
    """Algorithmic, layout, parallelism, SIMD, allocation, I/O."""
    assert [rung.name for rung in RUNGS] == ["algorithmic", "layout", "parallelism", "simd", "allocation", "io"]


def test_what_is_left_counts_the_rungs_behind() -> None:
    """Nothing is left after the last rung, and more after an earlier one."""
    ladder = Ladder(FACTS, starting_settings(), RUNGS)
    left = [ladder.left(number) for number in range(6)]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0


def test_keeping_replaces_the_best() -> None:
    """The ladder's best is the settings of the candidate kept last."""
    ladder = Ladder(FACTS, Settings(), RUNGS)
    settings = changed(Settings(), io={"spin_us": 100})
    ladder.keep(RUNGS[5], Candidate("io.spin_us=100", settings))
    assert ladder.best is settings
