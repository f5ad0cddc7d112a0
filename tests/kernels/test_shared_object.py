"""A library's function is read with objdump: gcc's vectors are found, and their absence too."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from tailcut.errors import UnsupportedError, UsageError
from tailcut.kernels.shared_object import analyse_symbol

SOURCE = """
void scale(const float *restrict x, float *restrict out, float factor, long n) {
    for (long i = 0; i < n; i++)
        out[i] = x[i] * factor + 1.0f;
}
float recurrence(const float *x, long n) {
    float y = 0;
    for (long i = 0; i < n; i++)
        y = y * 0.5f + x[i];
    return y;
}
float first(const float *x) { return x[0]; }
"""

pytestmark = [
    pytest.mark.skipif(platform.machine().lower() not in {"x86_64", "amd64"}, reason="x86-64's instructions"),
    pytest.mark.skipif(not shutil.which("gcc") or not shutil.which("objdump"), reason="gcc or objdump is not here"),
]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("library")
    (folder / "code.c").write_text(SOURCE)

    def run(name: str, *flags: str) -> Path:
        subprocess.run(["gcc", "-shared", "-fPIC", *flags, "-o", folder / name, folder / "code.c"], check=True)
        return folder / name

    return run


def test_gcc_vectorises(build):
    """At -O3 -mavx2 the loop has 8 lanes, and its remainder does not count against it."""
    analysis = analyse_symbol(build("wide.so", "-O3", "-mavx2"), "scale")
    assert analysis.vectorized
    assert [facts.loop.tally.lanes for facts in analysis.loops] == [8]


def test_gcc_does_not_at_o1(build):
    """At -O1 the same loop is scalar: seen with its lines, where there is debug information."""
    analysis = analyse_symbol(build("narrow.so", "-O1", "-g"), "scale")
    (facts,) = analysis.loops
    assert not analysis.vectorized
    assert facts.loop.lines.first == 3
    assert "-O3" in facts.advice[0]


def test_a_recurrence_is_scalar_at_any_level(build):
    """What cannot be vectorised is not called vectorised because its neighbour is."""
    assert not analyse_symbol(build("all.so", "-O3", "-mavx2"), "recurrence").vectorized


def test_a_function_without_a_loop(build):
    """Nothing to vectorise is no failure."""
    assert analyse_symbol(build("none.so", "-O1"), "first").loops == ()


def test_mistakes(build, tmp_path: Path):
    """A missing file, one without machine code, and an unknown function each give an error of one line."""
    library = build("some.so", "-O1")
    text = tmp_path / "text.so"
    text.write_text("no library")
    for path, symbol, words in [
        (tmp_path / "none.so", "scale", "no such file"),
        (text, "scale", "no machine code"),
        (library, "scal", "no function 'scal'"),
    ]:
        with pytest.raises(UsageError, match=words):
            analyse_symbol(path, symbol)


def test_without_objdump(build, monkeypatch: pytest.MonkeyPatch):
    """Where objdump is not installed, the answer says how to get it."""
    library = build("any.so", "-O1")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnsupportedError, match="apt install binutils"):
        analyse_symbol(library, "scale")
