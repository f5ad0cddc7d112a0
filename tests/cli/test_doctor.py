"""`tailcut doctor` on this machine: every check is there, the exit code is its answer, and nothing is changed."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.test_main import SCRIPT, only_line, tailcut
from tests.machine.sandbox import control_group
from tests.schemas import validated

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
    "python",
    "perf",
]


def test_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One object with every check; exit code 1 exactly when one is a warning or a fault; no file is written."""
    monkeypatch.chdir(tmp_path)
    done = tailcut("doctor", "--json", "--probe", "100ms")
    result = validated("doctor", done.stdout)
    assert [check["name"] for check in result["checks"]] == NAMES
    assert {check["severity"] for check in result["checks"]} <= set(Severity)
    wrong = any(check["severity"] in ("warning", "fault") for check in result["checks"])
    assert done.returncode == int(wrong)
    assert done.stderr == ""
    assert result["applied"] is None
    assert result["machine"]["usable_cpus"] >= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_apply_writes_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many threads asked for is an exit code of 1, and --apply writes the right number to a file."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    path = tmp_path / "tailcut.env"
    done = tailcut("doctor", "--probe", "50ms", "--apply", "--env-file", str(path))
    assert done.returncode == 1
    assert "OMP_NUM_THREADS=4096" in done.stdout
    first, *others = path.read_text().splitlines()
    assert first.startswith("#")
    lines = dict(line.split("=", 1) for line in others)
    assert 1 <= int(lines["OMP_NUM_THREADS"]) <= (os.cpu_count() or 1)
    assert str(path) in done.stdout.replace("\n", "")


@pytest.mark.slow
def test_apply_spares_files_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that the doctor did not write is not overwritten: one line says so. Its own is written again."""
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    path = tmp_path / "own.env"
    path.write_text("SECRET=1\n")
    done = tailcut("doctor", "--probe", "10ms", "--apply", "--env-file", str(path))
    assert done.returncode == 2
    assert "was not written by tailcut doctor" in only_line(done.stderr)
    assert path.read_text() == "SECRET=1\n"
    path.write_text("# written by tailcut doctor --apply\nOMP_NUM_THREADS=99\n")
    assert tailcut("doctor", "--probe", "10ms", "--apply", "--env-file", str(path)).returncode == 1
    assert "99" not in path.read_text()


@pytest.fixture
def quarter_of_a_cpu() -> Iterator[Path]:
    """A real control group with a quota of a quarter of a CPU, where this user may make one."""
    with control_group(25_000) as group:
        yield group


def test_a_real_quota_is_found(quarter_of_a_cpu: Path) -> None:
    """Inside a quota of a quarter of a CPU the probe is really stopped: quota, throttling and threads say so; exit 1.

    Of so small a quota it takes more than it has beside much other work, too.
    """
    for probe in ("300ms", "1s", "3s"):  # longer where others take so much that nothing is left to stop
        script = f"echo $$ > {quarter_of_a_cpu}/cgroup.procs; exec {SCRIPT} doctor --json --probe {probe}"
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
        result = {check["name"]: check for check in validated("doctor", done.stdout)["checks"]}
        if result["throttling"]["severity"] == "fault":
            break
    assert done.returncode == 1
    assert result["quota"]["severity"] == "warning"
    assert "0.25 CPUs" in result["quota"]["finding"]
    assert result["throttling"]["severity"] == "fault"
    assert "the CPU quota throttled" in result["neighbours"]["finding"]


@pytest.mark.parametrize(("probe", "words"), [("0s", "--probe"), ("2m", "--probe"), ("soon", "is not a duration")])
def test_a_probe_is_bounded(tmp_path: Path, mistake: Callable[..., str], probe: str, words: str) -> None:
    """A probe of no time, or of too much, is the user's mistake."""
    assert words in mistake(tmp_path, "doctor", "--probe", probe)
