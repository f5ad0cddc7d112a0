"""What a model can compute and hold at once: instances of each engine, and the slab for its rows."""

import logging

from tailcut.errors import CapacityError
from tailcut.memory.slab import Slab
from tailcut.runtime.limits import Limits, rows_for
from tailcut.runtime.settings import Settings
from tailcut.spec import ModelSpec

_log = logging.getLogger("tailcut")


def instances_of(settings: Settings) -> tuple[int, ...]:
    """How many batches compute at a time on each engine; a fallback engine is not counted."""
    second = settings.batching.second
    if settings.batching.dispatch == "inline":
        return (1,)
    if second is None or second.use != "route":
        return (settings.engine.instances,)
    return settings.engine.instances, second.engine.instances


def slab_for(spec: ModelSpec, settings: Settings, max_batch_size: int, limits: Limits) -> Slab | None:
    """The slab of a model whose rows have a fixed size; None for other models, and where `batching.bind` is off.

    Raises:
        CapacityError: two batches alone exceed the limit, or there is not enough memory.
    """
    if not (settings.batching.bind and spec.fixed_rows):
        return None
    memory, rows = settings.memory, rows_for(spec, max_batch_size, limits)
    slab = Slab(spec.inputs, spec.outputs, rows, block=max_batch_size, huge_pages=memory.huge_pages)
    if memory.prefault:
        slab.prefault()
    if memory.lock:
        try:
            slab.lock()
        except CapacityError as error:
            _log.warning("%s: memory.lock has no effect: %s", spec.name, error)
    return slab
