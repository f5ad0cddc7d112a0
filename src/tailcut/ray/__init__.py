"""Tailcut on Ray Serve: Ray places, scales and replaces replicas, and each replica is a Tailcut server.

`deployment` makes a Serve application from models, profiles and pipelines. `tailcut.Client("ray://APP")` sends its
requests to the replicas directly. `build` is the import path in the files that `tailcut ray config` writes. Ray is
imported where it is used, and the public names are loaded on first use, so that Serve's controller, which needs only
the autoscaling policy, imports nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailcut.ray.application import build, deployment
    from tailcut.ray.plan import Replicas
    from tailcut.ray.tracing import traceparent

_MODULES = {"build": "application", "deployment": "application", "Replicas": "plan", "traceparent": "tracing"}

__all__ = ["Replicas", "build", "deployment", "traceparent"]


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'tailcut.ray' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"tailcut.ray.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    """All public names, including those not loaded yet."""
    return sorted({*globals(), *__all__})
