"""Which requests are traced: as their callers say, and a share of the others."""

import itertools
import random

import pytest

from tailcut.server.tracing.sampler import Sampler
from tailcut.server.tracing.settings import Sampling
from tailcut.wire.trace_context import TraceContext

SPAN = "00f067aa0ba902b7"


def context(low: int, *, sampled: bool) -> TraceContext:
    return TraceContext(f"{1:016x}{low:016x}", SPAN, sampled)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_a_share_of_the_requests_without_a_context(share: float) -> None:
    """So many of 20,000, within five standard deviations, asked in passes of any size."""
    sampler = Sampler(Sampling(share), random.Random(1).random)
    dice = random.Random(2)
    taken = asked = 0
    while asked < 20_000:
        size = dice.randrange(1, 64)
        asked += size
        if not sampler.skips(size):
            some = sum(sampler.takes_root() for _ in range(size))
            assert some  # else the pass would have been skipped
            taken += some
    spread = 5 * (asked * share * (1 - share)) ** 0.5
    assert abs(taken - share * asked) <= spread


def test_gaps_are_as_long_as_chance_has_them() -> None:
    """The next one traced follows directly with the share's own probability."""
    sampler = Sampler(Sampling(0.25), random.Random(3).random)
    picks = [sampler.takes(None) for _ in range(40_000)]
    pairs = sum(item and other for item, other in itertools.pairwise(picks))
    assert abs(pairs / sum(picks) - 0.25) < 0.02


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_caller_decides(share: float) -> None:
    """Whatever the share is; and requests with a context do not count among the others."""
    sampler = Sampler(Sampling(share))
    assert sampler.takes(context(5, sampled=True))
    assert not sampler.takes(context(5, sampled=False))
    assert sampler.takes(None) == (share == 1)


def test_without_regard_to_callers_the_id_decides() -> None:
    """By the low half of the trace's id, as other services decide: the same trace everywhere."""
    sampler = Sampler(Sampling(0.5, follows_caller=False))
    for sampled in (True, False):
        assert sampler.takes(context((1 << 63) - 1, sampled=sampled))
        assert not sampler.takes(context(1 << 63, sampled=sampled))
    assert Sampler(Sampling(1.0, follows_caller=False)).takes(context((1 << 64) - 1, sampled=False))
    assert not Sampler(Sampling(0.0, follows_caller=False)).takes(context(0, sampled=True))
