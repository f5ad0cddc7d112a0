"""The actors of an application: each runs a Tailcut server beside it, or one for each model that it has loaded.

The same server computes every request, whether it comes directly, on the port that the replica publishes; through
`handle.infer.remote`; or through Serve's proxy, whose requests are forwarded unchanged. When either of an actor and its
server ends, so does the other.
"""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tailcut.errors import NotFoundError
from tailcut.ray.local import LocalServer
from tailcut.ray.membership import PUBLISHED
from tailcut.ray.plan import ApplicationPlan, read_plan
from tailcut.ray.policy import METRIC
from tailcut.ray.token import read_token
from tailcut.wire.bearer import carries_token

_log = logging.getLogger("ray.serve")
_LOOPBACK = "127.0.0.1"
_REFUSED = "this request requires the server's token"


def _end() -> None:
    """Exit this process, so that Serve starts another replica in its place."""
    _log.error("the server exited; stopping the replica")
    os._exit(1)


class Replica:
    """A replica that serves all models of a plan. Ray Serve calls it.

    Args:
        values: a `ApplicationPlan`, as builtin types.
    """

    async def __init__(self, values: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        plan = read_plan(values)
        host = plan.host or ray.util.get_node_ip_address()
        self._local = await LocalServer.start(plan, plan.sources, host, _end, int(plan.cpus))
        # Set on the object: the interpreter would also call a `__del__` of the class, and would not await it.
        setattr(self, "__del__", self.drain)  # noqa: B010  mypy has no attribute of this name

    async def infer(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        model: str = "",
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        traceparent: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Compute a model's outputs, for other deployments: `await handle.infer.remote(inputs)`.

        Args:
            inputs: arrays by name.
            model: name of the model; may be left out if there is only one.
            outputs: names of the outputs to return; None: all.
            timeout_s: time limit of the call in seconds; None: 30 s.
            traceparent: the caller's W3C trace context, as `tailcut.ray.traceparent()` returns it; None: that of
                Serve's own tracing, if it is on.

        Raises:
            TailcutError: as `tailcut.Client.infer`.
        """
        return await self._local.infer(inputs, model, outputs, timeout_s, traceparent)

    async def __call__(self, request: Request) -> Response:
        """Answer a request of Serve's proxy."""
        return await self._local.answer(request)

    async def check_health(self) -> None:
        """Raise an error if the server is not ready, so that Serve replaces this replica."""
        await self._local.check()

    def record_replica_metadata(self) -> dict[str, Any]:
        """What Serve's controller tells clients of this replica."""
        return {PUBLISHED: self._local.published()}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Requests in flight at the server, for the autoscaler."""
        return {METRIC: await self._local.ongoing()}

    async def drain(self) -> None:
        """Stop the server once it has answered its requests; Serve has told clients that this replica is leaving."""
        await self._local.stop()


class MultiplexedReplica:
    """A replica that loads the model that a request names, and keeps those used last. Ray Serve calls it.

    Args:
        values: a `ApplicationPlan`, as builtin types.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        plan = self._plan = read_plan(values)
        self._running: dict[str, LocalServer] = {}  # by the id of the model

        async def load(model_id: str) -> LocalServer:
            source = plan.multiplexed.get(model_id)
            if source is None:
                raise NotFoundError(f"no model has the id {model_id!r}: there are {', '.join(plan.multiplexed)}")
            return await self._start(model_id, source)

        self._load = serve.multiplexed(max_num_models_per_replica=plan.models_per_replica)(load)
        setattr(self, "__del__", self.drain)  # noqa: B010  as in `Replica`

    async def infer(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        traceparent: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Compute the outputs of `handle.options(multiplexed_model_id=ID).infer.remote(inputs)`. As `Replica.infer`."""
        local: LocalServer = await self._load(self._requested_model())
        return await local.infer(inputs, "", outputs, timeout_s, traceparent)

    async def __call__(self, request: Request) -> Response:
        """Answer a request of Serve's proxy that names a model in the header `serve_multiplexed_model_id`."""
        if not self._admits(request):
            return JSONResponse({"error": _REFUSED}, 401, {"WWW-Authenticate": "Bearer"})
        try:
            local: LocalServer = await self._load(self._requested_model())
        except NotFoundError as error:
            return JSONResponse({"error": str(error)}, 404)
        return await local.answer(request)

    async def check_health(self) -> None:
        """Raise an error if a server is not ready, so that Serve replaces this replica."""
        await asyncio.gather(*(local.check() for local in self._running.values()))

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Requests in flight at all servers, for the autoscaler."""
        return {METRIC: sum(await asyncio.gather(*(local.ongoing() for local in self._running.values())))}

    async def drain(self) -> None:
        """Stop all servers."""
        await asyncio.gather(*(local.stop() for local in self._running.values()))

    async def _start(self, model_id: str, source: str) -> LocalServer:
        # Its port is not published: Serve decides which models are loaded, and where.
        local = await LocalServer.start(self._plan, [f"{model_id}={source}"], _LOOPBACK, _end, 0)
        self._running[model_id] = local

        async def unload() -> None:
            self._running.pop(model_id, None)
            await local.stop()

        setattr(local, "__del__", unload)  # noqa: B010  Serve calls it to unload the model
        return local

    def _admits(self, request: Request) -> bool:
        """Whether a request may load a model or learn which there are. A loaded model's server checks the token."""
        file = self._plan.token_file
        if file is None or serve.get_multiplexed_model_id() in self._running:
            return True
        return carries_token(request.headers.get("authorization", ""), read_token(Path(file)))

    def _requested_model(self) -> str:
        name: str = serve.get_multiplexed_model_id()
        if not name:
            known = ", ".join(self._plan.multiplexed)
            raise NotFoundError(f"name a model, as in handle.options(multiplexed_model_id=ID): there are {known}")
        return name


def replica_class(plan: ApplicationPlan) -> type:
    """The class of the deployment."""
    return MultiplexedReplica if plan.multiplexed else Replica
