"""Generated requests that a model accepts: sizes for its free dimensions, and plausible values.

The signature says which dimensions are free, but not which sizes a model accepts: a detector needs multiples of 32, a
speech model 512 samples, a text model ids below the size of its embedding and states of length zero. Likely sizes are
tried on the engine itself until one is accepted. Requests are reproducible, because all values come from a seed.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tailcut.engines.base import Arrays
from tailcut.engines.filling import ROWS, SampleInput, fill
from tailcut.engines.guesses import guesses
from tailcut.engines.hints import Hinted, InputHints
from tailcut.errors import TailcutError, UnsupportedError
from tailcut.spec import ModelSpec

_MOST_TRIES = 96
_AFTER_FIRST = 8  # further tries after a request whose answer has no elements or is not finite
_ROWS_AGAIN = 8
_LISTED = 12  # the most shapes that a message names


class Answering(Protocol):
    """Anything that answers requests: an engine, or a served model."""

    spec: ModelSpec

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Compute the outputs; raises a TailcutError if the request is refused."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Requests that a model accepts.

    Args:
        spec: the model's signature.
        inputs: how each input is filled, by name.
        rows: a size of the free first axis that the model accepts; 1 if it accepts a single row.
    """

    spec: ModelSpec
    inputs: Mapping[str, SampleInput]
    rows: int = 1

    def make(self, rows: int, seed: int) -> dict[str, np.ndarray]:
        """One request, as new C-contiguous arrays by input name; the same for the same seed.

        Args:
            rows: the size of the first axis, if it is free.
            seed: the seed of the values.
        """
        random = np.random.default_rng(seed)
        return {tensor.name: fill(tensor, self.inputs[tensor.name], rows, random) for tensor in self.spec.inputs}


def likely_samples(spec: ModelSpec, hints: InputHints | None = None) -> Samples:
    """The samples that `find_samples` would try first, for callers without an engine."""
    guess = next(guesses(spec, hints or InputHints()))
    return Samples(spec, guess.inputs, guess.rows)


def find_samples(engine: Answering, *, seed: int = 0, budget_s: float = 10.0) -> Samples:
    """Find sizes and values that the engine accepts, with at most 96 tries of likely ones in about `budget_s` seconds.

    Raises:
        UnsupportedError: it accepts none of them; names the sizes that were tried and the engine's first error.
    """
    spec = engine.spec
    hints = engine.hints if isinstance(engine, Hinted) else InputHints()
    end = time.monotonic() + budget_s
    tried: list[Samples] = []
    accepted: Samples | None = None
    refusal = ""
    left = _MOST_TRIES
    for guess in itertools.islice(guesses(spec, hints), _MOST_TRIES):
        samples = Samples(spec, guess.inputs, guess.rows)
        tried.append(samples)
        left -= 1
        try:
            answer = engine.run(samples.make(samples.rows, seed))
            if not guess.certain:
                _run_again(engine, samples, seed)
        except (TailcutError, MemoryError) as error:
            refusal = refusal or str(error)
        else:
            if _is_full(answer):
                return samples
            accepted, left = accepted or samples, min(left, _AFTER_FIRST)
        if left <= 0 or time.monotonic() > end:
            break
    if accepted is not None:
        return accepted
    raise UnsupportedError(
        f"{spec.name}: the model accepts none of the generated requests (tried {_sizes_of(tried)}); "
        f"the first one: {refusal}; give requests of your own with --data"
    )


def _run_again(engine: Answering, samples: Samples, seed: int) -> None:
    """Try more values of the same kind: a first, small request may lack the integers that the engine refuses.

    Raises:
        EngineError: the engine refuses them.
    """
    rows = samples.rows if engine.spec.single else max(samples.rows, engine.spec.within(_ROWS_AGAIN))
    engine.run(samples.make(rows, seed + 1))


def _is_full(answer: Arrays) -> bool:
    """Whether all outputs have elements, and all elements are finite."""
    return all(
        array.size > 0 and (array.dtype.kind not in "fc" or bool(np.isfinite(array).all())) for array in answer.values()
    )


def _sizes_of(tried: Sequence[Samples]) -> str:
    """A few of the tried shapes, of the inputs with free dimensions if there are any, as text."""
    inputs = tried[0].spec.inputs
    names = [tensor.name for tensor in inputs if None in tensor.shape] or [tensor.name for tensor in inputs]
    shown = dict.fromkeys(
        " ".join(
            f"{name} {[samples.rows if dim == ROWS else dim for dim in samples.inputs[name].shape]}" for name in names
        )
        for samples in tried
    )
    rest = len(shown) - _LISTED
    return ", ".join(list(shown)[:_LISTED]) + (f" and {rest} others" if rest > 0 else "")
