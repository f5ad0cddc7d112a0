"""The server's paths as one table: methods, handlers and their descriptions in the OpenAPI document.

A handler takes the context, the body if the path has one, and the variable parts of the path. It returns a whole
answer, or an awaitable of one if the work takes a while.
"""

import asyncio
import logging
import re
from base64 import b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import orjson

from tailcut.errors import InvalidInputError
from tailcut.live.records import PATH
from tailcut.runtime.tracing.attribution import explain
from tailcut.runtime.tracing.timeline import read
from tailcut.server import metadata
from tailcut.server.context import Context
from tailcut.server.http.openapi import RouteDescription, document
from tailcut.server.http.page import HTML, live_page
from tailcut.server.metrics import METRICS_TYPE, OPEN_METRICS_TYPE, accepts_open_metrics, render
from tailcut.wire.http1.response import EVENTS, reply

_log = logging.getLogger("tailcut")
_CURSOR = re.compile(r"-\d{1,17}|\d{1,17}(\.\d{1,17})*", re.ASCII)  # a number per worker, or a negative one

Handler = Callable[..., bytes | Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """An entry of the table; `handler` is None where the body is for a model."""

    path: str
    method: str
    handler: Handler | None
    description: RouteDescription
    admin: bool = False  # requires the token, where the server has one
    open: bool = False  # never requires the token
    watches: bool = False  # the handler returns the head of an endless answer
    ui: bool = False  # belongs to the live page, which --no-ui disables
    negotiates: bool = False  # the handler is given the Accept header


@dataclass(frozen=True, slots=True)
class Route:
    """The entry for a path; `arguments` are its variable parts (model name, version), still percent-encoded."""

    methods: tuple[str, ...]
    handler: Handler | None
    arguments: tuple[str, ...] = ()
    takes_body: bool = False
    admin: bool = False
    open: bool = False
    watches: bool = False
    ui: bool = False
    negotiates: bool = False

    @property
    def infers(self) -> bool:
        """Whether the body is for a model."""
        return self.handler is None


def _json(value: object, status: int = 200) -> bytes:
    return reply(status, orjson.dumps(value))


# KServe's client reads the body of these answers instead of the status.
_LIVE, _NOT_LIVE = _json({"live": True}), _json({"live": False}, 503)
_READY, _NOT_READY = _json({"ready": True}), _json({"ready": False}, 503)


def _fields(body: bytes) -> dict[str, Any]:
    """The JSON object in a small body; an empty one where the body is empty.

    Raises:
        InvalidInputError: the body is not a JSON object.
    """
    try:
        value = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InvalidInputError("the body must be a JSON object")
    return value


def _parameters(body: bytes) -> dict[str, Any]:
    """The `parameters` of the object in a small body; an empty object where there are none.

    Raises:
        InvalidInputError: the body or its parameters are not a JSON object.
    """
    value = _fields(body).get("parameters")
    if value is not None and not isinstance(value, dict):
        raise InvalidInputError("parameters must be a JSON object")
    return value or {}


def _live(context: Context) -> bytes:
    return _LIVE if context.is_live else _NOT_LIVE


def _ready(context: Context) -> bytes:
    return _READY if context.is_ready else _NOT_READY


def _server(_context: Context) -> bytes:
    return _json(metadata.server())


def _model_ready(context: Context, name: str, version: str = "") -> bytes:
    served = context.served(name, version)
    ready = context.ready and not served.entry.is_lost
    return _json(metadata.readiness(served, ready=ready), 200 if ready else 503)


def _metadata(context: Context, name: str, version: str = "") -> bytes:
    return _json(metadata.metadata(context.models, context.served(name, version)))


def _configuration(context: Context, name: str, version: str = "") -> bytes:
    return _json(metadata.configuration(context.served(name, version)))


def _statistics(context: Context, name: str = "", version: str = "") -> bytes:
    # gRPC's message has no field for the decision about rows: there, the configuration has it.
    entries = [
        metadata.statistics(counted) | metadata.rows(context.models.find(counted.name, counted.version))
        for counted in context.counted_of(name, version)
    ]
    return _json({"model_stats": entries})


def _tail(context: Context, name: str, version: str = "") -> bytes:
    served = context.served(name, version)
    records = read(served.all_timelines).records
    events = context.events_since(int(records[:, 0].min())) if len(records) else []
    result = explain(records, events, max_batch_size=served.entry.max_batch_size)
    answer = msgspec.to_builtins(result) | {"model": served.name}
    more = {"steps": served.entry.stage_times(), "device": served.entry.device_times()}
    return _json(answer | {name: msgspec.to_builtins(rows) for name, rows in more.items() if rows})


def _timeline(context: Context, name: str, *rest: str) -> bytes:
    *version, cursor = rest
    served = context.served(name, *version)
    if not _CURSOR.fullmatch(cursor):
        raise InvalidInputError("the cursor must be a whole number: the `next` of the last answer")
    cursors = [-1] * len(served.all_timelines) if cursor[0] == "-" else [int(number) for number in cursor.split(".")]
    piece = read(served.all_timelines, cursors)
    return _json(metadata.timeline(served, piece, context.events_since))


def _index(context: Context, body: bytes) -> bytes:
    models = context.models.index(ready=context.ready)
    wanted = _fields(body).get("ready") is True
    return _json([model for model in models if not wanted or model.get("state") == "READY"])


async def _load(context: Context, body: bytes, name: str) -> bytes:
    if _parameters(body):
        raise InvalidInputError("models are loaded as the command line names them: load parameters are not supported")
    await context.models.load(name)
    return reply(200, b"")


async def _unload(context: Context, body: bytes, name: str) -> bytes:
    await context.models.unload(name, dependents=_parameters(body).get("unload_dependents") is True)
    return reply(200, b"")


def _regions(context: Context, name: str = "") -> bytes:
    return _json([metadata.region(region) for region in context.regions.status(name)])


def _register(context: Context, body: bytes, name: str) -> bytes:
    fields = _fields(body)
    key, offset, size = fields.get("key"), fields.get("offset", 0), fields.get("byte_size")
    if not isinstance(key, str) or type(offset) is not int or type(size) is not int:
        raise InvalidInputError(
            "a region needs key (a string), byte_size and, where it is not 0, offset (whole numbers)"
        )
    context.regions.register(name, key, offset, size)
    return reply(200, b"")


def _unregister(context: Context, body: bytes, name: str = "") -> bytes:
    _fields(body)
    context.regions.unregister(name)
    return reply(200, b"")


def _cuda_regions(context: Context, name: str = "") -> bytes:
    return _json([metadata.cuda_region(region) for region in context.regions.status_cuda(name)])


async def _register_cuda(context: Context, body: bytes, name: str) -> bytes:
    fields = _fields(body)
    handle, device, size = fields.get("raw_handle"), fields.get("device_id"), fields.get("byte_size")
    text = handle.get("b64") if isinstance(handle, dict) else None
    if not isinstance(text, str) or type(device) is not int or type(size) is not int:
        raise InvalidInputError(
            'a region needs raw_handle ({"b64": the handle in base64}), device_id and byte_size (whole numbers)'
        )
    try:
        raw = b64decode(text, validate=True)
    except ValueError:
        raise InvalidInputError("raw_handle is not base64") from None
    await asyncio.to_thread(context.regions.register_cuda, name, raw, device, size)
    return reply(200, b"")


def _unregister_cuda(context: Context, body: bytes, name: str = "") -> bytes:
    _fields(body)
    context.regions.unregister_cuda(name)
    return reply(200, b"")


def _metrics(context: Context, accept: str) -> bytes:
    rows = {(served.name, served.version): served.model.rows.rows.value for served in context.models}
    opened = accepts_open_metrics(accept)
    text = render(*context.counted(), rows, context.devices(), open_metrics=opened)
    return reply(200, text, content_type=OPEN_METRICS_TYPE if opened else METRICS_TYPE, headers={"Vary": "Accept"})


def _page(_context: Context) -> bytes:
    page, headers = live_page()
    return reply(200, page, content_type=HTML, headers=headers)


def _live_stream(_context: Context) -> bytes:
    return EVENTS


def _openapi(context: Context) -> bytes:
    return _openapi_reply(always=context.require_token, ui=context.ui)


@cache
def _openapi_reply(*, always: bool, ui: bool) -> bytes:
    paths = [
        (entry.path, entry.method, entry.description, (always and not entry.open) or entry.admin)
        for entry in _TABLE
        if ui or not entry.ui
    ]
    return _json(document(paths, metadata.version(), always=always))


def _of_model(path: str, method: str, handler: Handler | None, described: RouteDescription) -> list[RouteEntry]:
    """The entries of a path below a model, and of the same path below one of its versions."""
    roots = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [RouteEntry(root + path, method, handler, described) for root in roots]


def _of_regions(kind: str, register: Handler, unregister: Handler, status: Handler) -> list[RouteEntry]:
    root, prefix = f"/v2/{kind}sharedmemory", "" if kind == "system" else f"{kind}_"
    return [
        RouteEntry(f"{root}/status", "GET", status, RouteDescription("All registered regions", f"{prefix}regions")),
        RouteEntry(
            f"{root}/region/{{region}}/status", "GET", status, RouteDescription("One region", f"{prefix}regions")
        ),
        RouteEntry(
            f"{root}/region/{{region}}/register",
            "POST",
            register,
            RouteDescription("Register a region", body=f"{prefix}register"),
            admin=True,
        ),
        RouteEntry(
            f"{root}/region/{{region}}/unregister",
            "POST",
            unregister,
            RouteDescription("Unregister a region", body="empty"),
            admin=True,
        ),
        RouteEntry(
            f"{root}/unregister",
            "POST",
            unregister,
            RouteDescription("Unregister all regions", body="empty"),
            admin=True,
        ),
    ]


_TABLE = [
    RouteEntry(
        "/v2/health/live",
        "GET",
        _live,
        RouteDescription(
            "Whether the process is alive and can compute: 503 once a device is lost to it", "live", unready=True
        ),
        open=True,
    ),
    RouteEntry(
        "/v2/health/ready",
        "GET",
        _ready,
        RouteDescription(
            "Whether the server accepts requests: 503 while draining, and once a device is lost",
            "server_ready",
            unready=True,
        ),
        open=True,
    ),
    RouteEntry("/", "GET", _page, RouteDescription("A page that shows the server while it serves", "page"), ui=True),
    RouteEntry(
        PATH,
        "GET",
        _live_stream,
        RouteDescription("The data of that page as server-sent events, one per second", "events"),
        watches=True,
    ),
    RouteEntry("/v2", "GET", _server, RouteDescription("Name, version and extensions", "server")),
    RouteEntry("/v2/openapi.json", "GET", _openapi, RouteDescription("This document", "object")),
    RouteEntry(
        "/v2/models/stats", "GET", _statistics, RouteDescription("Counts and times of all models", "statistics")
    ),
    *_of_model("", "GET", _metadata, RouteDescription("Inputs and outputs", "metadata")),
    *_of_model(
        "/ready",
        "GET",
        _model_ready,
        RouteDescription("Whether the model is loaded, and whether it is warmed up", "readiness", unready=True),
    ),
    *_of_model("/config", "GET", _configuration, RouteDescription("Batching, instances and tensors", "configuration")),
    *_of_model("/stats", "GET", _statistics, RouteDescription("Counts and times", "statistics")),
    *_of_model("/tail", "GET", _tail, RouteDescription("Why the slowest of the last requests were slow", "object")),
    *_of_model(
        "/trace/{cursor}",
        "GET",
        _timeline,
        RouteDescription("When requests passed each stage, from a sequence number on", "object"),
    ),
    *_of_model("/trail/{cursor}", "GET", _timeline, RouteDescription("Deprecated: another name of /trace", "object")),
    *_of_model("/infer", "POST", None, RouteDescription("Inference", "answer", body="request")),
    RouteEntry(
        "/v2/repository/index", "POST", _index, RouteDescription("All models and their states", "index", body="ready")
    ),
    RouteEntry(
        "/v2/repository/models/{model}/load",
        "POST",
        _load,
        RouteDescription("Load a model again", body="empty"),
        admin=True,
    ),
    RouteEntry(
        "/v2/repository/models/{model}/unload",
        "POST",
        _unload,
        RouteDescription("Unload a model", body="empty"),
        admin=True,
    ),
    *_of_regions("system", _register, _unregister, _regions),
    *_of_regions("cuda", _register_cuda, _unregister_cuda, _cuda_regions),
    RouteEntry(
        "/metrics", "GET", _metrics, RouteDescription("The same numbers for Prometheus", "text"), negotiates=True
    ),
]
_ROUTES: dict[tuple[str | None, ...], RouteEntry] = {}  # by the parts of the path, where None is a variable part
_MASKS: dict[int, list[tuple[bool, ...]]] = {}  # by the number of parts: which of them are fixed, in the table's order
for _entry in _TABLE:
    _parts = tuple(None if part.startswith("{") else part for part in _entry.path.split("/"))
    _ROUTES.setdefault(_parts, _entry)
    _mask = tuple(part is not None for part in _parts)
    if _mask not in (_masks := _MASKS.setdefault(len(_parts), [])):
        _masks.append(_mask)


def find_route(path: str) -> Route | None:
    """The route of a path, given without its query; None for an unknown path."""
    parts = (path.rstrip("/") or "/").split("/")
    for mask in _MASKS.get(len(parts), ()):
        entry = _ROUTES.get(tuple([part if is_word else None for part, is_word in zip(parts, mask, strict=True)]))
        if entry is not None:
            arguments = tuple(part for part, is_word in zip(parts, mask, strict=True) if not is_word)
            if not all(arguments):  # names cannot be empty
                continue
            takes_body = entry.description.body is not None
            flags = {name: getattr(entry, name) for name in ("admin", "open", "watches", "ui", "negotiates")}
            return Route((entry.method,), entry.handler, arguments, takes_body, **flags)
    return None
