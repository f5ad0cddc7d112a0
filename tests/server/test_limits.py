"""How large a body a model's requests can need, and how long a client may take to read an answer."""

from types import SimpleNamespace

from tailcut.server.limits import ServerLimits, largest_body, too_large
from tailcut.spec import DType, ModelSpec, TensorSpec

MOST = 64 << 20


def of(*tensors: TensorSpec, rows: int = 1024) -> int:
    spec = ModelSpec("m", tensors, tensors)
    return largest_body(SimpleNamespace(spec=spec, queue_rows=rows), MOST)  # type: ignore[arg-type]


def test_small_models_take_small_bodies() -> None:
    """Every row that the queue can hold, 32 bytes a number, and a mebibyte around them."""
    assert of(TensorSpec("x", DType.FP32, (None, 4))) == (1 << 20) + 1024 * 4 * 32
    assert of(TensorSpec("x", DType.FP32, (3, 4)), rows=1024) == (1 << 20) + 12 * 32  # no batch: one row
    two = [TensorSpec(name, DType.INT8, (None, 10)) for name in "ab"]
    assert of(*two) == (1 << 20) + 1024 * 20 * 32


def test_large_ones_and_those_of_any_size_have_the_servers_limit() -> None:
    """Where the shapes bound nothing, --max-body does."""
    assert of(TensorSpec("x", DType.FP32, (None, 3, 224, 224))) == MOST
    assert of(TensorSpec("x", DType.FP32, (None, None))) == MOST
    assert of(TensorSpec("x", DType.BYTES, (None, 1))) == MOST


def test_time_to_read_an_answer() -> None:
    """A fixed part, and what its size needs at the least rate."""
    assert ServerLimits(write_timeout_s=3.0, write_rate=1000).write_s(5000) == 8.0


def test_what_is_too_large_names_the_rows_that_fit() -> None:
    """And the option; not where the server's own limit is what counts, or there is no queue of rows."""
    x = TensorSpec("x", DType.FP32, (None, 4))
    for tensor, limit, rows in ((x, 5000, True), (x, MOST, False), (TensorSpec("x", DType.FP32, (3, 4)), 5000, False)):
        entry = SimpleNamespace(spec=ModelSpec("m", (tensor,), (tensor,)), queue_rows=128, queue_setting="--queue")
        words = too_large(entry, limit, MOST)  # type: ignore[arg-type]
        assert words.startswith(f"the body is over {limit} bytes, more than any request to this model needs")
        assert words.endswith(": its queue holds 128 rows: send fewer at a time, or raise --queue") is rows
