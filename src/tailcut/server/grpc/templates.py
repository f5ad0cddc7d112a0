"""Plans for inference requests by their leads (`wire/grpc/form.py`), which are kept until the models change.

A lead is planned when it comes the second time. So a client whose lead differs in every request (by a number among its
parameters) costs one look-up per request, and displaces no plan of another.
"""

from typing import Any, NamedTuple

from tailcut.server.gathering import GATHERED_BYTES
from tailcut.server.served_model import ServedModel
from tailcut.server.state import ServerState
from tailcut.wire.grpc.form import ArrayForm, Data, Form, MessageLead, Whole
from tailcut.wire.grpc.framing import PREFIX_BYTES
from tailcut.wire.memo import BytesMemo
from tailcut.wire.v2 import InferRequest

_PLANS = 1024  # plans kept, at most
_LEAD_BYTES = 2048  # longer leads are not kept
_LENGTHS = 256  # lengths of messages, for each of which the last message is kept
_NOTED, _EVERY = 256, 16  # messages noted after a change of the models; one in how many, after those
_SEEN = 4096  # leads that came once, kept as hashes


class LeadPlan(NamedTuple):
    """The model that requests with one lead are for, and their form."""

    served: ServedModel
    form: Form | ArrayForm
    gathers: bool  # each is one small row, which is queued with those of other calls


class MessageTemplate(NamedTuple):
    """A message that the next one probably equals except for its id and its only tensor."""

    whole: Whole
    plan: LeadPlan


class Plans:
    """The plans of the gRPC server of one loop."""

    def __init__(self, state: ServerState) -> None:
        self.state = state
        self._plans: BytesMemo[bytes, LeadPlan] = BytesMemo(_PLANS)
        self._seen: BytesMemo[int, bool] = BytesMemo(_SEEN)
        self.find = self._plans.get
        self._known: BytesMemo[int, MessageTemplate] = BytesMemo(_LENGTHS)  # by length, for requests that gather
        self._noted = 0
        self.known = self._known.get
        state.context.models.changed.append(self._forget)

    def learn(  # noqa: PLR0913, PLR0917  a message and everything read from it
        self,
        data: bytes,
        lead: MessageLead,
        served: ServedModel,
        message: Any,
        request: InferRequest,
        rows: int,
        raw: Data | None = None,
    ) -> None:
        """Learn from a valid message: `data`, with this lead, was read as `request`, which has `rows` rows.

        `raw` is its tensors, where they were taken out of it.

        A message with something behind its tensors (parameters, in an unusual order of fields), which its lead does
        not include, does not match its own form, and nothing is learned from it.
        """
        model, entry, key = served.model, served.entry, lead.key
        in_rows = entry.slab is not None
        if (in_rows and rows > entry.max_batch_size) or len(key) > _LEAD_BYTES:
            return
        mark = hash(key)
        if mark not in self._seen:
            self._seen.keep(mark, True)
            return
        form = (Form if in_rows else ArrayForm).of(model.spec, served.version, message, request, raw)
        if form is not None and form.fits(data, lead.end):
            gathers = rows == len(form.pieces) == 1 and in_rows and form.size <= GATHERED_BYTES
            self._plans.keep(key, LeadPlan(served, form, gathers))

    def note(self, data: bytes, lead: MessageLead, plan: LeadPlan) -> None:
        """Note a message that was found by its lead: the next one of its length probably resembles it.

        Where most messages differ, noting all costs more than it saves; new clients are still noticed.
        """
        if not (plan.gathers and isinstance(plan.form, Form)):
            return
        self._noted += 1
        if self._noted <= _NOTED or self._noted % _EVERY == 0:
            self._known.keep(PREFIX_BYTES + len(data), MessageTemplate(Whole.of(data, lead, plan.form), plan))

    def _forget(self) -> None:
        self._plans.clear()
        self._seen.clear()
        self._known.clear()
        self._noted = 0
