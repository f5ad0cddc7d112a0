"""Checks of how the machine and the process are set up: each uses facts alone, and measures nothing."""

from tailcut.machine.facts import THREAD_VARIABLES, MachineFacts
from tailcut.machine.finding import FAULT, NOTE, OK, WARNING, Check


def governor(facts: MachineFacts) -> Check:
    """A core that slows down while idle makes the next request slow."""
    if not facts.governors:
        return Check("governor", NOTE, "not visible here: the host sets the frequency, if it is set at all")
    shown = ", ".join(facts.governors)
    if facts.governors == ("performance",):
        return Check("governor", OK, "performance: cores stay at full clock")
    remedy = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    return Check("governor", WARNING, f"{shown}: cores slow down when idle and speed up late", remedy)


def turbo(facts: MachineFacts) -> Check:
    """Turbo is fast but not steady: it makes comparisons depend on the temperature, too."""
    if facts.turbo is None:
        return Check("turbo", NOTE, "not visible here: the host decides")
    if not facts.turbo:
        return Check("turbo", OK, "off: the clock is steady")
    remedy = (
        "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
        " || echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
    )
    return Check("turbo", NOTE, "on: fast, but the clock depends on load and heat; switch it off to compare", remedy)


def smt(facts: MachineFacts) -> Check:
    """Two threads on one core share its execution units."""
    if not facts.siblings:
        return Check("smt", OK, "no two of the usable CPUs share a core")
    pairs = " ".join("+".join(map(str, cpus)) for cpus in facts.siblings)
    first = ",".join(str(cpu) for cpu in facts.mask if all(cpu not in cpus[1:] for cpus in facts.siblings))
    finding = f"CPUs {pairs} share cores: work on one slows the other"
    return Check("smt", NOTE, finding, f"taskset -c {first} COMMAND")


def numa(facts: MachineFacts) -> Check:
    """NUMA balancing unmaps pages to see which threads fault on them."""
    if facts.nodes < 2:
        return Check("numa_balancing", OK, "one NUMA node: nothing to balance")
    if facts.numa_balancing:
        finding = f"on, with {facts.nodes} nodes: pages are unmapped to sample their users, and requests fault on them"
        return Check("numa_balancing", WARNING, finding, "sudo sysctl kernel.numa_balancing=0")
    return Check("numa_balancing", OK, f"off, with {facts.nodes} nodes")


def huge_pages(facts: MachineFacts) -> Check:
    """Huge pages save misses; making one inside a request costs a stall."""
    name, path = "transparent_huge_pages", "/sys/kernel/mm/transparent_hugepage"
    if facts.thp is None:
        return Check(name, NOTE, "not visible here")
    if facts.thp == "always" and facts.thp_defrag == "always":
        finding = "always, and compacted at once: a request's page fault may wait for memory to be moved"
        return Check(name, WARNING, finding, f"echo defer+madvise | sudo tee {path}/defrag")
    if facts.thp == "never":
        finding = "never: memory that asks for huge pages does not get them"
        return Check(name, NOTE, finding, f"echo madvise | sudo tee {path}/enabled")
    return Check(name, OK, f"{facts.thp}, compaction {facts.thp_defrag or 'unknown'}")


def quota(facts: MachineFacts) -> Check:
    """A process that exceeds its CPU quota is throttled: it stops until the next period."""
    limit = facts.quota_cpus
    if limit is None:
        return Check("quota", OK, "no CPU quota on this control group")
    if limit < 1 or limit != int(limit):
        finding = f"{limit:g} CPUs: not a whole number, so that threads either idle or are throttled"
        return Check("quota", WARNING, finding, f"docker update --cpus {max(1, round(limit))} CONTAINER")
    if limit < len(facts.mask):
        cpus = ",".join(map(str, facts.mask[: int(limit)]))
        finding = f"{limit:g} CPUs of the {len(facts.mask)} in the mask: more threads than that are throttled together"
        return Check("quota", NOTE, finding, f"docker update --cpuset-cpus {cpus} CONTAINER")
    return Check("quota", OK, f"{limit:g} CPUs, no fewer than the mask has")


def cpuset(facts: MachineFacts) -> Check:
    """Which CPUs may be used, and whether they are on one NUMA node."""
    shown = f"{len(facts.mask)} of {len(facts.online)} CPUs"
    if len(facts.mask_nodes) > 1:
        node = facts.mask_nodes[0]
        finding = f"{shown}, on {len(facts.mask_nodes)} NUMA nodes: half of the memory is far from half of the threads"
        return Check("cpuset", NOTE, finding, f"numactl --cpunodebind {node} --membind {node} COMMAND")
    return Check("cpuset", OK, f"{shown} may be used")


def isolated(facts: MachineFacts) -> Check:
    """The scheduler does not spread threads over isolated cores."""
    inside = [cpu for cpu in facts.mask if cpu in facts.isolated]
    if len(inside) > 1:
        finding = (
            f"the usable CPUs {_list(inside)} are isolated: "
            "threads that are not pinned individually all run on the first"
        )
        return Check("isolated_cores", WARNING, finding, f"taskset -c {inside[0]} COMMAND")
    if facts.isolated and not inside:
        finding = f"CPUs {_list(facts.isolated)} are isolated from the scheduler, and not usable here"
        return Check("isolated_cores", NOTE, finding, f"taskset -c {facts.isolated[0]} COMMAND")
    return Check(
        "isolated_cores", OK, "one isolated core, usable here" if inside else "none: all CPUs are scheduled alike"
    )


def swap(facts: MachineFacts) -> Check:
    """A page that was swapped out is read back at the speed of a disk."""
    remedy = "sudo sysctl vm.swappiness=1"
    if facts.swapped_bytes:
        size = facts.swapped_bytes / (1 << 20)
        return Check(
            "swappiness", FAULT, f"{size:,.1f} MiB of this process are swapped out", f"sudo swapoff -a && {remedy}"
        )
    if not facts.swap_bytes:
        return Check("swappiness", OK, "there is no swap")
    if facts.swappiness is not None and facts.swappiness > 10:
        finding = (
            f"vm.swappiness is {facts.swappiness}, with swap: weights that are idle for a while may be swapped out"
        )
        return Check("swappiness", WARNING, finding, remedy)
    return Check("swappiness", OK, f"vm.swappiness is {facts.swappiness}")


def virtualisation(facts: MachineFacts) -> Check:
    """Inside a virtual machine, some causes can be neither seen nor fixed."""
    if not facts.hypervisor:
        return Check("virtualisation", OK, "no hypervisor was detected")
    return Check("virtualisation", NOTE, "a virtual machine: the host's governor, turbo and neighbours are hidden")


def python(facts: MachineFacts) -> Check:
    """Whatever is not the engine's or the kernel's is Python code: parsing, batching, and the stages of pipelines."""
    if facts.optimised_python is None:
        return Check("python", OK, "nothing suggests a slow build")
    if facts.optimised_python:
        return Check("python", OK, "built with a profile of real programs (PGO)")
    finding = (
        "built without a profile (PGO), as by pyenv: the server's own code takes up to 1.3 times as long; use that of "
        "your distribution, conda, uv or the official image, or build it again"
    )
    remedy = "PYTHON_CONFIGURE_OPTS='--enable-optimizations --with-lto' pyenv install --force VERSION"
    return Check("python", NOTE, finding, remedy)


def perf(facts: MachineFacts) -> Check:
    """Which counters are available to explain a tail."""
    if not facts.missing:
        return Check("perf", OK, "all counters work")
    reasons = {counter.reason: counter for counter in facts.missing}
    names = {reason: [counter.name for counter in facts.missing if counter.reason == reason] for reason in reasons}
    finding = "; ".join(f"{reason}: no {', '.join(missing)}" for reason, missing in names.items())
    return Check("perf", NOTE, finding, "; ".join(dict.fromkeys(counter.remedy for counter in reasons.values())))


def threads(facts: MachineFacts) -> Check:
    """More threads than cores take turns, and every parallel section waits for the slowest thread."""
    set_to = {name: facts.environment[name] for name in THREAD_VARIABLES if name in facts.environment}
    wrong = {name: value for name, value in set_to.items() if not _within(value, facts.usable)}
    right = dict.fromkeys(wrong or ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(facts.usable))
    remedy = "export " + " ".join(f"{name}={value}" for name, value in right.items())
    if wrong:
        shown = ", ".join(f"{name}={value}" for name, value in wrong.items())
        finding = f"{shown}, and {facts.usable} usable: threads take turns on the cores"
        return Check("threads", WARNING, finding, remedy, environment=right)
    if facts.usable < len(facts.mask) and "OMP_NUM_THREADS" not in set_to:
        finding = (
            f"OMP_NUM_THREADS is not set: libraries start {len(facts.mask)} threads, and {facts.usable} are usable"
        )
        return Check("threads", WARNING, finding, remedy, environment=right)
    shown = ", ".join(f"{name}={value}" for name, value in set_to.items()) or "no variable is set"
    return Check("threads", OK, f"{shown}, and {facts.usable} usable")


def _within(value: str, usable: int) -> bool:
    """Whether every level of `4` or `4,2` asks for no more threads than are usable."""
    parts = value.split(",")
    return all(part.strip().isdigit() and 1 <= int(part) <= usable for part in parts)


def _list(cpus: list[int] | tuple[int, ...]) -> str:
    return ",".join(map(str, cpus))
