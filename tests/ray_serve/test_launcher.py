"""CPUs that servers on one node take, each for itself."""

import os
import subprocess
import sys
from pathlib import Path

from tailcut.ray.launcher import claim, command

HOLD = """
import sys
from pathlib import Path
from tailcut.ray.launcher import claim
print(claim(2, [0, 1, 2], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def test_each_takes_cpus_that_are_free(tmp_path: Path) -> None:
    """Until they are used up: then none, rather than too few. They are free again when their owner has ended."""
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "cpus"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "[0, 1]\n"
    assert claim(2, [0, 1, 2], tmp_path / "cpus") == []
    assert claim(1, [0, 1, 2], tmp_path / "cpus") == [2]
    owner.communicate()
    assert claim(2, [0, 1, 2], tmp_path / "cpus") == [0, 1]


def test_a_server_whose_replica_is_gone_does_not_start() -> None:
    """It ends before it becomes a server."""
    result = subprocess.run(
        command(os.getpid() + (1 << 22), 0, ["no-such-model.onnx"]), capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")
