"""From a parsed head to a plan for the message, or a refusal before its body is read.

Plans depend on nothing but the request line, the significant fields of the head and the models that are loaded, so the
server keeps them by those bytes: a head in which only ids change costs one pass over it and a dictionary look-up.
"""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from urllib.parse import unquote

from tailcut.errors import InvalidInputError, NotFoundError, QueueFullError
from tailcut.server.context import Context
from tailcut.server.gathering import GATHERED_BYTES
from tailcut.server.http.page import live_page
from tailcut.server.http.replies import Refusal
from tailcut.server.http.routes import Handler, Route, find_route
from tailcut.server.limits import QUESTION_BYTES, ServerLimits, largest_body, too_large
from tailcut.server.served_model import ServedModel
from tailcut.server.state import RECEIVE_BYTES, ServerState
from tailcut.spec import DType
from tailcut.wire import trace_context
from tailcut.wire.http1.connection import KEPT_HEAD_BYTES
from tailcut.wire.http1.events import Edition
from tailcut.wire.http1.head import SIGNIFICANT, Head, accept_of, parse_head, significant
from tailcut.wire.http1.outlines import Interpretation
from tailcut.wire.http1.response import BINARY, OK, head
from tailcut.wire.v2 import InferRequest, Schedule, encode_response, schedule_of
from tailcut.wire.v2.lists import COMPILED

JOIN_BYTES = 64 * 1024  # parts of an answer from this size on are written without joining them
_NEVER = Edition(valid=False)  # of a plan that is valid for one message only


class RequestKind(Enum):
    """What the connection does with the body."""

    ANSWER = "answer"  # a small question about the server; its body is read and ignored
    ROWS = "rows"  # the body is exactly some rows of a model's only input: received into the slab
    INFER = "infer"  # any other inference body: received into a buffer, then parsed


@dataclass(slots=True)
class RequestPlan:
    """What to do with a message, by its head."""

    kind: RequestKind
    head: Head
    length: int  # of the body; 0 while unknown (chunked)
    handler: Handler | None = None
    served: ServedModel | None = None
    json_size: int | None = None
    rows: int = 0
    time_ns: int = 0  # ROWS: the timeout, from the head to the deadline
    gathers: bool = False  # ROWS: one small row, which is queued with those of other clients
    encoding: str | None = None
    direct: bool = False  # INFER: a large tensor behind the JSON may be received into rows
    plain: bool = False  # ROWS: the connection stays open, and the answer's head and only output are written as one
    reply_rest: bytes = b""  # ROWS: the answer before the output's bytes, without status line and date
    reply_rest_close: bytes = b""
    reply_head: bytes = b""  # ROWS: the same with them, with the date of `date`
    reply_head_close: bytes = b""
    date: bytes = b""  # the Date line in those two
    arguments: tuple[str, ...] = field(default=())
    takes_body: bool = False  # ANSWER: the handler wants it
    watches: bool = False  # ANSWER: the handler returns the head of an endless answer
    negotiates: bool = False  # ANSWER: the handler wants the Accept header
    schedule: Schedule = field(
        default_factory=Schedule
    )  # INFER: what the headers state; parameters in the body override it
    limit: int = QUESTION_BYTES  # bytes of the body after inflating, at most
    edition: Edition = _NEVER  # while it is valid, an equal head has the same plan
    why: Refusal | None = None  # the message is refused because of its head
    trace: bytes = b""  # of a head too long to be kept: the fields of the trace context
    accept: str = ""  # likewise, where the plan negotiates
    steady: bool = False  # INFER: a client that repeats it may take the fast path
    refusal: QueueFullError | None = (
        None  # ROWS: the last refusal, which applies to every request with this head until its `opens_ns`
    )

    @property
    def of_model(self) -> ServedModel:
        """The model that the body is for.

        Raises:
            NotFoundError: it is for none, as in plans of kind ANSWER.
        """
        if self.served is None:
            raise NotFoundError("the path does not refer to a model")
        return self.served

    def renew(self, date: bytes) -> None:
        """Put a new date into the heads of the plan's answers."""
        self.date = date
        start = OK + date
        self.reply_head, self.reply_head_close = start + self.reply_rest, start + self.reply_rest_close


_TRACE_SETTING = "/trace/setting"
NO_PLAN = RequestPlan(RequestKind.ANSWER, Head(b"", "", True, None, False, False, {}), 0)


def find_plan(state: ServerState, head_bytes: bytes) -> Interpretation[RequestPlan]:
    """The plan for a head: a known one where everything significant is unchanged; else the head is parsed and planned.

    For requests to infer, outlines of heads are kept from the second one with the same plan on.

    Raises:
        ProtocolError: the head is malformed.
    """
    if len(head_bytes) > KEPT_HEAD_BYTES:
        unlike_others = _planned(state, head_bytes)
        unlike_others.trace = trace_context.fields_of(head_bytes)
        unlike_others.accept = accept_of(head_bytes) if unlike_others.negotiates else ""
        return Interpretation(unlike_others)
    outline = state.outlines.find(head_bytes)
    if outline is not None:
        return Interpretation(outline.meaning, outline)
    key = significant(head_bytes)
    plan: RequestPlan | None = state.plans.get(key)
    if plan is None:
        plan = _planned(state, head_bytes)
        if plan.why is None and not plan.head.expects_continue:
            plan.edition = state.edition
            state.plans.keep(key, plan)
    elif len(key) < len(head_bytes) and plan.kind is not RequestKind.ANSWER:
        outline = state.outlines.learn(head_bytes, plan)
    return Interpretation(plan, outline)


def _planned(state: ServerState, head_bytes: bytes) -> RequestPlan:
    head = parse_head(head_bytes)
    head = replace(head, headers={name: head.headers[name] for name in SIGNIFICANT & head.headers.keys()})
    try:
        return plan_for(head, state.context, state.limits)
    except Refusal as refusal:
        return RequestPlan(RequestKind.ANSWER, head, head.content_length or 0, why=refusal.with_traceback(None))


def current_plan(plan: RequestPlan, state: ServerState) -> RequestPlan:
    """The current plan for a message whose body came after its head: its model may have been replaced meanwhile.

    Raises:
        Refusal: 404 or 413: the model was unloaded, or its successor does not accept such a body.
    """
    if plan.edition.valid or plan.served is None:
        return plan
    with suppress(NotFoundError):
        if state.context.served(*plan.arguments) is plan.served:
            return plan
    return plan_for(plan.head, state.context, state.limits)


def plan_for(request: Head, context: Context, limits: ServerLimits) -> RequestPlan:
    """The plan for a message with this head.

    Raises:
        Refusal: 400, 401, 404, 405, 413, 415.
    """
    route = _find_route(request.path, context)
    if context.require_token and (route is None or not route.open):
        _check_token(request, context, asks=route is not None and route.ui and request.method == b"GET")
    if route is None:
        raise Refusal(404, _no_such_path(request.path))
    method = request.method.decode("latin-1")
    if method not in route.methods and not (method == "HEAD" and "GET" in route.methods):
        raise Refusal(405, f"{method[:20]} is not allowed for this path", {"Allow": ", ".join(route.methods)})
    if route.admin:
        _check_token(request, context)
        _refuse_other_sites(request)
    length = request.content_length or 0
    if length > limits.body_bytes:
        raise Refusal(413, f"the body is over the limit of {limits.body_bytes} bytes")
    encoding = request.headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
    if encoding not in {"identity", "gzip", "deflate"}:
        raise Refusal(415, "Content-Encoding must be gzip, deflate or identity")
    plan = RequestPlan(
        RequestKind.ANSWER, request, length, route.handler, encoding=None if encoding == "identity" else encoding
    )
    plan.arguments = tuple(unquote(argument) for argument in route.arguments)
    plan.takes_body, plan.watches, plan.negotiates = route.takes_body, route.watches, route.negotiates
    if route.infers:
        plan.kind = RequestKind.INFER
        try:
            plan.served = context.served(*plan.arguments)
        except NotFoundError as error:
            raise Refusal(404, str(error)) from None
        plan.json_size = _json_size(request, inflated=plan.encoding is not None)
        plan.schedule = _schedule(request)
        plan.limit = largest_body(plan.served.entry, limits.body_bytes)
        if length > plan.limit:
            raise Refusal(413, too_large(plan.served.entry, plan.limit, limits.body_bytes))
        plan.time_ns = plan.schedule.timeout_ns or limits.deadline_ns
        _plan_rows(plan)
    return plan


def _no_such_path(path: str) -> str:
    if path.rstrip("/").endswith(_TRACE_SETTING):
        return "trace settings are not supported: start the server with --trace-sample and --otlp-endpoint"
    return "no such path: /v2/openapi.json lists the paths of this server"


def _find_route(path: str, context: Context) -> Route | None:
    """The route of a path; None for an unknown one, for Triton's trace settings, and for the page with --no-ui."""
    route = None if path.rstrip("/").endswith(_TRACE_SETTING) else find_route(path)
    return None if route is not None and route.ui and not context.ui else route


def _check_token(request: Head, context: Context, *, asks: bool = False) -> None:
    """Refuse a message that does not carry the server's token, where it has one.

    Args:
        request: head of the message.
        context: of the server.
        asks: whether to answer with the live page, which contains nothing about the server, and asks for the token.

    Raises:
        Refusal: 401.
    """
    if context.admits(request.headers.get(b"authorization", b"").decode("latin-1")):
        return
    page, headers = live_page() if asks else (None, {})
    raise Refusal(401, "this request requires the server's token", {"WWW-Authenticate": "Bearer", **headers}, page)


def _refuse_other_sites(request: Head) -> None:
    """Refuse what a browser sends for a page of another site: browsers send simple requests without asking first.

    With each POST, every browser states the page's site (Origin: Fetch, section 3.2; Sec-Fetch-Site: Fetch Metadata,
    section 2.4). Other clients, whatever their Content-Type, send neither.

    Raises:
        Refusal: 403.
    """
    context = request.headers.get(b"sec-fetch-site", b"none")
    origin = request.headers.get(b"origin")
    host = request.headers.get(b"host", b"")
    own = origin is None or origin.lower() in {b"http://" + host.lower(), b"https://" + host.lower()}
    if context != b"same-origin" and (context != b"none" or not own):  # behind a proxy, Host may differ from the page's
        raise Refusal(403, "pages of other sites must not change this server")


def _schedule(request: Head) -> Schedule:
    """The timeout and priority in the headers, which raw bodies use because they have no parameters."""
    fields = {"timeout": b"tailcut-timeout-us", "priority": b"tailcut-priority"}
    given = {name: request.headers[header] for name, header in fields.items() if header in request.headers}
    if not all(value.isdigit() and len(value) <= 18 for value in given.values()):
        raise Refusal(400, "Tailcut-Timeout-Us and Tailcut-Priority must be whole numbers")
    try:
        return schedule_of({name: int(value) for name, value in given.items()})
    except InvalidInputError as error:
        raise Refusal(400, str(error)) from None


def _json_size(request: Head, *, inflated: bool) -> int | None:
    raw = request.headers.get(b"inference-header-content-length")
    if raw is None:
        return None
    if not raw.isdigit() or len(raw) > 18:
        raise Refusal(400, "Inference-Header-Content-Length is not a number of bytes")
    size = int(raw)
    if not inflated and request.content_length is not None and size > request.content_length:
        raise Refusal(400, "Inference-Header-Content-Length is past the end of the body")
    return size


def _plan_rows(plan: RequestPlan) -> None:
    served = plan.served
    if served is None or plan.encoding or plan.head.chunked:
        return
    slab, spec = served.entry.slab, served.model.spec
    if slab is None or len(spec.inputs) != 1 or spec.inputs[0].dtype is DType.BOOL:  # bytes of BOOL have to be checked
        return
    if plan.json_size != 0:
        plan.direct = plan.json_size is not None and plan.json_size <= RECEIVE_BYTES
        plan.steady = plan.json_size is not None or spec.inputs[0].dtype in COMPILED
        return
    if not plan.length or plan.length % slab.row_bytes[0]:
        return
    rows = plan.length // slab.row_bytes[0]
    if rows > served.entry.max_batch_size:
        return
    plan.kind, plan.rows = RequestKind.ROWS, rows
    plan.gathers = rows == 1 and plan.length <= GATHERED_BYTES
    request = InferRequest.raw(spec)
    outputs = {tensor.name: array[:rows] for tensor, array in zip(spec.outputs, slab.outputs, strict=True)}
    response = encode_response(spec, served.version, request, outputs)
    json_part = bytes(response.body_parts[0])
    length = sum(len(part) for part in response.body_parts)
    plan.plain = plan.head.keep_alive and not plan.head.hears_keep_alive and length < JOIN_BYTES
    headers = {"Inference-Header-Content-Length": str(len(json_part))}
    reply_head = head(200, length, content_type=BINARY, headers=headers) + json_part
    reply_head_close = head(200, length, content_type=BINARY, headers=headers, close=True) + json_part
    plan.reply_rest, plan.reply_rest_close = reply_head[len(OK) :], reply_head_close[len(OK) :]
