"""What a CUDA device is doing, read from the XML report of `nvidia-smi`, and its NUMA node, read from sysfs.

The parsers are pure; `read_devices` runs the program. A fact that is not reported is None or empty, never a guess:
`nvidia-smi` writes [N/A] for what a device does not have, and leaves elements out from release to release.
"""

import resource
import subprocess
import xml.etree.ElementTree as ET  # of the program's own report: nothing in it is fetched
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tailcut.machine.topology import parse_cpu_list

_COMMAND = ("nvidia-smi", "-q", "-x")
SYSFS = Path("/sys/bus/pci/devices")
_PROBE_S = 20.0  # a driver without persistence takes seconds to wake a device


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuDevice:
    """One device. Clocks are MHz, memory bytes, links generations and lanes.

    Args:
        processes: of other users of the device: id, name, bytes.
        throttled: the reasons why its clock is lowered now.
        numa_node: that its bus belongs to; None if there is only one node or the kernel does not say.
        cpus: of that node.
    """

    index: int
    name: str
    uuid: str = ""
    bus: str = ""
    persistence: bool | None = None
    mig: bool | None = None
    clock: int | None = None
    max_clock: int | None = None
    memory_clock: int | None = None
    max_memory_clock: int | None = None
    throttled: tuple[str, ...] = ()
    pcie: tuple[int | None, int | None] = (None, None)  # generation and width in use
    max_pcie: tuple[int | None, int | None] = (None, None)
    nvlinks: int = 0
    memory_bytes: int | None = None
    used_bytes: int | None = None
    utilisation: int | None = None  # per cent of the last sampling period in which any kernel ran
    ecc_errors: int | None = None  # uncorrected
    processes: tuple[tuple[int, str, int], ...] = ()
    numa_node: int | None = None
    cpus: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Devices:
    """All devices, the driver, and how much memory a process may lock; no devices without a driver."""

    driver: str = ""
    cuda: str = ""
    devices: tuple[GpuDevice, ...] = ()
    error: str = ""  # what the program printed instead
    locked_limit: int | None = None  # bytes; None: no limit


def read_devices(run: Callable[[Sequence[str]], str] | None = None, sysfs: Path = SYSFS) -> Devices | None:
    """The devices of this machine; None where the driver's program is not installed.

    Args:
        run: runs a command and returns its output; raises OSError if the program is missing, or ValueError with what
            it printed if it failed.
        sysfs: the folder of PCI devices, each with the NUMA node of its bus.
    """
    run = run or _output
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = None if soft == resource.RLIM_INFINITY else soft
    try:
        report = run(_COMMAND)
    except OSError:
        return None
    except ValueError as error:
        return Devices(error=str(error), locked_limit=limit)
    devices = parse_report(report)
    links = {}
    if devices.devices:
        try:
            links = parse_links(run(("nvidia-smi", "nvlink", "--status")))
        except (OSError, ValueError):  # devices without NVLink
            links = {}
    placed = tuple(_placed(device, links.get(device.index, 0), sysfs) for device in devices.devices)
    return Devices(devices.driver, devices.cuda, placed, devices.error, limit)


def parse_report(text: str) -> Devices:
    """Parse the output of `nvidia-smi -q -x`."""
    try:
        root = ET.fromstring(text)  # noqa: S314  as at the import
    except ET.ParseError as error:
        return Devices(error=f"nvidia-smi's report cannot be read: {error}")
    devices = tuple(_device(index, element) for index, element in enumerate(root.findall("gpu")))
    return Devices(_text(root, "driver_version"), _text(root, "cuda_version"), devices)


def parse_links(text: str) -> dict[int, int]:
    """Parse the output of `nvidia-smi nvlink --status`: the number of active links by device index."""
    links: dict[int, int] = {}
    index = -1
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "GPU" and rest.partition(":")[0].isdigit():
            index = int(rest.partition(":")[0])
            links[index] = 0
        elif word == "Link" and index >= 0 and "GB/s" in rest:
            links[index] += 1
    return links


def _device(index: int, element: ET.Element) -> GpuDevice:
    clocks, most = element.find("clocks"), element.find("max_clocks")
    link = element.find("pci/pci_gpu_link_info")
    memory = element.find("fb_memory_usage")
    reasons = element.find("clocks_event_reasons")
    if reasons is None:
        reasons = element.find("clocks_throttle_reasons")  # as drivers before 535 call them
    return GpuDevice(
        index=index,
        name=_text(element, "product_name"),
        uuid=_text(element, "uuid"),
        bus=element.get("id", "").lower(),
        persistence=_flag(_text(element, "persistence_mode")),
        mig=_flag(_text(element, "mig_mode/current_mig")),
        clock=_number(_text(clocks, "sm_clock")),
        max_clock=_number(_text(most, "sm_clock")),
        memory_clock=_number(_text(clocks, "mem_clock")),
        max_memory_clock=_number(_text(most, "mem_clock")),
        throttled=_reasons(reasons),
        pcie=(
            _number(_text(link, "pcie_gen/current_link_gen")),
            _number(_text(link, "link_widths/current_link_width")),
        ),
        max_pcie=(_number(_text(link, "pcie_gen/max_link_gen")), _number(_text(link, "link_widths/max_link_width"))),
        memory_bytes=_mib(_text(memory, "total")),
        used_bytes=_mib(_text(memory, "used")),
        utilisation=_number(_text(element, "utilization/gpu_util")),
        ecc_errors=_number(_text(element, "ecc_errors/volatile/dram_uncorrectable")),
        processes=tuple(_process(entry) for entry in element.findall("processes/process_info")),
    )


def _process(element: ET.Element) -> tuple[int, str, int]:
    return (
        _number(_text(element, "pid")) or 0,
        Path(_text(element, "process_name")).name,
        _mib(_text(element, "used_memory")) or 0,
    )


def _reasons(element: ET.Element | None) -> tuple[str, ...]:
    """The reasons that lower a busy device's clock; an idle device and a clock that the user set are left out."""
    if element is None:
        return ()
    harmless = ("gpu_idle", "applications_clocks_setting", "sync_boost", "display_clocks_setting")
    active = [child.tag for child in element if (child.text or "").strip() == "Active"]
    names = [tag.partition("reason_")[2] or tag for tag in active]
    return tuple(name.replace("_", " ") for name in names if name not in harmless)


def _placed(device: GpuDevice, links: int, sysfs: Path) -> GpuDevice:
    """The device with its links and its node."""
    cpus = frozenset(parse_cpu_list(_read(_folder(device.bus, sysfs) / "local_cpulist")))
    return replace(device, nvlinks=links, numa_node=node_of_bus(device.bus, sysfs), cpus=cpus)


def node_of_bus(bus: str, sysfs: Path = SYSFS) -> int | None:
    """The NUMA node of a PCI address (0000:3b:00.0); None if there is only one node or the kernel does not say."""
    node = _read(_folder(bus, sysfs) / "numa_node").strip()
    return int(node) if node.isdigit() else None


def _folder(bus: str, sysfs: Path) -> Path:
    domain, _, rest = bus.partition(":")
    return sysfs / f"{domain[-4:]}:{rest}"  # nvidia-smi writes a domain of eight digits, the kernel one of four


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_S, check=False)  # noqa: S603  fixed
    except subprocess.TimeoutExpired:
        raise ValueError(f"{command[0]} did not answer within {_PROBE_S:g} s") from None
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise ValueError(lines[0] if lines else f"{command[0]} ended with {done.returncode}")
    return done.stdout


def _text(element: ET.Element | None, path: str) -> str:
    text = "" if element is None else (element.findtext(path) or "").strip()
    return "" if text in {"N/A", "[N/A]", "[Not Supported]", "Unknown Error"} else text


def _number(text: str) -> int | None:
    """The number at the start of `1410 MHz`, `16x`, `4` or `37 %`."""
    digits = text.split(" ", maxsplit=1)[0].rstrip("x%")
    return int(digits) if digits.isdigit() else None


def _mib(text: str) -> int | None:
    number = _number(text)
    return None if number is None else number << 20


def _flag(text: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
