"""Tailcut on Ray Serve: Ray places, scales and replaces replicas, and each replica is a Tailcut server.

`deployment` makes a Serve application of models, profiles and pipelines. `tailcut.Client("ray://APP")` asks its
replicas directly. `build` is what the file of `tailcut ray config` names. Ray is imported where it is used, and the
public names are loaded at their first use: Serve's controller imports no more than the autoscaler's rule.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailcut.ray.application import build, deployment
    from tailcut.ray.plan import Replicas
    from tailcut.ray.tracing import traceparent

_HOMES = {"build": "application", "deployment": "application", "Replicas": "plan", "traceparent": "tracing"}

__all__ = ["Replicas", "build", "deployment", "traceparent"]


def __getattr__(name: str) -> Any:
    """Load a public name from its home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tailcut.ray' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"tailcut.ray.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """Names that are not loaded yet are listed too."""
    return sorted({*globals(), *__all__})
