"""Memory that processes share through an inherited descriptor; without a name, nothing of it is left behind."""

import os
import tempfile


def anonymous_file(size_bytes: int) -> int:
    """The descriptor of a new file of zeros in memory; its pages are allocated when they are touched."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("tailcut")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.truncate(descriptor, size_bytes)
    return descriptor
