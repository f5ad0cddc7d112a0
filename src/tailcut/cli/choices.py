"""Choices that several commands offer. This module imports nothing that is slow or starts threads."""

from enum import StrEnum


class BatchingChoice(StrEnum):
    """Whether requests may be merged and split."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class AlsoCpuChoice(StrEnum):
    """Which batches the CPU computes in addition to a device."""

    ROUTE = "route"
    FALLBACK = "fallback"


class DeviceChoice(StrEnum):
    """Where a model is computed."""

    CPU = "cpu"
    CUDA = "cuda"
