"""The facts stored with every result: the machine, the part of it that may be used, and the versions."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tailcut.machine.quota import cpu_quota, memory_limit, usable_cpus
from tailcut.machine.topology import topology

ISA_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "avx_vnni",
    "amx_tile",
    "amx_bf16",
    "amx_fp16",
    "asimd",
    "asimdhp",
    "bf16",
)
_PACKAGES = ("tailcut", "numpy", "onnxruntime", "openvino", "torch", "uvloop")


def fingerprint(proc: Path = Path("/proc"), sysfs: Path = Path("/sys/devices/system")) -> dict[str, str | int | float]:
    """Flat facts with stable names, fit for JSON and TOML; one that cannot be read is left out."""
    machine = topology(sysfs)
    info = _cpu_info(proc)
    facts: dict[str, str | int | float | None] = {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cpus": len(machine.cpus),
        "cores": len(machine.cores),
        "numa_nodes": len(machine.nodes),
        "usable_cpus": usable_cpus(),
        "cpu_quota": cpu_quota(),
        "memory_limit_bytes": memory_limit(),
        "memory_bytes": _memory_bytes(proc),
        "isa": " ".join(flag for flag in ISA_FLAGS if flag in isa_flags(proc)),
        "hypervisor": "yes" if "hypervisor" in isa_flags(proc) else "no",
        "governor": _text(sysfs / "cpu" / "cpu0" / "cpufreq" / "scaling_governor"),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for cache in machine.caches:
        if cache.kind != "Instruction":
            facts[f"l{cache.level}_bytes"] = cache.size_bytes
    for package in _PACKAGES:
        facts[package] = _version(package)
    return {name: value for name, value in facts.items() if value is not None}


def isa_flags(proc: Path = Path("/proc")) -> frozenset[str]:
    """The processor's feature flags in /proc/cpuinfo (`flags` on x86-64, `Features` on Arm)."""
    info = _cpu_info(proc)
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def _cpu_info(proc: Path) -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo."""
    lines = (_text(proc / "cpuinfo") or "").split("\n\n", 1)[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _memory_bytes(proc: Path) -> int | None:
    for line in (_text(proc / "meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
