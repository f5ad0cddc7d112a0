"""Bounds that follow from others, and from a model's inputs."""

from types import SimpleNamespace

from tailcut.server.limits import ServerLimits, largest_body
from tailcut.spec import DType, ModelSpec, TensorSpec


def entry(*inputs: TensorSpec, batched: bool = True) -> SimpleNamespace:
    output = TensorSpec("y", DType.FP32, (None, 1) if batched else (1,))
    return SimpleNamespace(spec=ModelSpec("m", inputs, (output,)), queue_rows=100)


def test_the_largest_body_of_a_model() -> None:
    """All its rows as JSON, and no more than is allowed at all."""
    rows = TensorSpec("x", DType.FP32, (None, 50))
    assert largest_body(entry(rows), 1 << 30) == 50 * 100 * 32 + (1 << 20)
    assert largest_body(entry(rows, rows), 1 << 30) == 2 * 50 * 100 * 32 + (1 << 20)
    assert largest_body(entry(rows), 1000) == 1000
    assert largest_body(entry(TensorSpec("x", DType.FP32, (50,)), batched=False), 1 << 30) == 50 * 32 + (1 << 20)


def test_what_has_no_largest_body() -> None:
    """Strings, and tensors of free sizes: the general bound is theirs."""
    for tensor in (TensorSpec("x", DType.BYTES, (None, 1)), TensorSpec("x", DType.FP32, (None, None))):
        assert largest_body(entry(tensor), 1 << 30) == 1 << 30


def test_time_to_read_an_answer() -> None:
    """A fixed part, and what its size needs at the least rate."""
    assert ServerLimits(write_timeout_s=3.0, write_rate=1000).write_s(5000) == 8.0
