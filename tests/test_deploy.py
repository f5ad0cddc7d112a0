"""The unit file of the repository, as systemd reads it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "deploy" / "systemd" / "tailcut.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """With the command in the place where this machine has Python, there is no warning."""
    unit = UNIT.read_text(encoding="utf-8")
    assert "ExecStart=/opt/tailcut/bin/tailcut serve " in unit
    copy = tmp_path / UNIT.name
    copy.write_text(unit.replace("/opt/tailcut/bin/tailcut", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if UNIT.name in line] == []
    assert done.returncode == 0
