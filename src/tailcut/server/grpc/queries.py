"""The gRPC calls that compute nothing: questions about the server and its models, and administration.

They answer what HTTP answers, as messages: `metadata.py` makes the content of both.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tailcut.errors import InvalidInputError
from tailcut.server import metadata
from tailcut.server.context import Context
from tailcut.server.metrics import Counted
from tailcut.wire.grpc.codec import message_of
from tailcut.wire.grpc.messages import METHODS


class GrpcQueries:
    """The calls that compute nothing; each takes one message and answers with one."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def of(self, name: str) -> Callable[[Any], Awaitable[Any]]:
        """The handler of a call: a method of this class, or the answer in `_answer`."""
        answer = METHODS[name][1].DESCRIPTOR.name

        async def ask(request: Any) -> Any:
            content = self._answer(name, request)
            return message_of(answer, await content if isinstance(content, Awaitable) else content)

        return ask

    def _answer(self, name: str, request: Any) -> Mapping[str, Any] | Awaitable[Mapping[str, Any]]:  # noqa: PLR0911  a table
        context = self._context
        match name:
            case "ServerLive":
                return {"live": context.is_live}
            case "ServerReady":
                return {"ready": context.is_ready}
            case "ModelReady":
                return {"ready": context.model_ready(request.name, request.version)}
            case "ServerMetadata":
                return metadata.server()
            case "ModelMetadata":
                return metadata.metadata(
                    context.models, context.models.find(request.name, request.version), classes=False
                )
            case "ModelConfig":
                return {"config": metadata.configuration(context.models.find(request.name, request.version))}
            case "ModelStatistics":
                return {"model_stats": list(map(_statistics, context.counted_of(request.name, request.version)))}
            case "RepositoryIndex":
                models = context.models.index(ready=context.ready)
                return {"models": [model for model in models if not request.ready or model.get("state") == "READY"]}
            case "RepositoryModelLoad" | "RepositoryModelUnload":
                return self._control(name == "RepositoryModelLoad", request)
        return self._shared(name, request)

    async def _control(self, load: bool, request: Any) -> Mapping[str, Any]:  # noqa: FBT001  load or unload
        if load and request.parameters:
            raise InvalidInputError(
                "models are loaded as the command line names them: load parameters are not supported"
            )
        models, name = self._context.models, request.model_name
        if load:
            await models.load(name)
        else:
            dependents = "unload_dependents" in request.parameters
            await models.unload(name, dependents=dependents and request.parameters["unload_dependents"].bool_param)
        return {}

    def _shared(self, name: str, request: Any) -> Mapping[str, Any] | Awaitable[Mapping[str, Any]]:
        regions = self._context.regions
        match name:
            case "SystemSharedMemoryStatus":
                return {"regions": {region.name: metadata.region(region) for region in regions.status(request.name)}}
            case "SystemSharedMemoryRegister":
                regions.register(request.name, request.key, request.offset, request.byte_size)
            case "SystemSharedMemoryUnregister":
                regions.unregister(request.name)
            case "CudaSharedMemoryStatus":
                return {
                    "regions": {
                        region.name: metadata.cuda_region(region) for region in regions.status_cuda(request.name)
                    }
                }
            case "CudaSharedMemoryRegister":
                return self._register_cuda(request)
            case "CudaSharedMemoryUnregister":
                regions.unregister_cuda(request.name)
        return {}

    async def _register_cuda(self, request: Any) -> Mapping[str, Any]:
        register = self._context.regions.register_cuda
        await asyncio.to_thread(register, request.name, request.raw_handle, request.device_id, request.byte_size)
        return {}


def _statistics(served: Counted) -> dict[str, Any]:
    """The statistics of a model, without those of a pipeline's stages, for which the message has no field."""
    return {name: value for name, value in metadata.statistics(served).items() if name != "stages"}
