"""An engine that is not installed: one line with the command that installs it."""

import subprocess
import sys

import pytest

from tailcut.engines import import_engine

HIDDEN = """
import importlib.util, sys
from tailcut.engines import import_engine
from tailcut.errors import UnsupportedError
find = importlib.util.find_spec
import tailcut.engines as engines
engines.find_spec = lambda name: None if name == sys.argv[1] else find(name)
try:
    import_engine(sys.argv[1])
except UnsupportedError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "package"),
    [("torch", "tailcut[torch]"), ("openvino", "tailcut[openvino]"), ("onnxruntime", "onnxruntime")],
)
def test_a_missing_engine_says_how_to_install_it(name: str, package: str) -> None:
    """Nothing of it is imported before."""
    found = subprocess.run([sys.executable, "-c", HIDDEN, name], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip().endswith(f"is not installed: pip install '{package}'")


def test_importing_tailcut_loads_no_engine() -> None:
    """Nor numba: a command starts in a fraction of a second."""
    script = (
        "import sys, tailcut, tailcut.engines, tailcut.cli.main, tailcut.runtime.model\n"
        "print({name.partition('.')[0] for name in sys.modules}\n"
        "      & {'onnx', 'onnxruntime', 'openvino', 'numba', 'torch'} or '')"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert not found.stdout.strip()
    assert callable(import_engine("onnxruntime"))
