"""The sample pipelines in a separate folder, like a user's."""

import shutil
from pathlib import Path

import pytest

from tests.pipelines import samples


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines")
    shutil.copy(samples.__file__, folder / "samples.py")
    samples.write_model(folder / "twice.onnx")
    return folder
