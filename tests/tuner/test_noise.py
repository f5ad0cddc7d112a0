"""How noisy the machine was."""

from tailcut.lab.trial import ArmRuns
from tailcut.tuner.noise import Noise
from tailcut.tuner.result_records import NoiseResult


def test_a_probe_spins_for_two_milliseconds() -> None:
    """What it lost is part of what it spun, and the worst gap is no longer than all of them."""
    noise = Noise()
    for _ in range(3):
        noise.probe()
    assert noise.probes == 3
    assert noise.spun_ns >= 6_000_000
    assert 0 <= noise.worst_gap_ns <= noise.lost_ns <= noise.spun_ns


def test_the_record_of_known_gaps() -> None:
    """A tenth of the time in gaps is a quiet share of nine tenths; late and repeated blocks are counted."""
    noise = Noise()
    assert noise.record() is None
    noise.add(2_000_000, [50_000, 150_000])
    noise.add_runs(ArmRuns(behind=1, repeated=2, lateness_ns=[1e5, 3e6]))
    record = noise.record()
    assert record == NoiseResult(
        quiet_share=0.9,
        worst_gap_ms=0.15,
        probes=1,
        late_blocks=1,
        repeated_blocks=2,
        client_lateness_p99_ms=3.0,
    )
