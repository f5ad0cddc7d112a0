"""Reports of `nvidia-smi` in the forms that its documentation and releases have, and what the doctor makes of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tailcut.machine.finding import NOTE, OK, WARNING
from tailcut.machine.gpu import Devices, GpuDevice, parse_links, parse_report, read_devices
from tailcut.machine.gpu_checks import examine_devices

GPU = """
  <gpu id="{bus}">
    <product_name>NVIDIA H100 80GB HBM3</product_name>
    <persistence_mode>{persistence}</persistence_mode>
    <mig_mode><current_mig>{mig}</current_mig><pending_mig>Disabled</pending_mig></mig_mode>
    <uuid>GPU-11111111-2222-3333-4444-555555555555</uuid>
    <pci>
      <pci_gpu_link_info>
        <pcie_gen><max_link_gen>5</max_link_gen><current_link_gen>1</current_link_gen></pcie_gen>
        <link_widths><max_link_width>16x</max_link_width><current_link_width>{width}</current_link_width></link_widths>
      </pci_gpu_link_info>
    </pci>
    <{reasons}>
      <{prefix}gpu_idle>Active</{prefix}gpu_idle>
      <{prefix}sw_power_cap>Not Active</{prefix}sw_power_cap>
      <{prefix}hw_thermal_slowdown>{hot}</{prefix}hw_thermal_slowdown>
    </{reasons}>
    <fb_memory_usage><total>81559 MiB</total><reserved>551 MiB</reserved><used>1024 MiB</used></fb_memory_usage>
    <utilization><gpu_util>{util}</gpu_util><memory_util>3 %</memory_util></utilization>
    <ecc_errors><volatile><dram_uncorrectable>{ecc}</dram_uncorrectable></volatile></ecc_errors>
    <clocks><graphics_clock>345 MHz</graphics_clock><sm_clock>345 MHz</sm_clock><mem_clock>2619 MHz</mem_clock></clocks>
    <max_clocks><sm_clock>1980 MHz</sm_clock><mem_clock>2619 MHz</mem_clock></max_clocks>
    <processes>{processes}</processes>
  </gpu>"""
PROCESS = (
    "<process_info><pid>4242</pid><type>C</type><process_name>/usr/bin/python3</process_name>"
    "<used_memory>512 MiB</used_memory></process_info>"
)
LINKS = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-2222-3333-4444-555555555555)
\t Link 0: 26.562 GB/s
\t Link 1: 26.562 GB/s
\t Link 2: <inactive>
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-21111111-2222-3333-4444-555555555555)
\t Link 0: 26.562 GB/s
"""
DEFAULTS = {
    "bus": "00000000:3B:00.0",
    "persistence": "Enabled",
    "mig": "Disabled",
    "width": "16x",
    "reasons": "clocks_event_reasons",
    "prefix": "clocks_event_reason_",
    "hot": "Not Active",
    "util": "0 %",
    "ecc": "0",
    "processes": "",
}


def report(**changes: str) -> str:
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>'
        "<driver_version>550.54.15</driver_version><cuda_version>12.4</cuda_version><attached_gpus>1</attached_gpus>"
        f"{GPU.format(**(DEFAULTS | changes))}\n</nvidia_smi_log>"
    )


def device(**changes: str) -> GpuDevice:
    [result] = parse_report(report(**changes)).devices
    return result


def test_a_report() -> None:
    """Every field that it has; links, sizes and clocks as numbers."""
    result = parse_report(report(processes=PROCESS, util="37 %"))
    assert (result.driver, result.cuda, result.error) == ("550.54.15", "12.4", "")
    [item] = result.devices
    assert (item.name, item.bus, item.persistence, item.mig) == (
        "NVIDIA H100 80GB HBM3",
        "00000000:3b:00.0",
        True,
        False,
    )
    assert (item.clock, item.max_clock, item.memory_clock, item.max_memory_clock) == (345, 1980, 2619, 2619)
    assert (item.pcie, item.max_pcie) == ((1, 16), (5, 16))
    assert (item.memory_bytes, item.used_bytes, item.utilisation) == (81559 << 20, 1 << 30, 37)
    assert item.processes == ((4242, "python3", 512 << 20),)
    assert item.throttled == ()


def test_an_older_driver_has_other_names() -> None:
    """The reasons of its clocks are the same, under the name that drivers before 535 have."""
    item = device(reasons="clocks_throttle_reasons", prefix="clocks_throttle_reason_", hot="Active")
    assert item.throttled == ("hw thermal slowdown",)


def test_what_a_device_does_not_report_is_unknown() -> None:
    """[N/A] and missing elements are None, never 0."""
    item = device(persistence="[N/A]", mig="N/A", width="N/A", util="[N/A]", ecc="N/A")
    assert (item.persistence, item.mig, item.utilisation, item.ecc_errors) == (None, None, None, None)
    assert item.pcie == (1, None)
    [bare] = parse_report("<nvidia_smi_log><gpu id='a'/></nvidia_smi_log>").devices
    assert bare == GpuDevice(index=0, name="", bus="a")


def test_links() -> None:
    """Only those that run."""
    assert parse_links(LINKS) == {0: 2, 1: 1}
    assert parse_links("") == {}


def run(text: str, links: str = LINKS) -> Callable[[Sequence[str]], str]:
    return lambda command: links if "nvlink" in command else text


def test_the_place_of_a_device(tmp_path: Path) -> None:
    """Its node and the CPUs near it, from the kernel, which writes the bus in another way."""
    folder = tmp_path / "0000:3b:00.0"
    folder.mkdir()
    (folder / "numa_node").write_text("1\n")
    (folder / "local_cpulist").write_text("8-9,24\n")
    result = read_devices(run(report()), tmp_path)
    assert result is not None
    [item] = result.devices
    assert (item.numa_node, item.cpus, item.nvlinks) == (1, {8, 9, 24}, 2)
    (folder / "numa_node").write_text("-1\n")
    result = read_devices(run(report()), tmp_path)
    assert result is not None
    assert result.devices[0].numa_node is None


def test_without_a_driver(tmp_path: Path) -> None:
    """Without the program, no finding; if the program fails, its message as a warning."""

    def absent(_command: Sequence[str]) -> str:
        raise FileNotFoundError

    def broken(_command: Sequence[str]) -> str:
        raise ValueError("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")

    assert read_devices(absent, tmp_path) is None
    assert examine_devices(None) == ()
    [check] = examine_devices(read_devices(broken, tmp_path))
    assert (check.name, check.severity) == ("gpu", WARNING)
    assert "couldn't communicate with the NVIDIA driver" in check.finding
    [check] = examine_devices(read_devices(run("not XML"), tmp_path))
    assert "cannot be read" in check.finding


HEALTHY = replace(device(), numa_node=0, cpus=frozenset({0, 1}))


@pytest.mark.parametrize(
    ("item", "name", "severity", "words"),
    [
        (replace(HEALTHY, persistence=False), "gpu_persistence", WARNING, "off on device 0"),
        (HEALTHY, "gpu_persistence", OK, "on"),
        (replace(HEALTHY, throttled=("sw power cap",)), "gpu_clocks", WARNING, "by sw power cap"),
        (HEALTHY, "gpu_clocks", NOTE, "345 of 1980 MHz"),
        (replace(HEALTHY, pcie=(4, 8)), "gpu_link", WARNING, "fewer lanes"),
        (HEALTHY, "gpu_link", OK, "PCIe 1 x16 of 5 x16"),
        (replace(HEALTHY, nvlinks=4), "gpu_link", OK, "4 NVLinks"),
        (
            replace(HEALTHY, numa_node=1, cpus=frozenset({8})),
            "gpu_numa",
            WARNING,
            "none of the usable CPUs is near device 0",
        ),
        (HEALTHY, "gpu_numa", OK, "0 is on node 0"),
        (replace(HEALTHY, mig=True), "gpu_mig", NOTE, "CUDA_VISIBLE_DEVICES"),
        (replace(HEALTHY, processes=((7, "other", 1 << 20),)), "gpu_processes", WARNING, r"other (7) on 0, 1 MiB"),
        (replace(HEALTHY, processes=((5, "own", 1 << 20),)), "gpu_processes", OK, "no other process"),
        (replace(HEALTHY, ecc_errors=2), "gpu_memory", WARNING, "uncorrected errors on device 0"),
        (HEALTHY, "gpu_memory", OK, "1,024 of 81,559 MiB used"),
    ],
)
def test_findings(item: GpuDevice, name: str, severity: str, words: str) -> None:
    """What is wrong is a warning with a command; what is right says what was seen."""
    checks = {check.name: check for check in examine_devices(Devices("550", "12.4", (item,)), (0, 1), own=5)}
    assert checks[name].severity == severity
    assert words in checks[name].finding
    assert checks[name].remedy or severity in {OK, NOTE}


@pytest.mark.parametrize(("limit", "severity"), [(None, OK), (8 << 20, NOTE), (2 << 30, OK)])
def test_locked_memory(limit: int | None, severity: str) -> None:
    """A small limit is reported, with what to do in a container."""
    checks = {item.name: item for item in examine_devices(Devices("550", "12.4", (HEALTHY,), "", limit))}
    assert checks["gpu_pinned"].severity == severity


def test_a_link_is_written_as_the_command_for_it() -> None:
    """A device away from our CPUs: numactl with its node."""
    far = replace(HEALTHY, numa_node=1, cpus=frozenset({8}))
    [check] = [item for item in examine_devices(Devices("1", "1", (far,)), (0,)) if item.name == "gpu_numa"]
    assert check.remedy == "numactl --cpunodebind=1 --membind=1 tailcut serve ..."
