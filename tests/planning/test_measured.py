"""The measurements of a profile: from its evidence, or from the journal beside it."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tailcut.engines import EngineOptions
from tailcut.errors import MissingProfileError, ProfileError
from tailcut.models import digits_model
from tailcut.planning.measured import read_measured
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.estimate import EngineEstimate
from tailcut.tuner.journal import Journal, Key
from tailcut.tuner.simulate import WayIn
from tailcut.tuner.space import BASELINE

ENGINE = EngineOptions(threads=1)
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


def test_damaged_evidence(tmp_path: Path) -> None:
    """Is said to be, and not simulated."""
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
