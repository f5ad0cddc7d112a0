"""Refuses sizes with which OpenVINO would access memory outside of the tensors.

A request's sizes may not fit an operator of the graph: for example, an image may become smaller than the window of a
pooling layer. If the model was compiled with free sizes, OpenVINO 2026.4.1 then raises no error: it returns the outputs
of the previous call, or none at all, or reads memory out of bounds, which may crash the process. Its own shape
inference on a copy of the graph finds what does not fit, without computing anything.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov

from tailcut.engines.base import Arrays, Engine
from tailcut.engines.error_line import short
from tailcut.engines.hints import Hinted, InputHints
from tailcut.engines.openvino_ports import ports_in_order
from tailcut.engines.openvino_values import ValueCheck
from tailcut.errors import EngineError, InvalidInputError
from tailcut.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class SizeBounds:
    """The sizes that a file allows on the free axes of its inputs.

    Args:
        axes: for each bounded axis the input's index and name, the axis, the smallest and the largest size (None: no
            largest).
    """

    axes: tuple[tuple[int, str, int, int, int | None], ...] = ()

    @classmethod
    def of(cls, model: Any, spec: ModelSpec) -> "SizeBounds":
        """The bounds of an `openvino.Model`, whose inputs are in the order of the spec."""
        return cls(
            tuple(
                (index, tensor.name, axis, size.get_min_length(), most if most >= 0 else None)
                for index, (tensor, port) in enumerate(zip(spec.inputs, model.inputs, strict=True))
                for axis, size in enumerate(port.partial_shape)
                if size.is_dynamic and ((most := size.get_max_length()) >= 0 or size.get_min_length())
            )
        )

    @property
    def least_rows(self) -> int:
        """The smallest size of the first axis that all inputs allow."""
        return max((least for _, _, axis, least, _ in self.axes if axis == 0), default=0)

    @property
    def most_rows(self) -> int | None:
        """The largest size of the first axis that all inputs allow; None if it is unbounded."""
        return min((most for _, _, axis, _, most in self.axes if axis == 0 and most is not None), default=None)

    def check(self, shapes: Sequence[Sequence[int]]) -> None:
        """Check a request's shapes, which have the right ranks.

        Raises:
            InvalidInputError: a size is out of bounds; names the input and its axis.
        """
        for index, name, axis, least, most in self.axes:
            size = shapes[index][axis]
            if size < least or (most is not None and size > most):
                allowed = f"{least} or more" if most is None else f"{least} to {most}"
                raise InvalidInputError(f"input {name!r}: axis {axis} is {size}, but the model takes {allowed}")


class SizeInference:
    """Infers the sizes of all tensors in a graph from those of its inputs.

    Args:
        model: an `openvino.Model`, which stays as it is.
        spec: its signature, with its inputs in the model's order unless `by_name`.
        by_name: find inputs by name.
    """

    def __init__(self, model: Any, spec: ModelSpec, *, by_name: bool = False) -> None:
        self._model = model
        self._spec = spec
        self._by_name = by_name

    def infer(self, inputs: Arrays) -> None:
        """Check that the sizes of a request fit all operators.

        Raises:
            EngineError: they do not fit.
        """
        self._sized([inputs[tensor.name].shape for tensor in self._spec.inputs])

    def open_outputs(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """The indices of the outputs whose sizes also depend on values; all outputs if the sizes do not fit."""
        try:
            model = self._sized(shapes)
        except EngineError:
            return tuple(range(len(self._spec.outputs)))
        ports = ports_in_order(model.outputs, self._spec.outputs, by_place=not self._by_name)
        return tuple(index for index, port in enumerate(ports) if port.partial_shape.is_dynamic)

    def _sized(self, shapes: Sequence[Sequence[int]]) -> Any:
        """A copy of the graph whose inputs have these sizes."""
        copy = self._model.clone()
        ports = ports_in_order(copy.inputs, self._spec.inputs, by_place=not self._by_name)
        try:
            copy.reshape({port: ov.PartialShape(list(shape)) for port, shape in zip(ports, shapes, strict=True)})
        except RuntimeError as error:
            raise EngineError(f"openvino refuses these sizes: {short(error)}") from None
        return copy


class BoundSizes:
    """Checks that bound outputs were filled, in models whose outputs may have fewer rows than their inputs.

    In that case, OpenVINO leaves the rest of a bound array unchanged, with the answers to other requests. For models
    whose output sizes follow from the input sizes, nothing is checked.

    Args:
        sizes: the model's size inference.
        spec: the model's signature.
    """

    def __init__(self, sizes: SizeInference, spec: ModelSpec) -> None:
        self._sizes = sizes
        self._spec = spec
        self._open: tuple[int, ...] | None = None  # found once, as it is the same for all sizes that fit

    def check_of(self, shapes: Sequence[Sequence[int]], outputs: Sequence[Any]) -> Callable[[], None] | None:
        """A function to call after each call on bound arrays (as tensors); None if there is nothing to check.

        The check raises EngineError for an output that was not filled.
        """
        if self._open is None:
            self._open = self._sizes.open_outputs(shapes)
        if not self._open:
            return None
        checked = [  # copies, because a tensor's shape is a view of it
            (self._spec.outputs[index].name, outputs[index], ov.Shape(outputs[index].shape)) for index in self._open
        ]

        def check() -> None:
            for name, tensor, bound in checked:
                if tensor.shape != bound:
                    raise EngineError(
                        f"output {name!r} has shape {list(tensor.shape)} instead of {list(bound)}: its rows do "
                        "not correspond to those of the inputs: use --batching off"
                    )

        return check


class SizedReference:
    """Another engine with the same model, as a reference that also refuses sizes that do not fit OpenVINO's graph.

    Args:
        engine: the engine that answers, which the reference owns and closes.
        sizes: the size inference of OpenVINO's model.
        values: the model's check of input values.
        advice: what the user can do if only OpenVINO refuses the sizes.
    """

    def __init__(self, engine: Engine, sizes: SizeInference, values: ValueCheck, advice: str) -> None:
        self.spec = engine.spec
        self.hints = engine.hints if isinstance(engine, Hinted) else InputHints()
        self._engine = engine
        self._sizes = sizes
        self._values = values
        self._advice = advice

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Compute all outputs into fresh arrays.

        Raises:
            InvalidInputError: an operator does not allow the request's values.
            EngineError: the engine or OpenVINO refuses the request.
        """
        answer = self._engine.run(inputs)
        try:
            self._sizes.infer(inputs)
        except EngineError as error:
            raise EngineError(f"{error}: {self._advice}") from None
        self._values.check(inputs, tuple(inputs[tensor.name].shape for tensor in self.spec.inputs))
        return answer

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()
