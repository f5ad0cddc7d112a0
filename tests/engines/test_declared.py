"""A signature that the settings declare."""

import pytest

from tailcut.engines.declared import declared_spec
from tailcut.errors import UnsupportedError
from tailcut.spec import Rows

LINES = ("input x FP32 [-1, 256]", "input ids INT64 [-1, -1]", "output y FP16 [-1, 3]")


def test_there_and_back() -> None:
    """What a spec writes, it is read from; nothing is known of its rows."""
    spec = declared_spec(LINES, "m")
    assert spec.signature == LINES
    assert spec.rows is Rows.UNKNOWN


def test_without_a_batch_axis_rows_are_dependent() -> None:
    assert declared_spec(("input x FP32 [4]", "output y FP32 [4]"), "m").rows is Rows.DEPENDENT


@pytest.mark.parametrize(
    "line", ["input x FP32", "input x FLOAT [1]", "inputs x FP32 [1]", "input x FP32 [1] more", "input x FP32 [a]", ""]
)
def test_a_line_of_another_form(line: str) -> None:
    """It is shown, beside one that is right."""
    with pytest.raises(UnsupportedError, match="is not of the form 'input x FP32"):
        declared_spec((*LINES, line), "m")


@pytest.mark.parametrize("lines", [(), LINES[:2], LINES[2:]])
def test_no_inputs_or_no_outputs(lines: tuple[str, ...]) -> None:
    with pytest.raises(UnsupportedError, match="does not declare its inputs and outputs"):
        declared_spec(lines, "m")
