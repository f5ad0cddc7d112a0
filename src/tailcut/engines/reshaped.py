"""An engine whose clients see its tensors in other shapes than the model's: views of the same memory.

Model repositories use it (`reshape` in a configuration): a model that takes `[batch]` gets requests of `[batch, 1]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from tailcut.engines.base import Arrays, Bound, Engine, Interruptible, Reshape
from tailcut.engines.hints import Hinted, InputHints
from tailcut.engines.phases import Timed
from tailcut.errors import EngineError, UnsupportedError
from tailcut.spec import ModelSpec, Shape, TensorSpec


class ReshapedEngine:
    """Another engine with the shapes that clients see.

    Args:
        engine: the engine that computes, which this one owns and closes.
        reshapes: the shapes of reshaped tensors for clients and for the model.

    Raises:
        UnsupportedError: the model has no such tensor, it has another shape in the model, or the two shapes differ in
            size.
    """

    def __init__(self, engine: Engine, reshapes: Sequence[Reshape]) -> None:
        self._engine = engine
        spec = engine.spec
        self._inputs = _of("input", spec.inputs, reshapes)
        self._outputs = _of("output", spec.outputs, reshapes)
        for reshape in reshapes:
            if reshape not in {*self._inputs.values(), *self._outputs.values()}:
                raise UnsupportedError(f"reshape: the model has no {reshape.side or 'tensor'} {reshape.name!r}")
        engine.spec = replace(
            spec,
            inputs=tuple(_narrowed(tensor, self._inputs) for tensor in spec.inputs),
            outputs=tuple(_narrowed(tensor, self._outputs) for tensor in spec.outputs),
        )
        inputs = tuple(_seen(tensor, self._inputs) for tensor in spec.inputs)
        outputs = tuple(_seen(tensor, self._outputs) for tensor in spec.outputs)
        self._spec = replace(spec, inputs=inputs, outputs=outputs)
        self.options = engine.options
        self.hints = self._hints()
        if isinstance(engine, Interruptible):
            self.interrupt = engine.interrupt
        if isinstance(engine, Timed):
            self.phases = engine.phases

    @property
    def spec(self) -> ModelSpec:
        """The signature that clients see."""
        return self._spec

    @spec.setter
    def spec(self, spec: ModelSpec) -> None:
        """Apply what was decided about the rows to the model's own signature, too."""
        self._spec = spec
        self._engine.spec = replace(self._engine.spec, rows=spec.rows, rows_reason=spec.rows_reason)

    def bind(self, inputs: Arrays, outputs: Arrays) -> Bound:
        """See `Engine.bind`."""
        return self._engine.bind(_as_model(inputs, self._inputs), _as_model(outputs, self._outputs))

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """See `Engine.run`."""
        outputs = self._engine.run(_as_model(inputs, self._inputs))
        return {name: _reshaped(array, self._outputs.get(name), "client") for name, array in outputs.items()}

    def close(self) -> None:
        """See `Engine.close`."""
        self._engine.close()

    def _hints(self) -> InputHints:
        """The hints of the engine, without those about axes of reshaped tensors."""
        hints = self._engine.hints if isinstance(self._engine, Hinted) else InputHints()
        own = {name: names for name, names in hints.names.items() if name not in self._inputs}
        sizes = {dimension: size for dimension, size in hints.sizes.items() if dimension[0] not in self._inputs}
        return InputHints(own, sizes, hints.below)


def _of(side: str, tensors: Sequence[TensorSpec], reshapes: Sequence[Reshape]) -> dict[str, Reshape]:
    """The reshapes of the inputs or of the outputs, by name."""
    by_name = {reshape.name: reshape for reshape in reshapes if reshape.side in {"", side}}
    for tensor in tensors:
        if tensor.name in by_name:
            _check(by_name[tensor.name], tensor)
    return {tensor.name: by_name[tensor.name] for tensor in tensors if tensor.name in by_name}


def _as_model(arrays: Arrays, reshapes: Mapping[str, Reshape]) -> dict[str, np.ndarray]:
    return {name: _reshaped(array, reshapes.get(name), "model") for name, array in arrays.items()}


def _reshaped(array: np.ndarray, reshape: Reshape | None, side: Literal["client", "model"]) -> np.ndarray:
    if reshape is None:
        return array
    wanted, given = (reshape.model, reshape.client) if side == "model" else (reshape.client, reshape.model)
    pairs = zip(given, array.shape, strict=True) if len(given) == array.ndim else [(0, 1)]
    if any(dim not in {-1, size} for dim, size in pairs):
        raise EngineError(f"tensor {reshape.name!r} has shape {list(array.shape)}, not {list(given)}")
    sizes = iter([size for size, dim in zip(array.shape, given, strict=True) if dim == -1])
    return array.reshape([next(sizes) if dim == -1 else dim for dim in wanted])


def _narrowed(tensor: TensorSpec, reshapes: Mapping[str, Reshape]) -> TensorSpec:
    """A tensor as the model gets it: axes that are free in the model have the sizes that clients see."""
    reshape = reshapes.get(tensor.name)
    return tensor if reshape is None else replace(tensor, shape=_shape(reshape.model))


def _seen(tensor: TensorSpec, reshapes: Mapping[str, Reshape]) -> TensorSpec:
    reshape = reshapes.get(tensor.name)
    if reshape is None:
        return tensor
    classes = tensor.classes if reshape.client == reshape.model else ()
    return replace(tensor, shape=_shape(reshape.client), classes=classes)


def _shape(dims: Sequence[int]) -> Shape:
    return tuple(None if dim == -1 else dim for dim in dims)


def _check(reshape: Reshape, tensor: TensorSpec) -> None:
    known = len(tensor.shape) == len(reshape.model)
    if not known or any(size not in {None, dim} for size, dim in zip(tensor.shape, _shape(reshape.model), strict=True)):
        where = "" if reshape.client == reshape.model else "reshape: "
        raise UnsupportedError(
            f"{where}tensor {tensor.name!r} is {tensor.describe()} in the model, not {list(reshape.model)}"
        )
    sides = [[dim for dim in side if dim != -1] for side in (reshape.client, reshape.model)]
    free = [side.count(-1) for side in (reshape.client, reshape.model)]
    if free[0] != free[1] or np.prod(sides[0]) != np.prod(sides[1]):
        raise UnsupportedError(
            f"reshape: {list(reshape.client)} and {list(reshape.model)} of tensor {tensor.name!r} differ in size, or "
            "in the number of their free dimensions"
        )
