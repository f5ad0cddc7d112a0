"""Whether the settings of a profile that is checked again are within the user's limits. Pure.

Everything else that races was chosen within them.
"""

from collections.abc import Sequence

from tailcut.runtime.settings import Settings
from tailcut.tuner.finalists import PredictedConfiguration
from tailcut.tuner.objective import Constraints
from tailcut.tuner.refinements import holds_weights_again


def over_limits(
    settings: Settings, constraints: Constraints, predicted: Sequence[PredictedConfiguration], usable_cpus: int
) -> str:
    """What of the limits they exceed, in words; empty where they exceed none, or it is not known.

    Args:
        settings: of the profile.
        constraints: the user's limits.
        predicted: every configuration, those included that the limits do not allow.
        usable_cpus: on which an engine runs whose threads are its own choice.
    """
    cpus, memory_bytes = _cpus(settings, usable_cpus), _memory_bytes(settings, predicted)
    if constraints.cpus is not None and cpus > constraints.cpus:
        return f"it computes on {cpus} CPUs, and --cpus allows {constraints.cpus}"
    if constraints.memory_bytes is None:
        return ""
    if holds_weights_again(settings):
        return "it holds the weights more than once, which --memory does not allow"
    if memory_bytes is not None and memory_bytes > constraints.memory_bytes:
        return f"it needs about {memory_bytes / 1e6:,.0f} MB, and --memory allows {constraints.memory_bytes / 1e6:,.0f}"
    return ""


def _cpus(settings: Settings, usable: int) -> int:
    """Threads of all instances and processes; of a pipeline those of its largest model."""
    engines = [settings.engine]
    if settings.pipeline is not None:
        engines = [model.engine for model in settings.pipeline.models if model.engine is not None]
    return max(((engine.threads or usable) * engine.instances for engine in engines), default=1) * settings.io.workers


def _memory_bytes(settings: Settings, predicted: Sequence[PredictedConfiguration]) -> int | None:
    """The estimate of the same engine, or of one with as many instances; None where none was measured."""
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
