"""The measurements for the simulation that a profile keeps: service times by batch size, and the overhead of a request.

`tailcut tune` writes it as `[evidence.service]`, from the lines of its journal.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tailcut.engines import EngineOptions
from tailcut.machine.quota import usable_cpus
from tailcut.runtime.profile import Profile
from tailcut.runtime.settings import Settings
from tailcut.runtime.thread_budget import spinning_threads
from tailcut.tuner.engine_estimate import QUANTILES
from tailcut.tuner.journal import lines_of
from tailcut.tuner.simulate import Configuration, ServiceTimes, WayIn

# Settings of an engine that a tune changes only after measuring the engine in process; they affect its times little.
_REFINED = {"arena", "prepack", "layout", "spinning", "spin_us", "pinning"}
_EXACT, _ALIKE = 2, 1


class MeasuredService(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The measurements of one configuration."""

    sizes: tuple[int, ...]  # rows of a batch, ascending from 1
    quantiles_us: tuple[tuple[float, ...], ...]  # of each size, equally likely
    threads: int  # kept busy by a batch
    cores: float  # that the tune could use
    exact: bool = True  # False: measured before the last changes of the engine's settings
    way_in: dict[str, int]  # fields of `WayIn`, in ns

    def __post_init__(self) -> None:
        """Check what the simulation relies on.

        Raises:
            ValueError: the values are not such as a tune writes.
        """
        known = WayIn.__dataclass_fields__
        numbers = [value for row in self.quantiles_us for value in row]
        counts = {len(row) for row in self.quantiles_us}
        if not (
            self.sizes[:1] == (1,)
            and list(self.sizes) == sorted(set(self.sizes))
            and len(self.quantiles_us) == len(self.sizes)
            and len(counts) == 1
            and numbers
            and all(0 < value < math.inf for value in numbers)
            and self.threads >= 1
            and 0 < self.cores < math.inf
            and set(self.way_in) <= set(known)
            and all(0 <= value < 1 << 60 for value in self.way_in.values())
        ):
            raise ValueError("the service times or request overheads are not such as a tune writes")

    def configuration(self, settings: Settings, cores: float | None = None) -> Configuration:
        """The configuration for the simulation, with a profile's settings; `cores` None: those of the measurement."""
        batching = settings.batching
        way = WayIn(**{name: self.way_in.get(name, 0) for name in WayIn.__dataclass_fields__})
        return Configuration(
            ServiceTimes(np.array(self.sizes, np.int64), np.array(self.quantiles_us) * 1e3, self.threads),
            way,
            batching.dispatch,
            batching.max_batch_size,
            batching.max_queue_delay_us,
            settings.engine.instances,
            self.cores if cores is None else cores,
            spinning=spinning_threads(settings.engine),
        )


def service_evidence(journal: Path, profile: Profile, cpus: int | None) -> dict[str, Any]:
    """The journal's measurements as evidence for a new profile; empty if the journal has none, and for a pipeline.

    Args:
        journal: the file.
        profile: the profile to write.
        cpus: number of CPUs that the tune was allowed; None for all that this process may use.
    """
    if profile.is_of_pipeline:
        return {}
    lines = lines_of(journal, profile.model)
    service = measured_service(lines, profile.settings, float(cpus or usable_cpus()))
    return {} if service is None else {"service": msgspec.to_builtins(service)}


def measured_service(lines: Sequence[Mapping[str, Any]], settings: Settings, cores: float) -> MeasuredService | None:
    """The latest measurements of these settings; None if the journal has none.

    Args:
        lines: of the model in a journal, the latest last.
        settings: of its profile.
        cores: number of cores that the tune could use.
    """
    estimate, likeness = _estimate(lines, settings.engine)
    way = _way(lines, settings)
    if estimate is None or way is None:
        return None
    shares = (np.arange(QUANTILES) + 0.5) / QUANTILES
    times = {int(size): np.quantile(values, shares) / 1e3 for size, values in estimate["times_ns"].items()}
    sizes = sorted(times)
    return MeasuredService(
        sizes=tuple(sizes),
        quantiles_us=tuple(tuple(np.round(times[size], 2).tolist()) for size in sizes),
        threads=settings.engine.threads or max(1, int(cores)),
        cores=cores,
        exact=likeness == _EXACT,
        way_in={name: int(way[name]) for name in WayIn.__dataclass_fields__ if name in way}
        | {"engine_ns": _engine_ns(lines, settings.engine.name)},
    )


def _estimate(lines: Sequence[Mapping[str, Any]], engine: EngineOptions) -> tuple[Mapping[str, Any] | None, int]:
    """The latest line of this engine configuration, or else of one that differs only by refinements."""
    wanted, estimate, likeness = msgspec.json.decode(msgspec.json.encode(engine)), None, 0
    for line in lines:
        if line["kind"] != "estimate" or line.get("error") or "1" not in (line.get("times_ns") or {}):
            continue
        own = line["settings"]
        names = wanted.keys() & own.keys()
        different = {name for name in names if own[name] != wanted[name]}
        rank = 0 if different - _REFINED else _ALIKE if different else _EXACT
        if rank and rank >= likeness:
            estimate, likeness = line, rank
    return estimate, likeness


def _way(lines: Sequence[Mapping[str, Any]], settings: Settings) -> Mapping[str, Any] | None:
    """The latest request overhead; for adaptive dispatch that of a worker."""
    dispatch = "inline" if settings.batching.dispatch == "inline" else "worker"
    ways = [line for line in lines if line["kind"] == "way" and line["settings"]["batching"]["dispatch"] == dispatch]
    return ways[-1] if ways else None


def _engine_ns(lines: Sequence[Mapping[str, Any]], engine: str) -> int:
    """The latest value of how much slower the loop is after an engine, in ns; 0 if not measured."""
    slower = [line for line in lines if line["kind"] == "after_engine" and line["settings"]["name"] == engine]
    return int(slower[-1]["slower_ns"]) if slower else 0
