"""Each of the doctor's checks, on a made-up machine where all is well and on one where that thing is not."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.machine.machines import CLOCKS, CPUS, GOOD, SWAPS, SYSTEM, THP, facts_of, gap, measured

from tailcut.machine.checks import Reach, examine, examine_settings, something_wrong, widest
from tailcut.machine.facts import Ticks
from tailcut.machine.finding import FAULT, NOTE, OK, WARNING, Check, Severity
from tailcut.machine.perf import Missing
from tailcut.machine.probe import ProbeResult

SIBLINGS: dict[str, str | None] = {
    f"{SYSTEM}/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu - cpu % 2}-{cpu - cpu % 2 + 1}" for cpu in CPUS
}
TWO_NODES: dict[str, str | None] = {f"{SYSTEM}/node/node0/cpulist": "0-1", f"{SYSTEM}/node/node1/cpulist": "2-3"}
GOVERNORS = [f"{SYSTEM}/cpu/cpu{cpu}/cpufreq/scaling_governor" for cpu in CPUS]
SWAP = f"{SWAPS}\n/dev/sda2 partition 1048572 0 -2"
STOPPED = "nr_throttled 12\nthrottled_usec 340000"
GLIBC = "7f02-7f03 r-xp 0 0:0 0 /usr/lib/libc.so.6"
NO_PMU = Missing("cycles", "no hardware counters", "run on bare metal")


def one(checks: tuple[Check, ...], name: str) -> Check:
    result = [check for check in checks if check.name == name]
    assert len(result) == 1
    return result[0]


def test_nothing_is_wrong_on_a_good_machine(tmp_path: Path) -> None:
    """On a machine that is set up well every check is ok, offers no remedy, and the answer is yes."""
    checks = examine(facts_of(tmp_path), measured(), (Reach("numba", "avx512", "compiles for avx512"),))
    assert {check.name: check.severity for check in checks} == dict.fromkeys([check.name for check in checks], OK)
    assert len({check.name for check in checks}) == len(checks) == 20
    assert [check.remedy for check in checks] == [None] * len(checks)
    assert not something_wrong(checks)


@pytest.mark.parametrize(
    "case",
    [
        ("governor", {GOVERNORS[2]: "powersave"}, WARNING, "performance, powersave", "scaling_governor"),
        ("governor", dict.fromkeys(GOVERNORS), NOTE, "not visible", None),
        ("turbo", {f"{SYSTEM}/cpu/intel_pstate/no_turbo": "0"}, NOTE, "on: fast", "no_turbo"),
        ("turbo", {f"{SYSTEM}/cpu/intel_pstate/no_turbo": None}, NOTE, "not visible", None),
        ("smt", SIBLINGS, NOTE, "0+1 2+3", "taskset -c 0,2 COMMAND"),
        ("numa_balancing", {**TWO_NODES, "proc/sys/kernel/numa_balancing": "1"}, WARNING, "2 nodes", "sudo sysctl"),
        ("numa_balancing", TWO_NODES, OK, "off, with 2 nodes", None),
        (
            "transparent_huge_pages",
            {f"{THP}/enabled": "[always] madvise never", f"{THP}/defrag": "[always] madvise never"},
            WARNING,
            "compacted",
            "defer+madvise",
        ),
        ("transparent_huge_pages", {f"{THP}/enabled": "always madvise [never]"}, NOTE, "never", "echo madvise"),
        ("transparent_huge_pages", {f"{THP}/enabled": None}, NOTE, "not visible", None),
        ("quota", {"sys/fs/cgroup/app/cpu.max": "150000 100000"}, WARNING, "1.5 CPUs", "--cpus 2"),
        ("quota", {"sys/fs/cgroup/app/cpu.max": "20000 100000"}, WARNING, "0.2 CPUs", "--cpus 1"),
        ("quota", {"sys/fs/cgroup/app/cpu.max": "200000 100000"}, NOTE, "2 CPUs of the 4", "--cpuset-cpus 0,1"),
        ("quota", {"sys/fs/cgroup/app/cpu.max": "800000 100000"}, OK, "8 CPUs", None),
        (
            "throttling",
            {"sys/fs/cgroup/app/cpu.stat": STOPPED},
            WARNING,
            "throttles this control group (12 times",
            "docker",
        ),
        ("cpuset", TWO_NODES, NOTE, "2 NUMA nodes", "numactl"),
        ("isolated_cores", {f"{SYSTEM}/cpu/isolated": "2-3"}, WARNING, "2,3 are isolated", "taskset -c 2"),
        ("isolated_cores", {f"{SYSTEM}/cpu/isolated": "3"}, OK, "one isolated core", None),
        ("swappiness", {"proc/swaps": SWAP}, WARNING, "vm.swappiness is 60", "sudo sysctl vm.swappiness=1"),
        ("swappiness", {"proc/swaps": SWAP, "proc/sys/vm/swappiness": "1"}, OK, "is 1", None),
        ("swappiness", {"proc/self/status": "VmSwap:\t 2048 kB"}, FAULT, "2.0 MiB", "swapoff"),
        ("clock", {f"{CLOCKS}/current_clocksource": "hpet"}, WARNING, "hpet", "echo tsc"),
        (
            "clock",
            {f"{CLOCKS}/current_clocksource": "acpi_pm", f"{CLOCKS}/available_clocksource": "acpi_pm"},
            WARNING,
            "acpi_pm",
            "tsc=reliable",
        ),
        ("clock", {f"{CLOCKS}/current_clocksource": None}, NOTE, "not visible", None),
        ("virtualisation", {"proc/cpuinfo": "flags\t: avx2 hypervisor"}, NOTE, "virtual machine", None),
    ],
)
def test_settings(tmp_path: Path, case: tuple[str, dict[str, str | None], Severity, str, str | None]) -> None:
    """A setting that lengthens the tail is found, judged, and comes with the command that mends it."""
    name, spoiled, severity, finding, remedy = case
    check = one(examine(facts_of(tmp_path, spoiled), measured()), name)
    assert check.severity is severity
    assert finding in check.finding
    assert (check.remedy is None) if remedy is None else (remedy in (check.remedy or ""))


@pytest.mark.parametrize(
    ("build", "severity"),
    [
        ({"CONFIG_ARGS": "'--prefix=/root/.pyenv/versions/3.11.7'", "PGO_PROF_USE_FLAG": "-fprofile-use"}, NOTE),
        ({"CONFIG_ARGS": "'--enable-optimizations' '--with-lto'", "PGO_PROF_USE_FLAG": "-fprofile-use"}, OK),
        ({"CONFIG_ARGS": "'--prefix=/usr'", "PGO_PROF_USE_FLAG": ""}, OK),
        ({"PGO_PROF_USE_FLAG": "-fprofile-use"}, OK),
    ],
)
def test_python(tmp_path: Path, build: dict[str, str], severity: Severity) -> None:
    """Only a build that says that it had no profile is a note, with the command for another one."""
    check = one(examine(facts_of(tmp_path, build=build), measured()), "python")
    assert check.severity is severity
    assert ("--enable-optimizations" in (check.remedy or "")) == (severity is NOTE)
    assert not something_wrong((check,))


def test_settings_alone(tmp_path: Path) -> None:
    """Without measurements, the checks that need none say the same."""
    facts = facts_of(tmp_path)
    result = examine_settings(facts)
    assert len(result) > 8
    assert {check.name for check in result} & {"steal", "neighbours", "interrupts", "clock"} == set()
    whole = {check.name: check for check in examine(facts, measured())}
    assert [check for check in result if check != whole[check.name]] == []


def test_isolated_cores_of_others(tmp_path: Path) -> None:
    """Isolated cores outside the mask are an offer, not a fault."""
    facts = facts_of(tmp_path, {f"{SYSTEM}/cpu/isolated": "3"}, mask=(0, 1))
    check = one(examine(facts, measured()), "isolated_cores")
    assert (check.severity, check.remedy) == (NOTE, "taskset -c 3 COMMAND")


@pytest.mark.parametrize(
    ("environment", "quota", "severity", "variables"),
    [
        ({"OMP_NUM_THREADS": "64"}, "max", WARNING, {"OMP_NUM_THREADS": "4"}),
        ({"OMP_NUM_THREADS": "4,2", "MKL_NUM_THREADS": "8"}, "max", WARNING, {"MKL_NUM_THREADS": "4"}),
        ({"OPENBLAS_NUM_THREADS": "rubbish"}, "max", WARNING, {"OPENBLAS_NUM_THREADS": "4"}),
        ({"OMP_NUM_THREADS": "3"}, "max", OK, {}),
        ({}, "max", OK, {}),
        ({"OMP_NUM_THREADS": "2"}, "200000", OK, {}),
        ({"OMP_NUM_THREADS": "4"}, "200000", WARNING, {"OMP_NUM_THREADS": "2"}),
    ],
)
def test_threads(
    tmp_path: Path, environment: dict[str, str], quota: str, severity: Severity, variables: dict[str, str]
) -> None:
    """More threads than are usable is a warning, with the right number as remedy and as variables."""
    facts = facts_of(tmp_path, {"sys/fs/cgroup/app/cpu.max": f"{quota} 100000"}, environment=environment)
    check = one(examine(facts, measured()), "threads")
    assert (check.severity, check.environment) == (severity, variables)
    assert all(f"{name}={value}" in (check.remedy or "") for name, value in variables.items())


def test_unset_threads_under_a_quota(tmp_path: Path) -> None:
    """Libraries see the mask and not the quota: without a variable they start too many threads."""
    facts = facts_of(tmp_path, {"sys/fs/cgroup/app/cpu.max": "200000 100000"})
    check = one(examine(facts, measured()), "threads")
    assert check.severity is WARNING
    assert "libraries start 4 threads, and 2 are usable" in check.finding
    assert check.environment["OMP_NUM_THREADS"] == "2"


def test_throttled_while_looking(tmp_path: Path) -> None:
    """A quota that stops us while we look is a fault, with its cost, also when it never did before."""
    facts = facts_of(tmp_path)
    grown = measured(before=Ticks(0, 0, {}, 240_000), after=Ticks(0, 400, {}, 340_000))
    check = one(examine(facts, grown), "throttling")
    assert check.severity is FAULT
    assert check.cost == "100.0 ms of the last 1.0 s; 340.0 ms since the group began"


@pytest.mark.parametrize(("count", "severity"), [(50, OK), (90_000, WARNING)])
def test_interrupts(tmp_path: Path, count: int, severity: Severity) -> None:
    """Many device interrupts on our CPUs are a warning that names the busiest, and where to send it."""
    before = Ticks(0, 1000, {"133 eth0-rx-0": {0: 5, 1: 7}}, 0)
    after = Ticks(0, 1400, {"133 eth0-rx-0": {0: 5, 1: 7 + count}, "24 nvme0q1": {0: 3}}, 0)
    check = one(examine(facts_of(tmp_path, mask=(0, 1)), measured(before=before, after=after)), "interrupts")
    assert check.severity is severity
    assert f"eth0-rx-0 (interrupt 133), {count:,} per second, on CPU 1" in check.finding
    assert check.remedy == (None if severity is OK else "echo 2 | sudo tee /proc/irq/133/smp_affinity_list")
    assert "per second on the usable CPUs" in (check.cost or "")


@pytest.mark.parametrize(
    ("before", "after", "severity"),
    [
        (Ticks(0, 1000, {}, 0), Ticks(0, 1400, {}, 0), OK),
        (Ticks(0, 10_000, {}, 0), Ticks(2, 10_100, {}, 0), OK),
        (Ticks(0, 10_000, {}, 0), Ticks(8, 10_400, {}, 0), WARNING),
        (Ticks(0, 10_000, {}, 0), Ticks(100, 10_400, {}, 0), FAULT),
        (Ticks(600, 10_000, {}, 0), Ticks(600, 10_400, {}, 0), FAULT),
    ],
)
def test_steal(tmp_path: Path, before: Ticks, after: Ticks, severity: Severity) -> None:
    """Stolen time counts now and since the start, whichever is worse."""
    check = one(examine(facts_of(tmp_path), measured(before=before, after=after)), "steal")
    assert check.severity is severity
    assert "since the start" in (check.cost or "")


@pytest.mark.parametrize(
    ("gaps", "severity", "finding"),
    [
        ((gap(0), gap(1, max_us=99)), OK, "no other process takes"),
        ((gap(0), gap(1, max_us=400)), NOTE, "up to 400 us"),
        (
            (gap(0, max_us=4000, taken=3), gap(1, taken=4)),
            WARNING,
            "up to 4.0 ms: other processes took the core 7 times",
        ),
        ((gap(None, max_us=4000, taken=0),), WARNING, "interrupts or the hypervisor"),
        ((gap(0, stolen_us=5000, max_us=50),), WARNING, "up to 0.1 ms"),
        ((gap(0, stolen_us=100_000, max_us=9000, taken=9),), FAULT, "9.0 ms"),
    ],
)
def test_neighbours(tmp_path: Path, gaps: tuple, severity: Severity, finding: str) -> None:
    """What a spinning thread lost is judged by its longest gap and by its share, and shown for each CPU."""
    check = one(examine(facts_of(tmp_path), measured(gaps=gaps)), "neighbours")
    assert check.severity is severity
    assert finding in check.finding
    assert (check.cost or "").count("us stolen in") == len(gaps)


def test_gaps_of_a_quota_are_no_neighbours(tmp_path: Path) -> None:
    """Gaps while the quota stopped us are the quota's."""
    stopped = measured(gaps=(gap(0, max_us=50_000),), after=Ticks(0, 1400, {}, 60_000))
    assert "the CPU quota throttled" in one(examine(facts_of(tmp_path), stopped), "neighbours").finding


@pytest.mark.parametrize(("faults", "severity"), [(10_000, NOTE), (12, OK), (None, NOTE)])
def test_allocator(tmp_path: Path, faults: int | None, severity: Severity) -> None:
    """The C library's allocator is judged by the faults that a large block really took."""
    check = one(examine(facts_of(tmp_path, {"proc/self/maps": GLIBC}), measured(block_faults=faults)), "allocator")
    assert check.severity is severity
    assert ("MALLOC_MMAP_MAX_" in check.environment) == (severity is NOTE)


def test_slow_clock(tmp_path: Path) -> None:
    """A clock that takes half a microsecond is a warning whatever its name."""
    check = one(examine(facts_of(tmp_path), measured(clock_ns=900.0)), "clock")
    assert (check.severity, check.cost) == (WARNING, "900 ns per reading")


def test_counters_that_are_missing(tmp_path: Path) -> None:
    """Missing counters are named with their reason once, and with what would change it."""
    facts = facts_of(tmp_path, missing=(NO_PMU, Missing("instructions", NO_PMU.reason, NO_PMU.remedy)))
    check = one(examine(facts, measured()), "perf")
    assert (check.severity, check.remedy) == (NOTE, "run on bare metal")
    assert check.finding == "no hardware counters: no cycles, instructions"


@pytest.mark.parametrize(
    ("environment", "reach", "severity", "remedy"),
    [
        ({}, "avx512", OK, None),
        ({}, None, OK, None),
        ({}, "avx2", NOTE, "pip install --upgrade numba"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "avx512", WARNING, "unset ONEDNN_MAX_CPU_ISA"),
        ({"NUMBA_CPU_NAME": "generic"}, "sse2", WARNING, "unset NUMBA_CPU_NAME"),
    ],
)
def test_isa(
    tmp_path: Path, environment: dict[str, str], reach: str | None, severity: Severity, remedy: str | None
) -> None:
    """The widest vectors of the processor are named, and who does not reach them, or what keeps them from it."""
    checks = examine(facts_of(tmp_path, environment=environment), measured(), (Reach("numba", reach, "as it says"),))
    check = one(checks, "isa")
    assert (check.severity, check.remedy) == (severity, remedy)
    assert check.finding.startswith("avx512 avx512_bf16; numba: as it says")


@pytest.mark.parametrize(
    ("flags", "name"),
    [({"sse2", "avx", "avx2"}, "avx2"), ({"asimd"}, "neon"), ({"asimd", "sve"}, "sve"), ({"fpu"}, None)],
)
def test_widest(flags: set[str], name: str | None) -> None:
    """The widest known instruction set is named by its common name."""
    assert widest(frozenset(flags)) == name


def test_checks_go_through_json(tmp_path: Path) -> None:
    """A check is name, severity, finding, remedy, cost and variables, all fit for JSON."""
    facts = facts_of(tmp_path, environment={"OMP_NUM_THREADS": "64"})
    for check in examine(facts, measured()):
        values = json.loads(json.dumps(asdict(check)))
        assert set(values) == {"name", "severity", "finding", "remedy", "cost", "environment"}


def test_wrong_is_a_warning_or_worse() -> None:
    """Notes do not make the answer a no; a warning or a fault does."""
    assert not something_wrong((Check("a", OK, ""), Check("b", NOTE, "")))
    assert something_wrong((Check("a", OK, ""), Check("b", WARNING, "")))
    assert something_wrong((Check("a", FAULT, ""),))


def test_a_bare_tree(tmp_path: Path) -> None:
    """A machine that shows nothing at all is examined too, and nothing is invented."""
    facts = facts_of(tmp_path, dict.fromkeys(GOOD), mask=(0,))
    checks = examine(facts, ProbeResult(1.0, Ticks(0, 0, {}, 0), Ticks(0, 0, {}, 0), (gap(None),), 40.0, None, 0.0))
    assert not something_wrong(checks)
