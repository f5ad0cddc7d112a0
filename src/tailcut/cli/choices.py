"""Choices that several commands offer. Nothing is imported here that takes time or starts threads."""

from enum import StrEnum


class BatchingChoice(StrEnum):
    """Whether requests may be merged and split."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class DeviceChoice(StrEnum):
    """Where a model is computed."""

    CPU = "cpu"
    CUDA = "cuda"
