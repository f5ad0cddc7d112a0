"""The measurements of a profile, from its evidence or from the journal of its tune beside it.

A tune measures the parts of a server in short probes, and the whole server in its verification. If the throughput that
the parts predict differs from that of the whole by more than such measurements usually do, the ratio of the two scales
all CPU times of a plan.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from tailcut.errors import ProfileError
from tailcut.lab.records import SaturatedLoop
from tailcut.runtime.profile import Profile
from tailcut.tuner.journal import lines_of
from tailcut.tuner.service import MeasuredService, measured_service
from tailcut.tuner.simulate import Configuration, simulate_closed, slowed

_LEAST, _MOST = 0.5, 2.0  # a scale outside of these means that a measurement failed, and is not applied
_ALIKE = 0.15  # the share by which a closed loop of some seconds differs from minute to minute
_ANSWERS = 20_000  # the number of requests that are simulated
# What throttling by a quota costs in each period of 100 ms, because caches are cold (docs/performance.md).
_STOPPED = 0.017
_LEAST_LEFT = 0.1  # the least share of a quota that remains, if it is hardly more than that cost


@dataclass(frozen=True, slots=True)
class MeasuredProfile:
    """A profile with the measurements of its configuration.

    Args:
        path: path of the profile.
        profile: the profile.
        service: the measurements.
        source: the file that contains the measurements.
    """

    path: Path
    profile: Profile
    service: MeasuredService
    source: Path

    @property
    def is_local(self) -> bool:
        """Whether the tune's clients used shared memory or a Unix socket, which work only on the same machine."""
        io = self.profile.settings.io
        return io.wire == "shared" or io.socket == "unix"

    @property
    def cores(self) -> float:
        """Cores that the tune had: its quota, which `service` rounds down to whole CPUs, or else `service.cores`."""
        quota = self._machine("cpu_quota")
        if not quota or max(1, int(quota)) != self.service.cores:  # the affinity mask or `--cpus` allowed fewer
            return self.service.cores
        return min(quota, self._machine("cpus") or quota)

    @property
    def loop(self) -> SaturatedLoop | None:
        """The closed loop of the verification that the parts are compared with: the saturated one if there was one.

        None if nothing was verified.
        """
        evidence = self.profile.evidence
        try:
            saturated = msgspec.convert(evidence.get("saturated"), SaturatedLoop | None)
        except msgspec.ValidationError:
            saturated = None
        if saturated is not None and _positive(saturated.throughput):
            return saturated
        tuned = evidence.get("tuned")
        throughput = _positive(tuned.get("throughput") if isinstance(tuned, dict) else None)
        clients = _positive(evidence.get("clients"))
        return None if throughput is None or clients is None else SaturatedLoop(round(clients), throughput)

    @property
    def ratio(self) -> float:
        """Throughput of `loop`: predicted from the parts over measured; 1 without a verification.

        If the server was confined to some of the CPUs, the client had the others to itself, and is simulated so.
        """
        if self.loop is None:
            return 1.0
        workers = self.profile.settings.io.workers
        at_tune = self.parts(self.cores, workers)
        if self.service.cores < self._machine("usable_cpus"):
            at_tune = replace(at_tune, client_apart=True)
        clients = max(1, round(self.loop.clients / workers))
        return workers * simulate_closed(at_tune, clients, _ANSWERS).rate / self.loop.throughput

    @property
    def scale(self) -> float:
        """The factor by which all CPU times are scaled: `ratio`, or 1 if that is near 1 or implausibly far off."""
        return self.ratio if self.is_near and not self.agrees else 1.0

    @property
    def agrees(self) -> bool:
        """Whether prediction and measurement differ no more than two measurements of the same thing."""
        return abs(self.ratio - 1) <= (_ALIKE if "saturated" not in self.profile.evidence else 0.0)

    @property
    def is_near(self) -> bool:
        """Whether prediction and measurement are close enough to scale one to the other."""
        return _LEAST <= self.ratio <= _MOST

    def configuration(self, cores: float, workers: int = 1) -> Configuration:
        """One server process of a replica, with CPU times scaled to the measurement of the whole server.

        Args:
            cores: cores of the replica, shared by its processes.
            workers: number of server processes of the replica.
        """
        return slowed(self.parts(cores, workers), self.scale)

    def parts(self, cores: float, workers: int = 1) -> Configuration:
        """As `configuration`, but with the times of the parts, unscaled."""
        return self.service.configuration(self.profile.settings, lasting_cores(cores, workers) / workers)

    def _machine(self, fact: str) -> float:
        """A number from the facts about the measured machine; 0 if it is unknown."""
        return _positive(self.profile.machine.get(fact)) or 0.0


def lasting_cores(cores: float, workers: int = 1) -> float:
    """The cores of a replica minus the cost of being throttled by its CPU quota.

    Args:
        cores: cores of the replica; below one core, the quota throttles every server.
        workers: number of processes, each of which finds cold caches after it was throttled.
    """
    return max(_LEAST_LEFT * cores, cores - workers * _STOPPED) if cores < 1 else cores


def _positive(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < math.inf else None


def read_measured(path: Path) -> MeasuredProfile:
    """Read a profile and its measurements.

    Raises:
        ProfileError: the profile cannot be read, has a later schema, belongs to a pipeline, or has no measurements.
    """
    profile = Profile.load(path)
    if profile.is_of_pipeline:
        raise ProfileError(f"{path}: a pipeline cannot be planned: its stages have no service times by batch size")
    kept = profile.evidence.get("service")
    if kept is not None:
        try:
            return MeasuredProfile(path, profile, msgspec.convert(kept, MeasuredService), path)
        except msgspec.ValidationError as error:
            raise ProfileError(f"{path}: evidence.service is not valid: {error}: tune the model again") from None
    journal = path.with_name(f"{path.name.removesuffix('.toml').removesuffix('.profile')}.trials.jsonl")
    cores = profile.machine.get("usable_cpus")
    if isinstance(cores, int | float) and cores > 0:
        service = measured_service(lines_of(journal, profile.model), profile.settings, float(cores))
        if service is not None:
            return MeasuredProfile(path, profile, service, journal)
    raise ProfileError(
        f"{path}: the profile has no service times, and neither has {journal.name} beside it: tune the model again "
        f"(tailcut tune {profile.model.path})"
    )
