"""Profiles that a tune keeps, of a model whose rows belong together and of one whose rows do not, answer right."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.cases import CASES, check_same, save_all
from tests.servers import serving

from tailcut import Client
from tailcut.runtime.profile import Profile

TUNED = ("mean_of_all", "sentences")
CLIENTS = 12


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short tune of each, with its own requests as data: one group of arrays a request."""
    folder = tmp_path_factory.mktemp("tuned")
    save_all(folder, {name: CASES[name] for name in TUNED})
    found = {}
    for name in TUNED:
        data = {f"{key}/{n}": array for n, one in enumerate(CASES[name].requests) for key, array in one.items()}
        np.savez(folder / f"{name}.npz", **data)
        command = [sys.executable, "-m", "tailcut", "tune", f"{name}.onnx", "--data", f"{name}.npz", "--budget", "5s"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        found[name] = folder / f"{name}.profile.toml"
    return found


def test_every_profile_answers_as_the_model_alone(profiles: dict[str, Path], tmp_path: Path) -> None:
    """From twelve clients at once, each request as onnxruntime answers it alone."""
    with serving(tmp_path, *profiles.values()) as server:
        for name in profiles:
            truths = CASES[name].truths()

            def ask(number: int, name: str = name) -> dict[str, np.ndarray]:
                with Client(server.url) as client:
                    return client.infer(name, CASES[name].requests[number % len(CASES[name].requests)])

            with ThreadPoolExecutor(CLIENTS) as pool:
                for number, answer in enumerate(pool.map(ask, range(4 * CLIENTS))):
                    truth = truths[number % len(truths)]
                    assert truth is not None
                    check_same(answer, truth)


def test_only_independent_rows_are_batched(profiles: dict[str, Path]) -> None:
    """The profile's evidence says what was decided, and dependent models have batches of one request."""
    decided = {name: Profile.load(path).evidence["rows"]["rows"] for name, path in profiles.items()}
    assert decided == {name: "independent" if CASES[name].batched else "dependent" for name in TUNED}
    for name, path in profiles.items():
        assert CASES[name].batched or Profile.load(path).settings.batching.max_batch == 1
