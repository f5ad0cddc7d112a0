"""Adapts a profile to the machine where it will run, with warnings. Pure: the facts of the machine are arguments."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tailcut.runtime.profile import Profile

_TELLING = ("cpu", "cpu_model", "cores", "isa")  # facts that differ only on another machine


def fit_to_machine(profile: Profile, machine: Mapping[str, Any], usable_cpus: int) -> tuple[Profile, list[str]]:
    """The profile with its threads limited to the usable CPUs, and one warning for each mismatch."""
    warnings: list[str] = []
    name = profile.model.name
    differing = [
        f"{key} was {profile.machine[key]}, is {machine.get(key)}"
        for key in _TELLING
        if key in profile.machine and profile.machine[key] != machine.get(key)
    ]
    if differing:
        warnings.append(f"{name}: measured on another machine ({'; '.join(differing)}): tune again for this machine")
    engine = profile.settings.engine
    threads = min(engine.threads, usable_cpus)
    instances = max(1, min(engine.instances, usable_cpus // max(threads, 1)))
    if (threads, instances) != (engine.threads, engine.instances):
        warnings.append(
            f"{name}: the profile sets {engine.instances} x {engine.threads} threads, "
            f"this process may use {usable_cpus} CPUs: running {instances} x {threads}"
        )
        engine = msgspec.structs.replace(engine, threads=threads, instances=instances)
        settings = msgspec.structs.replace(profile.settings, engine=engine)
        profile = msgspec.structs.replace(profile, settings=settings)
    if profile.settings.io.busy_poll_us and usable_cpus == 1:
        warnings.append(f"{name}: busy polling is off, because this process may use only one CPU")
        settings = msgspec.structs.replace(
            profile.settings, io=msgspec.structs.replace(profile.settings.io, busy_poll_us=0)
        )
        profile = msgspec.structs.replace(profile, settings=settings)
    return profile, warnings
