"""A replica's access to its server: calls, forwarded requests, load counts, and stopping it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from yarl import URL

from tailcut.client.aio import AsyncClient
from tailcut.errors import InvalidInputError
from tailcut.ray.forwarding import folder_of, passed_on, request_target
from tailcut.ray.plan import ApplicationPlan
from tailcut.ray.policy import AnswerCounts, ongoing, read_counts
from tailcut.ray.server import ReplicaServer
from tailcut.ray.token import read_token

_MESSAGE = 200  # characters of a server's message that an error repeats
_EVENTS = "text/event-stream"  # the type of answers that do not end on their own


class LocalServer:
    """One server, reached through its Unix socket.

    Args:
        server: a server that is ready.
        plan: the application's plan.
        token: the token that requests need; None: none.
    """

    def __init__(self, server: ReplicaServer, plan: ApplicationPlan, token: str | None) -> None:
        self.server = server
        self._plan = plan
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._client = AsyncClient(f"unix:{server.socket}", token=token)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(server.socket, limit=0),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        self._counts = AnswerCounts(time.monotonic(), 0.0, 0.0)
        self._calls = 0  # in flight through this object
        self._idle = asyncio.Event()
        self._idle.set()

    @classmethod
    async def start(
        cls, plan: ApplicationPlan, sources: Sequence[str], host: str, on_end: Callable[[], None], cpus: int
    ) -> "LocalServer":
        """Start a server of these sources, and wait until it is ready.

        Args:
            plan: the application's plan. The addresses of models loaded on demand are not published, so their servers
                stop without waiting for clients to learn of it.
            sources: what this server serves.
            host: address that it listens on.
            on_end: called in another thread if the server exits without having been stopped.
            cpus: how many CPUs the server claims for itself.

        Raises:
            StartError: it did not start; the message is the server's.
        """
        drain_s = 0.0 if plan.multiplexed else plan.drain_s
        options, token = ["--drain", f"{drain_s:g}s", *plan.options], None
        if plan.gpus and plan.devices:
            options += ["--cuda-devices", ",".join(map(str, plan.devices))]
        if plan.token_file is not None:
            options += ["--require-token", "--token-file", plan.token_file]
            token = read_token(Path(plan.token_file))
        return cls(await ReplicaServer.start(sources, options, host=host, cpus=cpus, on_end=on_end), plan, token)

    async def infer(
        self,
        inputs: Mapping[str, np.ndarray],
        model: str = "",
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        traceparent: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Compute a model's outputs. Arguments and errors are those of `tailcut.Client.infer`.

        Raises:
            InvalidInputError: no model is named, and there are several.
        """
        names = self.server.models
        if not model and len(names) > 1:
            raise InvalidInputError(f"name a model, as in infer(inputs, model=NAME): there are {', '.join(names)}")
        name = model or names[0]
        with self._counted():
            return await self._client.infer(name, inputs, outputs=outputs, timeout_s=timeout_s, traceparent=traceparent)

    async def answer(self, request: Request) -> Response:
        """Forward a request, and return the answer: server-sent events as they come, anything else as a whole."""
        folder = folder_of(request.scope)
        if folder is not None:
            return RedirectResponse(folder)
        with self._counted():
            return await self._forward(request)

    async def _forward(self, request: Request) -> Response:
        url = URL(f"http://localhost{request_target(request.scope)}", encoded=True)
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in passed_on(request.headers.raw)]
        body = await request.body()
        answer = await self._http.request(request.method, url, headers=fields, data=body or None)
        own = [(name.lower(), value) for name, value in passed_on(answer.raw_headers)]
        if answer.content_type == _EVENTS:
            stream = _EventStream(answer)
            stream.raw_headers = own
            return stream
        async with answer:
            response = Response(await answer.read(), answer.status)
            response.raw_headers = [*response.raw_headers, *own]
            return response

    async def check(self) -> None:
        """Check that the server is ready.

        Raises:
            RuntimeError: it is not; the message is the server's.
        """
        status, text = await self._get("/v2/health/ready")
        if status != 200 and not self.server.draining:
            raise RuntimeError(f"the server is not ready: {text[:_MESSAGE]}")

    async def ongoing(self) -> float:
        """Requests in flight at the server, averaged over the time since the last call."""
        _, text = await self._get("/metrics")
        before, self._counts = self._counts, read_counts(text, time.monotonic())
        return ongoing(before, self._counts, self._plan.carried)

    async def stop(self) -> None:
        """Stop the server once it has answered the requests in flight.

        A server that clients do not reach directly stops as soon as the last call through this object is answered.
        """
        end_s = time.monotonic() + self._plan.stop_s
        if self._plan.multiplexed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), self._plan.stop_s)
        await self.server.stop(max(0.0, end_s - time.monotonic()))
        await self._client.close()
        await self._http.close()

    def published(self) -> dict[str, Any]:
        """What the replica publishes to clients: the server's address and its models."""
        return {"url": self.server.url, "models": self.server.models}

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a call as in flight."""
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def _get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET; 503 and "" if the server was told to stop and no longer answers."""
        try:
            async with self._http.get(f"http://localhost{path}", headers=self._headers) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, RuntimeError):  # the latter: the session is closed
            if self.server.draining:
                return 503, ""
            raise


class _EventStream(StreamingResponse):  # type: ignore[misc]  # starlette comes with the extra
    """Server-sent events as they come. The server's answer is closed when the client leaves."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        super().__init__(_chunks(answer), answer.status)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until either side closes."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()


async def _chunks(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    with suppress(aiohttp.ClientError):  # the server has exited
        async for chunk in answer.content.iter_any():
            yield chunk
