"""Whether profiles that were measured together are served together."""

import pytest

from tailcut.runtime.neighbours import measured_together, other_neighbours
from tailcut.runtime.profile import ModelRef, Neighbour, Profile, Together


def profile(name: str, *neighbours: str, content: str = "") -> Profile:
    """A profile of a model whose content is its name, measured beside others."""
    others = tuple(Neighbour(name=neighbour, sha256=neighbour, rate=10.0, limit_ms=5.0) for neighbour in neighbours)
    together = Together(rate=10.0, limit_ms=5.0, neighbours=others) if neighbours else None
    return Profile(model=ModelRef(path=name, sha256=content or name, name=name), together=together)


@pytest.mark.parametrize(
    ("profiles", "lines"),
    [
        pytest.param([profile("a", "b"), profile("b", "a")], [], id="as measured"),
        pytest.param([profile("a"), profile("b")], [], id="measured alone"),
        pytest.param([profile("a", "b"), profile("x", "a", content="b")], [], id="renamed"),
        pytest.param([profile("a", "b")], ["a: measured together with b, but served without b"], id="alone"),
        pytest.param(
            [profile("a", "b"), profile("c")],
            ["a: measured together with b, but served without b and beside c"],
            id="another",
        ),
        pytest.param(
            [profile("a", "b"), profile("b", content="new")],
            ["a: measured together with b, but served without b and beside b"],
            id="another file of the same name",
        ),
        pytest.param([profile("a", "b"), profile("a", "b"), profile("b", "a")], [], id="loaded twice"),
        pytest.param([profile("a", "x", content="x"), profile("b", "x", content="x")], [], id="two copies of a file"),
        pytest.param(
            [profile("a", "x", content="x")],
            ["a: measured together with x, but served without x"],
            id="one of two copies",
        ),
        pytest.param(
            [profile("a", "b", "b"), profile("b")],
            ["a: measured together with b, b, but served without b"],
            id="beside one of two copies",
        ),
    ],
)
def test_one_line_for_each_profile_beside_others(profiles: list[Profile], lines: list[str]) -> None:
    """Names are the server's to give: models are known by their content."""
    result = other_neighbours(profiles)
    assert [line.removesuffix(": retune these models together") for line in result] == lines
    assert measured_together(profiles) is (not lines and profiles[0].together is not None)
