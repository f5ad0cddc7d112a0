"""The gRPC calls that compute nothing: questions about models, their administration, and health."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError

from tailcut.errors import InvalidInputError, TailcutError
from tailcut.server.grpc.calls import Link, OneMessageCall
from tailcut.server.limits import QUESTION_BYTES
from tailcut.wire.grpc.framing import CallError, CallHead, Status
from tailcut.wire.grpc.messages import HEALTH

REFUSED = "this request requires the server's token"
_log = logging.getLogger("tailcut.grpc")
_LOOK_S = 1.0
Handler = Callable[[Any], Awaitable[Any]]


class QuestionCall(OneMessageCall):
    """A call that computes nothing: it answers one message with another, at once or after a while."""

    def _limit(self) -> int:
        return QUESTION_BYTES

    def __init__(self, link: Link, stream: int, head: CallHead, name: str, handler: Handler, request: Any) -> None:  # noqa: PLR0913, PLR0917  bound by the table of calls
        super().__init__(link, stream, head, name)
        self._handler = handler
        self._request = request
        self._task: asyncio.Task[None] | None = None  # it goes on when the client disconnects

    def _start(self, message: bytes | memoryview) -> None:
        try:
            request = self._request.FromString(bytes(message))
        except DecodeError:
            self.fail(InvalidInputError(f"not a valid {self._request.DESCRIPTOR.name}"))
            return
        self._task = self.link.state.loop.create_task(self._ask(request))

    async def _ask(self, request: Any) -> None:
        try:
            answer = (await self._handler(request)).SerializeToString()
        except (TailcutError, CallError) as error:
            self.fail(error)
        except Exception:  # noqa: BLE001  a fault of the server must not leave the client waiting
            _log.exception("%s failed", self.name)
            self.fail(CallError(Status.INTERNAL, "the server failed on this call"))
        else:
            if not self.over:
                self._leave(Status.OK, len(answer))
                self._send(answer, end=True)


class AdminCall(QuestionCall):
    """A call that changes the server; it requires the token, where the server has one."""

    def _start(self, message: bytes | memoryview) -> None:
        if self.link.state.context.admits(self._head.plan.authorization):
            super()._start(message)
        else:
            self.fail(CallError(Status.UNAUTHENTICATED, REFUSED))


class Watchers:
    """The calls of Health.Watch; while there are any, the status is checked every second.

    Args:
        loop: of the server.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: set[WatchCall] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: "WatchCall") -> None:
        """Notify a call of changes from now on."""
        self._calls.add(call)
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK_S, self._look)

    def discard(self, call: "WatchCall") -> None:
        """Stop notifying a call."""
        self._calls.discard(call)

    def tell(self) -> None:
        """Notify all calls whose status has changed."""
        for call in list(self._calls):
            call.tell()

    def _look(self) -> None:
        self.tell()
        self._timer = self._loop.call_later(_LOOK_S, self._look) if self._calls else None


class WatchCall(OneMessageCall):
    """Health.Watch: the status now, and again when it changes; within a second, where a device is lost."""

    def __init__(  # noqa: PLR0913, PLR0917  bound by the table of calls
        self,
        link: Link,
        stream: int,
        head: CallHead,
        name: str,
        status_of: Callable[[str], int],
        watchers: Watchers,
    ) -> None:
        super().__init__(link, stream, head, name)
        self._status_of = status_of
        self._watchers = watchers
        self._service = ""
        self._told: int | None = None

    def _limit(self) -> int:
        return QUESTION_BYTES

    @property
    def in_hand(self) -> bool:
        """False: no answer is ever pending."""
        return False

    def _start(self, message: bytes | memoryview) -> None:
        try:
            self._service = HEALTH["HealthCheckRequest"].FromString(bytes(message)).service
        except DecodeError:
            self.fail(InvalidInputError("not a valid HealthCheckRequest"))
            return
        self._watchers.add(self)
        self.tell()

    def tell(self) -> None:
        """Send the status, unless it is the one that was sent last."""
        status = self._status_of(self._service)
        if status != self._told:
            self._told = status
            self._send(HEALTH["HealthCheckResponse"](status=status).SerializeToString(), end=False)

    def _abandon(self) -> None:
        self._watchers.discard(self)
