"""The doctor's checks of CUDA devices. Pure: they only report, and change nothing on a device."""

from tailcut.machine.finding import NOTE, OK, WARNING, Check
from tailcut.machine.gpu import Devices, GpuDevice

_MIN_LOCKED = 1 << 30  # bytes: rows of a large model
_LISTED = 3  # processes named at most


def examine_devices(report: Devices | None, mask: tuple[int, ...] = (), own: int = 0) -> tuple[Check, ...]:
    """One finding for each check, over all devices; none if `nvidia-smi` is not installed.

    Args:
        report: what was read.
        mask: CPUs that this process may use.
        own: this process's id, which is not a neighbour.
    """
    if report is None:
        return ()
    if not report.devices:
        reason = report.error or "no device"
        return (Check("gpu", WARNING, f"nvidia-smi is installed, but: {reason}", "sudo dmesg | grep -i nvrm"),)
    names = ", ".join(f"{device.index}: {device.name}" for device in report.devices)
    return (
        Check("gpu", OK, f"{names}; driver {report.driver}, CUDA {report.cuda}"),
        _persistence(report.devices),
        _clocks(report.devices),
        _links(report.devices),
        _nodes(report.devices, mask),
        _mig(report.devices),
        _neighbours(report.devices, own),
        _memory(report.devices),
        _locked(report.locked_limit),
    )


def _persistence(devices: tuple[GpuDevice, ...]) -> Check:
    """Without it, the driver is unloaded when no process has the device open, and the next one waits for seconds."""
    off = [device for device in devices if device.persistence is False]
    if not off:
        return Check("gpu_persistence", OK, "on")
    finding = f"off on {_of(off)}: the first process waits for the driver to wake the device"
    return Check("gpu_persistence", WARNING, finding, "sudo nvidia-smi -pm 1")


def _clocks(devices: tuple[GpuDevice, ...]) -> Check:
    """A varying clock makes latencies vary. It is only read: setting it is left to the user."""
    held = [device for device in devices if device.throttled]
    clocks = "; ".join(
        f"{device.index}: {_or(device.clock)} of {_or(device.max_clock)} MHz, memory {_or(device.memory_clock)} of "
        f"{_or(device.max_memory_clock)}"
        for device in devices
    )
    if held:
        reasons = ", ".join(sorted({reason for device in held for reason in device.throttled}))
        finding = f"limited on {_of(held)} by {reasons}; {clocks}"
        return Check("gpu_clocks", WARNING, finding, "nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE")
    top = max((device.max_clock or 0 for device in devices), default=0)
    remedy = f"sudo nvidia-smi -lgc {top},{top}" if top else None
    return Check(
        "gpu_clocks", NOTE, f"{clocks}: an idle device lowers its clock and takes a while to raise it again", remedy
    )


def _links(devices: tuple[GpuDevice, ...]) -> Check:
    """How fast rows reach a device. An idle link lowers its generation to save power, so only its width is judged."""
    links = "; ".join(
        f"{device.index}: PCIe {_or(device.pcie[0])} x{_or(device.pcie[1])}"
        f" of {_or(device.max_pcie[0])} x{_or(device.max_pcie[1])}"
        + (f", {device.nvlinks} NVLinks" if device.nvlinks else "")
        for device in devices
    )
    narrow = [
        device for device in devices if device.pcie[1] and device.max_pcie[1] and device.pcie[1] < device.max_pcie[1]
    ]
    if narrow:
        finding = f"{_of(narrow)} has fewer lanes than it could; {links}"
        return Check("gpu_link", WARNING, finding, "move the card to a slot with all lanes, and look at risers")
    return Check("gpu_link", OK, links)


def _nodes(devices: tuple[GpuDevice, ...], mask: tuple[int, ...]) -> Check:
    """Copies from another node's memory cross the link between the processors."""
    known = [device for device in devices if device.numa_node is not None]
    if not known:
        return Check("gpu_numa", OK, "one node, or the kernel does not say to which one the devices belong")
    nodes = ", ".join(f"{device.index} is on node {device.numa_node}" for device in known)
    away = [device for device in known if device.cpus and mask and not device.cpus & set(mask)]
    if away:
        remedy = f"numactl --cpunodebind={away[0].numa_node} --membind={away[0].numa_node} tailcut serve ..."
        return Check("gpu_numa", WARNING, f"{nodes}; none of the usable CPUs is near {_of(away)}", remedy)
    return Check("gpu_numa", OK, nodes)


def _mig(devices: tuple[GpuDevice, ...]) -> Check:
    """A device that is partitioned: each instance has a part of the cores and of the memory."""
    on = [device for device in devices if device.mig]
    if on:
        return Check("gpu_mig", NOTE, f"on, on {_of(on)}: name a part in CUDA_VISIBLE_DEVICES (nvidia-smi -L)")
    return Check("gpu_mig", OK, "off")


def _neighbours(devices: tuple[GpuDevice, ...], own: int) -> Check:
    """Kernels of two processes take turns on a device."""
    others = [(device.index, *process) for device in devices for process in device.processes if process[0] != own]
    if not others:
        return Check("gpu_processes", OK, "no other process has a device open")
    listed = "; ".join(
        f"{name or 'a process'} ({pid}) on {index}, {used >> 20:,} MiB" for index, pid, name, used in others[:_LISTED]
    )
    more = "" if len(others) <= _LISTED else f" and {len(others) - _LISTED} more"
    busy = [f"{device.index}: {device.utilisation} %" for device in devices if device.utilisation]
    cost = f"busy {', '.join(busy)}" if busy else None
    return Check("gpu_processes", WARNING, f"{listed}{more}", "give each service a device of its own", cost)


def _memory(devices: tuple[GpuDevice, ...]) -> Check:
    """How much memory is used, and whether it has errors."""
    used = "; ".join(
        f"{device.index}: {(device.used_bytes or 0) >> 20:,} of {device.memory_bytes >> 20:,} MiB used"
        for device in devices
        if device.memory_bytes
    )
    bad = [device for device in devices if device.ecc_errors]
    if bad:
        finding = f"{used or 'unknown'}; uncorrected errors on {_of(bad)} since the driver was loaded"
        return Check("gpu_memory", WARNING, finding, "nvidia-smi -q -d ECC")
    return Check("gpu_memory", OK, used or "not reported")


def _locked(limit: int | None) -> Check:
    """Rows are registered with the driver, which locks their pages; a container may limit that."""
    if limit is None:
        return Check("gpu_pinned", OK, "no limit on locked memory")
    finding = f"a process may lock {limit >> 10:,} KiB: `memory.lock` and libraries that lock by themselves stop there"
    if limit >= _MIN_LOCKED:
        return Check("gpu_pinned", OK, finding)
    return Check("gpu_pinned", NOTE, finding, "docker run --ulimit memlock=-1 ..., or ulimit -l unlimited")


def _of(devices: list[GpuDevice]) -> str:
    return "device " + ", ".join(str(device.index) for device in devices)


def _or(value: int | None) -> str:
    return "?" if value is None else str(value)
