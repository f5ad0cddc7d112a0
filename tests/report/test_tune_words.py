"""Sentences of a tune's result."""

from msgspec.structs import replace
from tests.report.test_html import result, verification

from tailcut.report.tune_words import more_traffic, noise_words
from tailcut.tuner.result_records import HighestRate, NoiseResult


def test_a_client_that_was_late_is_told_without_repeats_too() -> None:
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
