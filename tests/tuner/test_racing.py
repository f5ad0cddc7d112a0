"""The load of a race: connections and lengths of blocks, of slow models too."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread
from typing import Any

import pytest

from tailcut.errors import UsageError
from tailcut.lab.client import closed_loop
from tailcut.lab.load import LoadResult, LoadTarget, Payload
from tailcut.lab.trial import Arm
from tailcut.tuner import baseline
from tailcut.tuner import racing as racing_module
from tailcut.tuner.baseline import measure_baseline
from tailcut.tuner.heats import NONE
from tailcut.tuner.journal import Journal
from tailcut.tuner.noise import Noise
from tailcut.tuner.objective import Objective, ObjectiveKind
from tailcut.tuner.racing import LEAST_BLOCK_S, ClosedScores, RaceEntrant, RaceLoad, Racing, load_for
from tailcut.tuner.space import BASELINE, changed


@pytest.mark.parametrize(
    ("kind", "rate", "clients"),
    [
        ("goodput", 1000.0, (1, 6)),  # as many as fill 0.6 of the limit
        ("goodput", 1e6, (16, 128)),
        ("goodput", 1.0, (1, 2)),
        ("throughput", 1000.0, (16, 128)),
        ("throughput", 10.0, (1, 5)),  # of a slow model, no more than half a second's worth
    ],
)
def test_connections_follow_rate_and_limit(kind: ObjectiveKind, rate: float, clients: tuple[int, ...]) -> None:
    """As many as bring the server to its limit, and an eighth of them."""
    load = load_for(Objective(kind, limit_ms=10.0), rate)
    assert load.clients == clients
    assert load.block_s >= LEAST_BLOCK_S


@pytest.mark.parametrize(("capacity", "block_s"), [(500.0, LEAST_BLOCK_S), (20.0, 0.3), (0.5, 12.0), (0.0, 1.0)])
@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.4])
def test_blocks_end_where_nothing_is_expected_to_meet_the_limit(rate: float, capacity: float, block_s: float) -> None:
    """By what the baseline carries: requests at a rate of nothing take for ever."""
    load = load_for(Objective("goodput", limit_ms=0.05, rate=capacity / 2), rate if capacity else 0.0, capacity)
    assert load == RaceLoad((1, 2), pytest.approx(block_s))


@contextmanager
def sleepers(*seconds: float, failing: int = 0) -> Iterator[list[RaceEntrant]]:
    """Servers that take so long to answer, as a slow model does; of so many requests one fails, where that is not 0."""
    asked = count(1)

    def handler(sleep_s: float) -> type[BaseHTTPRequestHandler]:
        class Sleeper(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                time.sleep(sleep_s)
                self.send_response(500 if failing and next(asked) % failing == 0 else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Sleeper

    with ExitStack() as stack:
        entrants = []
        for index, sleep_s in enumerate(seconds):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler(sleep_s)))
            Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            target = LoadTarget("127.0.0.1", server.server_port)
            payload = Payload(f"GET / HTTP/1.1\r\nHost: {target.authority}\r\n\r\n".encode())
            settings = changed(BASELINE, batching={"max_batch_size": index + 1})
            entrants.append(RaceEntrant(settings, Arm(target, [payload])))
        yield entrants


def racing(kind: ObjectiveKind, rate: float) -> Racing:
    objective = Objective(kind, limit_ms=2000.0, rate=4.0)
    return Racing(objective, load_for(objective, rate), Noise(), Journal(None, None))


def test_only_what_may_be_best_is_measured_again() -> None:
    """Both numbers of connections in two heats, then those that are near the arm's best."""
    scores = ClosedScores()
    for few, many in ((10.0, 100.0), (120.0, 90.0)):
        assert scores.wanted((2, 16)) == [2, 16]
        scores.add(2, few)
        scores.add(16, many)
    assert scores.wanted((2, 16)) == [2, 16]  # 65 and 95
    scores.add(2, 10.0)
    assert scores.wanted((2, 16)) == [16]
    assert scores.wanted((2, 16, 32)) == [2, 16, 32]


def test_a_number_of_connections_that_is_behind_is_left_out() -> None:
    """So that there is time for more heats, of what decides."""
    asked: list[int] = []
    measured = replace(racing("goodput", 8.0), load=RaceLoad((1, 4), LEAST_BLOCK_S))
    with sleepers(0.02, 0.02) as entrants, pytest.MonkeyPatch.context() as patch:
        run = racing_module.closed_run

        def noted(arm: Arm, concurrency: int, **more: float) -> LoadResult:
            asked.append(concurrency)
            return run(arm, concurrency=concurrency, **more)

        patch.setattr(racing_module, "closed_run", noted)
        measured.heats(entrants, time.monotonic() + 2.5, 4)
    assert asked[:8] == [1, 4] * 4
    assert asked[8:]
    assert set(asked[8:]) == {4}


@pytest.mark.slow
@pytest.mark.parametrize("rate", [8.0, 40.0])
def test_a_slow_model_is_selected_by_what_was_measured(rate: float) -> None:
    """No time is left, and yet blocks have answers, also where far quicker ones were foreseen: the quick one wins."""
    measured = replace(racing("goodput", rate), load=RaceLoad((1, 2), 6 / rate))
    with sleepers(0.4, 0.25) as entrants:
        heats = measured.heats(entrants, time.monotonic(), 1)
        assert heats.leader == 1
        assert heats.near(0.05) == [1]
        assert heats.entrants[1].estimate > NONE
        usages = measured.usages(entrants, 4.0)
    assert [len(usage.alone_ms) > 0 for usage in usages] == [True, True]
    assert 200 < usages[1].median_ms < usages[0].median_ms < 1000


def test_a_limit_that_nothing_meets_is_raced_once() -> None:
    """Late answers are answers: blocks are not made longer for them, and the one with the shortest p99 wins."""
    measured = racing("goodput", 8.0)
    measured.objective = replace(measured.objective, limit_ms=0.001)
    measured.load = RaceLoad((1, 2), LEAST_BLOCK_S)
    with sleepers(0.05, 0.01) as entrants:
        heats = measured.heats(entrants, time.monotonic(), 1)
    assert measured.load.block_s == LEAST_BLOCK_S
    assert heats.leader == 1
    assert heats.near(0.05) == [1]


def test_a_baseline_that_fails_says_how() -> None:
    """Each error, and how often."""
    with sleepers(0.001, failing=1) as (entrant,), pytest.raises(UsageError, match=r"succeeded: 500 \(\d+ times\)$"):
        measure_baseline(entrant.arm, 0.1, rate=None, limit_ms=None)


def test_failures_are_raced_once() -> None:
    """They score no more than no answers, and longer blocks would have more of them."""
    measured = racing("latency", 100.0)
    measured.objective = replace(measured.objective, rate=100.0)
    with sleepers(0.001, failing=4) as entrants:
        heats = measured.heats(entrants, time.monotonic(), 1)
    assert heats.entrants[0].scores == [NONE]
    assert measured.load == racing("latency", 100.0).load


@pytest.mark.slow
def test_open_blocks_have_requests_when_time_is_over() -> None:
    """A block of the least length would often have none."""
    measured = racing("latency", 8.0)
    with sleepers(0.05, 0.01) as entrants:
        assert measured.heats(entrants, time.monotonic(), 1).leader == 1


def test_fewer_arms_race_where_a_heat_takes_long() -> None:
    """Two at least, and as many heats as there is time for; arms of a quick model all race."""
    now = time.monotonic()
    slow = replace(racing("goodput", 8.0), load=RaceLoad((1, 2), 1.0))  # 2.4 s for one arm in one heat
    assert slow.in_time(6, now + 30.0, now + 30.0) == (4, 3)
    assert slow.in_time(6, now + 10.0, now + 10.0) == (2, 2)
    assert racing("goodput", 1000.0).in_time(9, now + 30.0, now + 30.0) == (9, 3)


@pytest.mark.parametrize(("latest_s", "heats"), [(6.0, 1), (4.0, 0)])
def test_one_heat_may_take_what_the_rungs_do_not(latest_s: float, heats: int) -> None:
    """Two arms of a slow model, or at a low rate, race once where that ends at the latest time, and else not at all."""
    now = time.monotonic()
    slow = replace(racing("goodput", 8.0), load=RaceLoad((1, 2), 1.0))
    assert slow.in_time(6, now - 5.0, now + latest_s) == (2, heats)
    seldom = racing("latency", 1000.0)
    seldom.objective = replace(seldom.objective, rate=5.0)  # 2.4 s for an open block
    assert seldom.in_time(6, now - 5.0, now + latest_s) == (2, heats)
    assert seldom.in_time(1, now - 5.0, now + 1.0) == (1, 0)


def test_a_slow_baseline_is_measured_in_few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without answers is followed by one as long as it took, and no second one is made with as many clients."""
    lengths = []

    def counted(*arguments: Any, duration_s: float, **options: Any) -> LoadResult:
        lengths.append(duration_s)
        return closed_loop(*arguments, duration_s=duration_s, **options)

    monkeypatch.setattr(baseline, "closed_loop", counted)
    with sleepers(0.3) as (entrant,):
        known = measure_baseline(entrant.arm, 0.04, rate=None, limit_ms=100.0)
    assert len(lengths) <= 4
    assert lengths == sorted({*lengths})
    assert lengths[-1] >= 0.3
    assert 2 < known.capacity < 10
