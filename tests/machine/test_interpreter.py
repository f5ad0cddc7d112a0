"""Whether an interpreter was built with a profile, by what its build says of itself."""

import pytest

from tailcut.machine.interpreter import is_optimised


@pytest.mark.parametrize(
    ("arguments", "flag", "optimised"),
    [
        ("'--prefix=/root/.pyenv/versions/3.11.7' '--enable-shared'", "-fprofile-use -fprofile-correction", False),
        ("'--enable-optimizations' '--with-lto'", "-fprofile-use -fprofile-correction", True),
        ("'--enable-optimizations'", "", True),
        ("'--enable-shared' '--prefix=/usr' '--with-dtrace'", "", None),  # Debian's, which has a profile
        ("", "-fprofile-use", None),
    ],
)
def test_what_the_build_says(arguments: str, flag: str, *, optimised: bool | None) -> None:
    """Only arguments without a profile, together with a build that could have had one, say no."""
    assert is_optimised({"CONFIG_ARGS": arguments, "PGO_PROF_USE_FLAG": flag}) is optimised


def test_a_build_that_says_nothing() -> None:
    """Such as that of Windows, or of another implementation."""
    assert is_optimised({}) is None
