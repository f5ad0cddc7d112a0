"""The Open Inference Protocol v2, with the binary tensor extension: bodies <-> arrays, no socket.

This package is the interface of the codec; requests, responses and the elements of tensors have modules of their own.
"""

from tailcut.wire.v2.checks import Schedule, WantedOutput, schedule_of
from tailcut.wire.v2.request import InferRequest, parse_lead, parse_request
from tailcut.wire.v2.response import Response, encode_response, model_metadata, server_metadata, shared_outputs

__all__ = [
    "InferRequest",
    "Response",
    "Schedule",
    "WantedOutput",
    "encode_response",
    "model_metadata",
    "parse_lead",
    "parse_request",
    "schedule_of",
    "server_metadata",
    "shared_outputs",
]
