"""Profiles that real tunes keep answer right: of one model of each kind, or of all where TUNED=all says so.

What a tune may keep of the others is in test_keepable.py.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.cases import CASES, Case
from tests.servers import serving
from tests.tuner.keepable import Kept, check_alone, check_together, data_of, padded, quantised, questions_of

from tailcut.runtime.profile import Profile

KINDS = (
    "unnamed_axes",
    "mean_of_all",
    "branches",
    "labels",
    "padded",
)  # rows apart, together, unknown; strings; lengths
ALL = os.environ.get("TUNED") == "all"
BUDGET = "20s" if ALL else "5s"  # 20 s: the least for static int8
AT_A_TIME = 2 if ALL else len(KINDS)  # they slow each other down, and what wins is not judged here


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Case, Kept]]:
    """A tune of each, with its own requests as data."""
    folder = tmp_path_factory.mktemp("tuned")
    cases = CASES | {make.__name__: make(folder) for make in (padded, quantised)}
    chosen = {name: case for name, case in cases.items() if ALL or name in KINDS}
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        profiles = pool.map(lambda name: tuned(name, chosen[name], folder), chosen)
        return {name: (chosen[name], profile) for name, profile in zip(chosen, profiles, strict=True)}


def tuned(name: str, case: Case, folder: Path) -> Kept:
    """By the command that a user gives."""
    onnx.save(case.model, folder / f"{name}.onnx")
    np.savez(folder / f"{name}.npz", **data_of(case))
    command = [sys.executable, "-m", "tailcut", "tune", f"{name}.onnx", "--data", f"{name}.npz", "--budget", BUDGET]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    path = folder / f"{name}.profile.toml"
    return Kept(name, name, path, Profile.load(path).settings, *questions_of(case))


@pytest.mark.slow
def test_every_profile_answers_as_the_model_alone(kept: dict[str, tuple[Case, Kept]], tmp_path: Path) -> None:
    """All in one server: alone, from twelve clients at once, and with more rows than the largest batch."""
    profiles = [profile for _, profile in kept.values()]
    with serving(tmp_path, *(profile.path for profile in profiles)) as server:
        check_alone(server.url, profiles)
        check_together(server.url, profiles)


@pytest.mark.slow
def test_only_independent_rows_are_batched(kept: dict[str, tuple[Case, Kept]]) -> None:
    """The profile's evidence says what was decided, and dependent models have batches of one request."""
    for name, (case, profile) in kept.items():
        rows = Profile.load(profile.path).evidence["rows"]["rows"]
        assert rows == "independent" or not case.batched or profile.settings.engine.precision == "int8", name
        assert rows == "independent" or profile.settings.batching.max_batch_size == 1, name
        assert rows == "dependent" or case.batched, name
