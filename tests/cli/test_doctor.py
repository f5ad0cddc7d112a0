"""`tailcut doctor` on this machine: every check is there, the exit code is its answer, and nothing is changed."""

import json
import os
from pathlib import Path

import pytest
from tests.cli.test_main import SCRIPT, only_line, tailcut

from tailcut.machine.finding import Severity

NAMES = [
    "governor",
    "turbo",
    "smt",
    "isa",
    "quota",
    "throttling",
    "cpuset",
    "isolated_cores",
    "threads",
    "numa_balancing",
    "transparent_huge_pages",
    "swappiness",
    "allocator",
    "clock",
    "interrupts",
    "virtualisation",
    "steal",
    "neighbours",
    "perf",
]


def test_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One object with every check; exit code 1 exactly when one is a warning or a fault; no file is written."""
    monkeypatch.chdir(tmp_path)
    done = tailcut("doctor", "--json", "--probe", "100ms")
    found = json.loads(done.stdout)
    assert [check["name"] for check in found["checks"]] == NAMES
    assert {check["severity"] for check in found["checks"]} <= set(Severity)
    wrong = any(check["severity"] in ("warning", "fault") for check in found["checks"])
    assert done.returncode == int(wrong)
    assert done.stderr == ""
    assert found["applied"] is None
    assert found["machine"]["usable_cpus"] >= 1
    assert list(tmp_path.iterdir()) == []


def test_apply_writes_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many threads asked for is an exit code of 1, and --apply writes the right number to a file."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    path = tmp_path / "tailcut.env"
    done = tailcut("doctor", "--probe", "50ms", "--apply", "--env-file", str(path))
    assert done.returncode == 1
    assert "OMP_NUM_THREADS=4096" in done.stdout
    lines = dict(line.split("=", 1) for line in path.read_text().splitlines())
    assert 1 <= int(lines["OMP_NUM_THREADS"]) <= (os.cpu_count() or 1)
    assert str(path) in done.stdout.replace("\n", "")


@pytest.mark.parametrize("probe", ["0s", "2m", "soon"])
def test_a_probe_is_bounded(probe: str) -> None:
    """A probe of no time, or of too much, is the user's mistake."""
    done = tailcut("doctor", "--probe", probe)
    assert (done.returncode, done.stdout) == (2, "")
    assert only_line(done.stderr)


def test_the_script_is_there() -> None:
    """The command is installed beside the interpreter."""
    assert SCRIPT.exists()
