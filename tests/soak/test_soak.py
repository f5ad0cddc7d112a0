"""Short versions of what `make soak` does for any time."""

from pathlib import Path

import pytest
from tests.effort import runs
from tests.server.sound import check_back, usage
from tests.servers import serving
from tests.soak.mixed import LEAVES, make_models, mixed
from tests.soak.overload import DEADLINE_S, OPTIONS, make_profile, overload


def test_nobody_ever_gets_anothers_bytes(tmp_path: Path) -> None:
    """Thousands of requests of 32 clients that often leave half-way: each answer is its own input, nothing leaks."""
    count = runs(8000)
    with serving(tmp_path, *make_models(tmp_path)) as server:
        before = usage(server)
        tally = mixed(server, 1, count)
        assert tally.faults == []
        assert tally.answered > 0.6 * count
        assert tally.fast_path >= 4
        assert all(tally.left[where] > count / 80 for where in LEAVES)
        check_back(server, before)  # once what was left is computed
        assert server.stop() == 0
        lines = server.stderr.read_text().splitlines()
        assert [line for line in lines if not line.startswith("INFO ")] == []  # nothing went wrong


@pytest.mark.slow
def test_overload(tmp_path: Path) -> None:
    """Offered ten times too much, what can be computed is, in time; the rest is refused; memory stays.

    What else the machine does may spoil a second: one of five has to be good, by what others left of the CPUs. `make
    soak` asks for 90 % of a minute.
    """
    with serving(tmp_path, make_profile(tmp_path), *OPTIONS) as server:
        for _ in range(5):
            seen = overload(server, 1.0)
            assert seen.others == 0
            assert seen.refused > 0
            assert seen.grown_bytes < 32 << 20
            if seen.goodput > 0.75 * seen.left * seen.peak and seen.p99_s < DEADLINE_S:
                break
        else:
            raise AssertionError(f"never good: {seen}")
        assert server.stop() == 0
