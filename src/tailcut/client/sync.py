"""The blocking client: plain sockets, a pool of kept connections, one call at a time per connection.

Any number of threads may use one client. Each attempt of a call takes a connection from the pool or opens one, and
returns it when the response is complete. A connection whose response is no longer awaited is closed, so that the
server drops the work.
"""

import select
import socket
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from tailcut.client.answers import error_of, outputs_of
from tailcut.client.members import ServerMember
from tailcut.client.policy import RefusedError, Retries, StaleError, Tries
from tailcut.client.pool import CONNECT_S, FAREWELL_S, GOOD, ONCE, Pool, Watch
from tailcut.client.requests import InferenceCall, OutgoingRequest, ServerAddress, trace_lines
from tailcut.client.tls import tls_failure, wants_more
from tailcut.durations import seconds_of
from tailcut.errors import DeadlineExceededError, ReleasedError, TailcutError, UnreachableError
from tailcut.wire.http1.answers import AnswerReader, HttpAnswer
from tailcut.wire.v2.call import Parts, model_path

if TYPE_CHECKING:
    import ssl

Result = TypeVar("Result")
_JOIN_BYTES = 64 * 1024
_PARTS_AT_ONCE = 1024  # the limit of sendmsg(2) (UIO_MAXIOV)


class _SyncConnection:
    def __init__(self, address: ServerAddress, limit_s: float, tls: "ssl.SSLContext | None") -> None:
        self._tls = tls is not None
        try:
            if address.uds is not None:
                self._socket = socket.socket(socket.AF_UNIX)
                self._socket.settimeout(limit_s)
                self._socket.connect(address.uds)
            else:
                self._socket = socket.create_connection((address.host, address.port), limit_s)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname=address.host)
        except TimeoutError:
            raise DeadlineExceededError(f"{address} did not accept a connection in time") from None
        except OSError as error:
            failure = tls_failure(address, error) if self._tls else None
            if failure is not None:
                raise failure from None
            raise RefusedError(f"no server listens at {address}: {error.strerror or error}") from None
        self._address = address
        self._reader = AnswerReader()
        self._watch = Watch(self._socket.fileno())
        self.used = False  # whether an earlier call used it

    @property
    def quiet(self) -> bool:
        """Whether nothing has arrived since its last answer."""
        return not self.pending and self._watch.is_quiet()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, parts: Parts, deadline: float) -> None:
        """Send a request; the server may have answered even if not all of it could be sent."""
        self._socket.settimeout(_left(deadline))
        try:
            if self._tls:
                self._send_records(parts, deadline)
                return
            for first in range(0, len(parts), _PARTS_AT_ONCE):
                some = parts[first : first + _PARTS_AT_ONCE]
                sent = self._socket.sendmsg(some)
                for part in some:
                    if sent < len(part):
                        self._socket.sendall(memoryview(part)[sent:])
                    sent = max(0, sent - len(part))
        except TimeoutError:
            raise DeadlineExceededError(f"{self._address} did not take the request in time") from None
        except OSError:  # the server may have refused the request early: its answer is read next
            return

    def _send_records(self, parts: Parts, deadline: float) -> None:
        """Send over TLS, where each part becomes a record: small parts are joined."""
        for part in [b"".join(parts)] if sum(map(len, parts)) < _JOIN_BYTES else parts:
            unsent = memoryview(part)
            while unsent:
                self._socket.settimeout(_left(deadline))
                unsent = unsent[self._socket.send(unsent) :]

    @property
    def pending(self) -> bool:
        """Whether received bytes are buffered by TLS, so that polling the socket would not show them."""
        return self._tls and self._socket.pending() > 0  # type: ignore[attr-defined]  # a TLS socket has it

    def receive_now(self) -> HttpAnswer | None:
        """Receive without waiting; returns the answer when it is complete."""
        self._socket.settimeout(0.0)
        return self.receive_some()

    def receive(self, deadline: float) -> HttpAnswer:
        while True:
            self._socket.settimeout(_left(deadline))
            answer = self.receive_some()
            if answer is not None:
                return answer

    def receive_some(self) -> HttpAnswer | None:
        """Receive once; returns the answer when it is complete."""
        try:
            count = self._socket.recv_into(self._reader.target())
        except TimeoutError:
            raise DeadlineExceededError(f"{self._address} did not answer in time") from None
        except BlockingIOError:
            return None
        except OSError as error:
            if self._tls and wants_more(error):
                return None
            return self._broken()
        answer = self._reader.received(count) if count else self._reader.ended()
        if answer is not None or count:
            return answer
        return self._broken()

    def _broken(self) -> NoReturn:
        if self.used and not self._reader.begun:
            raise StaleError(f"{self._address} closed a kept connection")
        raise UnreachableError(f"{self._address} closed the connection before the answer was complete")

    def close(self) -> None:
        self._socket.close()

    abandon = close  # the server does not notice, because the parent has the socket open


class Client(Pool[_SyncConnection]):
    """The blocking client; any number of threads may share one. Use it in a `with` block, or call `close`."""

    def infer(  # noqa: PLR0913  all but the first two by name
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        timeout_s: float | None = None,
        traceparent: str | None = None,
    ) -> dict[str, np.ndarray]:
        """Compute a model's outputs.

        Args:
            model: the name of the model.
            inputs: arrays of the model's dtypes and shapes, by name; or lists of numbers or strings that these dtypes
                can hold, for which the server is asked about the model, at most every ten seconds.
            version: of the model; empty: the newest.
            outputs: the names of the outputs to return; None: all.
            timeout_s: seconds for the whole call; None: the client's `timeout_s`.
            traceparent: a W3C trace context to send; None: that of OpenTelemetry's current span, if there is one.

        Returns:
            The outputs by name, as arrays with the model's dtypes; strings are arrays of `bytes` objects.

        Raises:
            InvalidInputError: the inputs do not fit the model, or `traceparent` is malformed.
            NotFoundError: the server has no such model or version.
            TooLargeError: the request exceeds the server's limit.
            QueueFullError: the server is too busy, even after all retries in time; `retry_after_s`: when to try again.
            DeadlineExceededError: there was no answer in time.
            EngineError: the model failed on these inputs.
            UnreachableError: there is no server, the connection broke off, or the server speaks another protocol.
            UnsupportedError: with `shared_memory`: this machine or the server does not support it.
            CapacityError: with `shared_memory`: /dev/shm has no room for the tensors.
            ReleasedError: the client was closed.
        """
        seconds = self._timeout_s if timeout_s is None else seconds_of(timeout_s)
        deadline = time.monotonic() + seconds
        call = InferenceCall(model, inputs, version, outputs, max(1, int(seconds * 1e6)), trace_lines(traceparent))
        if call.lists():
            call = self._carry(self._lists.converted(call), deadline, self._retries)
        if self._shared is not None:
            self._check_open()
            return self._carry(self._shared.infer(call), deadline, self._retries)
        return outputs_of(self._ask(OutgoingRequest(self._encoder.infer(call)), deadline, self._retries))

    def metadata(self, model: str = "", version: str = "") -> dict[str, Any]:
        """The metadata of a model (name, versions, inputs, outputs), or of the server where no model is named.

        Raises:
            NotFoundError: the server has no such model or version.
            TailcutError: as in `infer`.
        """
        path = model_path(model, version) if model else "/v2"
        answer: dict[str, Any] = self._get(path, self._retries).json()
        return answer

    def ready(self, model: str = "", version: str = "") -> bool:
        """Whether the server, or the named model, accepts requests."""
        return self._answers_ok(f"{model_path(model, version)}/ready" if model else "/v2/health/ready")

    def live(self) -> bool:
        """Whether the server is running."""
        return self._answers_ok("/v2/health/live")

    def close(self) -> None:
        """Close the kept connections and remove shared memory; calls afterwards raise ReleasedError."""
        if self._shared is not None and not self._closed:
            with suppress(TailcutError):  # the memory is already unlinked, which the server will notice
                self._carry(self._shared.farewell(), time.monotonic() + min(self._timeout_s, FAREWELL_S), ONCE)
        self._end()

    def __enter__(self) -> Self:
        """Return the client, which the end of the block closes."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def _answers_ok(self, path: str) -> bool:
        try:
            self._get(path, ONCE)
        except ReleasedError:
            raise
        except TailcutError:
            return False
        return True

    def _get(self, path: str, retries: Retries) -> HttpAnswer:
        return self._ask(OutgoingRequest(self._encoder.get(path)), time.monotonic() + self._timeout_s, retries)

    def _carry(self, talk: Generator[OutgoingRequest, HttpAnswer, Result], deadline: float, retries: Retries) -> Result:
        """Send the requests of a call that has several, one after the other."""
        try:
            request = next(talk)
            while True:
                try:
                    answer = self._ask(request, deadline, retries)
                except BaseException as error:  # noqa: BLE001  the call raises it again, unless it can go on
                    request = talk.throw(error)
                else:
                    request = talk.send(answer)
        except StopIteration as done:
            result: Result = done.value
            return result

    def _ask(self, request: OutgoingRequest, deadline: float, retries: Retries) -> HttpAnswer:
        self._check_open()
        tries = Tries(retries)
        while True:
            try:
                answer = self._try(request, deadline, tries)
                error = error_of(answer)
            except TailcutError as failed:
                error = failed
            if error is None:
                return answer
            pause = self._pause_after(tries, error, time.monotonic(), deadline)
            if pause:
                time.sleep(pause)

    def _try(self, request: OutgoingRequest, deadline: float, tries: Tries) -> HttpAnswer:
        due_s = None if self._clock is None else self._clock.due_after()
        began = time.monotonic()
        running = [self._begin(request, deadline, tries)]
        try:
            if due_s is None:
                winner, answer = running[0], running[0].connection.receive(deadline)
            else:
                if not _readable(running, min(began + due_s, deadline)):
                    self._send_copy(running, request, deadline, tries)
                winner, answer = self._first_answer(running, deadline)
        except BaseException as error:
            for attempt in running:
                self._give_up(attempt, error if isinstance(error, TailcutError) else None)
            raise
        for attempt in running:
            if attempt is not winner:
                self._give_up(attempt, None)
        request.answered += 1
        now = time.monotonic()
        self._members.ended(winner.member, error_of(answer), now)
        self._put_back(winner.member, winner.connection, answer)
        if self._clock is not None:
            self._clock.took(now - began)
        return answer

    def _begin(self, request: OutgoingRequest, deadline: float, tries: Tries) -> "_Attempt":
        """Send the request; returns the attempt, with its connection."""
        member = self._choose(time.monotonic(), tries)
        try:
            connection = self._connected(member, deadline, tries)
        except BaseException as error:
            self._forget(member, error)
            raise
        request.begun += 1
        try:
            connection.send(request.parts, deadline)
        except BaseException as error:
            connection.close()
            self._forget(member, error)
            raise
        return _Attempt(member, connection)

    def _connected(self, member: ServerMember[_SyncConnection], deadline: float, tries: Tries) -> _SyncConnection:
        """A kept connection, or a new one."""
        if not tries.fresh:
            with suppress(IndexError):  # there is no idle one
                while True:
                    kept = member.idle.pop()
                    if kept.quiet:
                        return kept
                    kept.close()
        left_s = _left(deadline)
        several = len(self._members) > 1
        try:
            connection = _SyncConnection(
                member.address, min(left_s, CONNECT_S) if several else left_s, self._context(member.address)
            )
        except DeadlineExceededError as error:
            if several and time.monotonic() < deadline:
                raise RefusedError(str(error)) from None
            raise
        self._open.add(connection)
        return connection

    def _send_copy(self, running: "list[_Attempt]", request: OutgoingRequest, deadline: float, tries: Tries) -> None:
        if self._clock is not None:
            self._clock.sent_copy()
        with suppress(RefusedError):  # wait for the first attempt alone
            running.append(self._begin(request, deadline, tries))

    def _first_answer(self, running: "list[_Attempt]", deadline: float) -> "tuple[_Attempt, HttpAnswer]":
        """The first successful answer; an error counts only when no other attempt is running."""
        while True:
            readable = _readable(running, deadline)
            if not readable:
                raise DeadlineExceededError("no answer in time")
            for attempt in readable:
                last, failure = len(running) == 1, None
                try:
                    answer = attempt.connection.receive_now()
                except UnreachableError as error:
                    if last:
                        raise
                    failure = error
                else:
                    if answer is None:
                        continue
                    if last or answer.status == GOOD:
                        return attempt, answer
                running.remove(attempt)
                self._give_up(attempt, failure)

    def _give_up(self, attempt: "_Attempt", error: TailcutError | None) -> None:
        attempt.connection.close()
        self._forget(attempt.member, error)

    def _forget(self, member: ServerMember[_SyncConnection], error: BaseException | None) -> None:
        """Note an attempt without an answer: because of an error, or because nothing waits for it any more."""
        if isinstance(error, TailcutError):
            self._members.ended(member, error, time.monotonic())
        else:
            self._members.abandoned(member)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A request that was sent to a server, and is not answered yet."""

    member: ServerMember[_SyncConnection]
    connection: _SyncConnection

    def fileno(self) -> int:
        return self.connection.fileno()

    @property
    def pending(self) -> bool:
        return self.connection.pending


def _readable(running: Sequence[_Attempt], until: float) -> list[_Attempt]:
    """Wait for the first connections on which something has arrived, and return them."""
    pending = [connection for connection in running if connection.pending]
    if pending:
        return pending
    poll = select.poll()
    for connection in running:
        poll.register(connection.fileno(), select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(max(0.0, until - time.monotonic()) * 1000)}
    return [connection for connection in running if connection.fileno() in ready]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceededError("the deadline of this call has passed")
    return left
