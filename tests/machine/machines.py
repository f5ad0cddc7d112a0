"""A made-up machine on which nothing is wrong, and what was measured there; tests spoil one thing at a time."""

from pathlib import Path

from tests.machine.trees import cpu_files, plant

from tailcut.machine.facts import MachineFacts, Ticks, collect
from tailcut.machine.perf import Missing
from tailcut.machine.probe import Gaps, ProbeResult

CPUS = range(4)
SYSTEM = "sys/devices/system"
THP = "sys/kernel/mm/transparent_hugepage"
CLOCKS = f"{SYSTEM}/clocksource/clocksource0"
INTERRUPTS = """            CPU0       CPU1       CPU2       CPU3
  24:          1          2          3          4   PCI-MSI 1-edge      nvme0q1
 133:          0          0          0          0   PCI-MSI 2-edge      eth0-rx-0
 LOC:        100        100        100        100   Local timer interrupts"""
SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority"
GOOD: dict[str, str] = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Example\nflags\t\t: sse2 sse4_1 avx avx2 fma avx512f avx512_bf16",
    "proc/self/cgroup": "0::/app",
    "proc/self/status": "Name:\tx\nVmSwap:\t       0 kB",
    "proc/self/maps": "7f00-7f01 r-xp 0 0:0 0 /usr/lib/libjemalloc.so.2\n7f02-7f03 r-xp 0 0:0 0 /usr/lib/libc.so.6",
    "proc/stat": "cpu  40 0 0 40 0 0 0 0 0 0\n"
    + "\n".join(f"cpu{cpu} 10 0 0 10 0 0 0 0 0 0" for cpu in CPUS)
    + "\nctxt 5",
    "proc/swaps": SWAPS,
    "proc/sys/vm/swappiness": "60",
    "proc/sys/kernel/numa_balancing": "0",
    "proc/interrupts": INTERRUPTS,
    "sys/fs/cgroup/app/cpu.max": "max 100000",
    "sys/fs/cgroup/app/cpu.stat": "nr_throttled 0\nthrottled_usec 0",
    f"{THP}/enabled": "always [madvise] never",
    f"{THP}/defrag": "always defer defer+madvise [madvise] never",
    f"{SYSTEM}/cpu/online": "0-3",
    f"{SYSTEM}/cpu/isolated": "",
    f"{SYSTEM}/cpu/intel_pstate/no_turbo": "1",
    f"{SYSTEM}/node/node0/cpulist": "0-3",
    f"{CLOCKS}/current_clocksource": "tsc",
    f"{CLOCKS}/available_clocksource": "tsc hpet acpi_pm",
    **{f"{SYSTEM}/cpu/cpu{cpu}/cpufreq/scaling_governor": "performance" for cpu in CPUS},
    **{f"{SYSTEM}/{name}": text for cpu in CPUS for name, text in cpu_files(cpu, str(cpu)).items()},
}


def facts_of(
    tmp_path: Path,
    spoiled: dict[str, str | None] | None = None,
    *,
    mask: tuple[int, ...] = tuple(CPUS),
    environment: dict[str, str] | None = None,
    build: dict[str, str] | None = None,
    missing: tuple[Missing, ...] = (),
) -> MachineFacts:
    """The good machine with some files changed, or gone where the text is None."""
    files = {name: text for name, text in (GOOD | (spoiled or {})).items() if text is not None}
    return collect(
        plant(tmp_path, files),
        environment=environment or {},
        mask=frozenset(mask),
        build=build or {"CONFIG_ARGS": "'--enable-optimizations'"},
        missing=missing,
    )


def measured(
    *,
    before: Ticks | None = None,
    after: Ticks | None = None,
    gaps: tuple[Gaps, ...] | None = None,
    clock_ns: float = 40.0,
    block_faults: int | None = 0,
) -> ProbeResult:
    """A second on a quiet machine."""
    quiet = Ticks(0, 1000, {}, 0)
    spins = gaps or tuple(gap(cpu) for cpu in CPUS)
    return ProbeResult(1.0, before or quiet, after or Ticks(0, 1400, {}, 0), spins, clock_ns, block_faults, 900.0)


def gap(cpu: int | None = 0, *, stolen_us: float = 40.0, max_us: float = 8.0, taken: int | None = 0) -> Gaps:
    """A quarter of a second of spinning."""
    return Gaps(cpu, 0.25, 10, stolen_us, max_us / 2, max_us, taken)
