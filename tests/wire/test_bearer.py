"""The content of the field `Authorization`."""

import pytest

from tailcut.wire.bearer import carries_token


@pytest.mark.parametrize("authorization", ["Bearer abc", "bearer abc", "BEARER  abc ", "Bearer abc  "])
def test_the_token(authorization: str) -> None:
    """The scheme may be in any case, and spaces may be around the token."""
    assert carries_token(authorization, "abc")


@pytest.mark.parametrize(
    "authorization", ["", "abc", "Bearer", "Bearer ab", "Bearer abcd", "Basic abc", "Bearer a\xe9"]
)
def test_no_token(authorization: str) -> None:
    """Another scheme or another token, of whatever characters."""
    assert not carries_token(authorization, "abc")
