"""How the models of one process share its CPUs: engine options that depend on the number of models. Pure.

Only options of models without a profile depend on it; those in profiles are kept, with warnings about conflicts. A
model without a profile has a thread for each core, also beside others: while these are idle, it is as fast as alone,
and their threads sleep. Only spinning is turned off: after each call, a spinning thread occupies a core for 40 ms,
which slows the next model's call (docs/decisions/038-models-share-cores.md).
"""

from collections.abc import Sequence

import msgspec

from tailcut.engines import engine_threads
from tailcut.engines.base import EngineOptions
from tailcut.runtime.neighbours import measured_together, other_neighbours
from tailcut.runtime.profile import Profile


def beside_others(engine: EngineOptions, models: int) -> EngineOptions:
    """The options of a model without a profile among `models` models, itself counted, from those for it alone."""
    return msgspec.structs.replace(engine, spinning=engine.spinning and models < 2)


def conflicts(profiles: Sequence[Profile], cpus: int) -> list[str]:
    """Conflicts between the settings of several models, one line each; none where they were measured together.

    Args:
        profiles: of all models in the process.
        cpus: the number of CPUs that the process may use.
    """
    if len(profiles) < 2 or measured_together(profiles):
        return []
    lines = []
    own = [profile for profile in profiles if profile.settings.engine.threads]
    threads = sum(profile.settings.engine.threads * profile.settings.engine.instances for profile in own)
    if threads > cpus and len(own) > 1:
        lines.append(
            f"{_names(own)}: the profiles have {threads} engine threads together, and this process may use "
            f"{cpus} CPUs: tune these models together"
        )
    spinning = [profile for profile in profiles if spins(profile.settings.engine)]
    if spinning:
        lines.append(
            f"{_names(spinning)}: engine threads spin after each call and keep CPUs from the other models: set "
            "engine.spinning = false, or tune these models together"
        )
    polling = [profile for profile in profiles if profile.settings.io.busy_poll_us]
    if polling:
        lines.append(f"{_names(polling)}: io.busy_poll_us keeps a CPU from the other models: set it to 0")
    return lines


def mismatches(served: Sequence[Sequence[Profile]], cpus: int) -> list[str]:
    """The warnings for a server with these models, one line each: other neighbours than measured, and conflicts.

    Args:
        served: the profile of each model; for a pipeline, those of its models, which do not conflict with each other.
        cpus: the number of CPUs that the process may use.
    """
    profiles = [profile for group in served for profile in group]
    return [*other_neighbours(profiles), *(conflicts(profiles, cpus) if len(served) > 1 else [])]


def spins(engine: EngineOptions) -> bool:
    """Whether threads of the engine stay busy after a call; a pool of one has only the caller's thread."""
    return engine.name == "onnxruntime" and engine.spinning and engine_threads(engine).count > 1


def spinning_threads(engine: EngineOptions) -> int:
    """The number of threads of all instances that stay busy after a call."""
    return engine.instances * (engine_threads(engine).count - 1) if spins(engine) else 0


def _names(profiles: Sequence[Profile]) -> str:
    return ", ".join(dict.fromkeys(profile.model.name for profile in profiles))
