"""`tailcut microbench` as a user meets it: real processes on a module of theirs, exit codes, files."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.schemas import validated

from tailcut.cli import main as cli

MODULE = """
values = list(range(2000))
def few(): return sum(values[:1000])
def many(): return sum(values) + sum(values)
def takes(argument): return argument
def raises(): raise ValueError("no such thing")
constant = 3
"""
QUICK = ["--seconds", "60ms", "--warmup", "20ms"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MODULE)
    return tmp_path


def microbench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tailcut", "microbench", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_two_functions_side_by_side(folder: Path) -> None:
    """One JSON object on stdout with both functions, the slower one called worse, and the harness's own cost."""
    done = microbench(folder, "mine:few", "mine:many", "--json", *QUICK)
    assert done.returncode == 0, done.stderr
    record = validated("microbench", done.stdout)
    assert [item["name"] for item in record["functions"]] == ["mine:few", "mine:many"]
    assert [item["verdict"] for item in record["comparisons"]] == ["worse"]
    assert record["overhead_ns"]["clock"] > 0
    assert record["machine"]["cpu"]


@pytest.mark.slow
def test_save_and_compare(folder: Path) -> None:
    """A regression against a saved result exits with 1 and is named; the report and Markdown are written."""
    assert microbench(folder, "mine:few", "--save", "old.json", *QUICK).returncode == 0
    (folder / "mine.py").write_text(MODULE + "few = many\n")
    done = microbench(folder, "mine:few", "--against", "old.json", "--report", "r.html", "--markdown", *QUICK)
    assert done.returncode == 1
    assert "mine:few got slower" in done.stdout
    assert "mine:few got slower" in (folder / "r.html").read_text()


def test_the_table_says_what_was_found(folder: Path) -> None:
    """Without options a table, the comparison in words, and what was subtracted."""
    done = microbench(folder, "mine:few", "mine:many", *QUICK)
    assert "median" in done.stdout
    assert re.search(r"mine:many against mine:few: x[0-9.]+ \([0-9.]+ to [0-9.]+\): slower", done.stdout)
    assert "subtracted" in done.stdout


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.slow
def test_instructions_are_counted(folder: Path) -> None:
    """With --instructions a sum of a thousand numbers takes some thousands of them."""
    done = microbench(folder, "mine:few", "--instructions", "--json", *QUICK)
    assert done.returncode == 0, done.stderr
    assert 1000 < validated("microbench", done.stdout)["functions"][0]["instructions"] < 1_000_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mine"], "MODULE:FUNCTION"),
        (["nothing_here:f"], "nothing_here cannot be imported"),
        (["mine:nothing"], "mine has no nothing"),
        (["mine:constant"], "not a function"),
        (["mine:takes"], "without arguments"),
        (["mine:raises"], "ValueError: no such thing"),
        (["mine:few", "--against", "none.json"], "no such baseline"),
        (["mine:few", "--json", "--markdown"], "cannot be combined"),
        (["mine:few", "--noise", "5"], "must be at most"),
        (["mine:few", "--seconds", "0s"], "greater than 0"),
    ],
)
def test_a_mistake_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """Whatever the user got wrong is named in one line on stderr, exit code 2, nothing on stdout."""
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the command adds its folder
    assert cli.main(["microbench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("measuring")]
    assert len(lines) == 1
    assert words in lines[0]
