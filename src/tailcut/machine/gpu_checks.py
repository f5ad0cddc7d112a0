"""The doctor's checks of CUDA devices. Pure, and in words only: nothing about a device is changed."""

from tailcut.machine.finding import NOTE, OK, WARNING, Check
from tailcut.machine.gpu import Device, Devices

_MIN_LOCKED = 1 << 30  # bytes: rows of a large model
_LISTED = 3  # processes named at most


def examine_devices(found: Devices | None, mask: tuple[int, ...] = (), own: int = 0) -> tuple[Check, ...]:
    """A finding for each question, over all devices; none where there is no driver's program.

    Args:
        found: what was read.
        mask: CPUs that this process may use.
        own: this process's id, which is no neighbour.
    """
    if found is None:
        return ()
    if not found.devices:
        reason = found.error or "no device"
        return (Check("gpu", WARNING, f"nvidia-smi is installed, but: {reason}", "sudo dmesg | grep -i nvrm"),)
    names = ", ".join(f"{one.index}: {one.name}" for one in found.devices)
    return (
        Check("gpu", OK, f"{names}; driver {found.driver}, CUDA {found.cuda}"),
        _persistence(found.devices),
        _clocks(found.devices),
        _links(found.devices),
        _nodes(found.devices, mask),
        _mig(found.devices),
        _neighbours(found.devices, own),
        _memory(found.devices),
        _locked(found.locked_limit),
    )


def _persistence(devices: tuple[Device, ...]) -> Check:
    """Without it, the driver is unloaded when no process has the device open, and the next one waits for seconds."""
    off = [one for one in devices if one.persistence is False]
    if not off:
        return Check("gpu_persistence", OK, "on")
    finding = f"off on {_of(off)}: the first process waits for the driver to wake the device"
    return Check("gpu_persistence", WARNING, finding, "sudo nvidia-smi -pm 1")


def _clocks(devices: tuple[Device, ...]) -> Check:
    """A clock that changes makes latencies that change; read only, because setting it is the user's."""
    held = [one for one in devices if one.throttled]
    told = "; ".join(
        f"{one.index}: {_or(one.clock)} of {_or(one.max_clock)} MHz, memory {_or(one.memory_clock)} of "
        f"{_or(one.max_memory_clock)}"
        for one in devices
    )
    if held:
        reasons = ", ".join(sorted({reason for one in held for reason in one.throttled}))
        finding = f"limited on {_of(held)} by {reasons}; {told}"
        return Check("gpu_clocks", WARNING, finding, "nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE")
    top = max((one.max_clock or 0 for one in devices), default=0)
    remedy = f"sudo nvidia-smi -lgc {top},{top}" if top else None
    return Check(
        "gpu_clocks", NOTE, f"{told}: an idle device lowers its clock and takes a while to raise it again", remedy
    )


def _links(devices: tuple[Device, ...]) -> Check:
    """How fast rows reach a device. A link saves power while it is idle: its width tells, its generation does not."""
    told = "; ".join(
        f"{one.index}: PCIe {_or(one.pcie[0])} x{_or(one.pcie[1])} of {_or(one.max_pcie[0])} x{_or(one.max_pcie[1])}"
        + (f", {one.nvlinks} NVLinks" if one.nvlinks else "")
        for one in devices
    )
    narrow = [one for one in devices if one.pcie[1] and one.max_pcie[1] and one.pcie[1] < one.max_pcie[1]]
    if narrow:
        finding = f"{_of(narrow)} has fewer lanes than it could; {told}"
        return Check("gpu_link", WARNING, finding, "move the card to a slot with all lanes, and look at risers")
    return Check("gpu_link", OK, told)


def _nodes(devices: tuple[Device, ...], mask: tuple[int, ...]) -> Check:
    """Copies from the memory of another node cross the link between the processors."""
    known = [one for one in devices if one.numa_node is not None]
    if not known:
        return Check("gpu_numa", OK, "one node, or the kernel does not say to which one the devices belong")
    told = ", ".join(f"{one.index} is on node {one.numa_node}" for one in known)
    away = [one for one in known if one.cpus and mask and not one.cpus & set(mask)]
    if away:
        remedy = f"numactl --cpunodebind={away[0].numa_node} --membind={away[0].numa_node} tailcut serve ..."
        return Check("gpu_numa", WARNING, f"{told}; none of the usable CPUs is near {_of(away)}", remedy)
    return Check("gpu_numa", OK, told)


def _mig(devices: tuple[Device, ...]) -> Check:
    """A device in parts: each has a part of the cores and of the memory."""
    on = [one for one in devices if one.mig]
    if on:
        return Check("gpu_mig", NOTE, f"on, on {_of(on)}: name a part in CUDA_VISIBLE_DEVICES (nvidia-smi -L)")
    return Check("gpu_mig", OK, "off")


def _neighbours(devices: tuple[Device, ...], own: int) -> Check:
    """Kernels of two processes take turns on a device."""
    others = [(one.index, *process) for one in devices for process in one.processes if process[0] != own]
    if not others:
        return Check("gpu_processes", OK, "no other process has a device open")
    listed = "; ".join(
        f"{name or 'a process'} ({pid}) on {index}, {used >> 20:,} MiB" for index, pid, name, used in others[:_LISTED]
    )
    more = "" if len(others) <= _LISTED else f" and {len(others) - _LISTED} more"
    busy = [f"{one.index}: {one.utilisation} %" for one in devices if one.utilisation]
    cost = f"busy {', '.join(busy)}" if busy else None
    return Check("gpu_processes", WARNING, f"{listed}{more}", "give each service a device of its own", cost)


def _memory(devices: tuple[Device, ...]) -> Check:
    """What is left, and whether it is sound."""
    told = "; ".join(
        f"{one.index}: {(one.used_bytes or 0) >> 20:,} of {one.memory_bytes >> 20:,} MiB used"
        for one in devices
        if one.memory_bytes
    )
    bad = [one for one in devices if one.ecc_errors]
    if bad:
        finding = f"{told or 'unknown'}; uncorrected errors on {_of(bad)} since the driver was loaded"
        return Check("gpu_memory", WARNING, finding, "nvidia-smi -q -d ECC")
    return Check("gpu_memory", OK, told or "not reported")


def _locked(limit: int | None) -> Check:
    """Rows are registered with the driver, which locks their pages; a container may bound that."""
    if limit is None:
        return Check("gpu_pinned", OK, "no limit on locked memory")
    finding = f"a process may lock {limit >> 10:,} KiB: `memory.lock` and libraries that lock by themselves stop there"
    if limit >= _MIN_LOCKED:
        return Check("gpu_pinned", OK, finding)
    return Check("gpu_pinned", NOTE, finding, "docker run --ulimit memlock=-1 ..., or ulimit -l unlimited")


def _of(devices: list[Device]) -> str:
    return "device " + ", ".join(str(one.index) for one in devices)


def _or(value: int | None) -> str:
    return "?" if value is None else str(value)
