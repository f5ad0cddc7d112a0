"""`tailcut vectorization` as a user meets it: exit 0 for vectors, 1 for a scalar loop, 2 for a mistake."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from tests.schemas import validated

from tailcut.cli import main as cli

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in {"x86_64", "amd64"}, reason="machine code is read on x86-64 only"
)
KERNELS = """
import numba
import numpy as np

print("a module may chatter")

@numba.njit("void(float32[::1], float32[::1])")
def scale(x, out):
    for i in range(len(x)):
        out[i] = x[i] * np.float32(0.5)

@numba.njit
def recurrence(x):
    for i in range(1, len(x)):
        x[i] += x[i - 1]

def plain(x):
    return x
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "own_kernels.py").write_text(KERNELS)
    (folder / "broken.py").write_text("raise SystemExit('not today')")
    return folder


def vectorization(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tailcut", "vectorization", *arguments]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.slow
def test_a_vectorised_function(folder: Path):
    """Compiled signatures are found; loop, lanes and source are shown; exit 0."""
    done = vectorization(folder, "own_kernels:scale")
    assert done.returncode == 0
    assert "vectorised" in done.stdout
    assert "lanes of float32" in done.stdout
    assert "out[i] = x[i] * np.float32(0.5)" in done.stdout


@pytest.mark.slow
def test_a_scalar_function_as_json(folder: Path):
    """One JSON object on stdout, whatever the module prints; reasons and advice in it; exit 1."""
    done = vectorization(folder, "./own_kernels.py:recurrence", "--signature", "float32[::1]", "--json")
    assert done.returncode == 1
    record = validated("vectorization", done.stdout)
    assert record["vectorized"] is False
    (loop,) = record["signatures"][0]["loops"]
    assert (loop["state"], loop["lanes"], loop["packed"]) == ("scalar", 1, 0)
    assert "dependence" in loop["reasons"][0]
    assert loop["advice"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("own_kernels:recurrence",), "with --signature"),
        (("own_kernels:plain",), "plain Python function"),
        (("own_kernels:nothing",), "no function 'nothing'"),
        (("nowhere:scale",), "no module named 'nowhere'"),
        (("nowhere.py:scale",), "no such file"),
        (("broken:scale",), "not today"),
        (("own_kernels",), "MODULE:FUNCTION"),
        (("./lib.so:scale",), "no such file"),
        (("own_kernels:scale", "--signature", "float99"), "not a signature"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_line(
    folder: Path, arguments: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch, capsys
):
    """An unknown name, a function that nothing compiles, a wrong signature: one line, exit 2, nothing on stdout."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert cli.main(["vectorization", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line != "a module may chatter"]
    assert len(lines) == 1
    assert words in lines[0]
