"""The messages of the Open Inference Protocol v2 and of gRPC's health service, as classes made from descriptors.

They are in descriptor pools of their own. The usual generated module registers its names for the whole process, where a
second library with the package `inference` (such as tritonclient) could then not be imported. A descriptor also works
with any version of protobuf, whereas generated code requires at least the version that generated it.
"""

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorSet

SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"


def _load(name: str, service: str) -> tuple[dict[str, Any], Any]:
    raw = files("tailcut.wire").joinpath(f"{name}.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in FileDescriptorSet.FromString(raw).file:
        pool.Add(file)
    described = pool.FindFileByName(f"{name}.proto")
    classes = {
        name: message_factory.GetMessageClass(message) for name, message in described.message_types_by_name.items()
    }
    return classes, pool.FindServiceByName(service)


MESSAGES, _service = _load("inference", SERVICE)
HEALTH, _ = _load("health", HEALTH_SERVICE)
# Each call of the service: name -> the classes of its request and its answer, and whether both are streams.
METHODS: dict[str, tuple[Any, Any, bool]] = {
    method.name: (MESSAGES[method.input_type.name], MESSAGES[method.output_type.name], method.client_streaming)
    for method in _service.methods
}
