"""Sentences of a tune's result."""

from msgspec.structs import replace
from tests.report.test_html import result, verification

from tailcut.lab.records import IntervalRecord
from tailcut.report.tune_words import more_traffic, noise_words
from tailcut.tuner.result_records import HighestRate, NoiseResult


def test_a_late_client_is_reported_without_repeats_too() -> None:
    """Blocks with failed requests, and those beyond the bound of repeats, are late and not repeated."""
    noise = NoiseResult(1.0, 0.0, probes=1, late_blocks=10, repeated_blocks=0, client_lateness_p99_ms=None)
    assert noise_words(noise).endswith(", worst gap 0 ms; the client was late in 10 of the blocks that count")
    assert "late" not in noise_words(replace(noise, late_blocks=0))


def test_more_traffic_of_a_slow_model() -> None:
    """Its rates are below one per second, and its times are whole seconds."""
    highest = HighestRate(3000.0, 0.36, 0.44, (2000.0, 2900.0), 500, within=True)
    case = replace(result(), verification=replace(verification(8.0, 0.4), highest_rate=highest))
    assert more_traffic(case) == (
        "1.22 times the traffic within the same tail: 0.44 requests/s with a p99 of 2,000.0 to 2,900.0 ms "
        "(500 requests); the limit is 3,000.0 ms, and the baseline is over it at 0.36"
    )


def test_more_traffic_where_the_limit_is_the_baselines_own_tail() -> None:
    """It is compared with that, measured in the same rounds."""
    highest = HighestRate(12.5, 3600.0, 7200.0, (1.0, 18.0), 9000, within=True, p99_ratio=IntervalRecord(0.2, 0.1, 0.7))
    case = replace(result(), verification=replace(verification(8.0, 0.4), highest_rate=highest))
    assert more_traffic(case).startswith("2.00 times the traffic within the same tail: at 7,200 requests/s its p99 is ")
    assert "is x0.20 (0.10 to 0.70) of the baseline's at " in more_traffic(case)
    assert more_traffic(case).endswith("; at 3,600 the baseline's is over 12.50 ms")
