"""Where the rest of a body is received that did not arrive with its head: rows of its model, or a buffer.

The size of a buffer is limited, and so is what the buffers of all connections hold together.
"""

import numpy as np

from tailcut.errors import InvalidInputError
from tailcut.server.account import Account
from tailcut.server.exchange import Exchange
from tailcut.server.http.plan import RequestPlan
from tailcut.server.http.replies import Refusal, retry_after
from tailcut.wire.http1.connection import Http1Connection
from tailcut.wire.v2 import parse_lead, schedule_of

_RETRY_SHARE = 1 / 4  # of the deadline: how long clients wait before they retry


class BodyReceiver:
    """Provides the memory that the current body is received into, without another copy."""

    __slots__ = ("_account", "_body", "_deadline_s", "_direct_bytes", "_exchange", "_wire", "target")

    def __init__(
        self,
        wire: Http1Connection[RequestPlan],
        exchange: Exchange,
        account: Account,
        direct_bytes: int,
        deadline_s: float,
    ) -> None:
        self._wire = wire
        self._exchange = exchange
        self._account = account
        self._deadline_s = deadline_s
        self._direct_bytes = direct_bytes  # from this length on, a tensor behind JSON may be received into rows
        self.target: memoryview | None = None  # memory for the next bytes; None: no body is received here
        self._body: np.ndarray | None = None  # the buffer that has `target`; None: rows have it

    def into_rows(self, plan: RequestPlan, rows: int, begun: memoryview, size: int) -> bool:
        """Have the rest of the `size` bytes of rows received where the engine reads them; False while rows are scarce.

        Raises:
            QueueFullError: no rows are free.
        """
        memory = self._exchange.lend(plan.of_model, rows, size)
        if memory is None:
            return False
        memory[: len(begun)] = begun
        self._wire.wants()
        self.target = memory[len(begun) :]
        return True

    def into_rows_behind(self, plan: RequestPlan, data: memoryview) -> bool:
        """As `into_rows`, for a tensor behind its JSON, which begins `data` and states the number of rows.

        Raises:
            QueueFullError: no rows are free.
        """
        model, json_size = plan.of_model.model, plan.json_size or 0
        size = plan.length - json_size
        try:
            direct = parse_lead(model.spec, bytes(data[:json_size]), size)
            schedule = schedule_of(direct.request.parameters, plan.schedule) if direct is not None else plan.schedule
        except InvalidInputError:
            return False  # reading the whole body will find the reason
        if direct is None or direct.rows > plan.of_model.entry.max_batch_size:
            return False
        if not self.into_rows(plan, direct.rows, data[json_size:], size):
            return False
        self._exchange.request, self._exchange.schedule = direct.request, schedule
        return True

    def collect(self, plan: RequestPlan, begun: memoryview) -> None:
        """Have the rest of a body collected: as chunks, up to the end of its JSON, or in a buffer.

        Raises:
            TailcutError: its model would refuse it.
            Refusal: it is too long, or the limit for the bodies of all connections is reached.
        """
        wire = self._wire
        if plan.served is not None and plan.length <= plan.limit:
            plan.served.entry.admit(1)
        if plan.length > plan.limit:
            raise Refusal(413, f"this path accepts at most {plan.limit} bytes")
        if not self._account.has_room(plan.length):
            raise self._too_many()
        if plan.head.chunked:
            wire.chunks(plan.limit)
        elif plan.direct and plan.length >= self._direct_bytes:
            wire.waits_for(plan.json_size or 0)
        else:
            self.into_buffer(plan.length, begun)

    def charge_chunks(self) -> None:
        """Charge the bytes that the wire has collected of a chunked body.

        Raises:
            Refusal: the limit for all connections together is exceeded.
        """
        account = self._account
        account.charge(self._wire.collected - account.charged)
        if not account.has_room():
            raise self._too_many()

    def into_buffer(self, length: int, begun: memoryview) -> None:
        """Have the rest of a body, which begins with `begun`, received into a buffer of its own, and charge that."""
        self._account.charge(length)
        self._body = np.empty(length, np.uint8)  # not a bytearray, which would be zeroed first
        self._body.data[: len(begun)] = begun
        self._wire.wants()
        self.target = self._body.data[len(begun) :]

    def received(self, target: memoryview, nbytes: int) -> bool:
        """Note that `nbytes` bytes were received into `target`; returns whether the body is complete."""
        if self._wire.received(nbytes):
            self.target = target[nbytes:]
            return False
        self.target = None
        return True

    def take_buffer(self) -> memoryview | None:
        """Hand over the complete body; None where it is in rows."""
        body, self._body = self._body, None
        self._account.release()
        return body.data if body is not None else None

    def drop(self) -> None:
        """Give up the current body."""
        self.target = self._body = None
        self._account.release()

    def _too_many(self) -> Refusal:
        """The refusal while bodies use all of their memory; a retry after its pause can still be answered in time."""
        pause = retry_after(min(1.0, _RETRY_SHARE * self._deadline_s))
        return Refusal(503, "too many request bodies are being received", pause)
