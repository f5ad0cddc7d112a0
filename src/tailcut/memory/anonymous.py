"""Memory that processes share by a descriptor they inherit: it has no name, so nothing is left behind of it."""

import os
import tempfile


def anonymous_file(size_bytes: int) -> int:
    """The descriptor of a file in memory, of zeros; its pages are taken as they are touched."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("tailcut")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size_bytes)
    return descriptor
