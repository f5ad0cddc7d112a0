"""What Tailcut does in an installation that lacks an engine: it works with the others, or says what to install."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from tests.engines.models import dynamic_sequence, perceptron, two_in_two_out
from tests.hidden import without

from tailcut.engines import EngineOptions, import_engine
from tailcut.engines.installed import is_installed
from tailcut.models import digits_model
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings

LITE = Path(__file__).parent.parent / "data" / "models" / "dense.tflite"  # which only openvino reads
OPENVINO = "the engine openvino is not installed: pip install 'tailcut[openvino]'"
ONNXRUNTIME = "the engine onnxruntime is not installed: pip install 'tailcut[onnxruntime]'"
ASK = """
import sys
from pathlib import Path
import numpy as np
from tailcut import Model

for path, inputs in [
    (sys.argv[1], {"x": np.ones((3, 8), np.float32)}),
    (sys.argv[2], {"a": np.full((2, 4), 3, np.float32), "b": np.ones((2, 4), np.float32)}),
    (sys.argv[3], {"x": np.ones((2, 5), np.float32)}),
]:
    with Model.open(path, auto=False) as model:
        outputs = model.infer_sync(inputs)
        sums = (f"{name} {array.shape} {array.sum():.3f}" for name, array in outputs.items())
        print(model.profile.settings.engine.name, *sums)
"""
LEARN = """
import sys
from pathlib import Path
from tailcut.tuner.learning import facts_of, learn
from tailcut.tuner.records import TuneRequest
from tailcut.tuner.space import copy_engines, engine_choices
from dataclasses import replace

wanted = TuneRequest(Path(sys.argv[1]))
learned = learn(wanted, 1.0, lambda event: print(getattr(event, "text", event)))
facts = replace(facts_of(wanted, learned), lower_precision=True, quantizable=True)
print(sorted({one.name for one in engine_choices(facts)}), copy_engines(facts))
"""

REFUSED = """
import sys
from tailcut import Model
from tailcut.cli.main import main

model, profile, tuned = sys.argv[1:]
for command in (["serve", model, "--port", "0"], ["tune", model, "-o", tuned], ["serve", profile, "--port", "0"]):
    print("exit code", main(command), file=sys.stderr)
Model.open(model)
"""


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
def test_without_onnxruntime_openvino_computes_onnx_models(tmp_path: Path) -> None:
    """The answers are the same, also of a model with two inputs and of one whose sizes are free."""
    models = [
        str(perceptron([8, 4], tmp_path / "p.onnx")),
        str(two_in_two_out(tmp_path / "t.onnx")),
        str(dynamic_sequence(tmp_path / "s.onnx")),
    ]
    usual = run(without(tmp_path / "all"), "-c", ASK, *models)
    result = run(without(tmp_path / "hidden", "onnxruntime"), "-c", ASK, *models)
    assert usual.stdout.count("onnxruntime ") == 3, usual.stderr
    assert result.stdout == usual.stdout.replace("onnxruntime ", "openvino "), result.stderr


@pytest.mark.parametrize(
    ("hidden", "message"),
    [(("openvino",), OPENVINO), pytest.param(("onnxruntime", "openvino"), ONNXRUNTIME, marks=pytest.mark.slow)],
)
def test_a_model_whose_engine_is_missing_is_one_line(tmp_path: Path, hidden: tuple[str, ...], message: str) -> None:
    """From the command line and from the library; a profile that names the engine is refused alike."""
    environment = without(tmp_path, *hidden)
    profile = tmp_path / "digits.profile.toml"
    Profile.of_model(digits_model(), Settings(engine=EngineOptions(name="openvino"))).save(profile)
    model = str(LITE if len(hidden) == 1 else digits_model())
    done = run(environment, "-c", REFUSED, model, str(profile), str(tmp_path / "tuned.toml"))
    lines = done.stderr.splitlines()
    said = [before for before, line in pairwise(lines) if line == "exit code 2"]
    assert (said, done.stdout) == ([f"tailcut: {message}"] * 2 + [f"tailcut: {OPENVINO}"], ""), done.stderr
    assert lines[-1] == f"tailcut.errors.UnsupportedError: {message}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hidden", "candidates"),
    [("openvino", "['onnxruntime'] ('onnxruntime',)"), ("onnxruntime", "['openvino'] ()")],
)
def test_a_tune_leaves_out_what_is_missing(tmp_path: Path, hidden: str, candidates: str) -> None:
    """It says so, and measures no candidate of that engine."""
    model = str(perceptron([8, 4], tmp_path / "p.onnx"))
    done = run(without(tmp_path / "hidden", hidden), "-c", LEARN, model)
    lines = done.stdout.splitlines()
    assert f"{hidden} left out: not installed (pip install 'tailcut[{hidden}]')" in lines, done.stderr
    assert lines[-1] == candidates


def test_the_doctor_says_what_is_missing(tmp_path: Path) -> None:
    """With the command that installs it; that is no fault of the machine."""
    done = run(without(tmp_path, "openvino"), "-m", "tailcut", "doctor", "--probe", "10ms", "--json")
    (isa,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "isa"]
    assert "openvino: not installed (pip install 'tailcut[openvino]')" in isa["finding"]
    assert "onnxruntime: not installed" not in isa["finding"]


def test_what_is_installed() -> None:
    """The engine without a library is always there."""
    assert is_installed("none")
    assert is_installed("onnxruntime")
    assert not is_installed("no_such_engine")


def test_importing_tailcut_loads_no_engine() -> None:
    """Nor numba: a command starts in a fraction of a second."""
    script = (
        "import sys, tailcut, tailcut.engines, tailcut.cli.main, tailcut.runtime.model\n"
        "print({name.partition('.')[0] for name in sys.modules}\n"
        "      & {'onnx', 'onnxruntime', 'openvino', 'numba', 'torch'} or '')"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert not result.stdout.strip()
    assert callable(import_engine("onnxruntime"))
