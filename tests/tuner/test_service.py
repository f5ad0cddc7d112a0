"""What a profile keeps of its tune's measurements."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tailcut.engines import EngineOptions
from tailcut.models import digits_model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.journal import Journal, Key, lines_of
from tailcut.tuner.service import MeasuredService, measured_service, service_evidence
from tailcut.tuner.simulate import WayIn
from tailcut.tuner.space import BASELINE, changed

ENGINE = EngineOptions(threads=2)
SETTINGS = changed(Settings(engine=ENGINE), batching={"max_batch_size": 4, "max_queue_delay_us": 500})


@pytest.fixture
def profile() -> Profile:
    return Profile.of_model(digits_model(), SETTINGS)


@pytest.fixture
def journal(tmp_path: Path, profile: Profile) -> Path:
    """A journal of one engine at two sizes, another engine, and the overheads of both dispatches."""
    path = tmp_path / "m.trials.jsonl"
    lines = Journal(path, Key(profile.model.sha256, "engines", "machine", "x"))
    times = {1: [np.arange(1000, 2000)], 2: [np.arange(1500, 2500)]}
    lines.add_estimate(EngineEstimate(ENGINE, times, [], {1: 800.0, 2: 900.0}))
    lines.add_estimate(EngineEstimate(EngineOptions(threads=1), {1: [np.arange(9000, 9010)]}, [], {1: 800.0}))
    for number, dispatch in enumerate(("inline", "worker")):
        lines.add_way(changed(BASELINE, batching={"dispatch": dispatch}), WayIn(10 + number, 2, 3, 4, 5, 6, 7, 8))
    lines.add_engine_ns(ENGINE, 77)
    return path


def test_the_evidence_has_the_measured_times(journal: Path, profile: Profile) -> None:
    """As quantiles in microseconds, with the overhead of the profile's dispatch; a profile stores and loads it."""
    result = msgspec.convert(service_evidence(journal, profile, 3)["service"], MeasuredService)
    assert result.sizes == (1, 2)
    assert np.median(result.quantiles_us, axis=1) == pytest.approx([1.5, 2.0], rel=0.01)
    assert (result.threads, result.cores, result.exact, result.way_in["receive_ns"]) == (2, 3.0, True, 11)
    assert result.way_in["engine_ns"] == 77
    saved = journal.with_name("m.profile.toml")
    msgspec.structs.replace(profile, evidence=service_evidence(journal, profile, 3)).save(saved)
    again = msgspec.convert(Profile.load(saved).evidence["service"], MeasuredService)
    assert again == result


def test_a_configuration_has_the_profile_s_settings(journal: Path, profile: Profile) -> None:
    """Batch size, delay and dispatch are the profile's, times the measured ones."""
    result = measured_service(lines_of(journal, profile.model), SETTINGS, 3.0)
    assert result is not None
    item = result.configuration(SETTINGS)
    assert (item.max_batch_size, item.max_queue_delay_us, item.dispatch, item.cores) == (4, 500, "worker", 3.0)
    assert item.service.medians_ns == pytest.approx([1500, 2000], rel=0.01)
    assert result.configuration(SETTINGS, 1.0).cores == 1.0


def test_settings_that_were_refined_afterwards_have_nearly_the_same_times(journal: Path, profile: Profile) -> None:
    """Those that differ by an arena are used, with a note; those with other threads are not."""
    lines = lines_of(journal, profile.model)
    result = measured_service(lines, changed(SETTINGS, engine={"arena": False}), 2.0)
    assert result is not None
    assert not result.exact
    assert measured_service(lines, changed(SETTINGS, engine={"threads": 7}), 2.0) is None


def test_another_model_s_lines_are_not_taken(journal: Path, profile: Profile) -> None:
    """The journal of another file is not used."""
    other = msgspec.structs.replace(profile, model=msgspec.structs.replace(profile.model, sha256="0"))
    assert service_evidence(journal, other, None) == {}
    assert service_evidence(journal.with_name("none.jsonl"), profile, None) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"sizes": [2]},
        {"quantiles_us": [[1.0], [2.0]]},
        {"quantiles_us": [[float("inf")]]},
        {"threads": 0},
        {"way_in": {"wake_ns": -1}},
        {"way_in": {"else": 1}},
    ],
)
def test_values_that_no_tune_writes_are_refused(wrong: dict[str, object]) -> None:
    """Whatever a file contains, the simulation gets times that it can take."""
    right = {"sizes": [1], "quantiles_us": [[1.0]], "threads": 1, "cores": 2.0, "way_in": {"wake_ns": 5}}
    msgspec.convert(right, MeasuredService)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(right | wrong, MeasuredService)
