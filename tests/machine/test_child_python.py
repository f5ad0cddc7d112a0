"""Child processes import modules from where this one does, and not from the working folder by themselves."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.engines.models import perceptron

from tailcut.engines.base import EngineOptions
from tailcut.lab.fork_server import execute
from tailcut.machine.child_python import python
from tailcut.tuner.engine_estimate import Estimator

FOUND = "import importlib.util; print(importlib.util.find_spec('mine') is not None)"


@pytest.mark.parametrize("entry", [None, "", "the folder"])
def test_a_child_searches_the_working_folder_as_this_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str | None
) -> None:
    """By default only `python -m` does; an empty entry of the path is the working folder, too."""
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    own = [] if entry is None else [entry and str(tmp_path)]
    monkeypatch.setattr(sys, "path", [*own, *(item for item in sys.path if item)])
    done = subprocess.run(python("-c", FOUND), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(entry is not None)


def test_a_file_named_like_a_module_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it prints would be taken for the child's answer, and what it lacks would end the child."""
    for name in ("grp", "queue", "onnxruntime", "uuid"):
        (tmp_path / f"{name}.py").write_text("print('shadowed' * 1000)\nraise SystemExit(3)\n")
    path = perceptron([4, 8], tmp_path / "m.onnx").resolve()
    monkeypatch.setattr(sys, "path", [item for item in sys.path if item and Path(item).resolve() != tmp_path])
    monkeypatch.chdir(tmp_path)
    with Estimator(path, EngineOptions(threads=1), [{"x": np.zeros((1, 4), np.float32)}]) as estimator:
        estimator.wait_loaded()
        assert estimator.estimate.memory_bytes > 0
    with (tmp_path / "stderr").open("wb") as stderr:
        child = execute(["ladder", "--json"], stderr)
        out, _ = child.communicate(timeout=60)
    assert (child.returncode, out[:1]) == (0, b"{"), (tmp_path / "stderr").read_text()
