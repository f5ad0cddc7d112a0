"""The load that a replica sustains, from synthetic measurements."""

import functools
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tailcut.engines import EngineOptions
from tailcut.errors import UsageError
from tailcut.models import digits_model
from tailcut.planning.demand import Limit
from tailcut.planning.measured import MeasuredProfile
from tailcut.ray.plan import CarriedLoad
from tailcut.ray.scaling import carried_by, tuned_limit
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.service import MeasuredService
from tailcut.tuner.simulate import simulate_closed
from tailcut.tuner.space import changed

pytestmark = pytest.mark.usefixtures("short_simulations")
WAY = {"wake_ns": 5_000}


def measured(evidence: dict | None = None, ms: float = 1.0) -> MeasuredProfile:
    """A model that computes one row at a time, in so many milliseconds."""
    service = MeasuredService(sizes=(1,), quantiles_us=((1000.0 * ms,),), threads=1, cores=2.0, way_in=WAY)
    profile = Profile.of_model(digits_model(), Settings(engine=EngineOptions(threads=1)))
    profile = msgspec.structs.replace(profile, evidence=evidence or {})
    return MeasuredProfile(Path("m.toml"), profile, service, Path("m.toml"))


@functools.cache
def carried() -> CarriedLoad:
    """Within 100 ms, by a model of 1 ms of which nothing else is known."""
    return carried_by(measured(), Limit("p99", 100.0))


def test_figures_follow_from_the_highest_rate_within_the_limit() -> None:
    """One server with a fixed service time is M/D/1: p99 within 10 ms of 1 ms each at some 80 % of its capacity."""
    result = carried_by(measured(), Limit("p99", 10.0))
    assert result.rate is not None
    assert result.ongoing is not None
    assert 600 < result.rate < 950
    assert 0.6 < result.ongoing < 5
    assert result.target_ongoing == pytest.approx(0.7 * result.ongoing, rel=0.02)
    assert result.most_ongoing == pytest.approx(result.rate * 0.01, abs=1.1)
    assert result.limit == "p99=10ms"


def test_a_tighter_limit_sustains_less() -> None:
    """Fewer requests in flight, and fewer at a time."""
    loose, tight = (carried_by(measured(), Limit("p99", limit)) for limit in (20.0, 3.0))
    assert tight.rate is not None
    assert loose.rate is not None
    assert tight.rate < loose.rate
    assert tight.target_ongoing < loose.target_ongoing
    assert tight.most_ongoing < loose.most_ongoing


def test_a_server_that_answered_less_than_its_parts_promise() -> None:
    """The tune's own measurement decides: half the throughput is half the rate."""
    limit, promised = Limit("p99", 100.0), simulate_closed(measured().parts(2.0), 16, 20_000).rate
    evidence = {"clients": 16, "tuned": {"throughput": promised / 2}}
    plain, slow = carried().rate, carried_by(measured(evidence), limit).rate
    assert plain is not None
    assert slow == pytest.approx(plain / 2, rel=0.05)


def test_a_replica_with_fewer_cpus_sustains_less() -> None:
    """Half a CPU sustains about half of what one does; more CPUs than the tune had make no difference."""
    limit = Limit("p99", 100.0)
    half, tuned, more = carried_by(measured(), limit, 0.5).rate, carried().rate, carried_by(measured(), limit, 8.0).rate
    assert tuned is not None
    assert half is not None
    assert half < 0.7 * tuned
    assert more == tuned


def test_a_profile_for_clients_on_the_same_machine(caplog: pytest.LogCaptureFixture) -> None:
    """Carries less over a network, which a warning says."""
    item = measured()
    carried_by(item, Limit("p99", 10.0))
    assert not caplog.records
    local = changed(item.profile.settings, io={"socket": "unix"})
    profile = msgspec.structs.replace(item.profile, settings=local)
    carried_by(replace(item, profile=profile), Limit("p99", 10.0))
    assert "was tuned with --local" in caplog.text


def test_a_limit_that_no_replica_meets() -> None:
    """The error says how long a single request takes."""
    with pytest.raises(UsageError, match=r"no replica meets p99 within 0\.5 ms: a lone request takes 1"):
        carried_by(measured(), Limit("p99", 0.5))


def test_the_limit_of_the_tune() -> None:
    """Where the profile records it."""
    assert tuned_limit(measured({"limit_ms": 12.5})) == Limit("p99", 12.5)
    assert tuned_limit(measured()) is None
