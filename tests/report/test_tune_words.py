"""Sentences of a tune's result."""

from msgspec.structs import replace
from tests.report.test_html import result, verification

from tailcut.report.tune_words import more_traffic
from tailcut.tuner.result_records import HighestRate


def test_more_traffic_of_a_slow_model() -> None:
    """Its rates are below one per second, and its times are whole seconds."""
    highest = HighestRate(3000.0, 0.36, 0.44, (2000.0, 2900.0), 500, within=True)
    case = replace(result(), verification=replace(verification(8.0, 0.4), highest_rate=highest))
    assert more_traffic(case) == (
        "1.22 times the traffic within the same tail: 0.44 requests/s with a p99 of 2,000.0 to 2,900.0 ms "
        "(500 requests); the limit is 3,000.0 ms, and the baseline is over it at 0.36"
    )
