"""The asyncio client: the same calls, rules and errors as the blocking client, for one event loop.

Cancelling a call closes its connection, so that the server drops the work.
"""

import asyncio
import os
import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from tailcut.client.answers import error_of, outputs_of
from tailcut.client.members import ServerMember
from tailcut.client.policy import RefusedError, Retries, StaleError, Tries
from tailcut.client.pool import CONNECT_S, FAREWELL_S, GOOD, ONCE, Pool, Watch
from tailcut.client.requests import InferenceCall, OutgoingRequest, ServerAddress, trace_lines
from tailcut.client.tls import tls_failure
from tailcut.durations import seconds_of
from tailcut.errors import DeadlineExceededError, ReleasedError, TailcutError, UnreachableError
from tailcut.wire.http1.answers import AnswerReader, HttpAnswer
from tailcut.wire.v2.call import Parts, model_path

Result = TypeVar("Result")


class _AsyncConnection(asyncio.BufferedProtocol):
    """A connection with one request at a time, whose answer or error completes the future."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        self._reader = AnswerReader()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[HttpAnswer] | None = None
        self._watch: Watch | None = None
        self.used = False  # whether an earlier call used it

    @property
    def quiet(self) -> bool:
        """Whether it is open, and nothing has arrived since its last answer, even if the loop has not seen it yet."""
        return self._transport is not None and self._watch is not None and self._watch.is_quiet()

    @property
    def here(self) -> bool:
        """Whether it belongs to the running loop."""
        return self._loop is asyncio.get_running_loop()

    def ask(self, parts: Parts) -> asyncio.Future[HttpAnswer]:
        """Send a request; returns the future of its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None:
            self._lost()
        else:
            self._transport.writelines(parts)
        return self._answer

    def close(self) -> None:
        """Close the connection, and abandon the current call."""
        self._answer = None
        transport = self._transport
        if transport is None:
            return
        if not self._loop.is_closed():
            transport.abort()
            return
        self._transport = None
        with suppress(OSError, TypeError):  # uvloop closes its sockets with the loop
            transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    def close_soon(self) -> None:
        """Close it from another thread, or from another loop."""
        try:
            self._loop.call_soon_threadsafe(self.close)
        except RuntimeError:  # its loop has ended
            self.close()

    def abandon(self) -> None:
        """Replace the socket by /dev/null.

        It is neither closed nor removed from its loop: parent and child share what the kernel watches for the loop, so
        removing it in one would remove it for both.
        """
        transport, self._transport, self._answer = self._transport, None, None
        descriptor = -1 if transport is None else transport.get_extra_info("socket").fileno()
        if descriptor >= 0:
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nothing, descriptor, inheritable=False)
            os.close(nothing)

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # asyncio promises a Transport for streams
        self._watch = Watch(transport.get_extra_info("socket").fileno())

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        answer = self._reader.ended() if error is None else None
        if answer is None:
            self._lost()
        else:
            self._end(answer)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.target()

    def buffer_updated(self, nbytes: int) -> None:
        if self._answer is None:  # no request was sent
            self.close()
            return
        try:
            answer = self._reader.received(nbytes)
        except TailcutError as error:
            self._end(error)
            self.close()
            return
        if answer is not None:
            self._end(answer)

    def eof_received(self) -> bool:
        return False

    def _lost(self) -> None:
        if self.used and not self._reader.begun:
            self._end(StaleError(f"{self._address} closed a kept connection"))
        else:
            self._end(UnreachableError(f"{self._address} closed the connection before the answer was complete"))

    def _end(self, result: HttpAnswer | TailcutError) -> None:
        future, self._answer = self._answer, None
        if future is None or future.done():
            return
        if isinstance(result, HttpAnswer):
            future.set_result(result)
        else:
            future.set_exception(result)


class AsyncClient(Pool[_AsyncConnection]):
    """The asyncio client, for one event loop at a time. Use it in an `async with` block, or call `close`.

    In another loop, it opens new connections. Those of a loop that has ended are dropped.
    """

    async def infer(  # noqa: PLR0913  all but the first two by name
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        traceparent: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Compute a model's outputs, as arrays by name; only those in `outputs` where it is given.

        The arrays must not change before the answer has arrived. Arguments, result and errors are those of
        `Client.infer`.
        """
        seconds = self._timeout_s if timeout_s is None else seconds_of(timeout_s)
        deadline = self._until(seconds)
        call = InferenceCall(model, inputs, version, outputs, max(1, int(seconds * 1e6)), trace_lines(traceparent))
        if call.lists():
            call = await self._carry(self._lists.converted(call), deadline, self._retries)
        if self._shared is not None:
            self._check_open()
            return await self._carry(self._shared.infer(call), deadline, self._retries)
        return outputs_of(await self._ask(OutgoingRequest(self._encoder.infer(call)), deadline, self._retries))

    async def metadata(self, model: str = "", version: str = "") -> dict[str, Any]:
        """The metadata of a model (inputs, outputs, versions), or of the server. Raises as `Client.metadata`."""
        path = model_path(model, version) if model else "/v2"
        answer: dict[str, Any] = (await self._get(path, self._retries)).json()
        return answer

    async def ready(self, model: str = "", version: str = "") -> bool:
        """Whether the server, or the named model, accepts requests."""
        return await self._answers_ok(f"{model_path(model, version)}/ready" if model else "/v2/health/ready")

    async def live(self) -> bool:
        """Whether the server is running."""
        return await self._answers_ok("/v2/health/live")

    async def close(self) -> None:
        """Close the kept connections and remove shared memory; calls afterwards raise ReleasedError."""
        if self._shared is not None and not self._closed:
            with suppress(TailcutError):  # the memory is already unlinked, which the server will notice
                await self._carry(self._shared.farewell(), self._until(min(self._timeout_s, FAREWELL_S)), ONCE)
        self._end()
        await asyncio.sleep(0)  # the loop closes them on its next pass

    async def __aenter__(self) -> Self:
        """Return the client, which the end of the block closes."""
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close."""
        await self.close()

    async def _answers_ok(self, path: str) -> bool:
        try:
            await self._get(path, ONCE)
        except ReleasedError:
            raise
        except TailcutError:
            return False
        return True

    async def _get(self, path: str, retries: Retries) -> HttpAnswer:
        return await self._ask(OutgoingRequest(self._encoder.get(path)), self._until(self._timeout_s), retries)

    @staticmethod
    def _until(seconds: float) -> float:
        return asyncio.get_running_loop().time() + seconds

    async def _carry(
        self, talk: Generator[OutgoingRequest, HttpAnswer, Result], deadline: float, retries: Retries
    ) -> Result:
        """Send the requests of a call that has several, one after the other."""
        try:
            request = next(talk)
            while True:
                try:
                    answer = await self._ask(request, deadline, retries)
                except BaseException as error:  # noqa: BLE001  the call raises it again, unless it can go on
                    request = talk.throw(error)
                else:
                    request = talk.send(answer)
        except StopIteration as done:
            result: Result = done.value
            return result

    async def _ask(self, request: OutgoingRequest, deadline: float, retries: Retries) -> HttpAnswer:
        self._check_open()
        loop = asyncio.get_running_loop()
        tries = Tries(retries)
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    try:
                        answer = await self._try(request, tries)
                        error = error_of(answer)
                    except TailcutError as failed:
                        error = failed
                    if error is None:
                        return answer
                    pause = self._pause_after(tries, error, loop.time(), deadline)
                    if pause:
                        await asyncio.sleep(pause)
        except TimeoutError as error:
            if isinstance(error, TailcutError):
                raise
            late = DeadlineExceededError(f"{self._members.name} did not answer in time")
            for member in tries.tried[-1:]:
                self._members.learn(member, late, loop.time())
            raise late from None

    async def _try(self, request: OutgoingRequest, tries: Tries) -> HttpAnswer:
        if self._clock is None:
            return await self._exchange(request, tries)
        due_s, began = self._clock.due_after(), asyncio.get_running_loop().time()
        running = {asyncio.ensure_future(self._exchange(request, tries))}
        try:
            done, _ = await asyncio.wait(running, timeout=due_s)
            if not done:
                self._clock.sent_copy()
                running.add(asyncio.ensure_future(self._exchange(request, tries)))
            answer = await _first_answer(running)
        finally:
            for task in running:
                task.cancel()  # closes its connection
            await asyncio.wait(running)
        self._clock.took(asyncio.get_running_loop().time() - began)
        return answer

    async def _exchange(self, request: OutgoingRequest, tries: Tries) -> HttpAnswer:
        """Exchange a request and its answer on a kept connection to one of the servers, or on a new one."""
        loop = asyncio.get_running_loop()
        member = self._choose(loop.time(), tries)
        try:
            answer = await self._asked(member, request, fresh=tries.fresh)
        except TailcutError as error:
            self._members.ended(member, error, loop.time())
            raise
        except BaseException:
            self._members.abandoned(member)
            raise
        self._members.ended(member, error_of(answer), loop.time())
        return answer

    async def _asked(
        self, member: ServerMember[_AsyncConnection], request: OutgoingRequest, *, fresh: bool
    ) -> HttpAnswer:
        connection = None if fresh else _take(member)
        if connection is None:
            connection = await self._connect(member)
        request.begun += 1
        try:
            answer = await connection.ask(request.parts)
        except BaseException:
            connection.close()
            raise
        request.answered += 1
        self._put_back(member, connection, answer)
        return answer

    async def _connect(self, member: ServerMember[_AsyncConnection]) -> _AsyncConnection:
        """Open a connection; with several servers, the time is limited, so that another one can be asked."""
        address = member.address
        try:
            async with asyncio.timeout(CONNECT_S if len(self._members) > 1 else None):
                connection = await self._opened(address)
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                raise RefusedError(f"{address} did not accept a connection within {CONNECT_S:g} s") from None
            failure = tls_failure(address, error) if address.tls else None
            if failure is not None:
                raise failure from None
            raise RefusedError(f"no server listens at {address}: {error.strerror or error}") from None
        self._open.add(connection)
        return connection

    async def _opened(self, address: ServerAddress) -> _AsyncConnection:
        loop = asyncio.get_running_loop()
        if address.uds is not None:
            _, connection = await loop.create_unix_connection(lambda: _AsyncConnection(address), address.uds)
        else:
            _, connection = await loop.create_connection(
                lambda: _AsyncConnection(address), address.host, address.port, ssl=self._context(address)
            )
        return connection

    def _drop(self, connections: Sequence[_AsyncConnection]) -> None:
        for connection in connections:
            connection.close_soon()


def _take(member: ServerMember[_AsyncConnection]) -> _AsyncConnection | None:
    """A kept connection of this loop that the server has not closed, and on which nothing has arrived."""
    while member.idle:
        connection = member.idle.pop()
        if not connection.here:
            connection.close_soon()
        elif connection.quiet:
            return connection
        else:
            connection.close()
    return None


async def _first_answer(running: set[asyncio.Task[HttpAnswer]]) -> HttpAnswer:
    """The first successful answer; an error counts only when no other attempt is running."""
    left = set(running)
    while True:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        good = [task for task in done if task.exception() is None and task.result().status == GOOD]
        if good or not left:
            return (good or list(done))[0].result()
