"""How requests of Serve's proxy are forwarded."""

import pytest

from tailcut.ray.forwarding import folder_of, passed_on, request_target


@pytest.mark.parametrize(
    ("scope", "target"),
    [
        ({"path": "/v2/models/m/infer"}, "/v2/models/m/infer"),
        ({"path": "/app/v2", "root_path": "/app"}, "/v2"),
        ({"path": "/app", "root_path": "/app"}, "/"),
        ({"path": "/v2/models/a b%/ready", "query_string": b"x=1&y=%20"}, "/v2/models/a%20b%25/ready?x=1&y=%20"),
        ({"path": "/v2", "root_path": "/app"}, "/v2"),
    ],
)
def test_the_path_below_the_route(scope: dict, target: str) -> None:
    """Encoded again, with its query as it came."""
    assert request_target(scope) == target


@pytest.mark.parametrize(
    ("scope", "folder"),
    [
        ({"path": "/app", "root_path": "/app"}, "app/"),
        ({"path": "", "root_path": "/app"}, "app/"),
        ({"path": "/a/b c", "root_path": "/a/b c", "query_string": b"x=1"}, "b%20c/?x=1"),
        ({"path": "/app/", "root_path": "/app"}, None),
        ({"path": "/app/v2", "root_path": "/app"}, None),
        ({"path": "/", "root_path": ""}, None),
    ],
)
def test_a_route_without_its_slash(scope: dict, folder: str | None) -> None:
    """Is sent to itself with one, below whatever prefix a proxy has taken away."""
    assert folder_of(scope) == folder


def test_what_belongs_to_a_connection_stays_there() -> None:
    """The length is that of the body at hand; everything else goes on."""
    given = [(b"Host", b"x"), (b"Content-Length", b"4"), (b"X-Request-Id", b"7"), (b"Transfer-Encoding", b"chunked")]
    assert passed_on(given) == [(b"X-Request-Id", b"7")]
