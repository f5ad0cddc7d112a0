"""Tailcut cuts the latency tail of AI inference: tune a model with proof, then serve exactly what was measured.

The public names are loaded at their first use, so that `import tailcut` itself takes a few milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailcut.client.aio import AsyncClient
    from tailcut.client.sync import Client
    from tailcut.errors import InvalidInputError
    from tailcut.kernels.vectorization import assert_vectorized
    from tailcut.machine.affinity import pin_thread
    from tailcut.machine.counters import counters
    from tailcut.machine.quota import usable_cpus
    from tailcut.machine.topology import topology
    from tailcut.memory.aligned import AlignedMatrix
    from tailcut.memory.arena import Arena
    from tailcut.memory.pool import BufferPool, TensorBuffer
    from tailcut.pipelines.stage import Pipeline, stage
    from tailcut.runtime.model import Model
    from tailcut.runtime.profile import Profile

_HOMES = {
    "AlignedMatrix": "tailcut.memory.aligned",
    "Arena": "tailcut.memory.arena",
    "AsyncClient": "tailcut.client.aio",
    "BufferPool": "tailcut.memory.pool",
    "Client": "tailcut.client.sync",
    "InvalidInputError": "tailcut.errors",
    "Model": "tailcut.runtime.model",
    "Pipeline": "tailcut.pipelines.stage",
    "Profile": "tailcut.runtime.profile",
    "TensorBuffer": "tailcut.memory.pool",
    "counters": "tailcut.machine.counters",
    "assert_vectorized": "tailcut.kernels.vectorization",
    "stage": "tailcut.pipelines.stage",
    "pin_thread": "tailcut.machine.affinity",
    "topology": "tailcut.machine.topology",
    "usable_cpus": "tailcut.machine.quota",
}

__all__ = [
    "AlignedMatrix",
    "Arena",
    "AsyncClient",
    "BufferPool",
    "Client",
    "InvalidInputError",
    "Model",
    "Pipeline",
    "Profile",
    "TensorBuffer",
    "assert_vectorized",
    "counters",
    "pin_thread",
    "stage",
    "topology",
    "usable_cpus",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tailcut' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names, including those that are not loaded yet."""
    return sorted({*globals(), *__all__})
