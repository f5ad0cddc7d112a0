"""The doctor's checks: what facts and measurements mean for latency, how bad it is, and the command that fixes it.

Pure: facts and measurements in, findings out; nothing is read, run or changed here or in `settings.py`, which has the
checks that need facts alone. A command is text for the user: it needs rights beyond this process, or another way of
starting it. A problem that can be fixed from user space has its environment variable in `environment`.
"""

from dataclasses import dataclass

from tailcut.machine import settings
from tailcut.machine.facts import ISA_VARIABLES, MachineFacts
from tailcut.machine.finding import FAULT, NOTE, OK, WARNING, Check
from tailcut.machine.probe import Gaps, ProbeResult


@dataclass(frozen=True, slots=True)
class Reach:
    """The widest vector instructions that a library reports using here; None if it reports nothing."""

    name: str
    isa: str | None
    detail: str


def examine(facts: MachineFacts, measured: ProbeResult, reaches: tuple[Reach, ...] = ()) -> tuple[Check, ...]:
    """Every finding, in the order in which a user meets them, from the processor to the interpreter."""
    return (
        settings.governor(facts),
        settings.turbo(facts),
        settings.smt(facts),
        isa(facts, reaches),
        settings.quota(facts),
        throttling(facts, measured),
        settings.cpuset(facts),
        settings.isolated(facts),
        settings.threads(facts),
        settings.numa(facts),
        settings.huge_pages(facts),
        settings.swap(facts),
        allocator(facts, measured),
        clock(facts, measured),
        interrupts(facts, measured),
        settings.virtualisation(facts),
        steal(measured),
        neighbours(measured),
        settings.python(facts),
        settings.perf(facts),
    )


def examine_settings(facts: MachineFacts) -> tuple[Check, ...]:
    """The findings that follow from facts alone, without a measurement that would disturb what runs here."""
    return (
        settings.governor(facts),
        settings.turbo(facts),
        settings.smt(facts),
        isa(facts, ()),
        settings.quota(facts),
        settings.isolated(facts),
        settings.threads(facts),
        settings.numa(facts),
        settings.huge_pages(facts),
        settings.swap(facts),
        settings.virtualisation(facts),
        settings.python(facts),
    )


def something_wrong(checks: tuple[Check, ...]) -> bool:
    """Whether any finding is a warning or a fault."""
    return any(check.severity in (WARNING, FAULT) for check in checks)


def throttling(facts: MachineFacts, measured: ProbeResult) -> Check:
    """A throttled process stops for up to a tenth of a second at a time."""
    grown = measured.after.throttled_us - measured.before.throttled_us
    if not facts.throttled_times and grown <= 0:
        return Check("throttling", OK, "the quota has never throttled this control group")
    total_ms = max(facts.throttled_us, measured.after.throttled_us) / 1e3
    cost = f"{grown / 1e3:,.1f} ms of the last {measured.seconds:.1f} s; {total_ms:,.1f} ms since the group began"
    finding = f"the quota throttles this control group ({facts.throttled_times:,} times before the measurement)"
    remedy = f"docker update --cpus {len(facts.mask)} CONTAINER"
    return Check("throttling", FAULT if grown > 0 else WARNING, finding, remedy, cost)


def interrupts(facts: MachineFacts, measured: ProbeResult) -> Check:
    """A device's interrupts take time from the core that they are routed to."""
    rates = measured.interrupts()
    if not rates:
        return Check("interrupts", OK, "no device interrupted the usable CPUs during the measurement")
    name, cpu, rate = rates[0]
    total = sum(entry[2] for entry in rates)
    cost = f"{total:,.0f} per second on the usable CPUs"
    finding = f"most from {name.partition(' ')[2]} (interrupt {name.split()[0]}), {rate:,.0f} per second, on CPU {cpu}"
    elsewhere = [other for other in facts.online if other != cpu and other not in facts.mask] or [
        other for other in facts.mask if other != cpu
    ]
    if total < 1000 * len(facts.mask):
        return Check("interrupts", OK, finding, cost=cost)
    path = f"/proc/irq/{name.split()[0]}/smp_affinity_list"
    remedy = f"echo {elsewhere[0]} | sudo tee {path}" if elsewhere else None
    return Check("interrupts", WARNING, finding, remedy, cost)


def allocator(facts: MachineFacts, measured: ProbeResult) -> Check:
    """The C library returns large blocks to the kernel at once, and the next request faults their pages in again."""
    if facts.allocator not in ("glibc", "unknown"):
        return Check("allocator", OK, facts.allocator)
    faults = measured.block_faults
    cost = (
        None if faults is None else f"{faults:,} page faults and {measured.block_us / 1e3:.1f} ms for each 40 MiB block"
    )
    if faults is not None and faults < 1000:
        return Check("allocator", OK, f"{facts.allocator}, which keeps large blocks", cost=cost)
    # Blocks then come from one heap that is not given back: 0.7 ms instead of 35 ms for 40 MiB on a machine of ours.
    variables = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 31)}
    remedy = "export " + " ".join(f"{name}={value}" for name, value in variables.items())
    finding = f"{facts.allocator}: each block over 32 MiB is new memory, faulted in page by page"
    return Check("allocator", NOTE, finding, remedy, cost, variables)


def clock(facts: MachineFacts, measured: ProbeResult) -> Check:
    """A clock source that needs a system call costs a microsecond per reading."""
    cost = f"{measured.clock_ns:.0f} ns per reading"
    if facts.clock is None:
        return Check("clock", NOTE, "not visible here", cost=cost)
    if facts.clock in ("hpet", "acpi_pm", "jiffies", "refined-jiffies", "xen") or measured.clock_ns > 500:
        better = "tsc" if "tsc" in facts.clocks and facts.clock != "tsc" else None
        path = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        remedy = f"echo {better} | sudo tee {path}" if better else "boot with tsc=reliable"
        return Check("clock", WARNING, f"{facts.clock}: slow to read", remedy, cost)
    return Check("clock", OK, facts.clock, cost=cost)


def steal(measured: ProbeResult) -> Check:
    """Time in which a CPU of this machine was ready to run, and the hypervisor ran another guest."""
    total = measured.after.total
    since_boot = measured.after.steal / total if total else 0.0
    cost = f"{100 * measured.steal_share:.2f} % during the measurement, {100 * since_boot:.2f} % since the start"
    few = measured.after.steal - measured.before.steal < _FEW_TICKS
    worst = max(0.0 if few else measured.steal_share, since_boot)
    if worst < 0.005:
        return Check("steal", OK, "the hypervisor takes almost no CPU time", cost=cost)
    remedy = "move to a host or instance type with dedicated cores"
    return Check(
        "steal", FAULT if worst > 0.05 else WARNING, "the hypervisor runs other machines on these CPUs", remedy, cost
    )


def neighbours(measured: ProbeResult) -> Check:
    """The time that a spinning thread, which is always ready to run, did not get."""
    worst = max(measured.gaps, key=lambda gaps: gaps.max_us)
    share = max(gaps.share for gaps in measured.gaps)
    cost = "; ".join(_stolen(gaps) for gaps in measured.gaps)
    if worst.max_us < 100 and share < 0.01:
        return Check("neighbours", OK, "no other process takes the cores", cost=cost)
    if worst.max_us < 1000 and share < 0.01:
        return Check("neighbours", NOTE, f"gaps of up to {worst.max_us:,.0f} us", cost=cost)
    taken = sum(gaps.taken or 0 for gaps in measured.gaps)
    remedy: str | None
    if measured.after.throttled_us > measured.before.throttled_us:
        who, remedy = "the CPU quota throttled this control group, see throttling", None
    elif taken:
        who, remedy = f"other processes took the core {taken:,} times", "top -b -n 1 -o %CPU | head -n 15"
    else:
        who, remedy = "interrupts or the hypervisor", "move to a host or instance type with dedicated cores"
    finding = f"a thread that wants to run waits for up to {worst.max_us / 1e3:,.1f} ms: {who}"
    return Check("neighbours", FAULT if share > 0.2 else WARNING, finding, remedy, cost)


def isa(facts: MachineFacts, reaches: tuple[Reach, ...]) -> Check:
    """Which vector instructions the processor has, and whether the libraries that compute use them."""
    best = widest(facts.isa)
    limits = {name: facts.environment[name] for name in ISA_VARIABLES if name in facts.environment}
    extra = [
        name for name in ("avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "bf16") if name in facts.isa
    ]
    shown = " ".join([best or "none found", *extra])
    details = "; ".join(f"{reach.name}: {reach.detail}" for reach in reaches)
    short = [
        reach.name for reach in reaches if reach.isa is not None and best is not None and _RANK[reach.isa] < _RANK[best]
    ]
    finding = f"{shown}{'; ' if details else ''}{details}"
    if limits:
        words = ", ".join(f"{name}={value}" for name, value in limits.items())
        return Check("isa", WARNING, f"{finding}; limited by {words}", f"unset {' '.join(limits)}")
    if short:
        names = " and ".join(short)
        return Check(
            "isa", NOTE, f"{finding}; {names} does not reach {best}", "pip install --upgrade " + " ".join(short)
        )
    return Check("isa", OK, finding)


def _stolen(gaps: Gaps) -> str:
    where = "any CPU" if gaps.cpu is None else f"CPU {gaps.cpu}"
    return (
        f"{where}: {gaps.stolen_us:,.0f} us stolen in {gaps.seconds:.2f} s, "
        f"{gaps.count:,} gaps, p99 {gaps.p99_us:,.0f} us, max {gaps.max_us:,.0f} us"
    )


_FEW_TICKS = 3  # of 10 ms: one tick in a second's look on one CPU would be 1 %
_FLAGS = {  # the kernel's names, widest last
    "sse2": "sse2",
    "asimd": "neon",
    "sse4_1": "sse4",
    "avx": "avx",
    "avx2": "avx2",
    "sve": "sve",
    "avx512f": "avx512",
}
_RANK = {name: rank for rank, name in enumerate(("none", *_FLAGS.values()))}


def widest(flags: frozenset[str]) -> str | None:
    """The widest known vector instruction set among these flags (`avx512`, `avx2`, ... `neon`), or None."""
    return next((name for flag, name in reversed(_FLAGS.items()) if flag in flags), None)
