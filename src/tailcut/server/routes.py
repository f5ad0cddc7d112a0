"""The server's paths: which there are, what methods they take, and the small answers about server and models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as installed_version

import orjson

from tailcut.server.metrics import METRICS_TYPE, Counted, ServerCounts, render
from tailcut.server.replies import Refusal, reply
from tailcut.server.served import Served
from tailcut.wire.v2 import model_metadata, server_metadata

_GET = ("GET",)
_POST = ("POST",)


@dataclass(frozen=True, slots=True)
class Route:
    """What a path means; `arguments` are its still percent-encoded variable parts: model name, version."""

    methods: tuple[str, ...]
    handler: "Handler | None"
    arguments: tuple[str, ...] = ()

    @property
    def infers(self) -> bool:
        """Whether the body is for a model."""
        return self.handler is None


@dataclass(slots=True)
class Site:
    """Everything that answers may speak of: the models, the counts, and whether the server is ready."""

    models: Sequence[Served]
    counts: ServerCounts = field(default_factory=ServerCounts)
    ready: bool = False
    everywhere: Callable[[], tuple[ServerCounts, Sequence[Counted]]] | None = None  # over all workers, if there are any

    def counted(self) -> tuple[ServerCounts, Sequence[Counted]]:
        """The counts of the whole service."""
        return (self.counts, self.models) if self.everywhere is None else self.everywhere()

    def find(self, path: str) -> Route | None:
        """The route of a path without its query."""
        parts = path.split("/")[1:]
        if parts[:2] == ["v2", "models"] and len(parts) >= 3:
            return _model_route(parts[2], parts[3:])
        return _ROUTES.get(path.rstrip("/") or "/")

    def served(self, name: str, version: str = "") -> Served:
        """The model of that name; any version where none is asked for.

        Raises:
            Refusal: 404.
        """
        for served in self.models:
            if served.name == name:
                if version in {"", served.version}:
                    return served
                raise Refusal(404, f"model {name!r} has no version {version[:64]!r}: it has {served.version!r}")
        names = ", ".join(served.name for served in self.models)
        raise Refusal(404, f"unknown model {name[:64]!r}: this server has {names}")


Handler = Callable[..., bytes]


def _model_route(name: str, rest: list[str]) -> Route | None:
    arguments: tuple[str, ...] = (name,)
    if len(rest) >= 2 and rest[0] == "versions":
        arguments = (name, rest[1])
        rest = rest[2:]
    match rest:
        case [] | [""]:
            return Route(_GET, _metadata, arguments)
        case ["ready"]:
            return Route(_GET, _model_ready, arguments)
        case ["stats"]:
            return Route(_GET, _statistics, arguments)
        case ["infer"]:
            return Route(_POST, None, arguments)
    return None


def _json(value: object, status: int = 200) -> bytes:
    return reply(status, orjson.dumps(value))


def _live(_site: Site) -> bytes:
    return reply(200, b"")


def _ready(site: Site) -> bytes:
    return reply(200 if site.ready else 503, b"")


def _server(_site: Site) -> bytes:
    return _json(server_metadata(installed_version("tailcut")))


def _model_ready(site: Site, name: str, version: str = "") -> bytes:
    site.served(name, version)
    return _ready(site)


def _metadata(site: Site, name: str, version: str = "") -> bytes:
    served = site.served(name, version)
    return _json(model_metadata(served.model.spec, served.version) | {"name": served.name})


def _statistics(site: Site, name: str, version: str = "") -> bytes:
    served = site.served(name, version)
    counts = next(one for one in site.counted()[1] if one.name == served.name).model.statistics()
    failed = counts["failed"] + counts["expired"]
    success = {"count": counts["requests"], "ns": counts["queue_ns"] + counts["compute_ns"]}
    return _json(
        {
            "model_stats": [
                {
                    "name": served.name,
                    "version": served.version,
                    "inference_count": counts["rows"],
                    "execution_count": counts["batches"],
                    "inference_stats": {
                        "success": success,
                        "fail": {"count": failed, "ns": 0},
                        "queue": {"count": counts["requests"], "ns": counts["queue_ns"]},
                        "compute_infer": {"count": counts["batches"], "ns": counts["compute_ns"]},
                    },
                }
            ]
        }
    )


def _index(site: Site) -> bytes:
    state = "READY" if site.ready else "UNAVAILABLE"
    return _json([{"name": one.name, "version": one.version, "state": state, "reason": ""} for one in site.models])


def _metrics(site: Site) -> bytes:
    return reply(200, render(*site.counted()), content_type=METRICS_TYPE)


_ROUTES = {
    "/v2": Route(_GET, _server),
    "/v2/health/live": Route(_GET, _live),
    "/v2/health/ready": Route(_GET, _ready),
    "/v2/repository/index": Route(_POST, _index),
    "/metrics": Route(_GET, _metrics),
}
