"""What a measure found in a row, and how a row is printed: values only."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_SHOWN = 3  # elements of a row, those that differ most
_TEXT = 24  # characters of a string


@dataclass(frozen=True, slots=True)
class RowFinding:
    """One row of one answer beside the reference row.

    `excess` is the error as a share of what the bound allows: over 1 is wrong.
    """

    request: int  # index among the answers compared; in a gate's verdict, in the data
    row: int
    output: str
    measure: str
    words: str  # what was measured and what is allowed, in one line
    excess: float
    expected: str = ""
    got: str = ""
    asked: str = ""  # how the request was sent: alone, or with how many others

    @property
    def where(self) -> str:
        """The output, and what is wrong with it."""
        return f"output {self.output!r}: {self.words}"


@dataclass(frozen=True, slots=True)
class Bound:
    """What `--accuracy` allows: a number such as 0.999, or nothing beyond float32 rounding (None)."""

    value: float | None

    @property
    def exact(self) -> bool:
        """Whether only float32 rounding is allowed."""
        return self.value is None

    @property
    def share(self) -> float:
        """The share of labels or elements that may differ, and how far a cosine may be below 1."""
        return 0.0 if self.value is None else 1.0 - self.value

    @property
    def cosine_slack(self) -> float:
        """As `share`, but never so small that float64 rounding in the measure itself would count."""
        return max(self.share, 1e-9)

    @property
    def distance(self) -> float:
        """The distance of two unit vectors whose cosine is the bound: 0.0447 at 0.999."""
        return math.sqrt(2 * self.cosine_slack)


@dataclass(slots=True)
class OutputErrors:
    """The errors of one output: the worst row of each request by each measure, and the figures over all rows."""

    findings: list[RowFinding] = field(default_factory=list)
    cosine: float | None = None  # the worst
    top1: tuple[int, int] = (0, 0)  # rows that agree, rows compared
    spread: float | None = None  # error as a share of the output's spread, root mean square
    differing: float | None = None  # share of elements


def row_pair(expected: np.ndarray, got: np.ndarray, error: np.ndarray) -> dict[str, str]:
    """Both rows abbreviated to the elements that differ most, with their indices.

    Args:
        expected, got, error: one-dimensional, of equal length; the elements with the largest `error` are shown.
    """
    indices = np.sort(np.argsort(-error, kind="stable")[:_SHOWN])
    single = len(expected) == 1

    def shown(row: np.ndarray) -> str:
        return " ".join(
            element(row[index]) if single else f"[{index}] {element(row[index])}" for index in indices.tolist()
        )

    return {"expected": shown(expected), "got": shown(got)}


def element(value: Any) -> str:
    """One element in a few characters."""
    if isinstance(value, str):
        return repr(value if len(value) <= _TEXT else f"{value[:_TEXT]}...")
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


Pairs = list[tuple[np.ndarray, np.ndarray]]  # of one output: the expected and the actual array, for each request
