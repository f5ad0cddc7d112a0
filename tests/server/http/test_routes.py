"""The table of paths: the route of each, whatever stands in its variable parts."""

import itertools
import random

from tests.effort import runs

from tailcut.server.http.routes import _TABLE, RouteEntry, find_route

WORDS = sorted(
    {part for entry in _TABLE for part in entry.path.split("/") if not part.startswith("{")} | {"", "x", "7"}
)


def first_of_table(path: str) -> tuple[RouteEntry, tuple[str, ...]] | None:
    """The first entry of the table whose words are the path's, and what stands in its variable parts."""
    parts = (path.rstrip("/") or "/").split("/")
    for entry in _TABLE:
        pattern = entry.path.split("/")
        if len(pattern) == len(parts) and all(
            want.startswith("{") or want == part for want, part in zip(pattern, parts, strict=True)
        ):
            variable = tuple(part for want, part in zip(pattern, parts, strict=True) if want.startswith("{"))
            if all(variable):
                return entry, variable
    return None


def test_each_path_has_the_first_route_of_the_table() -> None:
    """Words go before variable parts: all short paths of the words of the table, and many longer ones.

    `make test` looks at a third of them.
    """
    numbers = random.Random(1)
    paths = ["/".join(["", *words]) for count in range(4) for words in itertools.product(WORDS, repeat=count)]
    paths += ["/".join(["", "v2", *numbers.choices(WORDS, k=numbers.randrange(2, 8))]) for _ in range(20_000)]
    paths = numbers.sample(paths, runs(len(paths)))
    paths += [entry.path.replace("{", "").replace("}", "") for entry in _TABLE]
    result = 0
    for path in paths:
        expected, route = first_of_table(path), find_route(path)
        if expected is None:
            assert route is None, path
            continue
        result += 1
        entry, arguments = expected
        assert route is not None, path
        assert (route.handler, route.arguments, route.methods) == (entry.handler, arguments, (entry.method,)), path
        assert (route.admin, route.open, route.takes_body) == (
            entry.admin,
            entry.open,
            entry.description.body is not None,
        )
    assert result > len(_TABLE)


def test_paths_that_end_in_a_slash() -> None:
    """The slash means nothing, and a path with an empty part none of the table's."""
    assert find_route("/v2/health/live/") == find_route("/v2/health/live")
    assert find_route("/") == find_route("//")
    assert find_route("/v2//live") is None
    assert find_route("") == find_route("/")
