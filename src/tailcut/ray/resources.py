"""The resources that a replica needs on its node, estimated from a profile. Pure."""

from dataclasses import dataclass
from typing import Any

from tailcut.runtime.profile import Profile

REPLICA_BYTES = 300 << 20  # of Ray's own process beside the server, measured with Ray 2.60


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources that one replica needs.

    Args:
        cpus: number of CPUs that it keeps busy at full load.
        devices: indices of the CUDA devices that its engines use.
        memory_bytes: host memory; 0: unknown.
        exclusive: whether no other replica of the application may run on its node.
    """

    cpus: float
    devices: frozenset[int]
    memory_bytes: int
    exclusive: bool

    @property
    def gpus(self) -> float:
        """How many CUDA devices it needs."""
        return float(len(self.devices))


def resources_of(profile: Profile) -> Resources:
    """The resources of a profile's server: its threads, devices and processes, and the memory that its tune measured.

    One CPU is added for the event loop if the engine computes on other threads. The result is never more CPUs than
    the machine that the profile was tuned on had, because the profile's figures are from that machine.
    """
    settings, machine = profile.settings, profile.machine
    most = _count(machine.get("usable_cpus"))
    if settings.pipeline is not None:
        stages = sum(stage.workers for stage in settings.pipeline.stages)
        engines = [model.engine for model in settings.pipeline.models if model.engine is not None]
        cpus = 1 + stages + sum(max(1, engine.threads) * engine.instances for engine in engines)
    else:
        threads = settings.engine.threads or most or 1
        computing = 1 if settings.engine.device == "cuda" else threads * settings.engine.instances
        inline = settings.batching.dispatch == "inline" and settings.engine.device != "cuda"
        cpus = (computing if inline else computing + 1) * settings.io.workers
    peak = _count(_arm(profile.evidence).get("memory_peak_bytes"))
    return Resources(
        cpus=float(min(cpus, most) if most else cpus),
        devices=settings.devices,
        memory_bytes=peak + REPLICA_BYTES if peak else 0,
        exclusive=settings.engine.pinning or settings.io.own_core or settings.io.workers > 1,
    )


def together(parts: list[Resources]) -> Resources:
    """The resources of several models in one server: as they share its CPUs, it needs as many as the largest."""
    known = all(part.memory_bytes for part in parts)
    extra = sum(part.memory_bytes - REPLICA_BYTES for part in parts)
    return Resources(
        cpus=max(part.cpus for part in parts),
        devices=frozenset[int]().union(*(part.devices for part in parts)),
        memory_bytes=extra + REPLICA_BYTES if known else 0,
        exclusive=any(part.exclusive for part in parts),
    )


def _arm(evidence: dict[str, Any]) -> dict[str, Any]:
    """The figures that the tune verified; empty if there are none."""
    arm = evidence.get("tuned")
    return arm if isinstance(arm, dict) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
