"""The facts beside every result: stable, flat, and the same when asked twice."""

import json
import tomllib
from importlib.metadata import version
from pathlib import Path

import tomli_w
from tests.machine.trees import cpu_files, plant

from tailcut.machine.fingerprint import fingerprint, isa_flags


def test_this_machine() -> None:
    """Here, the facts hold no None, go through TOML and JSON unchanged, and do not change between two looks."""
    facts = fingerprint()
    assert tomllib.loads(tomli_w.dumps(facts)) == facts == json.loads(json.dumps(facts)) == fingerprint()
    assert {"cpu", "architecture", "cpus", "cores", "usable_cpus", "isa", "system", "python", "numpy"} <= set(facts)
    assert facts["onnxruntime"] == version("onnxruntime")
    assert facts["cpus"] >= facts["cores"] >= 1


def test_made_up_machine(tmp_path: Path) -> None:
    """Model name, flags, memory, caches and governor come from their files."""
    flags = "flags\t\t: fpu avx2 fma avx512f amx_tile hypervisor"
    proc = plant(
        tmp_path / "proc",
        {
            "cpuinfo": f"processor\t: 0\nmodel name\t: Example CPU @ 3: fast\n{flags}\n\nprocessor\t: 1\nflags\t: sse",
            "meminfo": "MemFree: 1 kB\nMemTotal:       2048 kB",
        },
    )
    governor = {"cpu/online": "0-1", "cpu/cpu0/cpufreq/scaling_governor": "powersave"}
    sysfs = plant(tmp_path / "sys", governor | cpu_files(0, "0-1") | cpu_files(1, "0-1"))
    facts = fingerprint(proc, sysfs)
    assert facts["cpu"] == "Example CPU @ 3: fast"
    assert facts["isa"] == "avx2 fma avx512f amx_tile"
    assert facts["hypervisor"] == "yes"
    assert facts["memory_bytes"] == 2 << 20
    assert facts["governor"] == "powersave"
    assert (facts["cpus"], facts["cores"]) == (2, 1)
    assert (facts["l1_bytes"], facts["l3_bytes"]) == (48 << 10, 36 << 20)


def test_arm(tmp_path: Path) -> None:
    """On Arm the kernel calls the flags Features."""
    proc = plant(tmp_path, {"cpuinfo": "processor\t: 0\nFeatures\t: fp asimd bf16"})
    assert isa_flags(proc) == {"fp", "asimd", "bf16"}


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """Without any of the files there are fewer facts, and no empty or wrong ones."""
    facts = fingerprint(tmp_path, tmp_path)
    assert not {"governor", "l1_bytes"} & set(facts)
    assert None not in facts.values()
    assert facts["cpu"]
