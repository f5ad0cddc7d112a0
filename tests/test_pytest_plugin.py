"""The pytest plugin in real pytest processes: the fixture, saved baselines, and tests that fail on a regression."""

import json
import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TESTS = """
values = list(range({size}))
def test_sum(tailcut_benchmark):
    found = tailcut_benchmark(lambda: sum(values))
    assert found.functions[0].median.point > 0
def test_two(tailcut_benchmark):
    found = tailcut_benchmark({{"sum": lambda: sum(range(500)), "max": lambda: max(range(500))}}, seconds=0.03)
    assert len(found.comparisons) == 1
"""
TWICE = """
def test_two(tailcut_benchmark):
    tailcut_benchmark(lambda: sum(range(20)))
    tailcut_benchmark(lambda: sum(range(20_000)))
"""
QUICK = "--tailcut-seconds=0.05"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder to run pytest in; the plugin is named, so that it does not matter how Tailcut is installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p tailcut.pytest_plugin")
    return pytester


def write(project: pytest.Pytester, size: int) -> None:
    project.makepyfile(test_speed=TESTS.format(size=size))


def test_the_entry_point_is_the_plugin() -> None:
    """pyproject.toml names the module under pytest11, and it has the fixture."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module = import_module(project["entry-points"]["pytest11"]["tailcut"])
    assert callable(module.tailcut_benchmark)


def test_save_then_compare(project: pytest.Pytester) -> None:
    """A named run is saved below the root folder; the same work passes against it, ten times the work fails, and the
    failure names test, ratio, interval and file: far from what a busy machine does to either.

    What a test measures later is numbered, and compared with what came at its place before.
    """
    project.makepyfile(test_twice=TWICE)
    write(project, 1000)
    saved = project.runpytest_subprocess(QUICK, "--tailcut-save=main")
    saved.assert_outcomes(passed=3)
    record = json.loads((project.path / ".tailcut" / "main.json").read_text())
    names = [item["name"] for item in record["functions"]]
    of_speed = ["test_speed.py::test_sum", "test_speed.py::test_two sum", "test_speed.py::test_two max"]
    assert names == [*of_speed, "test_twice.py::test_two", "test_twice.py::test_two #2"]
    same = project.runpytest_subprocess(QUICK, "--tailcut-compare=main", "--tailcut-noise=4")
    same.assert_outcomes(passed=3)
    write(project, 10_000)
    slower = project.runpytest_subprocess(QUICK, "--tailcut-compare=main", "-k", "test_sum", "--tailcut-report=r.html")
    slower.assert_outcomes(failed=1, deselected=2)
    text = slower.stdout.str()
    ratio = re.search(r"test_speed.py::test_sum got slower: x([\d.]+) \([\d.]+ to [\d.]+\) of", text)
    assert ratio
    assert float(ratio[1]) > 2
    assert "main.json" in text
    assert "Traceback" not in text
    assert "got slower" in (project.path / "r.html").read_text()


@pytest.mark.slow
def test_results_of_all_workers_are_saved(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pytest-xdist every worker's results reach the saved run, also those of a worker that died afterwards, and a
    comparison fails in the worker as it does alone."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist -p tailcut.pytest_plugin")
    write(project, 1000)
    project.makepyfile(test_more=TESTS.format(size=10), test_z="import os\n\ndef test_dies():\n    os._exit(1)\n")
    done = project.runpytest_subprocess(QUICK, "-n2", "--tailcut-save=main", "--max-worker-restart=1")
    done.assert_outcomes(passed=4, failed=1)
    done.stdout.fnmatch_lines(["*workers measured at the same time*", "saved to .tailcut/main.json"])
    record = json.loads((project.path / ".tailcut" / "main.json").read_text())
    names = {item["name"] for item in record["functions"]}
    assert names == {
        f"test_{file}.py::test_{end}" for file in ("speed", "more") for end in ("sum", "two sum", "two max")
    }
    (project.path / "test_z.py").unlink()
    write(project, 100_000)
    slower = project.runpytest_subprocess(QUICK, "-n1", "--tailcut-compare=main", "-k", "test_speed and test_sum")
    slower.assert_outcomes(failed=1)
    assert "test_speed.py::test_sum got slower" in slower.stdout.str()


def test_the_summary_has_every_function(project: pytest.Pytester) -> None:
    """Without options nothing is written, and the end of the run lists medians with their intervals."""
    write(project, 1000)
    done = project.runpytest_subprocess(QUICK)
    done.stdout.fnmatch_lines(["*tailcut benchmarks*", "test_speed.py::test_sum  * us (* to *)"])
    assert not (project.path / ".tailcut").exists()


def test_a_session_without_benchmarks_loads_nothing_heavy(project: pytest.Pytester) -> None:
    """Where Tailcut is installed, other test runs pay nothing: no numpy, no engine, no line of output."""
    project.makepyfile(
        "import sys\ndef test(): assert not {'numpy', 'numba', 'onnxruntime', 'jinja2'} & set(sys.modules)"
    )
    done = project.runpytest_subprocess()
    done.assert_outcomes(passed=1)
    assert "tailcut benchmarks" not in done.stdout.str()


def test_a_file_that_cannot_be_written_is_one_line(project: pytest.Pytester) -> None:
    """The summary is complete, and the session has failed; a folder that is missing is made."""
    project.makepyfile("def test(tailcut_benchmark): tailcut_benchmark(int)")
    (project.path / "file").touch()
    done = project.runpytest_subprocess(QUICK, "--tailcut-save=file/a.json", "--tailcut-report=new/r.htm")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["--tailcut-save: file/a.json was not written: *", "report: new/r.htm"])
    assert "Traceback" not in done.stdout.str() + done.stderr.str()
    assert (project.path / "new" / "r.htm").read_text().startswith("<!")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--tailcut-compare=none", "none.json: no such baseline: write one with --tailcut-save=NAME"),
        ("--tailcut-save=x.html", "--tailcut-save: x.html: a saved run is JSON"),
        ("--tailcut-report=out.json", "--tailcut-report: out.json: a report is HTML"),
    ],
)
def test_an_invalid_option_is_reported_at_once(project: pytest.Pytester, option: str, message: str) -> None:
    """No test runs; one line says what is wrong, and what to give."""
    write(project, 10)
    done = project.runpytest_inprocess(option)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr.str()
    assert "Traceback" not in done.stderr.str()
