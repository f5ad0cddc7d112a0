"""Shortens an engine's error message to one readable line."""

import re

_MOST_CHARS = 200
_NOISE = ("Exception from", "Check '", "FrontEnd API failed", "src/", "/")
_INNARDS = re.compile(  # an engine's own name and number, our path, C++ files
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from .* failed:|[\w/.-]+\.(?:cc|cpp|h):\d+ (?:\S+ )?"
)
_VALIDATING = re.compile(r"While validating .*? with friendly_name '([^']*)':|While validating .*?: ")
_NO_OPERATOR = re.compile(r"No conversion rule found for operations: ([^\n]+)")  # openvino's words


def short(error: BaseException, advice: str = "use onnxruntime") -> str:
    """The message without C++ files, stacks and addresses, at most 200 characters; `advice`: for a missing operator."""
    missing = _NO_OPERATOR.search(str(error))
    if missing:
        return f"it has no operator {missing[1]}: {advice}"[:_MOST_CHARS]
    lines = [_VALIDATING.sub(_operator, _INNARDS.sub("", line)).strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(_NOISE)] or [line for line in lines if line][-1:]
    return (" ".join(kept) or type(error).__name__)[:_MOST_CHARS]


def _operator(validating: re.Match[str]) -> str:
    """The name of the operator that OpenVINO was validating, if it has one, in place of that part of the message."""
    return f"{validating[1]}:" if validating[1] else ""
