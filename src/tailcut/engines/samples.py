"""Made-up inputs that a model accepts."""

from dataclasses import dataclass

import numpy as np

from tailcut.engines.base import Engine
from tailcut.errors import TailcutError, UnsupportedError
from tailcut.spec import DType, ModelSpec

_FREE_DIM = 8  # what a free dimension beside the first is taken as
_FLOATS = {DType.FP16, DType.BF16, DType.FP32, DType.FP64}


@dataclass(frozen=True, slots=True)
class Samples:
    """Sizes that a model accepts, and inputs of them."""

    spec: ModelSpec
    free_dim: int = _FREE_DIM

    def make(self, rows: int, seed: int) -> dict[str, np.ndarray]:
        """Seeded inputs; `rows` is the size of the first axis where that is free."""
        random = np.random.default_rng(seed)
        inputs = {}
        for tensor in self.spec.inputs:
            dims = [self.free_dim if dim is None else dim for dim in tensor.shape]
            if tensor.shape[:1] == (None,):
                dims[0] = rows
            if tensor.dtype is DType.BYTES:
                text = np.array([f"text {number}" for number in random.integers(0, 1000, int(np.prod(dims)))], object)
                inputs[tensor.name] = text.reshape(dims)
            elif tensor.dtype in _FLOATS:
                inputs[tensor.name] = random.standard_normal(dims).astype(tensor.dtype.numpy)
            else:
                inputs[tensor.name] = random.integers(0, 2, dims).astype(tensor.dtype.numpy)
        return inputs


def find_samples(engine: Engine, *, seed: int = 0) -> Samples:
    """Sizes that the model accepts.

    Raises:
        UnsupportedError: it refuses all that were tried; names them.
    """
    samples = Samples(engine.spec)
    try:
        engine.run(samples.make(1, seed))
    except TailcutError as error:
        raise UnsupportedError(
            f"model {engine.spec.name!r} refuses inputs of size {_FREE_DIM} in each free dimension: {error}"
        ) from None
    return samples
