"""Translates requests of Serve's proxies for a replica's server, and its answers for the proxies. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

Fields = list[tuple[bytes, bytes]]
# Fields of one connection, not of the message (RFC 9110, 7.6.1). The length follows from the forwarded body.
_HOP_BY_HOP = {
    b"connection",
    b"content-length",
    b"expect",
    b"host",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}


def request_target(scope: Mapping[str, Any]) -> str:
    """The path and query of an ASGI request, without the route prefix of its application."""
    path, root = scope["path"], scope.get("root_path", "")
    if root and path.startswith(root):
        path = path[len(root) :]
    target = quote(path or "/", safe="/:@!$&'()*+,;=-._~")
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{target}?{query}" if query else target


def folder_of(scope: Mapping[str, Any]) -> str | None:
    """Where to redirect a request for an application's route without a trailing slash; None for any other path.

    Without the slash, relative links of the page would lead out of the application. The redirect is relative as well,
    because another proxy in front may have removed a prefix.
    """
    path, root = scope["path"], scope.get("root_path", "")
    if not root.strip("/") or path not in {"", root}:
        return None
    query = scope.get("query_string", b"").decode("latin-1")
    folder = f"{quote(root.rpartition('/')[2])}/"
    return f"{folder}?{query}" if query else folder


def passed_on(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    """The header fields of a message, without those that belong to its connection."""
    return [(name, value) for name, value in fields if name.lower() not in _HOP_BY_HOP]
