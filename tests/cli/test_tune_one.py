"""The files that a tune of one model writes."""

from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron
from tests.report.test_html import ASKED
from tests.tuner.results import INDEPENDENT

from tailcut.cli.tune_files import TuneFiles, tune_files
from tailcut.cli.tune_one import write_result
from tailcut.cli.tune_wanted import fixed_of, names_in
from tailcut.engines import EngineOptions
from tailcut.engines.none import read_signature
from tailcut.errors import UsageError
from tailcut.models import digits_model
from tailcut.planning.measured import read_measured
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.tuner.engine_estimate import EngineEstimate
from tailcut.tuner.journal import Journal, Key
from tailcut.tuner.records import TuneOutcome, TuneRequest
from tailcut.tuner.simulate import WayIn
from tailcut.tuner.space import BASELINE

ENGINE = EngineOptions(threads=1)


def test_the_profile_can_be_planned_with(tmp_path: Path) -> None:
    """It has what the journal has of its own configuration, so that the journal need not lie beside it."""
    files = TuneFiles(tmp_path / "d.profile.toml", tmp_path / "d.html", tmp_path / "d.trials.jsonl")
    journal = Journal(files.journal, Key(Profile.of_model(digits_model()).model.sha256, "engines", "machine", "x"))
    journal.add_estimate(EngineEstimate(ENGINE, {1: [np.arange(1000, 2000)]}, [], {1: 800.0}))
    journal.add_way(BASELINE, WayIn(1, 2, 3, 4, 5))
    spec = read_signature(digits_model(), ENGINE, "digits")
    outcome = TuneOutcome(spec, Settings(engine=ENGINE), 100.0, [], rows=INDEPENDENT)
    write_result(outcome, TuneRequest(digits_model()), ASKED, files)
    files.journal.unlink()
    result = read_measured(files.profile)
    assert result.source == files.profile
    assert np.median(result.service.quantiles_us) == 1.5
    assert result.service.way_in["wake_ns"] == 4


def test_a_profile_checked_again_is_replaced_by_itself_only(tmp_path: Path) -> None:
    """It is where the new one is written; where that has another name, no report replaces it."""
    model = perceptron([4, 2], tmp_path / "m.onnx")
    retune, other = tmp_path / "old.toml", tmp_path / "new.toml"
    assert tune_files(model, None, None, retune=retune).profile == retune
    assert tune_files(model, retune, None, retune=retune).profile == retune
    assert tune_files(model, other, None, retune=retune).profile == other
    with pytest.raises(UsageError, match=r"would overwrite .*old\.toml, which is read"):
        tune_files(model, other, retune, retune=retune)


def test_names_may_have_spaces_around_them() -> None:
    """Of outputs, and of dimensions."""
    assert names_in("y, z") == ("y", "z")
    assert fixed_of("height=8, width=9") == ("height=8", "width=9")
    assert names_in(None) == ()
