"""A model under the name and version that clients know it by."""

from dataclasses import dataclass

from tailcut.runtime.model import Model


@dataclass(frozen=True, slots=True)
class Served:
    """One entry of the server's repository."""

    model: Model
    name: str
    version: str = "1"
