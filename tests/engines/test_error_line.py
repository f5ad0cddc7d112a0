"""Messages of engines become one line."""

import pytest

from tailcut.engines.error_line import short


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("plain", "plain"),
        ("", "RuntimeError"),
        ("[ONNXRuntimeError] : 1 : FAIL : Load model from /a/b.onnx failed:no such op", "no such op"),
        ("/src/core/session.cc:123 Run Missing input: x", "Missing input: x"),
        ("Exception from src/inference/core.cpp:90:\nCheck 'ok' failed\nunknown shape", "unknown shape"),
        ("No conversion rule found for operations: Foo\nmore", "it has no operator Foo: use onnxruntime"),
        (
            "While validating node 'opset8::MaxPool p (x[0]:f32[1]) -> (f32[1])' with friendly_name 'p':\ntoo large",
            "p: too large",
        ),
        ("x" * 300, "x" * 200),
    ],
)
def test_a_message_is_one_clean_line(message: str, line: str) -> None:
    """It names no C++ file, no stack and no address, and is 200 characters at most."""
    assert short(RuntimeError(message)) == line


def test_a_missing_operator_comes_with_advice() -> None:
    """What to do instead depends on the file."""
    error = RuntimeError("No conversion rule found for operations: Foo")
    assert short(error, "convert it") == "it has no operator Foo: convert it"
