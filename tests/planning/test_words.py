"""Numbers and nouns of a plan."""

import pytest

from tailcut.planning.words import number, several


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1e-6, "0.000001"),
        (0.09999999999999999, "0.1"),
        (12.3456, "12.35"),
        (999.4, "999.4"),
        (999.97, "1,000"),
        (1000, "1,000"),
        (10_140.4, "10,140"),
        (1e9, "1,000,000,000"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    """Have four digits, and never an exponent."""
    assert number(value) == text


def test_things() -> None:
    """One, or several."""
    assert [several(value, "core") for value in (0, 0.5, 1.0, 2, 4096.0)] == [
        "0 cores",
        "0.5 cores",
        "1 core",
        "2 cores",
        "4,096 cores",
    ]
