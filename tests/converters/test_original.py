"""Libraries that a conversion needs, and what they say."""

import pytest

from tailcut.converters.original import first_line, need
from tailcut.errors import UnsupportedError


def test_a_library_that_is_missing_is_named() -> None:
    """With how to install it."""
    assert need("json", "nothing").dumps([]) == "[]"
    with pytest.raises(UnsupportedError, match=r"needs no_such_library: pip install 'tailcut\[x\]'"):
        need("no_such_library.part", "'tailcut[x]'")


@pytest.mark.parametrize(
    ("text", "line"), [("\n  one \ntwo", "one"), ("", "ValueError"), (" \n", "ValueError"), ("x" * 500, "x" * 300)]
)
def test_errors_in_one_line(text: str, line: str) -> None:
    """The first that says something; else the error's name."""
    assert first_line(ValueError(text)) == line
