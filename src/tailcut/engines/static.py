"""An engine with an instance compiled for each of several fixed sizes, whose shapes are planned when it is opened.

Padded requests have few sizes, those of the buckets (`engine.static_buckets`). The batch stays free, because computing
unused rows would cost more than fixed sizes save. Each instance holds the weights again.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import msgspec
import numpy as np

from tailcut.engines.base import Arrays, Bound, Engine, EngineOptions, Interruptible
from tailcut.spec import ModelSpec

Sizes = tuple[tuple[int, ...], ...]  # of each input, in the signature's order, without the batch axis


class StaticEngine:
    """An engine for any size, and engines that compute calls of certain sizes in its place.

    Args:
        engine: computes all other sizes; this engine owns and closes it.
        sizes: the sizes to compile for.
        open_again: opens the same model with other options.

    Raises:
        TailcutError: as `open_engine`; engines that were opened are closed, except `engine`.
    """

    def __init__(self, engine: Engine, sizes: Sequence[Sizes], open_again: Callable[[EngineOptions], Engine]) -> None:
        self._engine = engine
        self._spec = engine.spec
        self.options = engine.options
        self._static: dict[Sizes, Engine] = {}
        with ExitStack() as opened:
            for size in sizes:
                static = open_again(_fixed(engine, size))
                opened.callback(static.close)
                static.spec = replace(static.spec, rows=engine.spec.rows, rows_reason=engine.spec.rows_reason)
                self._static[size] = static
            opened.pop_all()
        if isinstance(engine, Interruptible):
            self.interrupt = self._interrupt

    @property
    def spec(self) -> ModelSpec:
        """The signature, with its free sizes."""
        return self._spec

    @spec.setter
    def spec(self, spec: ModelSpec) -> None:
        """Set the signature of all engines: what was decided about the rows holds for all sizes."""
        self._spec = self._engine.spec = spec
        for static in self._static.values():
            static.spec = replace(static.spec, rows=spec.rows, rows_reason=spec.rows_reason)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        return self._of(inputs).bind(inputs, outputs)

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        return self._of(inputs).run(inputs)

    def close(self) -> None:
        """See `Engine.close`."""
        for engine in (self._engine, *self._static.values()):
            engine.close()

    def _of(self, inputs: Arrays) -> Engine:
        sizes = tuple(inputs[tensor.name].shape[1:] for tensor in self._spec.inputs)
        return self._static.get(sizes, self._engine)

    def _interrupt(self, thread: int) -> None:
        for engine in (self._engine, *self._static.values()):
            if isinstance(engine, Interruptible):
                engine.interrupt(thread)


def _fixed(engine: Engine, sizes: Sizes) -> EngineOptions:
    """The options of an engine for these sizes: every free axis of the inputs is fixed, except the batch."""
    fixed = tuple(
        f"{tensor.name}:{axis}={size}"
        for tensor, own in zip(engine.spec.inputs, sizes, strict=True)
        for axis, size in enumerate(own, 1)
        if tensor.shape[axis] is None
    )
    return msgspec.structs.replace(engine.options, fixed_dims=(*engine.options.fixed_dims, *fixed))
