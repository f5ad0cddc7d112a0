"""The measurements of a profile: from its evidence, or from the journal beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest

from tailcut.engines import EngineOptions
from tailcut.errors import MissingProfileError, ProfileError
from tailcut.models import digits_model
from tailcut.planning.measured import MeasuredProfile, lasting_cores, read_measured
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import BatchingSettings, IoSettings, Settings
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.journal import Journal, Key
from tailcut.tuner.service import MeasuredService
from tailcut.tuner.simulate import WayIn
from tailcut.tuner.space import BASELINE

ENGINE = EngineOptions(threads=1)
WAY = {"receive_ns": 50_000, "client_ns": 200_000}
SERVICE = {"sizes": [1, 2], "quantiles_us": [[100.0], [150.0]], "threads": 1, "cores": 2.0, "way_in": {"wake_ns": 5}}


def save(folder: Path, **values: object) -> Path:
    """A profile of the bundled model."""
    path = folder / "digits.profile.toml"
    profile = Profile.of_model(digits_model(), Settings(engine=ENGINE))
    msgspec.structs.replace(profile, **values).save(path)
    return path


def write_journal(folder: Path) -> None:
    """Beside the profile, as a tune does."""
    sha256 = Profile.of_model(digits_model()).model.sha256
    journal = Journal(folder / "digits.trials.jsonl", Key(sha256, "engines", "machine", "x"))
    journal.add_estimate(EngineEstimate(ENGINE, {1: [np.arange(1000, 2000)]}, [], {1: 800.0}))
    journal.add_way(BASELINE, WayIn(1, 2, 3, 4, 5))


def test_the_evidence_comes_first(tmp_path: Path) -> None:
    """Whatever lies beside it."""
    write_journal(tmp_path)
    result = read_measured(save(tmp_path, evidence={"service": SERVICE}))
    assert result.service.quantiles_us == ((100.0,), (150.0,))
    assert result.source == result.path


def test_an_older_profile_has_its_journal(tmp_path: Path) -> None:
    """With the cores of the machine that the profile records."""
    write_journal(tmp_path)
    result = read_measured(save(tmp_path, machine={"usable_cpus": 3}))
    assert result.service.cores == 3.0
    assert np.median(result.service.quantiles_us) == pytest.approx(1.5, rel=0.01)
    assert result.source.name == "digits.trials.jsonl"


def test_without_measurements_it_is_to_be_tuned_again(tmp_path: Path) -> None:
    """In one line that names both places."""
    path = save(tmp_path, machine={"usable_cpus": 3})
    with pytest.raises(ProfileError, match=r"no service times, and neither has digits\.trials\.jsonl.*tune .*again"):
        read_measured(path)


def tuned(
    share: float = 1.0,
    *,
    clients: int = 16,
    cores: float = 2.0,
    workers: int = 1,
    dispatch: Literal["inline", "worker"] = "worker",
    way_in: dict[str, int] = WAY,
    **machine: float,
) -> MeasuredProfile:
    """A model of 2 ms a row, whose tuned server answered this share of 500 requests per second."""
    service = MeasuredService(sizes=(1,), quantiles_us=((2000.0,),), threads=1, cores=cores, way_in=way_in)
    evidence = {"clients": clients, "tuned": {"throughput": 500.0 * share}}
    batching = BatchingSettings(max_batch_size=1, dispatch=dispatch)
    settings = Settings(engine=ENGINE, batching=batching, io=IoSettings(workers=workers))
    profile = msgspec.structs.replace(Profile.of_model(digits_model(), settings), evidence=evidence, machine=machine)
    return MeasuredProfile(Path("m.toml"), profile, service, Path("m.toml"))


@pytest.mark.slow
def test_the_scale_is_what_the_parts_promise_for_the_verified_load() -> None:
    """Over what the tuned server answered there; every CPU time of the configuration is scaled by it."""
    slow = tuned(0.8)
    assert slow.scale == pytest.approx(1.25, rel=0.05)
    assert slow.configuration(2.0).service.medians_ns[0] == pytest.approx(2e6 * slow.scale)
    assert slow.configuration(2.0).way_in.receive_ns == pytest.approx(50_000 * slow.scale, abs=1)
    assert slow.parts(2.0).service.medians_ns[0] == 2e6


def test_the_saturated_loop_comes_first() -> None:
    """A plan is about capacity, and with few connections the batches are small; it scales however near it is."""
    item = tuned(0.7)
    evidence = item.profile.evidence | {"saturated": {"clients": 64, "throughput": 460.0}}
    item = replace(item, profile=msgspec.structs.replace(item.profile, evidence=evidence))
    assert item.scale == item.ratio == pytest.approx(500 / 460, rel=0.02)
    for broken in ({"clients": "many"}, {"clients": 64, "throughput": 0.0}):
        item = replace(item, profile=msgspec.structs.replace(item.profile, evidence=evidence | {"saturated": broken}))
        assert item.ratio == pytest.approx(1 / 0.7, rel=0.05)


def test_the_client_of_the_tune_shared_its_cores() -> None:
    """Unless the server was confined to some of them: then the same throughput is a slower server."""
    shared, confined = (
        tuned(cores=1.0, way_in={"receive_ns": 50_000, "client_ns": 20_000}, dispatch="inline", usable_cpus=cpus)
        for cpus in (1, 2)
    )
    assert confined.ratio > 1.05 * shared.ratio


def test_workers_shared_the_cores_and_the_clients() -> None:
    """Two processes on two cores promise twice what one on one core does for half of the clients."""
    assert tuned(2.0, clients=32, workers=2).ratio == pytest.approx(tuned(cores=1.0).ratio, rel=0.02)


def test_a_tune_under_a_quota_had_no_more_cores_than_that() -> None:
    """Half a core promises half the requests."""
    assert tuned(cores=1.0, cpu_quota=0.5).ratio == pytest.approx(tuned(cores=1.0).ratio / 2, rel=0.1)


@pytest.mark.parametrize(
    ("cores", "machine", "expected"),
    [
        (1.0, {"usable_cpus": 1, "cpu_quota": 0.5, "cpus": 8}, 0.5),
        (1.0, {"usable_cpus": 1, "cpu_quota": 1.5, "cpus": 8}, 1.5),
        (1.0, {"usable_cpus": 1, "cpu_quota": 1.5, "cpus": 1}, 1.0),
        (2.0, {"usable_cpus": 2, "cpu_quota": 4.0, "cpus": 8}, 2.0),
        (2.0, {"usable_cpus": 4, "cpu_quota": 4.5, "cpus": 8}, 2.0),
        (1.0, {"usable_cpus": 1}, 1.0),
        (2.0, {}, 2.0),
    ],
)
def test_the_cores_of_a_tune(cores: float, machine: dict[str, float], expected: float) -> None:
    """A quota's, unless the machine, the affinity mask or `--cpus` allowed fewer."""
    assert tuned(cores=cores, **machine).cores == expected


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_measurements_that_agree_do_not_scale(share: float) -> None:
    """Two closed loops of one server differ as much."""
    item = tuned(share)
    assert (item.is_near, item.agrees, item.scale) == (True, True, 1.0)
    assert item.ratio == pytest.approx(1 / share, rel=0.05)


@pytest.mark.parametrize("share", [0.2, 5.0])
def test_measurements_that_are_too_far_apart_do_not_scale(share: float) -> None:
    """A factor of five is a fault of one of them."""
    item = tuned(share)
    assert (item.is_near, item.scale) == (False, 1.0)
    assert item.ratio == pytest.approx(1 / share, rel=0.1)


@pytest.mark.parametrize(
    "evidence", [{}, {"tuned": {"throughput": 80.0}}, {"clients": 16, "tuned": {}}, {"clients": 16}]
)
def test_nothing_verified_scales_nothing(evidence: dict) -> None:
    """A tune without a verification, or one that kept less of it."""
    item = tuned()
    item = replace(item, profile=msgspec.structs.replace(item.profile, evidence=evidence))
    assert (item.loop, item.ratio, item.scale) == (None, 1.0, 1.0)


def test_stops_by_a_quota_cost_time() -> None:
    """Below one core, 1.7 ms of every 100; each of several processes loses as much."""
    assert [lasting_cores(cores) for cores in (1.0, 2.5, 0.35)] == [1.0, 2.5, pytest.approx(0.333)]
    assert lasting_cores(0.7, 2) == pytest.approx(2 * lasting_cores(0.35))
    assert 0 < lasting_cores(0.01, 4) < 0.01
    assert tuned().parts(0.35).cores == pytest.approx(0.333)


def test_damaged_evidence(tmp_path: Path) -> None:
    """It is reported, and not simulated."""
    path = save(tmp_path, evidence={"service": SERVICE | {"threads": 0}})
    with pytest.raises(ProfileError, match=r"evidence\.service is not valid.*tune the model again"):
        read_measured(path)


def test_another_schema_and_no_file(tmp_path: Path) -> None:
    """As for every command."""
    path = save(tmp_path)
    path.write_text(path.read_text().replace("schema = 2", "schema = 99"))
    with pytest.raises(ProfileError, match="schema 99 is newer"):
        read_measured(path)
    with pytest.raises(MissingProfileError):
        read_measured(tmp_path / "none.toml")


def test_a_pipeline_cannot_be_planned(tmp_path: Path) -> None:
    """Its stages have no service times by batch size."""
    profile = Profile.of_model(digits_model())
    model = msgspec.structs.replace(profile.model, path=str(tmp_path / "embed.py:pipeline"))
    path = tmp_path / "embed.profile.toml"
    msgspec.structs.replace(profile, model=model).save(path)
    with pytest.raises(ProfileError, match="a pipeline cannot be planned"):
        read_measured(path)
