"""The NUMA node that each instance of a model is bound to: a node for each, or that of its device."""

from tailcut.errors import UnsupportedError
from tailcut.machine.cuda_driver import CudaCallError, driver
from tailcut.machine.gpu import node_of_bus
from tailcut.machine.nodes import NumaNode, places_near, places_of_instances, usable_nodes
from tailcut.machine.quota import affinity_mask, usable_cpus
from tailcut.machine.topology import topology
from tailcut.runtime.settings import Settings


def instance_places(settings: Settings) -> tuple[NumaNode | None, ...]:
    """The NUMA node of each instance; None where it is not bound."""
    instances = settings.engine.instances if settings.batching.dispatch != "inline" else 1
    nodes = usable_nodes(topology(), affinity_mask(), usable_cpus()) if settings.engine.numa else ()
    if nodes and settings.engine.device == "cuda":
        return places_near(nodes, _node_of_device(settings.engine.cuda.index), instances)
    return places_of_instances(nodes, instances)


def _node_of_device(index: int) -> int | None:
    """The node of a device's bus; None where that is unknown: opening the engine reports what is missing."""
    try:
        return node_of_bus(driver().bus_of(index))
    except (UnsupportedError, CudaCallError):
        return None
