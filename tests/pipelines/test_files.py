"""What a pipeline's file does while it is executed, and its functions on threads, leaves its server whole."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from tailcut.runtime.profile import Profile
from tests.engines.models import perceptron
from tests.pipelines.test_faults import PIPELINE, ROW, STAGE, written
from tests.pipelines.test_loading import HEAD
from tests.servers import TIMEOUT_S, serving, until

THREADS = STAGE.replace("@stage(", "@stage(threads=True, ")
BAD_TEXT = "from tailcut import InvalidInputError\n" + THREADS.replace(
    "return x", "raise InvalidInputError('\\ud800: ' + 9000 * 'caf\\u00e9 ') if x[0] == 1 else KeyError('\\ud800 lost')"
)


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def test_a_package_below_the_folder_is_watched(tmp_path, logs):
    """Its modules are the pipeline's own."""
    (tmp_path / "parts").mkdir()
    helper = tmp_path / "parts" / "helper.py"
    helper.write_text("FACTOR = 2\n")
    function = THREADS.replace("return x", "return x * helper.FACTOR")
    with serving(logs, written(tmp_path, "from parts import helper\n", HEAD, function, PIPELINE), "--reload") as server:

        def answer():
            with server.connect() as wire:
                return wire.ask(ROW).json()["outputs"][0]["data"]

        assert answer() == [2]
        helper.write_text("FACTOR = 333\n")
        until(lambda: answer() == [333], server)
