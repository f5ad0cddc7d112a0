"""Which of several equal configurations is chosen, as tables."""

import pytest

from tailcut.tuner.tie_break import MeasuredUsage, choose

MIB = 1 << 20


def usage(alone_ms: float, cpu_us: float | None = 100.0, mib: int | None = 300) -> MeasuredUsage:
    """Four rounds that agree to a thousandth."""
    rounds = tuple(alone_ms * (1 + number / 1000) for number in range(4))
    return MeasuredUsage(rounds, cpu_us, None if mib is None else mib * MIB)


@pytest.mark.parametrize(
    ("usages", "index", "words"),
    [
        ([usage(2.0)], 0, ""),
        # The shortest p50, where it is clear: not the one that takes least.
        ([usage(2.0, 10.0), usage(1.0, 900.0)], 1, "p50 with one connection x0.50 of the next"),
        # Equal p50: clearly less CPU.
        ([usage(2.0, 60_000.0), usage(2.06, 15_000.0)], 1, "equal within the noise; takes 0.25 of the CPU"),
        # About as much CPU: clearly less memory.
        ([usage(2.0, 100.0, 900), usage(2.0, 110.0, 300)], 1, "equal within the noise; holds 0.33 of the memory"),
        # Two of three take little CPU; of these one holds less memory.
        (
            [usage(2.0, 90.0, 300), usage(2.0, 10.0, 900), usage(2.05, 11.0, 300)],
            2,
            "equal within the noise; takes 0.11 of the CPU and holds 0.33 of the memory",
        ),
        # Nothing is clear: the shortest.
        (
            [usage(2.04, 95.0, 310), usage(2.0)],
            1,
            "within 5% of the best, as another is, with about as much CPU and memory",
        ),
        # A few megabytes are not worth a choice, and what is unknown of one decides nothing.
        ([usage(2.0, 100.0, 20), usage(2.04, 100.0, 10)], 0, "with about as much CPU and memory"),
        ([usage(2.0, None), usage(2.04, 10.0)], 0, "with about as much CPU and memory"),
    ],
)
def test_the_order_of_tie_breaks(usages: list[MeasuredUsage], index: int, words: str) -> None:
    """Median of a lone connection, then CPU, then memory; the reason names what decided."""
    choice = choose(usages)
    assert choice.index == index
    assert words in choice.reason


def test_noise_is_no_difference() -> None:
    """Medians that their rounds do not tell apart are equal, up to 15 %; those that they do are not."""
    noisy = MeasuredUsage((1.6, 2.6, 2.25, 2.25), 10.0, 0)
    assert choose([MeasuredUsage((2.0, 2.1, 1.9, 2.1), 60.0, 0), noisy]).index == 1
    steady = MeasuredUsage((2.25, 2.26, 2.25, 2.25), 10.0, 0)
    assert choose([MeasuredUsage((2.0, 2.01, 2.0, 2.0), 60.0, 0), steady]).index == 0
    far = MeasuredUsage((1.0, 9.0, 2.6, 2.6), 10.0, 0)
    assert choose([MeasuredUsage((2.0, 2.1, 1.9, 2.1), 60.0, 0), far]).index == 0


def with_tail(alone_ms: float, *tails_ms: float) -> MeasuredUsage:
    """Equal in all but the median of a lone connection and the tail under load."""
    return MeasuredUsage((alone_ms,) * 4, 100.0, 300 * MIB, tails_ms)


def test_a_clearly_longer_tail_is_left_out() -> None:
    """The shorter median of a lone connection does not make up for it; the reason names the tail."""
    choice = choose([with_tail(1.0, 9.0, 8.0, 8.0, 30.0), with_tail(2.0, 6.0, 6.0, 7.0, 6.0)])
    assert choice.index == 1
    assert "p95 at the rate of the verification x0.71 of the next" in choice.reason


@pytest.mark.parametrize("tails", [(7.0, 7.0, 6.5, 7.0), (9.0, 9.0, 5.0, 9.0), ()])
def test_a_tail_that_is_not_clearly_longer_decides_nothing(tails: tuple[float, ...]) -> None:
    """Hardly longer, not in each round, or unknown: the shortest median decides."""
    assert choose([with_tail(1.0, *tails), with_tail(2.0, 6.0, 6.0, 6.0, 6.0)]).index == 0
