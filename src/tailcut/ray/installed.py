"""Checks whether Ray is installed, without importing it."""

from importlib.util import find_spec

from tailcut.errors import UsageError


def need_ray() -> None:
    """Check that Ray Serve is installed.

    Raises:
        UsageError: it is not.
    """
    if find_spec("ray") is None or find_spec("ray.serve") is None:
        raise UsageError("Ray Serve is not installed: pip install 'tailcut[ray]'")
