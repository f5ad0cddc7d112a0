"""Without a number of threads, an engine gets as many as the process may use, not as many as the host has cores."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines.models import perceptron
from tests.machine.sandbox import control_group

from tailcut.engines import EngineOptions, open_engine
from tailcut.machine.quota import affinity_mask, usable_cpus

PROGRAM = """
import json, os, sys
from pathlib import Path
path, cpu = Path(sys.argv[1]), sys.argv[2]
if cpu:
    os.sched_setaffinity(0, {int(cpu)})
from tailcut.engines import EngineOptions, engine_threads, open_engine
session = open_engine(path, EngineOptions())._session
compiled = open_engine(path, EngineOptions(name="openvino"))._idle.get()._bound.get_compiled_model()
pools = session.get_session_options().intra_op_num_threads, compiled.get_property("INFERENCE_NUM_THREADS")
print(json.dumps([*pools, engine_threads(EngineOptions()).reason]))
"""


@pytest.fixture
def one_cpu() -> Iterator[Path]:
    """A control group with a quota of one CPU, where this user may make one."""
    with control_group(100_000) as group:
        yield group


def threads_of(path: Path, group: Path | None = None, cpu: int | None = None) -> list[int | str]:
    """The threads of both engines in a process in a control group, or on one CPU alone, and the reason."""
    enter = f"echo $$ > {group}/cgroup.procs; " if group else ""
    command = ["sh", "-c", f'{enter}exec "$@"', "sh", sys.executable, "-c", PROGRAM, str(path)]
    done = subprocess.run(
        [*command, "" if cpu is None else str(cpu)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_quota_of_one_cpu_gives_one_thread(one_cpu: Path, tmp_path: Path) -> None:
    """In a real control group, where both engines would start one for each core of the host; and it says so."""
    path = perceptron([16, 16, 4], tmp_path / "m.onnx")
    reason = f"the CPU quota allows 1 CPU of {os.cpu_count()}" if os.cpu_count() != 1 else "the machine has 1 CPU"
    assert threads_of(path, group=one_cpu) == [1, 1, reason]


@pytest.mark.slow
def test_a_mask_of_one_cpu_gives_one_thread(tmp_path: Path) -> None:
    """As `taskset` sets it."""
    path = perceptron([16, 16, 4], tmp_path / "m.onnx")
    assert threads_of(path, cpu=min(affinity_mask()))[:2] == [1, 1]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_instances_share_the_cpus(tmp_path: Path, name: str) -> None:
    """And a number of threads that was given stays what it is."""
    path = perceptron([16, 16, 4], tmp_path / "m.onnx")
    many = open_engine(path, EngineOptions(name=name, instances=4096 if name == "onnxruntime" else usable_cpus()))
    assert many.options.threads == 1
    given = open_engine(path, EngineOptions(name=name, threads=3))
    assert given.options.threads == 3
    for engine in (many, given):
        engine.close()
