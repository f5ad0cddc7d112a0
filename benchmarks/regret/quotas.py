"""Tunes under a CPU quota: whether the profile keeps to it, and what it gains over the engine's default there.

    sudo python benchmarks/regret/quotas.py [--model ranker] [--quotas 0.5,1,1.5] [--budget 60s]

Each tune runs in a control group of its own (version 1 or 2, made and removed here, which takes root): its servers
and its load client share the quota. A profile keeps to it where its engine threads are no more than the quota rounded
up. The verification's arms are measured in turns under that quota.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from claims import interval, verification
from run import data_of, model_path

from tailcut.machine.fingerprint import fingerprint
from tailcut.report.tune_words import more_traffic
from tailcut.tuner.result_records import TuneResult

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000


@contextmanager
def quota(cpus: float) -> Iterator[Path]:
    """A control group with this quota."""
    second = (ROOT / "cgroup.controllers").exists()
    group = (ROOT if second else ROOT / "cpu") / f"tailcut-quota-{os.getpid()}"
    group.mkdir()
    try:
        if second:
            (group / "cpu.max").write_text(f"{round(cpus * PERIOD_US)} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(round(cpus * PERIOD_US)))
        yield group
    finally:
        group.rmdir()


def tune(group: Path, model: Path, data: Path, budget: str, output: Path) -> TuneResult:
    enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    command = [sys.executable, "-m", "tailcut", "tune", str(model), "--data", str(data), "--budget", budget]
    command += ["-o", str(output), "--fresh", "--json"]
    done = subprocess.run(["sh", "-c", enter, "sh", *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return msgspec.json.decode(done.stdout, type=TuneResult)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ranker")
    parser.add_argument("--quotas", default="0.5,1,1.5")
    parser.add_argument("--budget", default="60s")
    arguments = parser.parse_args()
    print(fingerprint())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        np.savez(data, **data_of(arguments.model))
        for cpus in map(float, arguments.quotas.split(",")):
            with quota(cpus) as group:
                result = tune(group, model_path(arguments.model), data, arguments.budget, Path(folder) / "m.toml")
            engine, checked = result.settings.engine, verification(result)
            threads = engine.threads * engine.instances
            kept = "keeps to the quota" if 0 < threads <= math.ceil(cpus) else "EXCEEDS the quota"
            print(
                f"{cpus:g} CPUs: {threads} engine threads, {kept}; p99 {interval(checked.p99_ratio)}, throughput "
                f"{interval(checked.throughput_ratio)}; {more_traffic(result) or 'no more traffic shown'}; "
                f"{result.winner}",
                flush=True,
            )


if __name__ == "__main__":
    main()
