"""Which node each instance of a model is bound to on this machine."""

from tailcut.machine.nodes import Place, places_of_instances, usable_nodes
from tailcut.machine.quota import affinity_mask, usable_cpus
from tailcut.machine.topology import topology
from tailcut.runtime.settings import Settings


def instance_places(settings: Settings) -> tuple[Place | None, ...]:
    """The node of each instance; None where it is not bound."""
    instances = settings.engine.instances if settings.batching.dispatch != "inline" else 1
    nodes = usable_nodes(topology(), affinity_mask(), usable_cpus()) if settings.engine.numa else ()
    return places_of_instances(nodes, instances)
