"""Requests of Serve's proxies as they are handed on to a replica's server, and its answers back. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

Fields = list[tuple[bytes, bytes]]
# Of one connection, not of the message (RFC 9110, 7.6.1). The length is that of the body at hand.
_HOP = {
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
    """Path and query of an ASGI request, below the route of its application."""
    path, root = scope["path"], scope.get("root_path", "")
    if root and path.startswith(root):
        path = path[len(root) :]
    target = quote(path or "/", safe="/:@!$&'()*+,;=-._~")
    query = scope.get("query_string", b"").decode("latin-1")
    return f"{target}?{query}" if query else target


def folder_of(scope: Mapping[str, Any]) -> str | None:
    """Where to send a request for an application's route without a slash at its end; None for any other path.

    Relative links of the page there would lead out of the application. The answer is relative as well: a proxy before
    this one may have taken a prefix away.
    """
    path, root = scope["path"], scope.get("root_path", "")
    if not root.strip("/") or path not in {"", root}:
        return None
    query = scope.get("query_string", b"").decode("latin-1")
    folder = f"{quote(root.rpartition('/')[2])}/"
    return f"{folder}?{query}" if query else folder


def passed_on(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    """The fields of a message, those of its connection left out."""
    return [(name, value) for name, value in fields if name.lower() not in _HOP]
