"""Whether the settings of a profile to re-check are within the user's limits. Pure.

All other configurations are chosen within them.
"""

from collections.abc import Sequence

from tailcut.runtime.settings import Settings
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.objective import Constraints
from tailcut.tuner.refinements import holds_weights_again


def over_limits(
    settings: Settings, constraints: Constraints, predicted: Sequence[PredictedConfiguration], usable_cpus: int
) -> str:
    """Which limit the settings exceed, as a message; empty if none, or if that is unknown.

    Args:
        settings: of the profile.
        constraints: the user's limits.
        predicted: every configuration, including those that the limits do not allow.
        usable_cpus: the threads of an engine that chooses their number itself.
    """
    cpus, memory_bytes = _cpus(settings, usable_cpus), _memory_bytes(settings, predicted)
    if constraints.cpus is not None and cpus > constraints.cpus:
        return f"it uses {cpus} CPUs, and --cpus allows {constraints.cpus}"
    if constraints.memory_bytes is None:
        return ""
    if holds_weights_again(settings):
        return "it holds the weights more than once, which --memory does not allow"
    if memory_bytes is not None and memory_bytes > constraints.memory_bytes:
        return f"it needs about {memory_bytes / 1e6:,.0f} MB, and --memory allows {constraints.memory_bytes / 1e6:,.0f}"
    return ""


def _cpus(settings: Settings, usable: int) -> int:
    """Threads of all instances and processes; for a pipeline, of the model with the most."""
    engines = [settings.engine]
    if settings.pipeline is not None:
        engines = [model.engine for model in settings.pipeline.models if model.engine is not None]
    return max(((engine.threads or usable) * engine.instances for engine in engines), default=1) * settings.io.workers


def _memory_bytes(settings: Settings, predicted: Sequence[PredictedConfiguration]) -> int | None:
    """The estimate for the same engine configuration, or for one with as many instances; None if there is none."""
    own = settings.engine
    if settings.pipeline is not None:
        return next((each.memory_bytes for each in predicted if each.settings.pipeline == settings.pipeline), None)
    same = [each for each in predicted if each.settings.engine == own]
    alike = [
        each
        for each in predicted
        if (each.settings.engine.name, each.settings.engine.precision, each.settings.engine.instances)
        == (own.name, own.precision, own.instances)
    ]
    return min((each.memory_bytes for each in same or alike), default=None)
