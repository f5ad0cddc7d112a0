"""The server's paths: which there are, what methods they take, and the small answers about server and models."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import orjson

from tailcut.errors import NotFoundError
from tailcut.memory.shared import SharedRegions
from tailcut.server import about
from tailcut.server.catalog import Catalog
from tailcut.server.metrics import METRICS_TYPE, ServerCounts, render
from tailcut.server.replies import Refusal, reply
from tailcut.server.served import Served

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
    """Everything that answers may speak of: the models, shared memory, the counts, and whether the server is ready."""

    models: Catalog
    regions: SharedRegions = field(default_factory=SharedRegions)
    counts: ServerCounts = field(default_factory=ServerCounts)
    ready: bool = False

    def find(self, path: str) -> Route | None:
        """The route of a path without its query."""
        parts = path.split("/")[1:]
        if parts[:2] == ["v2", "models"] and len(parts) >= 3:
            return _model_route(parts[2], parts[3:])
        return _ROUTES.get(path.rstrip("/") or "/")

    def served(self, name: str, version: str = "") -> Served:
        """The model of that name; its newest version where none is asked for.

        Raises:
            Refusal: 404.
        """
        try:
            return self.models.find(name, version)
        except NotFoundError as error:
            raise Refusal(404, str(error)) from None

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether that model is there and the server is ready."""
        with suppress(NotFoundError):
            return self.models.find(name, version) is not None and self.ready
        return False

    def asked(self, name: str = "", version: str = "") -> list[Served]:
        """The model of that name, or all of them where none is named.

        Raises:
            NotFoundError: there is no such model.
        """
        return [self.models.find(name, version)] if name else list(self.models)


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
        case ["config"]:
            return Route(_GET, _configuration, arguments)
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
    return _json(about.server())


def _model_ready(site: Site, name: str, version: str = "") -> bytes:
    site.served(name, version)
    return _ready(site)


def _metadata(site: Site, name: str, version: str = "") -> bytes:
    return _json(about.metadata(site.models, site.served(name, version)))


def _configuration(site: Site, name: str, version: str = "") -> bytes:
    return _json(about.configuration(site.served(name, version)))


def _statistics(site: Site, name: str, version: str = "") -> bytes:
    return _json({"model_stats": [about.statistics(site.served(name, version))]})


def _index(site: Site) -> bytes:
    return _json(site.models.index(ready=site.ready))


def _metrics(site: Site) -> bytes:
    return reply(200, render(site.counts, site.models), content_type=METRICS_TYPE)


_ROUTES = {
    "/v2": Route(_GET, _server),
    "/v2/health/live": Route(_GET, _live),
    "/v2/health/ready": Route(_GET, _ready),
    "/v2/repository/index": Route(_POST, _index),
    "/metrics": Route(_GET, _metrics),
}
